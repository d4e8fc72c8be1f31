"""What it costs to make a trained network smaller: pruned and narrowed edge models, each beside the same models before."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from stages.plan.keys import Compressed
from stages.report.intervals import Paired, Sample, paired_difference, sources_of_run
from stages.report.rows import Row, key_of, score_of, source_edges

__all__ = ["CompressedResult", "compressed_results"]


@dataclass(frozen=True)
class CompressedResult:
    """All runs of one model (an architecture on a task), made smaller by one method to one share, with one normalisation."""

    task: str
    model: str
    method: str
    share: float
    normalize: str
    runs: Mapping[str, float]
    """Accuracy by edge; what has no number is left out."""
    planned: int
    before: Sample
    """Of the same edges."""
    left: Mapping[str, float]
    """Shares of the edges' ``parameters`` and ``flops``, means over runs; NaN where there is no run."""

    @property
    def accuracy(self) -> Sample:
        return Sample(tuple(self.runs.values()), self.planned, tuple(map(sources_of_run, self.runs)))

    @property
    def interval(self) -> Paired:
        """Mean accuracy over runs with its 95 % interval."""
        return paired_difference(self.runs, dict.fromkeys(self.runs, 0.0))

    @property
    def setting(self) -> str:
        return f"{self.task}, {self.model}"


def compressed_results(rows: Iterable[Row], kind: str) -> list[CompressedResult]:
    """All settings in the order of the rows; ``kind``: "pruned" or "narrowed"."""
    rows = list(rows)
    edges = {row["cell"]: row for row in rows if row["kind"] == "edge" and row["status"] == "ok"}
    found: dict[Compressed, list[Row]] = {}
    for row in rows:
        cell = key_of(row).compressed if row["kind"] == kind else None
        if cell is not None:
            found.setdefault(_setting(cell), []).append(row)
    return [_result(setting, own, edges) for setting, own in found.items()]


def _setting(cell: Compressed) -> Compressed:
    """What the runs of a setting have in common: all but the seed."""
    return replace(cell, edge=replace(cell.edge, seed=0))


def _result(setting: Compressed, rows: list[Row], edges: Mapping[str, Row]) -> CompressedResult:
    names = {row["cell"]: source_edges(row)[0] for row in rows}
    scored = {names[row["cell"]]: row for row in rows if row["status"] == "ok"}
    left = {
        size: float(
            np.mean([row[size] / edges[name][size] for name, row in scored.items() if name in edges] or [np.nan])
        )
        for size in ("parameters", "flops")
    }
    before = tuple(score_of(edges[name]) for name in names.values() if name in edges)
    return CompressedResult(
        setting.edge.task, setting.edge.model, setting.method, setting.share, setting.normalize,
        {name: score_of(row) for name, row in scored.items()}, len(rows), Sample(before, len(rows)), left,
    )  # fmt: skip
