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
from stages.formats.tables import write_table

__all__ = ["MEASURES", "gathered", "read_measurement", "write_measurement"]


def _field(name: str, kind: pa.DataType, about: str) -> pa.Field:
    return pa.field(name, kind, metadata={"about": about})


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
    with reading(path, f"{measure}@{path.stem}"):
        table = pq.read_table(path)
        check_format(path, json.loads((table.schema.metadata or {}).get(KEY.encode(), b"{}")))
        return table.to_pylist()


def gathered(measure: str, cells: Mapping[str, Path]) -> pa.Table:
    """The rows of many merges, each with its ``cell``; merges without a file have none."""
    schema = pa.schema([_field("cell", pa.string(), "name of the merge"), *MEASURES[measure]])
    rows = [
        {"cell": cell, **row}
        for cell, path in cells.items()
        if path.is_file()
        for row in read_measurement(path, measure)
    ]
    return pa.Table.from_pylist(rows, schema=schema)
