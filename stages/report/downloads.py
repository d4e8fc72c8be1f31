"""What a reader of the page may take away: tables and rows, inside the page itself, so that it works alone when it is mailed."""

from __future__ import annotations

import base64
import csv
import gzip
import io
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

__all__ = ["address_of", "rows_of"]

MOST = 300_000
"""Bytes of compressed rows up to which they stand in the page; pictures' pixels, for one, are more."""


def address_of(data: bytes, kind: str = "text/csv") -> str:
    """An address that holds the data itself."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def rows_of(path: Path) -> dict[str, Any]:
    """The rows of a Parquet file as compressed CSV: their ``count``, and an ``address`` (empty where they are too many)."""
    table = pq.read_table(path)
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(table.column_names)
    for row in table.to_pylist():
        writer.writerow([" ".join(map(str, value)) if isinstance(value, list) else value for value in row.values()])
    packed = gzip.compress(stream.getvalue().encode(), mtime=0)  # no time in it: the same rows give the same bytes
    address = address_of(packed, "application/gzip") if len(packed) <= MOST else ""
    return {"count": table.num_rows, "address": address}
