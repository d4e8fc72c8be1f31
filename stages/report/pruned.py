"""What pruning does to accuracy: pruned edge models by setting, each beside the same models before."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from stages.report.analysis import Sample
from stages.report.rows import Row, key_of, source_edges

__all__ = ["PrunedResult", "pruned_results"]


@dataclass(frozen=True)
class PrunedResult:
    """All runs of one model (an architecture on a task), pruned by one method to one sparsity, with one normalisation."""

    task: str
    model: str
    method: str
    sparsity: float
    normalize: str
    runs: dict[str, float]
    """Accuracy by edge; what has no number is left out."""
    planned: int
    unpruned: Sample
    """Of the same edges."""

    @property
    def accuracy(self) -> Sample:
        return Sample(tuple(self.runs.values()), self.planned)

    @property
    def setting(self) -> str:
        return f"{self.task}, {self.model}"


def pruned_results(rows: Iterable[Row]) -> list[PrunedResult]:
    """All settings in the order of the rows."""
    rows = list(rows)
    edges = {row["cell"]: float(row["accuracy"]) for row in rows if row["kind"] == "edge" and row["status"] == "ok"}
    found: dict[tuple[str, str, str, float, str], list[Row]] = {}
    for row in rows:
        cell = key_of(row).pruned if row["kind"] == "pruned" else None
        if cell is not None:
            setting = (cell.edge.task, cell.edge.model, cell.method, cell.sparsity, cell.normalize)
            found.setdefault(setting, []).append(row)
    return [_result(setting, own, edges) for setting, own in found.items()]


def _result(setting: tuple[str, str, str, float, str], rows: list[Row], edges: dict[str, float]) -> PrunedResult:
    names = {row["cell"]: source_edges(row)[0] for row in rows}
    runs = {names[row["cell"]]: float(row["accuracy"]) for row in rows if row["status"] == "ok"}
    before = tuple(edges[name] for name in names.values() if name in edges)
    return PrunedResult(*setting, runs, len(rows), Sample(before, len(rows)))
