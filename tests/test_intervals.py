"""Intervals over runs that share source models: they cover the truth, and are the textbook's where nothing is shared."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from stages.report.intervals import Sample, interval, paired_difference

Pair = tuple[str, str]
accuracies = st.floats(0, 1, allow_nan=False)


def edge(architecture: str, seed: int) -> str:
    return f"a.{architecture}.s{seed}"


def apart(count: int) -> list[str]:
    """Runs that share no model."""
    return [f"a.r17+r17.s{2 * i}+s{2 * i + 1}" for i in range(count)]


def drawn(pairs: Iterable[Pair], noise: float, rng: np.random.Generator, models: dict[str, float]) -> Sample:
    """Runs whose values are what their two models bring along, and noise; their true mean is 0."""
    pairs = list(pairs)
    for model in sorted({model for pair in pairs for model in pair} - models.keys()):
        models[model] = float(rng.normal())
    values = tuple(models[a] + models[b] + noise * float(rng.normal()) for a, b in pairs)
    return Sample(values, len(values), tuple(map(frozenset, pairs)))


def of_one(count: int) -> list[Pair]:
    return [(edge("r17", a), edge("r17", b)) for a, b in combinations(range(count), 2)]


def of_two(count: int) -> list[Pair]:
    return [(edge("r35", a), edge("r17", b)) for a, b in product(range(count), repeat=2)]


@pytest.mark.parametrize("noise", [0.1, 2.0])
@pytest.mark.parametrize(
    "design", [of_one(3), of_one(5), of_two(3), of_two(4)], ids=["3 of 1", "5 of 1", "3 of 2", "4 of 2"]
)
def test_an_interval_covers_the_truth_where_runs_share_models(design: list[Pair], noise: float) -> None:
    rng = np.random.default_rng(7)
    hits = []
    for _ in range(300):
        found = interval([(1.0, drawn(design, noise, rng, {}))])
        hits.append(found.low <= 0 <= found.high)
    assert np.mean(hits) >= 0.92
    # what the runs' own spread would say is far too sure of itself
    if noise < 1 and len(design) > 3:
        naive = [abs(stats.ttest_1samp(drawn(design, noise, rng, {}).values, 0).pvalue) >= 0.05 for _ in range(300)]
        assert np.mean(naive) < 0.85


def test_a_difference_of_samples_of_the_same_models_covers_the_truth() -> None:
    rng = np.random.default_rng(8)
    hits = []
    for _ in range(300):
        models: dict[str, float] = {}
        mixed, shallow = drawn(of_two(3), 0.3, rng, models), drawn(of_one(3), 0.3, rng, models)
        found = interval([(1.0, mixed), (-0.5, shallow)])
        hits.append(found.low <= 0 <= found.high)
    assert np.mean(hits) >= 0.93


@given(st.lists(st.tuples(accuracies, accuracies), max_size=9))
def test_a_paired_difference_is_scipys_where_no_model_is_shared(pairs: list[tuple[float, float]]) -> None:
    runs = apart(len(pairs) + 2)
    first = {run: a for run, (a, _) in zip(runs, pairs, strict=False)} | {runs[-2]: 0.5}
    second = {run: b for run, (_, b) in zip(runs, pairs, strict=False)} | {runs[-1]: 0.5}
    found = paired_difference(first, second)
    differences = [a - b for a, b in pairs]
    assert found.n == len(pairs)
    if len(pairs) < 3:
        assert math.isnan(found.low)
        assert not found.evident
        return
    assert found.difference == pytest.approx(np.mean(differences), abs=1e-12)
    if np.std(differences) < 1e-9:
        return  # no spread: the next test
    expected = stats.ttest_1samp(differences, 0)
    low, high = expected.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-9)
    assert found.p_value == pytest.approx(expected.pvalue, abs=1e-9)
    assert found.evident == (found.low > 0 or found.high < 0)


def test_several_samples_of_unnamed_models_have_welchs_interval() -> None:
    first, second = (0.5, 0.6, 0.58, 0.49), (0.7, 0.72, 0.65)
    found = interval([(1.0, Sample(first, 4)), (-1.0, Sample(second, 3))])
    low, high = stats.ttest_ind(first, second, equal_var=False).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((low, high))


def test_differences_without_spread_are_certain() -> None:
    runs = apart(3)
    sure = paired_difference(dict.fromkeys(runs, 0.75), dict.fromkeys(runs, 0.5))
    assert (sure.difference, sure.low, sure.high, sure.p_value) == (0.25, 0.25, 0.25, 0.0)
    same = paired_difference(dict.fromkeys(runs, 0.5), dict.fromkeys(runs, 0.5))
    assert (same.low, same.high, same.p_value) == (0.0, 0.0, 1.0)
    assert not same.evident


def test_mirrored_runs_are_one_observation() -> None:
    first = {"a+b.r17+r17.s0+s1": 0.6, "b+a.r17+r17.s1+s0": 0.8, "a+b.r17+r17.s1+s0": 0.5}
    found = paired_difference(first, dict.fromkeys(first, 0.0))
    assert found.n == 2
    assert found.difference == pytest.approx((0.7 + 0.5) / 2)


def test_where_all_runs_share_a_model_nobody_can_tell() -> None:
    first = {f"a.r35+r17.s0+s{seed}": seed / 10 for seed in range(4)}
    assert math.isnan(paired_difference(first, dict.fromkeys(first, 0.0)).low)
