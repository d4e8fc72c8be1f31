"""Intervals over runs that share source models: what other trainings of the same models would change.

Two runs with a source in common are no independent observations: a model that merges well does so in all of its runs. So what
varies is the source and not the run, and an interval comes from leaving out one source model after the other, with all of
its runs (a jackknife, stratified by the kind of model: task, architecture and recipe). Its variance is, in expectation, no
smaller than the true one (Efron and Stein 1981), and where no source is shared it is Student's interval, and Welch's for
several samples.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from stages.plan.keys import parse_edge, parse_sources

__all__ = ["LEAST_RUNS", "Paired", "Sample", "interval", "observations", "paired_difference", "sources_of_run"]

LEAST_RUNS = 3
"""Runs from which on an interval says something: of two, Student's is many times their spread."""

UNNAMED = "#"
"""What a name begins with that stands for the models of a run that has none named."""
Models = frozenset[str]
"""The names of a run's source models."""


@dataclass(frozen=True)
class Sample:
    """Runs of one setting. ``std`` is the sample standard deviation (n - 1), NaN for a single run.

    ``models``: of each value its source models; where it is empty, each run has its own.
    """

    values: tuple[float, ...]
    planned: int
    models: tuple[Models, ...] = field(default=(), compare=False)

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

    @cached_property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the mean (:func:`interval`)."""
        found = interval([(1.0, self)])
        return found.low, found.high


@dataclass(frozen=True)
class Paired:
    """A mean difference of paired runs, its 95 % interval and p-value; these are NaN where there are too few runs.

    ``n``: runs, of which those of the same models are one.
    """

    difference: float
    low: float
    high: float
    p_value: float
    n: int

    @property
    def evident(self) -> bool:
        """Whether the interval leaves zero out."""
        return self.low > 0 or self.high < 0


def paired_difference(first: Mapping[str, float], second: Mapping[str, float]) -> Paired:
    """Mean of ``first - second`` over the runs (their sources' names) that both have, with its interval and p-value."""
    shared = {run: first[run] - second[run] for run in first if run in second}
    found = observations((sources_of_run(run), value) for run, value in shared.items())
    return interval([(1.0, Sample(tuple(found.values()), len(found), tuple(found)))])


def sources_of_run(run: str) -> Models:
    """The source models of a run, by its name."""
    return frozenset(map(str, parse_sources(run).edges))


def observations(runs: Iterable[tuple[Models, float]]) -> dict[Models, float]:
    """One value for each set of source models: the same models in another order are merged into the same network again."""
    found: dict[Models, list[float]] = {}
    for models, value in runs:
        found.setdefault(models, []).append(value)
    return {models: float(np.mean(values)) for models, values in found.items()}


def interval(parts: Sequence[tuple[float, Sample]]) -> Paired:
    """A weighted sum of the means of some samples, with its 95 % interval and the p-value of its being zero.

    Both are NaN where a sample has fewer than :data:`LEAST_RUNS` runs, where all runs of one share a model (whose part nobody can
    tell), or where no kind of model was trained often enough.
    """
    samples = [sample for _, sample in parts]
    n = min(sample.n for sample in samples)
    value = sum(weight * sample.mean for weight, sample in parts)
    if n < LEAST_RUNS:
        return Paired(value, float("nan"), float("nan"), float("nan"), n)
    found = _variance(parts)
    if found is None:
        return Paired(value, float("nan"), float("nan"), float("nan"), n)
    variance, freedom = found
    if variance == 0:
        return Paired(value, value, value, 1.0 if value == 0 else 0.0, n)
    from scipy.stats import t as student

    error = variance**0.5
    half = float(student.ppf(0.975, freedom)) * error
    return Paired(value, value - half, value + half, float(2 * student.sf(abs(value / error), freedom)), n)


def _variance(parts: Sequence[tuple[float, Sample]]) -> tuple[float, float] | None:
    """Variance and degrees of freedom (Welch and Satterthwaite), from leaving out each group of models that come together."""
    models = [sample.models or _of_their_own(index, sample.n) for index, (_, sample) in enumerate(parts)]
    strata: dict[frozenset[str], list[float]] = {}
    for left_out in _groups(models):
        value = 0.0
        for (weight, sample), own in zip(parts, models, strict=True):
            kept = [v for v, sources in zip(sample.values, own, strict=True) if not sources & left_out]
            if not kept:
                return None
            value += weight * sum(kept) / len(kept)
        strata.setdefault(frozenset(map(_kind, left_out)), []).append(value)
    several = [np.array(values) for values in strata.values() if len(values) > 1]
    alone = [
        values[0] for values in strata.values() if len(values) == 1
    ]  # kinds that were trained once: among each other
    if len(alone) > 1:
        several.append(np.array(alone))
    elif alone:
        return None
    variances = [(len(v) - 1) / len(v) * float(((v - v.mean()) ** 2).sum()) for v in several]
    counts = [len(values) - 1 for values in several]
    total = sum(variances)
    if sum(counts) < LEAST_RUNS - 1:
        return None
    if total == 0:
        return 0.0, float(sum(counts))
    return total, total**2 / sum(v**2 / count for v, count in zip(variances, counts, strict=True))


def _of_their_own(sample: int, n: int) -> tuple[Models, ...]:
    return tuple(frozenset({f"{UNNAMED}{sample}:{run}"}) for run in range(n))


def _groups(models: Sequence[Sequence[Models]]) -> list[Models]:
    """The source models, those together that are in the same runs throughout."""
    runs: dict[str, list[tuple[int, int]]] = {}
    for sample, own in enumerate(models):
        for run, sources in enumerate(own):
            for source in sources:
                runs.setdefault(source, []).append((sample, run))
    groups: dict[tuple[tuple[int, int], ...], set[str]] = {}
    for source, found in runs.items():
        groups.setdefault(tuple(found), set()).add(source)
    return [frozenset(group) for group in groups.values()]


def _kind(model: str) -> str:
    """What models have in common that differ in their seed alone."""
    if model.startswith(UNNAMED):
        return model[: model.index(":")]
    edge = parse_edge(model)
    return f"{edge.task}.{edge.model}"
