"""cca and transport, and the exactness of grouped assignments."""

from __future__ import annotations

import sys
from typing import ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mergeline.architectures import build
from mergeline.maps import Dense, Permutation
from mergeline.matching import MATCHERS, Matching, Problem
from mergeline.matching.cca import CcaOptions, match_cca
from mergeline.matching.permute import match_grouped
from mergeline.matching.transport import TransportOptions, transport_map, transport_plan, unit_distances
from mergeline.matching.zip import match_groups
from mergeline.merging import merge_states
from mergeline.moments import Moments, collect_moments, full_pairs
from mergeline.spaces import Observation, Space
from tests.conftest import Trained
from tests.optimal import optimal_grouped, optimal_pairs
from tests.test_matching_weight import permuted

Float64 = NDArray[np.float64]


def moments_of(*features: Float64, space: str = "space") -> Moments:
    """Moments of features ``(units, samples)`` of some models, in float64."""
    n = features[0].shape[1]
    means = tuple(rows.mean(axis=1) for rows in features)
    centred = [rows - mean[:, None] for rows, mean in zip(features, means, strict=True)]
    blocks = {(i, j): centred[i] @ centred[j].T / n for i, j in full_pairs(len(features))}
    variances = tuple(np.diagonal(blocks[k, k]).copy() for k in range(len(features)))
    return Moments(space, n, means, variances, blocks)


def match(name: str, options: object, moments: Moments, groups: int = 1) -> list[Dense | Permutation]:
    """Each model's map of one space."""
    size = moments.sizes[0]
    seen = (Observation("node", (1,), np.arange(size)[:, None]),)
    space = Space(moments.space, size, (), seen, groups, "bundles" if groups > 1 else "")

    class OneSpace:
        free = movable = (space,)
        tensors: ClassVar[dict[str, object]] = {}
        models = ()

        def of(self, model: int) -> OneSpace:
            return self

        @staticmethod
        def together() -> list[tuple[tuple[Space, int], ...]]:
            return [((space, groups),)]

    problem = Problem(OneSpace(), [{}] * len(moments.sizes), {space.name: moments}, np.random.default_rng(0))  # type: ignore[arg-type, list-item]
    matching: Matching = MATCHERS[name].match(problem, options)
    return [own[space.name] for own in matching.maps]  # type: ignore[misc]


def as_matrix(index: NDArray[np.int64]) -> Float64:
    return np.eye(len(index))[index]


def features(seed: int, units: int, samples: int = 400) -> Float64:
    rng = np.random.default_rng(seed)
    return np.maximum(rng.normal(size=(units, units)) @ rng.normal(size=(units, samples)), 0)


# -- cca -------------------------------------------------------------------------------------------------------------


@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.sampled_from([1e-3, 0.01, 0.1, 1.0]))
def test_cca_maps_invert_each_other(seed: int, units: int, gamma: float) -> None:
    rng = np.random.default_rng(seed)
    a, b = features(seed, units), features(seed + 1, units)
    a[rng.integers(units)] = b[rng.integers(units)] = 1.0
    moments = moments_of(a, b)
    blocks = (moments.covariance(0, 0), moments.covariance(1, 1), moments.covariance(0, 1))
    to_merged, to_own = match_cca(*blocks, gamma)
    assert to_merged.dtype == np.float64
    assert np.allclose(to_merged @ to_own, np.eye(units), rtol=0, atol=1e-8)
    assert np.allclose(to_own @ to_merged, np.eye(units), rtol=0, atol=1e-8)


def test_cca_maps_of_a_real_width_invert_each_other() -> None:
    moments = moments_of(features(0, 256, 200), features(1, 256, 200))  # fewer samples than units
    own = match("cca", CcaOptions(0.01), moments)[1]
    assert isinstance(own, Dense)
    assert np.allclose(own.to_merged @ own.to_own, np.eye(256), rtol=0, atol=1e-8)


def test_cca_follows_its_formula() -> None:
    moments = moments_of(features(2, 5), features(3, 5))
    xx, yy, xy = moments.covariance(0, 0), moments.covariance(1, 1), moments.covariance(0, 1)
    x = xx + 0.2 * np.trace(xx) / 5 * np.eye(5)
    y = yy + 0.2 * np.trace(yy) / 5 * np.eye(5)

    def power(matrix: Float64, exponent: float) -> Float64:
        values, vectors = np.linalg.eigh(matrix)
        return (vectors * values**exponent) @ vectors.T

    u, _, vt = np.linalg.svd(power(x, -0.5) @ xy @ power(y, -0.5))
    rows = power(y, -0.5) @ vt.T @ u.T @ power(x, 0.5)  # T, which acts on rows of samples
    to_merged, _ = match_cca(xx, yy, xy, 0.2)
    assert np.allclose(to_merged, rows.T, atol=1e-10)


@pytest.mark.parametrize("groups", [1, 3])
def test_cca_maps_a_permuted_copy_back(groups: int) -> None:
    rng = np.random.default_rng(0)
    a = features(4, 12, 4000)
    order = np.concatenate([g * (12 // groups) + rng.permutation(12 // groups) for g in rng.permutation(groups)])
    maps = match("cca", CcaOptions(), moments_of(a, a[order]), groups)
    assert isinstance(maps[0], Dense)
    assert isinstance(maps[1], Dense)
    assert np.array_equal(maps[0].to_merged, np.eye(12))
    assert np.allclose(maps[1].to_merged, as_matrix(np.argsort(order)), atol=1e-8)
    assert np.allclose(maps[1].to_own, as_matrix(order), atol=1e-8)


def test_cca_keeps_groups_apart() -> None:
    maps = match("cca", CcaOptions(), moments_of(features(5, 8), features(6, 8)), 4)
    assert isinstance(maps[1], Dense)
    filled = np.abs(maps[1].to_merged).reshape(4, 2, 4, 2).sum(axis=(1, 3)) > 0
    assert filled.sum(axis=0).tolist() == filled.sum(axis=1).tolist() == [1] * 4


def test_cca_leaves_dead_units_and_dead_models_in_place() -> None:
    a, b = features(7, 6), features(8, 6)
    dead = [1, 2, 4]
    a[dead] = b[dead] = 0.0
    moments = moments_of(a, b)
    blocks = (moments.covariance(0, 0), moments.covariance(1, 1), moments.covariance(0, 1))
    to_merged, _ = match_cca(*blocks)
    scale = np.sqrt(np.trace(blocks[0]) / np.trace(blocks[1]))
    assert np.allclose(to_merged[np.ix_(dead, dead)], scale * np.eye(3), atol=1e-10)
    assert np.allclose(np.delete(to_merged[dead], dead, axis=1), 0, atol=1e-10)
    assert np.allclose(np.delete(to_merged[:, dead], dead, axis=0), 0, atol=1e-10)
    nothing = np.zeros((6, 6))
    for xx, yy in ((nothing, nothing), (blocks[0], nothing), (nothing, blocks[1])):
        to_merged, to_own = match_cca(xx, yy, nothing)
        assert np.allclose(to_merged @ to_own, np.eye(6), atol=1e-8)
        assert np.abs(to_merged).max() < 100


def test_cca_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="one width"):
        match("cca", CcaOptions(), moments_of(features(0, 4), features(1, 5)))
    with pytest.raises(ValueError, match="square blocks"):
        match_cca(np.eye(3), np.eye(3), np.ones((3, 2)))
    with pytest.raises(ValueError, match="not finite"):
        match_cca(np.eye(3), np.eye(3), np.full((3, 3), np.nan))
    with pytest.raises(ValueError, match="gamma must be above 0"):
        CcaOptions(0.0)


@pytest.mark.parametrize("name", ["cca", "transport"])
def test_copies_of_a_trained_model_merge_to_it(name: str, trained: Trained) -> None:
    n_models = 3
    state = trained.states()[0]
    states = [state, *(permuted(trained.spaces, state, seed)[0] for seed in range(1, n_models))]
    models = [build(trained.architecture) for _ in states]
    for model, own in zip(models, states, strict=True):
        model.load_state_dict(own)
    moments = collect_moments(models, trained.spaces, [trained.toy.inputs()], full_pairs(n_models))
    matcher = MATCHERS[name]
    matching = matcher.match(Problem(trained.spaces, states, moments, np.random.default_rng(0)), matcher.options())
    merged = merge_states(trained.spaces, states, matching.maps)
    tolerance = 1e-6 if name == "transport" else 1e-3
    for tensor_name, tensor in state.items():
        if tensor.is_floating_point() and not tensor_name.endswith("running_var"):
            assert torch.allclose(merged[tensor_name], tensor, atol=tolerance)


# -- transport -------------------------------------------------------------------------------------------------------


@given(st.integers(0, 2**32 - 1), st.integers(1, 10), st.sampled_from(["correlation", "euclidean"]))
def test_exact_transport_at_equal_widths_is_the_assignment(seed: int, units: int, distance: str) -> None:
    moments = moments_of(features(seed, units), features(seed + 1, units))
    own = match("transport", TransportOptions(distance=distance), moments)[1]  # type: ignore[arg-type]
    assert isinstance(own, Permutation)
    distances = unit_distances(moments, 1, distance)  # type: ignore[arg-type]
    best = match_grouped(-distances, 1)
    rows = np.arange(units)
    assert distances[rows, own.index].sum() == pytest.approx(distances[rows, best].sum())
    if distance == "correlation":
        permute = match("permute", MATCHERS["permute"].options(), moments)[1]
        assert isinstance(permute, Permutation)
        assert np.array_equal(own.index, permute.index)


def test_distances_are_those_of_the_activations() -> None:
    a, b = features(0, 4), features(1, 3)
    moments = moments_of(a, b)
    literal = np.sqrt(((a[:, None] - b[None]) ** 2).mean(axis=2))
    assert np.allclose(unit_distances(moments, 1, "euclidean"), literal)
    assert np.allclose(unit_distances(moments, 1), 1 - np.corrcoef(np.concatenate([a, b]))[:4, 4:])


@pytest.mark.parametrize("sizes", [(6, 6), (6, 4), (4, 6), (3, 1), (1, 3)])
@pytest.mark.parametrize("regularization", [0.0, 0.001, 0.05, 1.0])
def test_maps_of_plans_are_averages(sizes: tuple[int, int], regularization: float) -> None:
    if regularization == 0:
        pytest.importorskip("ot")
    moments = moments_of(features(2, sizes[0]), features(3, sizes[1]))
    maps = match("transport", TransportOptions(regularization), moments)
    assert isinstance(maps[0], Permutation)
    assert maps[0].is_identity
    if regularization == 0 and sizes[0] == sizes[1]:
        assert isinstance(maps[1], Permutation)
        return
    assert isinstance(maps[1], Dense)
    assert maps[1].to_merged.shape == sizes
    for matrix in (maps[1].to_merged, maps[1].to_own):
        assert (matrix >= 0).all()
        assert np.allclose(matrix.sum(axis=1), 1)


def test_plans_have_the_right_margins_and_cost_the_least() -> None:
    pytest.importorskip("ot")
    rng = np.random.default_rng(4)
    costs = rng.random((6, 4))
    exact = transport_plan(costs)
    for plan in (exact, transport_plan(costs, 0.05), transport_plan(costs, 1e-5)):
        assert np.allclose(plan.sum(axis=1), 1 / 6, atol=1e-6)
        assert np.allclose(plan.sum(axis=0), 1 / 4, atol=1e-6)
    # Six rows and four columns split into twelfths are an assignment of 12 to 12.
    twelfths = np.repeat(np.repeat(costs, 2, axis=0), 3, axis=1)
    best = twelfths[np.arange(12), match_grouped(-twelfths, 1)].mean()
    assert float((exact * costs).sum()) == pytest.approx(best)
    assert float((transport_plan(costs, 0.05) * costs).sum()) >= best - 1e-9
    assert float((transport_plan(costs, 0.002) * costs).sum()) == pytest.approx(best, abs=1e-3)


@given(st.integers(0, 2**32 - 1), st.integers(1, 7), st.integers(1, 7), st.sampled_from([0.1, 1.0]))
@settings(max_examples=15)
def test_soft_plans_are_those_of_pot(seed: int, n_rows: int, n_columns: int, regularization: float) -> None:
    ot = pytest.importorskip("ot")
    costs = np.random.default_rng(seed).random((n_rows, n_columns))
    margins = np.full(n_rows, 1 / n_rows), np.full(n_columns, 1 / n_columns)
    strength = regularization * costs.max()
    expected = ot.bregman.sinkhorn_log(*margins, costs, strength, numItermax=5000, stopThr=1e-9)
    assert np.allclose(transport_plan(costs, regularization), expected, atol=1e-4)


def test_a_soft_plan_between_equal_distances_is_even() -> None:
    for costs in (np.zeros((3, 4)), np.ones((3, 4))):
        assert np.allclose(transport_plan(costs, 0.1), 1 / 12)


def test_a_soft_plan_keeps_groups_apart() -> None:
    own = match("transport", TransportOptions(0.1), moments_of(features(5, 8), features(6, 8)), 4)[1]
    assert isinstance(own, Dense)
    filled = own.to_merged.reshape(4, 2, 4, 2).sum(axis=(1, 3)) > 0
    assert filled.sum(axis=0).tolist() == filled.sum(axis=1).tolist() == [1] * 4
    with pytest.raises(ValueError, match="do not fall into 4 equal bundles"):
        match("transport", TransportOptions(), moments_of(features(5, 8), features(6, 4)), 4)


@pytest.mark.parametrize("groups", [1, 4])
def test_the_objective_is_minus_the_distance_that_mass_moves(groups: int) -> None:
    moments = moments_of(features(5, 8), features(6, 8))
    distances = unit_distances(moments, 1)
    index = match_grouped(-distances, groups)
    partners = index[:: 8 // groups] // (8 // groups)
    exact, soft = (-transport_map(distances, regularization, partners)[1] for regularization in (0.0, 1e-4))
    assert exact == pytest.approx(-distances[np.arange(8), index].mean())
    assert soft == pytest.approx(exact, abs=1e-3)


def test_without_pot_the_error_names_the_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ot", None)
    equal, unequal = (moments_of(features(0, 4), features(1, units)) for units in (4, 5))
    assert isinstance(match("transport", TransportOptions(), equal)[1], Permutation)
    assert isinstance(match("transport", TransportOptions(0.1), unequal)[1], Dense)
    with pytest.raises(ImportError, match=r"pip install 'mergeline\[transport\]'"):
        match("transport", TransportOptions(), unequal)


def test_transport_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="finite matrix"):
        transport_plan(np.full((2, 2), np.inf))
    with pytest.raises(ValueError, match="not be negative"):
        TransportOptions(-1.0)
    with pytest.raises(ValueError, match="unknown distance 'cosine'"):
        TransportOptions(distance="cosine")  # type: ignore[arg-type]


# -- trying them all -------------------------------------------------------------------------------------------------


@given(st.integers(0, 2**32 - 1), st.sampled_from([(1, 5), (2, 3), (3, 2), (4, 2), (2, 4), (5, 1)]))
def test_the_grouped_assignment_is_optimal(seed: int, shape: tuple[int, int]) -> None:
    groups, per_group = shape
    units = groups * per_group
    correlation = np.random.default_rng(seed).normal(size=(units, units))
    best = optimal_grouped(correlation, groups)
    found = match_grouped(correlation, groups)
    rows = np.arange(units)
    assert correlation[rows, found].sum() == pytest.approx(correlation[rows, best].sum())
    assert all(len(set(own // per_group)) == 1 for own in best.reshape(groups, per_group))


def summed(similarity: Float64, labels: NDArray[np.int64]) -> float:
    """Over pairs, of their similarity."""
    same = np.triu(labels[:, None] == labels[None, :], 1)
    return float(similarity[same].sum())


@given(st.integers(0, 2**32 - 1), st.integers(1, 4))
def test_optimal_pairs_beat_every_other_way_to_pair(seed: int, width: int) -> None:
    rng = np.random.default_rng(seed)
    half = rng.random((2 * width, 2 * width))
    similarity = half + half.T
    pairs = optimal_pairs(similarity)
    assert np.bincount(pairs).tolist() == [2] * width
    best = summed(similarity, pairs)
    for _ in range(30):
        other = rng.permutation(np.repeat(np.arange(width), 2))
        assert summed(similarity, other) <= best + 1e-9
    between = match_grouped(similarity[:width, width:], 1)
    assert summed(similarity, np.concatenate([np.arange(width), np.argsort(between)])) <= best + 1e-9
    # Greedy pairs have at least half of the best sum; a tiny alpha lets no unit be joined twice.
    greedy = match_groups(similarity, [width, width], width, alpha=1e-12, beta=1.0)
    if np.bincount(greedy).tolist() == [2] * width:
        assert best / 2 - 1e-9 <= summed(similarity, greedy) <= best + 1e-9


def test_optimal_pairs_are_those_that_were_planted() -> None:
    rng = np.random.default_rng(0)
    planted = rng.permutation(np.repeat(np.arange(5), 2))
    similarity = (planted[:, None] == planted[None, :]) + 0.1 * rng.random((10, 10))
    labels = optimal_pairs((similarity + similarity.T) / 2)
    assert ((labels[:, None] == labels) == (planted[:, None] == planted)).all()
    assert labels[0] == 0


def test_trying_them_all_is_for_a_handful_of_units() -> None:
    for units in (18, 3):
        with pytest.raises(ValueError, match="even number of at most 16"):
            optimal_pairs(np.eye(units))
    for units, groups in ((9, 1), (6, 4)):
        with pytest.raises(ValueError, match="needs at most 8 units"):
            optimal_grouped(np.eye(units), groups)
