"""How alike the blocks of two edges are: a Parquet file with a row for each two blocks of a stage."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from stages.formats import FORMAT, KEY, check_format
from stages.formats.files import reading
from stages.formats.tables import gathered, write_table

__all__ = ["SCHEMA", "Similarity", "gathered_blocks", "matrices", "read_similarity", "write_similarity"]

Similarity = tuple[NDArray[np.float64], ...]
"""For each stage ``(deep, shallow)``."""

SCHEMA = pa.schema(
    [
        pa.field("stage", pa.int32(), metadata={"about": "place among the stages that differ in length"}),
        pa.field("deep", pa.int32(), metadata={"about": "block of the deep model"}),
        pa.field("shallow", pa.int32(), metadata={"about": "block of the shallow one"}),
        pa.field("cka", pa.float64(), metadata={"about": "linear CKA of the blocks' outputs"}),
    ]
)


def write_similarity(path: Path, similarity: Sequence[NDArray[np.float64]], description: Mapping[str, Any]) -> None:
    """``similarity``: for each stage ``(deep, shallow)``; ``description``: what it was made from."""
    rows = [
        {"stage": stage, "deep": deep, "shallow": shallow, "cka": float(value)}
        for stage, matrix in enumerate(similarity)
        for (deep, shallow), value in np.ndenumerate(matrix)
    ]
    metadata = {KEY: json.dumps({"format": FORMAT, **description}, sort_keys=True)}
    write_table(path, pa.Table.from_pylist(rows, schema=SCHEMA.with_metadata(metadata)))


def gathered_blocks(pairs: Mapping[str, Path]) -> pa.Table:
    """The rows of many pairs of edges, each with its ``cell``; pairs without a file have none."""
    tables = {cell: _table(path)[0] for cell, path in pairs.items() if path.is_file()}
    return gathered(SCHEMA, "two edges, the deeper first", tables)


def read_similarity(path: Path) -> tuple[Similarity, dict[str, Any]]:
    """For each stage ``(deep, shallow)``, and what it was made from."""
    table, description = _table(path)
    return matrices(table.to_pylist()), description


def matrices(rows: Iterable[Mapping[str, Any]]) -> Similarity:
    """The rows of one pair as a matrix for each stage, ``(deep, shallow)``."""
    stages: dict[int, dict[tuple[int, int], float]] = {}
    for row in rows:
        stages.setdefault(row["stage"], {})[row["deep"], row["shallow"]] = row["cka"]
    found = []
    for values in stages.values():
        matrix = np.zeros(tuple(1 + max(places) for places in zip(*values, strict=True)))
        for place, value in values.items():
            matrix[place] = value
        found.append(matrix)
    return tuple(found)


def _table(path: Path) -> tuple[pa.Table, dict[str, Any]]:
    with reading(path, f"blocks@{path.stem}"):
        table = pq.read_table(path)
        description = json.loads((table.schema.metadata or {}).get(KEY.encode(), b"{}"))
        check_format(path, description)
        return table.select(SCHEMA.names), description
