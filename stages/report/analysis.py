"""What the results say: means over runs, heterogeneous against homogeneous merges, correlations with intervals.

Rows are those of ``results.parquet`` (:mod:`stages.report.rows`); what is called accuracy here is a row's score, which is R²
where values are told. All intervals are 95 % unless said otherwise, and every random draw is seeded, so that the same rows give
the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from stages.plan.keys import Combination, parse_edge
from stages.report.intervals import Sample, interval, observations
from stages.report.rows import (
    Row,
    combination_of,
    ensemble_of,
    main_scope,
    method_label,
    run_of,
    score_of,
    source_edges,
)

__all__ = [
    "LEAST_POINTS",
    "Correlation",
    "Deviation",
    "PairResult",
    "deviations",
    "pair_results",
    "run_values",
    "sample_of",
    "simplicity",
    "spearman",
    "trained_partner",
]

RESAMPLES = 2000


@dataclass(frozen=True)
class _OfCombination:
    """Something that is said of all runs with the same tasks and architectures."""

    combination: Combination

    @property
    def tasks(self) -> str:
        return self.combination.tasks_label

    @property
    def architectures(self) -> str:
        return self.combination.architectures_label

    @property
    def same_task(self) -> bool:
        return self.combination.same_task

    @property
    def difference(self) -> str:
        """What the models differ in: "depths", "widths", "depths and widths", or "" where they are of one architecture."""
        return self.combination.difference


@dataclass(frozen=True)
class PairResult(_OfCombination):
    """All runs of one pair of architectures on some tasks, with one method."""

    method: str
    homogeneous: bool
    size_mismatch: float
    accuracy: Sample
    per_scope: dict[str, Sample]
    """Score by scope: each task, and "joint" where there are several tasks, all of classes."""
    ensemble: Sample
    sources: Sample
    """Mean score of the source models, one value a run."""
    agreement: dict[str, float]
    """Mean of agree_0, agree_1, follow_0, follow_1, disagree, agree_own where they exist."""


@dataclass(frozen=True)
class Deviation(_OfCombination):
    """A heterogeneous pair against the mean of its two homogeneous ones, in accuracy (fractions).

    ``low``, ``high``: its 95 % interval (:func:`stages.report.intervals.interval`). ``worst``, ``best``: the lower and higher
    homogeneous mean.
    """

    size_mismatch: float
    heterogeneous: Sample
    worst: float
    best: float
    value: float
    low: float
    high: float


LEAST_POINTS = 5
"""Points from which on a correlation is worth saying: of four, none can be told from chance."""


@dataclass(frozen=True)
class Correlation:
    """Spearman's rank correlation with its p-value and a bootstrap interval over the ``n`` points."""

    rho: float
    p_value: float
    low: float
    high: float
    n: int

    @property
    def evident(self) -> bool:
        """Whether there is evidence of a correlation at all: by the p-value, and the interval leaves zero out."""
        return self.n >= 4 and self.p_value < 0.05 and (self.low > 0 or self.high < 0)


def pair_results(rows: Iterable[Row], control: str = "") -> list[PairResult]:
    """Merges grouped by tasks, architectures and method, in the order they come.

    ``control``: which control's rows ("" for the benchmark's own merges).
    """
    rows = list(rows)
    edges = {row["cell"]: row for row in rows if row["kind"] == "edge"}
    main = {(row["cell"], row["scope"]): row for row in rows}
    settings: dict[tuple[Combination, str], list[Row]] = {}
    for row in rows:
        if row["kind"] == "merge" and row["control"] == control and row["scope"] == main_scope(row):
            settings.setdefault((combination_of(row), method_label(row)), []).append(row)
    results = []
    for (combination, method), runs in settings.items():
        joint = any((run["cell"], "joint") in main for run in runs)
        scopes = [*combination.tasks, *(["joint"] if joint else [])]
        ensembles = [main.get((ensemble_of(run), run["scope"])) for run in runs]
        results.append(
            PairResult(
                combination=combination,
                method=method,
                homogeneous=runs[0]["homogeneous"],
                size_mismatch=runs[0]["size_mismatch"],
                accuracy=sample_of(runs),
                per_scope={scope: sample_of([main[run["cell"], scope] for run in runs]) for scope in scopes},
                ensemble=sample_of([row for row in ensembles if row is not None]),
                sources=_source_sample(runs, edges),
                agreement=_agreement([main[run["cell"], scope] for run in runs for scope in combination.tasks]),
            )
        )
    return results


def sample_of(rows: Sequence[Row], score: Callable[[Row], float] = score_of) -> Sample:
    """The runs of one setting, those of the same models as one; a score that is NaN is missing."""
    every = {frozenset(source_edges(row)) for row in rows}
    scores = [(frozenset(source_edges(row)), float(score(row))) for row in rows if row["status"] == "ok"]
    found = observations((models, value) for models, value in scores if not math.isnan(value))
    return Sample(tuple(found.values()), len(every), tuple(found))


def _source_sample(runs: Sequence[Row], edges: Mapping[str, Row]) -> Sample:
    found = {}
    for models in dict.fromkeys(frozenset(source_edges(run)) for run in runs):
        own = [edges.get(name) for name in sorted(models)]
        if all(edge is not None and edge["status"] == "ok" for edge in own):
            found[models] = float(np.mean([score_of(edge) for edge in own if edge is not None]))
    return Sample(tuple(found.values()), len({frozenset(source_edges(run)) for run in runs}), tuple(found))


def _agreement(rows: Sequence[Row]) -> dict[str, float]:
    result = {}
    for key in ("agree_0", "agree_1", "follow_0", "follow_1", "disagree", "agree_own"):
        values = [row[key] for row in rows if row.get(key) is not None]
        if values:
            result[key] = float(np.mean(values))
    return result


def deviations(results: Iterable[PairResult], method: str) -> list[Deviation]:
    """Heterogeneous minus mean homogeneous accuracy of every mixed pair whose two homogeneous merges are there.

    Homogeneous merges of two tasks have no direction: those of either order stand for both.
    """
    chosen = [result for result in results if result.method == method and result.accuracy.n]
    either = {(_unordered(r), r.combination.architectures[0]): r for r in chosen if r.homogeneous}
    same = {(r.combination.tasks, r.combination.architectures[0]): r for r in chosen if r.homogeneous}
    found = []
    for result in chosen:
        names = dict.fromkeys(result.combination.architectures)
        tasks = result.combination.tasks
        sides = [same.get((tasks, name)) or either.get((_unordered(result), name)) for name in names]
        if result.homogeneous or len(result.combination.architectures) != 2 or any(side is None for side in sides):
            continue
        homogeneous = [side.accuracy for side in sides if side is not None]
        means = [sample.mean for sample in homogeneous]
        difference = interval([(1.0, result.accuracy), *((-1 / len(sides), sample) for sample in homogeneous)])
        found.append(
            Deviation(
                result.combination,
                result.size_mismatch,
                result.accuracy,
                min(means),
                max(means),
                difference.difference,
                difference.low,
                difference.high,
            )
        )
    return found


def trained_partner(results: Iterable[PairResult], control: PairResult, method: str) -> Sample:
    """What a control's runs come to with both models trained; empty where there are no such merges.

    ``method``: the one that a merge in random order is a control of.
    """
    wanted = {
        frozenset(str(replace(parse_edge(model), trained=True)) for model in models)
        for models in control.accuracy.models
    }
    own = method if control.method.split(" ")[0] == "random" else control.method
    real = next((r.accuracy for r in results if (r.combination, r.method) == (control.combination, own)), None)
    found = {m: v for m, v in zip(real.models, real.values, strict=True) if m in wanted} if real else {}
    return Sample(tuple(found.values()), len(found), tuple(found))


def _unordered(result: PairResult) -> tuple[str, ...]:
    return tuple(sorted(result.combination.tasks))


def spearman(x: Sequence[float], y: Sequence[float], seed: int = 0) -> Correlation:
    """Spearman correlation; with fewer than three points or without variation everything but ``n`` is NaN."""
    from scipy.stats import rankdata, spearmanr

    first, second = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    n = len(first)
    nothing = Correlation(float("nan"), float("nan"), float("nan"), float("nan"), n)
    if n < 3 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return nothing
    found = spearmanr(first, second)
    chosen = np.random.default_rng(seed).integers(0, n, (RESAMPLES, n))
    a, b = (ranks - ranks.mean(1, keepdims=True) for ranks in (rankdata(v[chosen], axis=1) for v in (first, second)))
    scale = np.sqrt((a * a).sum(1) * (b * b).sum(1))
    draws = (a * b).sum(1)[scale > 0] / scale[scale > 0]
    low, high = np.quantile(draws, [0.025, 0.975]) if len(draws) else (float("nan"), float("nan"))
    return Correlation(float(found.statistic), float(found.pvalue), float(low), float(high), n)


def run_values(rows: Iterable[Row], keep: Callable[[Row], bool]) -> dict[str, float]:
    """Headline score by run (the sources) of the merges that ``keep`` takes."""
    return {
        run_of(row): score_of(row)
        for row in rows
        if row["kind"] == "merge" and row["status"] == "ok" and row["scope"] == main_scope(row) and keep(row)
    }


def simplicity(rows: Iterable[Row], architecture: str) -> dict[str, float]:
    """A task's simplicity: mean test score of its trained models of one architecture (depth_heterogeneity Sec. 4)."""
    values: dict[str, list[float]] = {}
    for row in rows:
        trained = row["kind"] == "edge" and row["status"] == "ok" and not row["control"]
        if trained and row["architectures"] == architecture:
            values.setdefault(row["tasks"], []).append(score_of(row))
    return {task: float(np.mean(found)) for task, found in values.items()}
