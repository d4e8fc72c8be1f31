"""Activation moments: a Parquet file with a row sources per space."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mergeline.moments import Moments
from stages.formats import FORMAT, KEY, check_format
from stages.formats.files import reading, writing
from stages.formats.tables import list_values

__all__ = ["MomentFile", "write_moments"]

_MOMENT_SCHEMA = pa.schema(
    [
        ("space", pa.string()),
        ("first", pa.int32()),
        ("second", pa.int32()),
        ("n", pa.int64()),
        ("mean_first", pa.list_(pa.float64())),
        ("mean_second", pa.list_(pa.float64())),
        ("variance_first", pa.list_(pa.float64())),
        ("variance_second", pa.list_(pa.float64())),
        ("covariance", pa.list_(pa.float32())),
    ]
)
"""A row is the covariance block between the units of two models in a space, row-major; a row sources is a space."""


def write_moments(path: Path, moments: Mapping[str, Moments], description: Mapping[str, Any]) -> None:
    """One row sources a space, so that a reader takes one space at a time."""
    schema = _MOMENT_SCHEMA.with_metadata({KEY: json.dumps({"format": FORMAT, **description}, sort_keys=True)})
    with (
        writing(path) as temporary,
        pq.ParquetWriter(temporary, schema, compression="none", use_dictionary=False, write_statistics=False) as writer,
    ):
        for entry in moments.values():
            rows = [
                {
                    "space": entry.space, "first": i, "second": j, "n": entry.n,
                    "mean_first": entry.means[i], "mean_second": entry.means[j],
                    "variance_first": entry.variances[i], "variance_second": entry.variances[j],
                    "covariance": block.astype(np.float32).ravel(),
                }
                for (i, j), block in sorted(entry.covariances.items())
            ]  # fmt: skip
            columns = {name: pa.array([row[name] for row in rows], schema.field(name).type) for name in schema.names}
            writer.write_table(pa.table(columns, schema=schema))


class MomentFile(Mapping[str, Moments]):
    """The moments in a file; a space is read when it is asked for."""

    def __init__(self, path: Path) -> None:
        self.description: dict[str, Any]
        with reading(path, f"statistics@{path.stem}"):
            self._file = pq.ParquetFile(path)
            self.description = json.loads((self._file.schema_arrow.metadata or {})[KEY.encode()])
        check_format(path, self.description)
        names = [self._file.read_row_group(i, columns=["space"])["space"][0].as_py() for i in range(len(self))]
        self._groups = {name: index for index, name in enumerate(names)}

    def __len__(self) -> int:
        return self._file.num_row_groups

    def __iter__(self) -> Iterator[str]:
        return iter(self._groups)

    def __getitem__(self, space: str) -> Moments:
        table = self._file.read_row_group(self._groups[space])
        means: dict[int, Any] = {}
        variances: dict[int, Any] = {}
        blocks = {}
        for row in range(table.num_rows):
            i, j = table["first"][row].as_py(), table["second"][row].as_py()
            for side, model in (("first", i), ("second", j)):
                means[model] = list_values(table[f"mean_{side}"][row])
                variances[model] = list_values(table[f"variance_{side}"][row])
            flat = list_values(table["covariance"][row]).astype(np.float64)
            blocks[i, j] = flat.reshape(len(means[i]), len(means[j]))
        order = sorted(means)
        return Moments(
            space,
            table["n"][0].as_py(),
            tuple(means[k] for k in order),
            tuple(variances[k] for k in order),
            blocks,
        )
