"""What the results say: means over runs, heterogeneous against homogeneous merges, correlations with intervals.

Rows are those of ``results.parquet`` (:mod:`stages.report.rows`); what is called accuracy here is a row's score, which is R²
where values are told. All intervals are 95 % unless said otherwise, and every random draw is seeded, so that the same rows give
the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stages.plan.keys import Combination
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
    "LEAST_RUNS",
    "Correlation",
    "Deviation",
    "PairResult",
    "Paired",
    "Sample",
    "deviations",
    "pair_results",
    "paired_difference",
    "simplicity",
    "spearman",
]

RESAMPLES = 2000


@dataclass(frozen=True)
class Sample:
    """Runs of one setting. ``std`` is the sample standard deviation (n - 1), NaN for a single run."""

    values: tuple[float, ...]
    planned: int

    @property
    def n(self) -> int:
        return len(self.values)

    @property
    def mean(self) -> float:
        return float(np.mean(self.values)) if self.values else float("nan")

    @property
    def std(self) -> float:
        return float(np.std(self.values, ddof=1)) if self.n > 1 else float("nan")

    @property
    def missing(self) -> int:
        """Planned runs that have no number."""
        return self.planned - self.n


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

    ``low``, ``high``: 95 % interval over runs (Welch). ``worst``, ``best``: the lower and higher homogeneous mean.
    """

    size_mismatch: float
    heterogeneous: Sample
    worst: float
    best: float
    value: float
    low: float
    high: float


LEAST_RUNS = 3
"""Runs from which on an interval says something: of two, Student's is many times their spread."""
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


@dataclass(frozen=True)
class Paired:
    """Mean difference of paired runs, its Student interval and p-value."""

    difference: float
    low: float
    high: float
    p_value: float
    n: int

    @property
    def evident(self) -> bool:
        """Whether the interval leaves zero out."""
        return self.n >= 2 and (self.low > 0 or self.high < 0)


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
                accuracy=_sample(runs),
                per_scope={scope: _sample([main[run["cell"], scope] for run in runs]) for scope in scopes},
                ensemble=_sample([row for row in ensembles if row is not None]),
                sources=_source_sample(runs, edges),
                agreement=_agreement([main[run["cell"], scope] for run in runs for scope in combination.tasks]),
            )
        )
    return results


def _sample(rows: Sequence[Row]) -> Sample:
    return Sample(tuple(score_of(row) for row in rows if row["status"] == "ok"), len(rows))


def _source_sample(runs: Sequence[Row], edges: Mapping[str, Row]) -> Sample:
    values = []
    for run in runs:
        found = [edges.get(name) for name in source_edges(run)]
        if all(edge is not None and edge["status"] == "ok" for edge in found):
            values.append(float(np.mean([score_of(edge) for edge in found if edge is not None])))
    return Sample(tuple(values), len(runs))


def _agreement(rows: Sequence[Row]) -> dict[str, float]:
    result = {}
    for key in ("agree_0", "agree_1", "follow_0", "follow_1", "disagree", "agree_own"):
        values = [row[key] for row in rows if row.get(key) is not None]
        if values:
            result[key] = float(np.mean(values))
    return result


def deviations(results: Iterable[PairResult], method: str) -> list[Deviation]:
    """Heterogeneous minus mean homogeneous accuracy of every mixed pair whose two homogeneous merges are there."""
    chosen = [result for result in results if result.method == method and result.accuracy.n]
    same = {(r.tasks, r.combination.architectures[0]): r for r in chosen if r.homogeneous}
    found = []
    for result in chosen:
        names = result.combination.architectures
        sides = [same.get((result.tasks, name)) for name in dict.fromkeys(names)]
        if result.homogeneous or len(names) != 2 or any(side is None for side in sides):
            continue
        homogeneous = [side.accuracy for side in sides if side is not None]
        means = [sample.mean for sample in homogeneous]
        low, high = _welch_interval(result.accuracy, homogeneous)
        found.append(
            Deviation(
                result.combination,
                result.size_mismatch,
                result.accuracy,
                min(means),
                max(means),
                result.accuracy.mean - float(np.mean(means)),
                low,
                high,
            )
        )
    return found


def _welch_interval(first: Sample, others: Sequence[Sample]) -> tuple[float, float]:
    """95 % interval of ``mean(first) - mean of the others' means`` (Welch); NaN where a sample has fewer than :data:`LEAST_RUNS`.

    A bootstrap over two or three runs covers the truth in only 70 to 80 of 100 cases.
    """
    from scipy.stats import t as student

    samples = [first, *others]
    if any(sample.n < LEAST_RUNS for sample in samples):
        return float("nan"), float("nan")
    value = first.mean - float(np.mean([other.mean for other in others]))
    shares = [1.0, *([1 / len(others)] * len(others))]
    parts = [
        share**2 * float(np.var(sample.values, ddof=1)) / sample.n
        for share, sample in zip(shares, samples, strict=True)
    ]
    if sum(parts) == 0:
        return value, value
    portions = [part / sum(parts) for part in parts]
    freedom = 1 / sum(portion**2 / (sample.n - 1) for portion, sample in zip(portions, samples, strict=True))
    half = float(student.ppf(0.975, freedom)) * sum(parts) ** 0.5
    return value - half, value + half


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


def paired_difference(first: Mapping[Any, float], second: Mapping[Any, float]) -> Paired:
    """Mean of ``first - second`` over the keys (runs) that both have, with Student's interval and paired t-test."""
    from scipy.stats import t as student

    keys = [key for key in first if key in second]
    differences = np.array([first[key] - second[key] for key in keys])
    n = len(differences)
    mean = float(differences.mean()) if n else float("nan")
    if n < 2:
        return Paired(mean, float("nan"), float("nan"), float("nan"), n)
    error = float(differences.std(ddof=1)) / np.sqrt(n)
    if error == 0:
        return Paired(mean, mean, mean, 1.0 if mean == 0 else 0.0, n)
    half = float(student.ppf(0.975, n - 1)) * error
    p_value = float(2 * student.sf(abs(mean / error), n - 1))
    return Paired(mean, mean - half, mean + half, p_value, n)


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
