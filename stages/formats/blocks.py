"""How alike the blocks of two edges are: a Parquet file with a row for each two blocks of a stage."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from stages.formats import FORMAT, KEY, check_format
from stages.formats.files import reading
from stages.formats.tables import write_table

__all__ = ["SCHEMA", "gathered_blocks", "read_similarity", "write_similarity"]

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
    schema = pa.schema([pa.field("cell", pa.string(), metadata={"about": "two edges, the deeper first"}), *SCHEMA])
    tables = []
    for cell, path in pairs.items():
        if path.is_file():
            with reading(path, f"blocks@{cell}"):
                table = pq.read_table(path, columns=SCHEMA.names)
            tables.append(pa.table([pa.repeat(cell, table.num_rows), *table.columns], schema=schema))
    return pa.concat_tables([schema.empty_table(), *tables])


def read_similarity(path: Path) -> tuple[tuple[NDArray[np.float64], ...], dict[str, Any]]:
    """For each stage ``(deep, shallow)``, and what it was made from."""
    with reading(path, f"blocks@{path.stem}"):
        table = pq.read_table(path)
        description = json.loads((table.schema.metadata or {}).get(KEY.encode(), b"{}"))
        check_format(path, description)
        stages: dict[int, dict[tuple[int, int], float]] = {}
        for row in table.to_pylist():
            stages.setdefault(row["stage"], {})[row["deep"], row["shallow"]] = row["cka"]
    found = []
    for values in stages.values():
        matrix = np.zeros(tuple(1 + max(places) for places in zip(*values, strict=True)))
        for place, value in values.items():
            matrix[place] = value
        found.append(matrix)
    return tuple(found), description
