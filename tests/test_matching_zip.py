"""zip: the groups of the public algorithm, written here step by step, and what must hold of any groups."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

import mergeline.matching.zip as zip_module
from mergeline.bundles import assign_bundles
from mergeline.maps import Groups
from mergeline.matching import MATCHERS, Problem
from mergeline.matching.zip import ZipOptions, group_similarity, match_groups, zip_space
from mergeline.merging import merge_states
from mergeline.moments import Moments, collect_moments, full_pairs
from mergeline.spaces import permute_state, random_permutation, trace

ALPHAS = [1e-4, 0.01, 0.1, 0.3, 0.5, 1.0]
BETAS = [0.0, 0.0375, 0.075, 0.125, 0.25, 0.5, 1.0]


def literal(correlation: NDArray[Any], n_models: int, alpha: float, beta: float) -> NDArray[np.int64]:
    """The public algorithm as published: rows and columns are really removed, and every step searches everything."""
    similarity = np.array(correlation)
    scale = similarity.dtype.type(alpha)
    n_units = len(similarity)
    width = n_units // n_models
    np.fill_diagonal(similarity, -np.inf)
    groups = [[unit] for unit in range(n_units)]
    origin = [unit // width for unit in range(n_units)]
    budget = [int((n_units - width) // n_models * beta + 1e-4)] * n_models
    while len(groups) > width:
        row, column = divmod(int(similarity.argmax()), len(similarity))
        keep, drop = min(row, column), max(row, column)
        groups[keep] += groups.pop(drop)
        similarity[:, keep] = np.minimum(similarity[:, keep], similarity[:, drop]) * scale
        similarity = np.delete(similarity, drop, axis=1)
        similarity[keep] = np.minimum(similarity[keep], similarity[drop]) * scale
        similarity = np.delete(similarity, drop, axis=0)
        same = origin[keep] == origin[drop]
        del origin[drop]
        if same:
            model = origin[keep]
            budget[model] -= 1
            if budget[model] <= 0:
                own = np.array(origin) == model
                similarity[np.ix_(own, own)] = -np.inf
    labels = np.empty(n_units, dtype=np.int64)
    for label, units in enumerate(groups):
        labels[units] = label
    return labels


def correlate(features: NDArray[Any]) -> NDArray[Any]:
    """Correlations of rows, 0 for rows without variance, as the moments give them."""
    centred = features - features.mean(axis=1, keepdims=True)
    covariance = centred @ centred.T
    scale = np.sqrt(np.outer(np.diag(covariance), np.diag(covariance)))
    return np.where(scale > 1e-12, covariance / np.maximum(scale, 1e-12), 0.0)


Case = tuple[NDArray[Any], int]


@st.composite
def correlations(draw: st.DrawFn, n_models: int = 2, max_width: int = 8) -> Case:
    """Correlation matrices with ties, dead units and duplicates, and the width of each model."""
    width = draw(st.integers(1, max_width))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    features = rng.normal(size=(n_models * width, draw(st.integers(2, 12))))
    if draw(st.booleans()):
        features = np.round(features)
    if draw(st.booleans()):
        features[rng.integers(0, len(features), size=2)] = 1.0
    if draw(st.booleans()):
        features[rng.integers(0, len(features))] = features[0]
    return correlate(features).astype(draw(st.sampled_from([np.float32, np.float64]))), width


def check_groups(labels: NDArray[np.int64], sizes: list[int], n_groups: int) -> None:
    """Every unit has a label, every label is used, and groups are numbered by their first unit."""
    assert labels.shape == (sum(sizes),)
    firsts = [int(np.flatnonzero(labels == label)[0]) for label in range(n_groups)]
    assert set(labels.tolist()) == set(range(n_groups))
    assert firsts == sorted(firsts)


@given(correlations(), st.sampled_from(ALPHAS), st.sampled_from(BETAS))
@settings(max_examples=120)
def test_the_groups_are_those_of_the_public_algorithm(case: Case, alpha: float, beta: float) -> None:
    correlation, width = case
    expected = literal(correlation, 2, alpha, beta)
    assert match_groups(correlation, [width, width], width, alpha, beta, compatible=True).tolist() == expected.tolist()
    if beta > 0:
        assert match_groups(correlation, [width, width], width, alpha, beta).tolist() == expected.tolist()


@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.sampled_from([0.25, 0.5, 1.0]), st.sampled_from(BETAS))
@settings(max_examples=120)
def test_ties_go_to_the_first_in_row_major_order(seed: int, width: int, alpha: float, beta: float) -> None:
    """Values and factor are powers of 2: a joined pair often equals another, where all are negative from below."""
    rng = np.random.default_rng(seed)
    choices = [-1.0, -0.5, -0.25, 0.0, 0.25, 0.5, 1.0] if seed % 2 else [-1.0, -0.5, -0.25, -0.125]
    values = rng.choice(choices, size=(2 * width, 2 * width))
    similarity = np.triu(values) + np.triu(values, 1).T
    expected = literal(similarity, 2, alpha, beta).tolist()
    assert match_groups(similarity, [width, width], width, alpha, beta, compatible=True).tolist() == expected
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zip_module, "_compiled", lambda: None)
        assert match_groups(similarity, [width, width], width, alpha, beta, compatible=True).tolist() == expected


@pytest.mark.parametrize("compiled", [True, False])
def test_a_joined_pair_that_rises_to_a_tie_comes_first(compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    similarity = np.full((8, 8), -1.0)
    for i, j, value in ((1, 2, -0.125), (0, 1, -0.5), (0, 2, -0.5), (0, 3, -0.25)):
        similarity[i, j] = similarity[j, i] = value
    if not compiled:
        monkeypatch.setattr(zip_module, "_compiled", lambda: None)
    labels = match_groups(similarity, [4, 4], 4, alpha=0.5, beta=1.0)
    assert labels.tolist() == literal(similarity, 2, 0.5, 1.0).tolist()
    assert labels[:3].tolist() == [0, 0, 0]  # 0 with 1 and 2, at half of -0.5, before 0 with 3, at -0.25


@pytest.mark.parametrize("rank", [3, 12, 200])
def test_the_groups_are_those_of_the_public_algorithm_at_a_real_width(rank: int) -> None:
    rng = np.random.default_rng(rank)
    features = np.maximum(rng.normal(size=(128, rank)) @ rng.normal(size=(rank, 400)), 0)
    features[[3, 70, 71]] = 0.0
    features[90] = features[10]
    correlation = correlate(features)
    expected = literal(correlation, 2, 0.3, 0.125)
    assert match_groups(correlation, [64, 64], 64).tolist() == expected.tolist()


@given(st.data(), st.sampled_from(ALPHAS), st.sampled_from(BETAS), st.booleans())
@settings(max_examples=80)
def test_the_compiled_loop_and_numpy_agree(data: st.DataObject, alpha: float, beta: float, compatible: bool) -> None:
    pytest.importorskip("numba")
    n_models = data.draw(st.integers(1, 4))
    sizes = data.draw(st.lists(st.integers(1, 6), min_size=n_models, max_size=n_models))
    n_groups = data.draw(st.integers(1, sum(sizes)))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    correlation = correlate(np.round(rng.normal(size=(sum(sizes), 4)), 1))
    correlation = correlation.astype(data.draw(st.sampled_from([np.float32, np.float64])))
    options = (sizes, n_groups, alpha, beta, compatible)
    labels = match_groups(correlation, *options)
    check_groups(labels, sizes, n_groups)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zip_module, "_compiled", lambda: None)
        assert match_groups(correlation, *options).tolist() == labels.tolist()


def test_without_numba_zip_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    correlation = correlate(np.random.default_rng(6).normal(size=(60, 20)))
    expected = match_groups(correlation, [30, 30], 30)
    monkeypatch.setitem(sys.modules, "numba", None)
    zip_module._compiled.cache_clear()
    try:
        assert zip_module._compiled() is None
        assert np.array_equal(match_groups(correlation, [30, 30], 30), expected)
    finally:
        zip_module._compiled.cache_clear()


@given(correlations(), st.sampled_from(ALPHAS), st.sampled_from(BETAS))
@settings(max_examples=80)
def test_budgets_are_respected(case: Case, alpha: float, beta: float) -> None:
    correlation, width = case
    labels = match_groups(correlation, [width, width], width, alpha, beta)
    # A group with units of model 0 belongs to model 0, so that only joins within it make its groups fewer.
    within = width - len(set(labels[:width].tolist()))
    assert within <= (max(1, int(width // 2 * beta + 1e-4)) if beta > 0 else 0)


def test_budgets_are_the_share_of_the_joins_rounded_down() -> None:
    budgets = zip_module._budgets
    assert budgets([200, 200], 200, 0.29).tolist() == [29, 29]  # 28.999... in floats
    assert budgets([64, 64], 64, 0.125).tolist() == [4, 4]
    assert budgets([27, 27], 27, 0.075).tolist() == [0, 0]  # of 13 joins each, not of 13.5
    assert budgets([10, 10, 10], 20, 0.5).tolist() == [3, 3, 3]
    assert budgets([60, 20], 20, 0.5).tolist() == [7, 2]


@given(correlations(), st.sampled_from(ALPHAS))
@settings(max_examples=60)
def test_beta_0_pairs_every_unit_with_one_of_the_other_model(case: Case, alpha: float) -> None:
    correlation, width = case
    labels = match_groups(correlation, [width, width], width, alpha, beta=0)
    assert sorted(labels[:width]) == sorted(labels[width:]) == list(range(width))


def test_compatible_lets_one_join_within_a_model_pass_at_beta_0() -> None:
    correlation = correlate(np.random.default_rng(0).normal(size=(8, 20)))
    correlation[0, 1] = correlation[1, 0] = 0.99
    assert match_groups(correlation, [4, 4], 4, beta=0, compatible=True)[:2].tolist() == [0, 0]
    assert match_groups(correlation, [4, 4], 4, beta=0)[:2].tolist() == [0, 1]


@given(correlations(n_models=3), st.sampled_from(ALPHAS), st.sampled_from(BETAS))
@settings(max_examples=80)
def test_three_models_lose_no_unit(case: Case, alpha: float, beta: float) -> None:
    correlation, width = case
    check_groups(match_groups(correlation, [width] * 3, width, alpha, beta), [width] * 3, width)


@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(1, 9), st.sampled_from(BETAS))
@settings(max_examples=60)
def test_elastic_width_keeps_as_many_groups_as_the_wider_model_has_units(
    seed: int, first: int, second: int, beta: float
) -> None:
    correlation = correlate(np.random.default_rng(seed).normal(size=(first + second, 6)))
    labels = zip_space(correlation, [first, second], [np.arange(1)] * 2, ZipOptions(beta=beta))
    check_groups(labels, [first, second], max(first, second))
    budget = int(min(first, second) * first / (first + second) * beta + 1e-4)
    assert first - len(set(labels[:first].tolist())) <= (max(1, budget) if beta > 0 else 0)


def test_fewer_groups_than_the_widest_model_raises_the_budgets() -> None:
    correlation = correlate(np.random.default_rng(1).normal(size=(10, 30)))
    check_groups(match_groups(correlation, [10], 4, beta=0), [10], 4)
    check_groups(match_groups(correlation, [5, 5], 1, beta=0), [5, 5], 1)


def test_a_feature_of_one_model_alone_survives() -> None:
    rng = np.random.default_rng(2)
    shared = rng.normal(size=(6, 500))
    noise = 0.05 * rng.normal(size=(16, 500))
    only_a, only_b = rng.normal(size=(1, 500)), rng.normal(size=(1, 500))
    a = np.concatenate([shared, only_a, shared[:1]])
    b = np.concatenate([shared[::-1], only_b, shared[2:3]])
    labels = match_groups(correlate(np.concatenate([a, b]) + noise), [8, 8], 8, alpha=0.3, beta=0.5)
    assert (labels == labels[6]).sum() == 1  # the unit that only A has
    assert (labels == labels[8 + 6]).sum() == 1  # the unit that only B has
    assert labels[7] == labels[0] == labels[8 + 5]


@given(st.integers(0, 2**32 - 1), st.integers(2, 12), st.sampled_from(BETAS))
@settings(max_examples=40)
def test_a_model_and_its_permutation_give_its_own_order(seed: int, width: int, beta: float) -> None:
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(width, 4 * width))
    order = rng.permutation(width)
    labels = match_groups(correlate(np.concatenate([features, features[order]])), [width, width], width, 0.3, beta)
    assert labels.tolist() == [*range(width), *order.tolist()]


def test_the_input_is_left_alone_and_float32_is_computed_in_float32() -> None:
    correlation = correlate(np.random.default_rng(3).normal(size=(12, 30))).astype(np.float32)
    before = correlation.copy()
    labels = match_groups(correlation, [6, 6], 6, compatible=True)
    assert np.array_equal(correlation, before)
    assert labels.tolist() == literal(correlation, 2, 0.3, 0.125).tolist()
    assert match_groups(torch.from_numpy(correlation), [6, 6], 6, compatible=True).tolist() == labels.tolist()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"correlation": np.ones((2, 3))}, "square"),
        ({"correlation": np.full((4, 4), np.nan)}, "not finite"),
        ({"sizes": [2, 3]}, r"sizes \[2, 3\] sum to 5"),
        ({"n_groups": 0}, "cannot form 0 groups"),
        ({"n_groups": 5}, "cannot form 5 groups"),
        ({"alpha": 0.0}, "alpha must be above 0"),
        ({"beta": -0.1}, "beta must lie in"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        match_groups(**{"correlation": np.eye(4), "sizes": [2, 2], "n_groups": 2, **change})


def test_the_diagonal_is_not_read() -> None:
    correlation = correlate(np.random.default_rng(5).normal(size=(8, 20)))
    expected = match_groups(correlation, [4, 4], 4).tolist()
    for value in (np.nan, -np.inf, 7.0):
        np.fill_diagonal(correlation, value)
        assert match_groups(correlation, [4, 4], 4).tolist() == expected


def test_bundles_of_units_stay_together() -> None:
    rng = np.random.default_rng(4)
    features = rng.normal(size=(12, 300))
    order = np.concatenate([group * 4 + rng.permutation(4) for group in (2, 0, 1)])
    correlation = correlate(np.concatenate([features, features[order]]) + 0.1 * rng.normal(size=(24, 300)))
    partners = [np.arange(3), assign_bundles([correlation[:12, 12:]], 3, True)]
    assert partners[1].tolist() == [1, 2, 0]
    labels = zip_space(correlation, [12, 12], partners, ZipOptions())
    assert labels.tolist() == [*range(12), *order.tolist()]
    for sizes, bundles in (([12, 12], 5), ([8, 16], 4)):
        with pytest.raises(ValueError, match="do not fall into"):
            zip_space(correlation, sizes, [np.arange(bundles)] * 2, ZipOptions())


def test_similarity_of_groups_is_the_mean_over_units() -> None:
    similarity = np.array([[1.0, 0.8, 0.0, 0.2], [0.8, 1.0, 0.0, 0.4], [0.0, 0.0, 1.0, 0.0], [0.2, 0.4, 0.0, 1.0]])
    assert group_similarity(similarity, np.array([0, 0, 1, 2])) == pytest.approx((0.8 + 0.8) / 4)
    assert group_similarity(similarity, np.array([0, 0, 1, 0])) == pytest.approx((0.5 + 0.6 + 0.3) / 4)
    assert group_similarity(similarity, np.arange(4)) == 0.0


class Tiny(nn.Module):
    """Two convolutions, the second with group norm, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 12, 3)
        self.gn2 = nn.GroupNorm(3, 12)
        self.fc = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        x = torch.relu(self.gn2(self.conv2(x)))
        return self.fc(x.mean((2, 3)))


def copies(n_models: int) -> tuple[Tiny, Tensor, Problem]:
    """A network, its permuted copies, and their problem."""
    torch.manual_seed(0)
    model = Tiny().eval()
    images = torch.randn(64, 3, 12, 12)
    spaces = trace(model, images[:2])
    generator = torch.Generator().manual_seed(1)
    models = [model]
    for _ in range(n_models - 1):
        order = {space.name: random_permutation(space, generator) for space in spaces.free}
        models.append(Tiny().eval())
        models[-1].load_state_dict(permute_state(spaces, model.state_dict(), order))
    moments = collect_moments(models, spaces, [images], full_pairs(n_models))
    problem = Problem(spaces, [m.state_dict() for m in models], moments, np.random.default_rng(0))
    return model, images, problem


@pytest.mark.parametrize(("n_models", "options"), [(2, ZipOptions()), (3, ZipOptions(alpha=1.0, beta=0.0))])
def test_copies_of_one_model_merge_to_it(n_models: int, options: ZipOptions) -> None:
    model, images, problem = copies(n_models)
    matching = MATCHERS["zip"].match(problem, options)
    assert all(isinstance(own[space.name], Groups) for own in matching.maps for space in problem.spaces.free)
    assert all(value > 0.3 for value in matching.objective.values())
    merged = Tiny().eval()
    merged.load_state_dict(merge_states(problem.spaces, problem.states, matching.maps))
    assert torch.allclose(merged(images), model(images), atol=1e-5)


def test_unequal_widths_come_from_the_moments() -> None:
    """The widths are the models' own, not the traced model's."""
    _, _, problem = copies(2)
    space = problem.spaces.free[0]
    whole = problem.moments[space.name]
    blocks = {(0, 0): whole.covariance(0, 0), (0, 1): whole.covariance(0, 1)[:, :5]}
    blocks[1, 1] = whole.covariance(1, 1)[:5, :5]
    narrow = Moments(
        space.name, whole.n, (whole.means[0], whole.means[1][:5]), (whole.variances[0], whole.variances[1][:5]), blocks
    )
    labels = zip_space(narrow.joint_correlation(), narrow.sizes, [np.arange(1)] * 2, ZipOptions(beta=0.0))
    assert labels[:8].tolist() == list(range(8))
    assert len(set(labels[8:].tolist())) == 5
