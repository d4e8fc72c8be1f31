"""Writing Parquet tables whose bytes depend on their rows alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from stages.formats.files import writing

__all__ = ["list_values", "write_table"]


def write_table(path: Path, table: pa.Table) -> None:
    """A compressed Parquet file."""
    with writing(path) as temporary:
        pq.write_table(table, temporary, compression="zstd", write_statistics=False)


def gathered(schema: pa.Schema, about: str, tables: Mapping[str, pa.Table]) -> pa.Table:
    """The rows of many cells' tables, each with its ``cell``; ``about``: what that names."""
    whole = pa.schema([pa.field("cell", pa.string(), metadata={"about": about}), *schema])
    found = [pa.table([pa.repeat(cell, t.num_rows), *t.columns], schema=whole) for cell, t in tables.items()]
    return pa.concat_tables([whole.empty_table(), *found])


def list_values(scalar: pa.ListScalar) -> Any:
    """The numbers of a list in a table as an array, without copying where that can be."""
    return scalar.values.to_numpy(zero_copy_only=False)
