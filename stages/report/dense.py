"""Results of networks that tell something of every pixel: merges on each of their tasks, and in shares of their sources."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from operator import itemgetter

from mergeline.kinds import Target
from mergeline.metrics import METRICS, SCALED
from stages.plan.keys import Combination, parse_edge
from stages.report.analysis import sample_of
from stages.report.intervals import Sample
from stages.report.rows import Row, combination_of, key_of, method_label, source_edges

__all__ = ["DenseResult", "dense_results"]


@dataclass(frozen=True)
class DenseResult:
    """All runs of one setting on one of its tasks.

    ``scores``: by metric. ``sources``: of the task's own sources (their mean), in the metric that :data:`mergeline.metrics.SCALED`
    names. ``scaled``: by run, the merge as a share of that; runs whose sources are no better than 0 are left out.
    """

    combination: Combination
    method: str
    task: str
    scores: Mapping[str, Sample]
    sources: Sample
    scaled: Sample


def dense_results(rows: Iterable[Row], target: Target = "pixels") -> list[DenseResult]:
    """Merges without controls, grouped by tasks, architectures, method and task, in the order they come.

    ``target``: what the tasks tell, classes of pixels or their values.
    """
    good = [row for row in rows if row["status"] == "ok" and row[SCALED[target]] is not None]
    own = {(row["cell"], row["scope"]): row for row in good if row["kind"] == "edge"}
    found: dict[tuple[Combination, str, str], list[Row]] = {}
    for row in good:
        if row["kind"] == "merge" and not key_of(row).control and row["scope"] in combination_of(row).tasks:
            found.setdefault((combination_of(row), method_label(row), row["scope"]), []).append(row)
    return [_result(*setting, target, runs, own) for setting, runs in found.items()]


def _result(
    combination: Combination, method: str, task: str, target: Target, runs: list[Row], own: dict[tuple[str, str], Row]
) -> DenseResult:
    column = SCALED[target]

    def source(row: Row) -> float:
        return _source(row, task, column, own)

    def scaled(row: Row) -> float:
        return float(row[column]) / source(row) if source(row) > 0 else float("nan")

    scores = {name: sample_of(runs, itemgetter(name)) for name, metric in METRICS.items() if target in metric.targets}
    return DenseResult(combination, method, task, scores, sample_of(runs, source), sample_of(runs, scaled))


def _source(row: Row, task: str, column: str, own: dict[tuple[str, str], Row]) -> float:
    """The mean of the task's own sources; NaN where they were not evaluated."""
    found = [own.get((name, task)) for name in source_edges(row) if parse_edge(name).task == task]
    values = [float("nan") if source is None else float(source[column]) for source in found]
    return sum(values) / len(values)
