"""Writing Parquet tables whose bytes depend on their rows alone (apart from ``artifacts``, to be had without torch)."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from stages.files import writing

__all__ = ["write_table"]


def write_table(path: Path, table: pa.Table) -> None:
    """A compressed Parquet file."""
    with writing(path) as temporary:
        pq.write_table(table, temporary, compression="zstd", write_statistics=False)
