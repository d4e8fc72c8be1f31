"""Results of networks that tell the class of every pixel: merges on each of their tasks, and in shares of their sources."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from stages.plan.keys import Combination, parse_edge
from stages.report.analysis import Sample
from stages.report.rows import Row, combination_of, key_of, method_label, source_edges

__all__ = ["DenseResult", "dense_results"]


@dataclass(frozen=True)
class DenseResult:
    """All runs of one setting on one of its tasks.

    ``scaled``: by run, the merge's mean intersection over union as a share of that of the task's own sources (their mean).
    """

    combination: Combination
    method: str
    task: str
    accuracy: Sample
    mean_iou: Sample
    sources: Sample
    scaled: Sample


def dense_results(rows: Iterable[Row]) -> list[DenseResult]:
    """Merges without controls, grouped by tasks, architectures, method and task, in the order they come; none of whole images."""
    good = [row for row in rows if row["status"] == "ok" and row["mean_iou"] is not None]
    own = {(row["cell"], row["scope"]): row["mean_iou"] for row in good if row["kind"] == "edge"}
    found: dict[tuple[Combination, str, str], list[Row]] = {}
    for row in good:
        if row["kind"] == "merge" and not key_of(row).control and row["scope"] in combination_of(row).tasks:
            found.setdefault((combination_of(row), method_label(row), row["scope"]), []).append(row)
    return [_result(combination, method, task, runs, own) for (combination, method, task), runs in found.items()]


def _result(
    combination: Combination, method: str, task: str, runs: list[Row], own: dict[tuple[str, str], float]
) -> DenseResult:
    sources = [_source(row, task, own) for row in runs]
    merged = [row["mean_iou"] for row in runs]
    return DenseResult(
        combination, method, task,
        Sample(tuple(row["accuracy"] for row in runs), len(runs)),
        Sample(tuple(merged), len(runs)),
        Sample(tuple(sources), len(runs)),
        Sample(tuple(m / s for m, s in zip(merged, sources, strict=True) if s > 0), len(runs)),
    )  # fmt: skip


def _source(row: Row, task: str, own: dict[tuple[str, str], float]) -> float:
    """The mean of the task's own sources; NaN where they were not evaluated."""
    values = [own.get((name, task), float("nan")) for name in source_edges(row) if parse_edge(name).task == task]
    return sum(values) / len(values)
