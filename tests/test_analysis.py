"""The statistics behind the report: samples, deviations, correlations and paired differences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import mean, stdev
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from mergeline.architectures import size_mismatch
from stages.report.analysis import (
    Correlation,
    PairResult,
    deviations,
    main_scope,
    method_label,
    pair_results,
    run_values,
    simplicity,
    source_edges,
    spearman,
    trained_partner,
)
from stages.report.intervals import Sample

accuracies = st.floats(0, 1, allow_nan=False)
levels = st.integers(0, 4).map(float)  # few values: many ties


def row(cell: str, accuracy: float | None, scope: str = "", **more: Any) -> dict[str, Any]:
    """A row of results for a merge, ensemble or edge of this name; no accuracy: a planned cell that is missing."""
    tasks, architectures, seeds, *rest = cell.split(".")
    names = architectures.split("+")
    kind = "merge" if rest else "ensemble" if "+" in seeds else "edge"
    return {
        "cell": cell, "kind": kind, "control": "", "status": "missing" if accuracy is None else "ok", "tasks": tasks,
        "architectures": architectures, "seeds": seeds, "homogeneous": len(set(names)) == 1,
        "size_mismatch": max(size_mismatch(names[0], name) for name in names), "method": rest[0] if rest else None,
        "stop": None, "preserve": None, "weights": None, "normalize": rest[1] if rest else None,
        "scope": scope or ("mean" if "+" in tasks else tasks), "accuracy": accuracy, **more,
    }  # fmt: skip


def runs(pair: str, values: Sequence[float | None], task: str = "a", method: str = "permute") -> list[dict[str, Any]]:
    return [row(f"{task}.{pair}.s{i}+s{i + 1}.{method}.reset", value) for i, value in enumerate(values)]


def only(results: Sequence[Any]) -> Any:
    (result,) = results
    return result


# -- samples -----------------------------------------------------------------------------------------------------


@given(st.lists(accuracies, min_size=2, max_size=9), st.integers(0, 4))
def test_a_sample_has_the_mean_and_sample_deviation_of_its_runs(values: list[float], missing: int) -> None:
    sample = Sample(tuple(values), len(values) + missing)
    assert sample.mean == pytest.approx(mean(values))
    assert sample.std == pytest.approx(stdev(values), abs=1e-12)
    assert (sample.n, sample.missing) == (len(values), missing)


def test_a_single_run_has_no_deviation_and_no_run_no_mean() -> None:
    assert math.isnan(Sample((0.5,), 1).std)
    assert math.isnan(Sample((), 3).mean)
    assert Sample((), 3).missing == 3


# -- rows to results ---------------------------------------------------------------------------------------------


def test_missing_runs_are_counted_as_missing_and_not_dropped() -> None:
    rows = [*runs("r17+r17", [0.8, None, 0.6]), *runs("r35+r35", [None, None])]
    part, nothing = pair_results(rows)
    assert part.accuracy == Sample((0.8, 0.6), 3)
    assert part.per_scope == {"a": part.accuracy}
    assert (nothing.architectures, nothing.accuracy.n, nothing.accuracy.missing) == ("r35+r35", 0, 2)


def test_a_missing_source_is_missing_for_its_runs_alone() -> None:
    edges = [row("a.r17.s0", 0.9), row("a.r17.s1", None), row("a.r17.s2", 0.7), row("a.r17.s3", 0.5)]
    merges = [row(f"a.r17+r17.{seeds}.permute.reset", 0.4) for seeds in ("s0+s1", "s0+s2", "s2+s3")]
    assert only(pair_results([*edges, *merges])).sources == Sample((pytest.approx(0.8), pytest.approx(0.6)), 3)


def test_results_of_task_pairs_have_their_mean_each_task_and_the_joint_accuracy() -> None:
    cell = "a+b.r35+r17.s0+s1"
    values = {"a": 0.8, "b": 0.6, "mean": 0.7, "joint": 0.3}
    rows = [row("a.r35.s0", 0.9), row("b.r17.s1", 0.7)]
    rows += [row(cell, value + 0.1, scope) for scope, value in values.items()]
    rows += [row(f"{cell}.permute.reset", value, scope) for scope, value in values.items()]
    result = only(pair_results(rows))
    assert result.accuracy.values == (0.7,)
    assert {scope: sample.values for scope, sample in result.per_scope.items()} == {
        "a": (0.8,), "b": (0.6,), "joint": (0.3,),
    }  # fmt: skip
    assert result.ensemble.values == (pytest.approx(0.8),)
    assert result.sources.values == (pytest.approx(0.8),)


def test_controls_are_kept_apart() -> None:
    rows = [*runs("r17+r17", [0.8]), row("a.r17+r17.s0+s0.permute.reset", 0.9, control="self")]
    assert only(pair_results(rows)).accuracy.values == (0.8,)
    assert only(pair_results(rows, "self")).accuracy.values == (0.9,)
    assert pair_results(rows, "random") == []


def test_agreement_is_the_mean_over_the_runs_that_have_it() -> None:
    first, second, third = runs("r17+r17", [0.8, 0.7, 0.6])
    first |= {"agree_0": 0.9, "follow_0": None}
    second |= {"agree_0": 0.5, "follow_0": 0.25}
    assert only(pair_results([first, second, third])).agreement == {"agree_0": pytest.approx(0.7), "follow_0": 0.25}


@pytest.mark.parametrize(
    ("cell", "label"),
    [
        ("permute.reset", "permute"),
        ("permute.repair", "permute repair"),
        ("permute.reset-momentum=0.1", "permute reset-momentum=0.1"),
        ("permute-stop=layer2.0.reset", "permute stop=layer2.0"),
        ("permute-weights=0.3+0.7.none", "permute weights=0.3+0.7 none"),
    ],
)
def test_merges_that_differ_in_anything_are_different_methods(cell: str, label: str) -> None:
    other = row("a.r17+r17.s0+s1.permute.reset", 0.5) | {"cell": f"a.r17+r17.s0+s1.{cell}"}
    assert method_label(other) == label
    results = pair_results([*runs("r17+r17", [0.8]), other])
    assert len(results) == (1 if label == "permute" else 2)


def test_merges_of_other_placements_are_other_methods() -> None:
    other = row("a.r35+r17.s0+s1.permute.reset", 0.5) | {"cell": "a.r35+r17.s0+s1-placement=sma.permute.reset"}
    assert method_label(other) == "permute placement=sma"
    assert len(pair_results([*runs("r35+r17", [0.8]), other])) == 2


def test_the_main_scope_is_the_task_or_the_mean_of_several() -> None:
    assert main_scope(row("a.r17+r17.s0+s1", 0.5)) == "a"
    assert main_scope(row("a+b.r17+r17.s0+s1", 0.5)) == "mean"


@pytest.mark.parametrize(
    ("cell", "names"),
    [
        ("a.r17.s0", ["a.r17.s0"]),
        ("a.r35+r17.s0+u1", ["a.r35.s0", "a.r17.u1"]),
        ("a.r17+r17+r17.s0+s1+s2", ["a.r17.s0", "a.r17.s1", "a.r17.s2"]),
        ("a+b.r35+r17.s0+s1", ["a.r35.s0", "b.r17.s1"]),
    ],
)
def test_the_sources_of_a_row_are_the_edges_in_its_name(cell: str, names: list[str]) -> None:
    assert source_edges(row(cell, 0.5)) == names


def test_simplicity_is_the_mean_accuracy_of_the_trained_reference_models() -> None:
    rows = [
        row("a.r35.s0", 0.9), row("a.r35.s1", 0.7), row("a.r35.s2", None), row("a.r17.s0", 0.1),
        row("a.r35.u0", 0.1, control="untrained-0"), row("b.r35.s0", 0.5), row("a.r35+r35.s0+s1", 1.0),
    ]  # fmt: skip
    assert simplicity(rows, "r35") == {"a": pytest.approx(0.8), "b": 0.5}
    assert simplicity(rows, "r50") == {}


def test_values_by_run_are_the_headline_accuracies_that_are_there() -> None:
    cell = "a+b.r17+r17.s0+s1.permute.reset"
    rows = [*runs("r17+r17", [0.8, None]), row(cell, 0.7), row(cell, 0.9, "a"), row("a.r17+r17.s0+s1", 0.9)]
    assert run_values(rows, lambda r: True) == {"a.r17+r17.s0+s1": 0.8, "a+b.r17+r17.s0+s1": 0.7}
    assert run_values(rows, lambda r: r["tasks"] == "a") == {"a.r17+r17.s0+s1": 0.8}


# -- deviations --------------------------------------------------------------------------------------------------


def three(mixed: Sequence[float | None], deep: Sequence[float], shallow: Sequence[float]) -> list[PairResult]:
    return pair_results([*runs("r17+r17", shallow), *runs("r35+r35", deep), *runs("r35+r17", mixed)])


values = st.lists(accuracies, min_size=2, max_size=6)


@given(values, values, values)
def test_a_deviation_is_the_mixed_mean_less_the_mean_of_both_homogeneous_means(
    mixed: list[float], deep: list[float], shallow: list[float]
) -> None:
    found = only(deviations(three(mixed, deep, shallow), "permute"))
    assert found.value == pytest.approx(mean(mixed) - (mean(deep) + mean(shallow)) / 2, abs=1e-12)
    assert (found.worst, found.best) == pytest.approx(tuple(sorted((mean(deep), mean(shallow)))))
    assert found.size_mismatch == pytest.approx(size_mismatch("r35", "r17"))
    if min(map(len, (mixed, deep, shallow))) < 3:
        assert math.isnan(found.low)
    else:
        assert found.low - 1e-9 <= found.value <= found.high + 1e-9


@pytest.mark.parametrize("n", [3, 12])
def test_an_interval_covers_the_truth_about_as_often_as_it_says(n: int) -> None:
    rng = np.random.default_rng(1)
    covered = []
    for _ in range(300):
        mixed, deep, shallow = rng.normal([[0.6], [0.8], [0.5]], 0.03, (3, n)).tolist()
        found = only(deviations(three(mixed, deep, shallow), "permute"))
        covered.append(found.low <= 0.6 - 0.65 <= found.high)
    assert 0.91 <= np.mean(covered) <= 1.0


def test_two_samples_alone_give_the_textbooks_interval() -> None:
    mixed, deep = [0.5, 0.6, 0.58], [0.7, 0.72, 0.65, 0.69]
    found = only(deviations(three(mixed, deep, deep), "permute"))
    assert found.value == pytest.approx(np.mean(mixed) - np.mean(deep))
    assert found.low < found.value < found.high
    assert found.high - found.value == pytest.approx(found.value - found.low)


def test_single_runs_have_a_deviation_without_an_interval() -> None:
    found = only(deviations(three([0.5], [0.8, 0.7], [0.6, 0.6]), "permute"))
    assert found.value == pytest.approx(0.5 - 0.675)
    assert math.isnan(found.low)
    assert math.isnan(found.high)


def test_homogeneous_merges_of_either_order_stand_for_both() -> None:
    levels = {"a+b.r17+r17": 0.5, "b+a.r35+r35": 0.7, "a+b.r35+r17": 0.4, "b+a.r35+r17": 0.4}
    cells = [(f"{name}.s{i}+s{i + 1}.permute.reset", level) for name, level in levels.items() for i in range(3)]
    rows = [row(cell, level, scope) for cell, level in cells for scope in ("a", "b", "mean")]
    assert {d.tasks: round(d.value, 9) for d in deviations(pair_results(rows), "permute")} == {"a+b": -0.2, "b+a": -0.2}


def test_the_same_models_in_another_order_are_one_run() -> None:
    rows = [row("a.r17+r17.s0+s1.permute.reset", 0.6), row("a.r17+r17.s1+s0.permute.reset", 0.8)]
    assert only(pair_results(rows)).accuracy == Sample((pytest.approx(0.7),), 1)


def test_a_control_stands_beside_the_same_runs_of_trained_models() -> None:
    rows = [row(f"a.r35+r17.{seeds}.permute.reset", value) for seeds, value in (("s0+s0", 0.8), ("s0+s1", 0.4))]
    rows += [row("a.r35+r17.s0+u0.permute.reset", 0.3, control="untrained-1")]
    rows += [row("a.r35+r17.s0+s1.random.reset", 0.1, control="random")]
    real = pair_results(rows)
    half, shuffled = (only(pair_results(rows, control)) for control in ("untrained-1", "random"))
    assert trained_partner(real, half, "permute").values == (0.8,)
    assert trained_partner(real, shuffled, "permute").values == (0.4,)
    assert trained_partner([], half, "permute").n == 0


def test_a_pair_without_both_homogeneous_merges_has_no_deviation() -> None:
    rows = [*runs("r17+r17", [0.8]), *runs("r35+r17", [0.7])]
    assert deviations(pair_results(rows), "permute") == []
    assert deviations(pair_results([*rows, *runs("r35+r35", [None])]), "permute") == []
    assert len(deviations(pair_results([*rows, *runs("r35+r35", [0.9])]), "permute")) == 1
    assert deviations(pair_results([*rows, *runs("r35+r35", [0.9], method="zip")]), "permute") == []
    assert deviations(pair_results([*rows, *runs("r35+r35", [0.9], task="b")]), "permute") == []


def test_a_mixed_pair_with_some_missing_runs_says_how_many() -> None:
    found = only(deviations(three([0.5, None, 0.6], [0.8, 0.7], [0.6, 0.6]), "permute"))
    assert (found.heterogeneous.n, found.heterogeneous.planned) == (2, 3)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("r35", "r35", 0.0),
        ("r29", "r17", (1 / 2 + 1 / 2 + 1 / 3 + 1 / 2) / 4),
        ("r35", "r17", (1 / 2 + 2 / 3 + 2 / 4 + 1 / 2) / 4),
        ("r152", "r17", (2 / 3 + 7 / 8 + 34 / 36 + 2 / 3) / 4),
        ("vgg16", "vgg16", 0.0),
    ],
)
def test_size_mismatch_is_the_mean_over_stages_of_the_share_of_blocks_that_differ(
    first: str, second: str, expected: float
) -> None:
    assert size_mismatch(first, second) == pytest.approx(expected)
    assert size_mismatch(second, first) == pytest.approx(expected)


# -- correlation -------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(levels, levels), min_size=3, max_size=15))
def test_spearman_is_scipys_also_with_ties(points: list[tuple[float, float]]) -> None:
    x, y = zip(*points, strict=True)
    found = spearman(x, y)
    assert found.n == len(points)
    if len(set(x)) == 1 or len(set(y)) == 1:
        assert all(math.isnan(value) for value in (found.rho, found.p_value, found.low, found.high))
        assert not found.evident
        return
    expected = stats.spearmanr(x, y)
    assert found.rho == pytest.approx(expected.statistic, abs=1e-12)
    assert found.p_value == pytest.approx(expected.pvalue, abs=1e-12, nan_ok=True)
    assert -1 - 1e-9 <= found.low <= found.high <= 1 + 1e-9


@given(st.lists(st.tuples(st.floats(-9, 9), st.floats(-9, 9)), min_size=4, max_size=12, unique_by=lambda p: p[0]))
def test_spearman_reads_ranks_alone_and_is_seeded(points: list[tuple[float, float]]) -> None:
    x, y = zip(*points, strict=True)
    found = spearman(x, y, seed=5)
    ranks = stats.rankdata(x), stats.rankdata(y)
    again, by_rank = spearman(x, y, seed=5), spearman(*ranks, seed=5)
    for other in (again, by_rank):
        assert (other.rho, other.low, other.high) == pytest.approx((found.rho, found.low, found.high), nan_ok=True)


@pytest.mark.parametrize("n", [0, 1, 2])
def test_fewer_than_three_points_have_no_correlation(n: int) -> None:
    found = spearman(range(n), range(n))
    assert found.n == n
    assert math.isnan(found.rho)
    assert not found.evident


def test_points_that_do_not_pair_up_are_refused() -> None:
    with pytest.raises(ValueError):
        spearman([1.0, 2.0, 3.0], [1.0, 2.0, 3.0, 4.0])


def test_a_correlation_is_evident_only_where_its_interval_leaves_zero_out() -> None:
    rng = np.random.default_rng(2)
    x = np.arange(20.0)
    assert spearman(x, x + rng.normal(0, 2, 20)).evident
    unrelated = spearman(x, rng.permutation(20).astype(float))
    assert unrelated.low < 0 < unrelated.high
    assert not unrelated.evident
    assert not Correlation(1.0, 0.0, 1.0, 1.0, 3).evident
    assert not Correlation(0.5, 0.04, -0.01, 0.8, 12).evident
    assert not Correlation(-0.5, 0.2, -0.8, -0.1, 12).evident


def test_every_correlation_needs_four_points() -> None:
    for n in range(4):
        assert not Correlation(0.9, 0.01, 0.5, 1.0, n).evident
