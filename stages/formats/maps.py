"""Unit maps: a row per space and model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mergeline.maps import Absent, Dense, Groups, Permutation, UnitMap
from stages.formats import FORMAT, KEY, check_format
from stages.formats.files import reading
from stages.formats.tables import list_values, write_table

__all__ = ["read_maps", "write_maps"]

_MAP_SCHEMA = pa.schema(
    [
        ("space", pa.string()),
        ("model", pa.int32()),
        ("kind", pa.string()),
        ("merged", pa.int32()),
        ("index", pa.list_(pa.int32())),
        ("to_merged", pa.list_(pa.float64())),
        ("to_own", pa.list_(pa.float64())),
    ]
)


def write_maps(path: Path, maps: Sequence[Mapping[str, UnitMap]], description: Mapping[str, Any]) -> None:
    rows: list[dict[str, Any]] = []
    for model, own in enumerate(maps):
        for space, unit_map in own.items():
            row: dict[str, Any] = {"space": space, "model": model, "merged": unit_map.merged}
            row |= {"index": [], "to_merged": [], "to_own": []}
            if isinstance(unit_map, Absent):
                row |= {"kind": "absent", "index": np.arange(unit_map.size)}
            elif isinstance(unit_map, Permutation):
                row |= {"kind": "permutation", "index": unit_map.index}
            elif isinstance(unit_map, Groups):
                row |= {"kind": "groups", "index": unit_map.labels}
            elif isinstance(unit_map, Dense):
                row |= {
                    "kind": "dense",
                    "to_merged": unit_map.to_merged.ravel(),
                    "to_own": unit_map.to_own.ravel(),
                }
            else:
                raise TypeError(f"space {space!r}: maps of type {type(unit_map).__name__} cannot be written")
            rows.append(row)
    schema = _MAP_SCHEMA.with_metadata({KEY: json.dumps({"format": FORMAT, **description}, sort_keys=True)})
    write_table(path, pa.Table.from_pylist(rows, schema=schema))


def read_maps(path: Path) -> tuple[list[dict[str, UnitMap]], dict[str, Any]]:
    """Each model's maps by space, and the file's description."""
    with reading(path, f"match@{path.stem}"):
        table = pq.read_table(path)
        description = json.loads(table.schema.metadata[KEY.encode()])
    check_format(path, description)
    maps: list[dict[str, UnitMap]] = []
    for row in range(table.num_rows):
        model, kind, merged = (table[name][row].as_py() for name in ("model", "kind", "merged"))
        while len(maps) <= model:
            maps.append({})
        index = list_values(table["index"][row]).astype(np.int64)
        unit_map: UnitMap
        if kind == "permutation":
            unit_map = Permutation(index)
        elif kind == "absent":
            unit_map = Absent(len(index), merged)
        elif kind == "groups":
            unit_map = Groups(index, merged)
        else:
            to_merged = list_values(table["to_merged"][row]).reshape(merged, -1)
            unit_map = Dense(to_merged, list_values(table["to_own"][row]).reshape(-1, merged))
        maps[model][table["space"][row].as_py()] = unit_map
    return maps, description
