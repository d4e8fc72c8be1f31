"""What is measured of merges beside their scores: a Parquet table for each merge, and one of all for each measure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from stages.formats import FORMAT, KEY, check_format
from stages.formats.files import reading
from stages.formats.tables import gathered, write_table

__all__ = ["INPUT", "MEASURES", "TARGET", "gathered_measurements", "read_measurement", "write_measurement"]


def _field(name: str, kind: pa.DataType, about: str) -> pa.Field:
    return pa.field(name, kind, metadata={"about": about})


INPUT, TARGET = "input", "target"
"""What pictures are called that no network made."""

MEASURES: dict[str, pa.Schema] = {
    "curve": pa.schema(
        [
            _field("alpha", pa.float64(), "share of the second model"),
            _field("loss", pa.float64(), "mean cross-entropy on the test images, in nats"),
            _field("accuracy", pa.float64(), "share of the test images that are right"),
        ]
    ),
    "landscape": pa.schema(
        [
            _field("point", pa.string(), "grid, or the network that is there: merged, first, second"),
            _field("u", pa.float64(), "length in parameter space from the merged network towards the first model"),
            _field("v", pa.float64(), "the same at right angles, on the side of the second model"),
            _field("scope", pa.string(), "a task"),
            _field("loss", pa.float64(), "mean cross-entropy on test images, in nats"),
        ]
    ),
    "diagnosis": pa.schema(
        [
            _field(
                "scope",
                pa.string(),
                "a task, whose training images are shown; a head (task#0) where a task has several",
            ),
            _field(
                "quantity",
                pa.string(),
                "features: mean norm of a layer's output less that of a zero input; relative: that by the mean of the sources'; "
                "bound: its tight non-increasing bound; variance: of units over images and positions, mean over units; weight, "
                "bias: root mean square of the entries; running_mean, running_variance: of a batch norm, mean over units of "
                "the means' sizes and of the variances; cka: linear CKA of two layers",
            ),
            _field("network", pa.string(), "merged; before (no statistics set yet); or a source: first, second, ..."),
            _field("layer", pa.string(), "its weight's name in the sources, or a batch norm's name"),
            _field("part", pa.string(), "merged; head or stem (a model's own, for stems the mean over models); source"),
            _field("place", pa.int32(), "place among the layers, or the batch norms, in forward order"),
            _field("value", pa.float64(), ""),
            _field("other", pa.string(), "cka: the network that is compared with"),
            _field("other_layer", pa.string(), "cka: its layer"),
            _field("other_place", pa.int32(), "cka: the place of that layer"),
        ]
    ),
    "examples": pa.schema(
        [
            _field("scope", pa.string(), "a task"),
            _field("image", pa.int32(), "place among the images that are shown"),
            _field("picture", pa.string(), f"{INPUT}, {TARGET}, a source (first, second, ...), or merged"),
            _field("size", pa.int32(), "pixels of its side"),
            _field("values", pa.list_(pa.int16()), "classes of the pixels, row by row, -1 for none; input: its bytes"),
            _field(
                "numbers",
                pa.list_(pa.float32()),
                "in their place the values of the pixels, scaled, where the task tells them",
            ),
            _field("classes", pa.list_(pa.string()), f"{TARGET}: what the classes are called, or the value"),
        ]
    ),
}
"""By measure, the columns of its table."""


def write_measurement(
    path: Path, measure: str, rows: Iterable[Mapping[str, Any]], description: Mapping[str, Any]
) -> None:
    """The rows of one merge; ``description``: what they were made from."""
    metadata = {KEY: json.dumps({"format": FORMAT, **description}, sort_keys=True)}
    schema = MEASURES[measure]
    write_table(path, pa.Table.from_pylist([dict(row) for row in rows], schema=schema.with_metadata(metadata)))


def read_measurement(path: Path, measure: str) -> list[dict[str, Any]]:
    """The rows of one merge, without what they were made from."""
    return _table(path, measure).to_pylist()


def gathered_measurements(measure: str, cells: Mapping[str, Path]) -> pa.Table:
    """The rows of many merges, each with its ``cell``; merges without a file have none."""
    tables = {cell: _table(path, measure) for cell, path in cells.items() if path.is_file()}
    return gathered(MEASURES[measure], "name of the merge", tables)


def _table(path: Path, measure: str) -> pa.Table:
    with reading(path, f"{measure}@{path.stem}"):
        table = pq.read_table(path)
        check_format(path, json.loads((table.schema.metadata or {}).get(KEY.encode(), b"{}")))
        return table.select(MEASURES[measure].names)
