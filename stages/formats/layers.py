"""Statistics of a model's layers: a Parquet file with a row for each output."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from mergeline.unit_statistics import LayerStatistics, UnitStatistics
from stages.formats import FORMAT, KEY, check_format
from stages.formats.files import reading, writing

__all__ = ["read_layers", "write_layers"]

_SCHEMA = pa.schema(
    [
        ("layer", pa.string()),
        ("n", pa.int64()),
        ("mean", pa.list_(pa.float64())),
        ("squares", pa.list_(pa.float64())),
    ]
)
"""``layer``: the name of its weight, or of its batch norm's running variance. ``squares``: squared deviations, summed."""


def write_layers(path: Path, statistics: LayerStatistics, description: Mapping[str, Any]) -> None:
    schema = _SCHEMA.with_metadata({KEY: json.dumps({"format": FORMAT, **description}, sort_keys=True)})
    rows = [
        {"layer": name, "n": own.n, "mean": own.mean.cpu().tolist(), "squares": own.squares.cpu().tolist()}
        for name, own in statistics.items()
    ]
    with writing(path) as temporary:
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), temporary)


def read_layers(path: Path) -> tuple[dict[str, UnitStatistics], dict[str, Any]]:
    """The statistics by layer, in forward order, and what they were made from."""
    with reading(path, f"layers@{path.stem}"):
        table = pq.read_table(path)
        description = json.loads((table.schema.metadata or {}).get(KEY.encode(), b"{}"))
        check_format(path, description)
        found = {
            row["layer"]: UnitStatistics(
                row["n"],
                torch.tensor(row["mean"], dtype=torch.float64),
                torch.tensor(row["squares"], dtype=torch.float64),
            )
            for row in table.to_pylist()
        }
    return found, description
