"""Moments of activations: what numpy gives on everything at once, whatever the batches."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from mergeline.moments import (
    FOLD_ROWS,
    MomentAccumulator,
    Moments,
    collect_moments,
    cross_pairs,
    full_pairs,
    lockstep,
)
from mergeline.spaces import Walk
from tests.conftest import Trained

Array = NDArray[np.float64]


def samples(n: int, sizes: Sequence[int], seed: int = 0, mean: float = 1.0) -> list[Tensor]:
    """Correlated values of several models, ``(n, C_k)`` float32 each."""
    rng = np.random.default_rng(seed)
    shared = rng.normal(size=(n, 4))
    return [
        torch.from_numpy(mean + shared @ rng.normal(size=(4, size)) + rng.normal(size=(n, size))).float()
        for size in sizes
    ]


def accumulate(values: Sequence[Tensor], cuts: Sequence[int], pairs: Sequence[tuple[int, int]]) -> Moments:
    accumulator = MomentAccumulator("space", pairs)
    edges = [0, *sorted(cuts), len(values[0])]
    for begin, end in pairwise(edges):
        if end > begin:
            accumulator.update([value[begin:end] for value in values])
    return accumulator.finish()


def expected(values: Sequence[Tensor]) -> tuple[list[Array], list[Array], Array]:
    """numpy's means, population variances and joint covariance, in float64."""
    whole = [value.double().numpy() for value in values]
    joint = np.cov(np.concatenate(whole, axis=1), rowvar=False, bias=True)
    return [v.mean(0) for v in whole], [v.var(0) for v in whole], np.atleast_2d(joint)


def assert_equal(found: Moments, other: Moments, rtol: float = 1e-5) -> None:
    """Equal to ``rtol`` of each pair of units' scale."""
    assert found.n == other.n
    assert set(found.covariances) == set(other.covariances)
    for k in range(len(found.means)):
        scale = np.sqrt(other.variances[k]) + np.abs(other.means[k]) + 1e-12
        assert (np.abs(found.means[k] - other.means[k]) <= rtol * scale).all()
        assert np.allclose(found.variances[k], other.variances[k], rtol=rtol, atol=1e-12)
    for i, j in found.covariances:
        scale = np.sqrt(np.outer(other.variances[i], other.variances[j])) + 1e-12
        assert (np.abs(found.covariances[i, j] - other.covariances[i, j]) <= rtol * scale).all()


# -- against numpy --------------------------------------------------------------------------------------------------


@given(
    n=st.integers(2, 300),
    sizes=st.lists(st.integers(1, 7), min_size=1, max_size=3),
    cuts=st.lists(st.integers(1, 299), max_size=6),
    seed=st.integers(0, 99),
)
def test_moments_are_numpys_whatever_the_batches(n: int, sizes: list[int], cuts: list[int], seed: int) -> None:
    values = samples(n, sizes, seed)
    found = accumulate(values, [cut for cut in cuts if cut < n], full_pairs(len(sizes)))
    means, variances, joint = expected(values)
    assert found.n == n
    assert found.sizes == tuple(sizes)
    scale = np.sqrt(np.outer(np.concatenate(variances), np.concatenate(variances))) + 1e-9
    for k in range(len(sizes)):
        np.testing.assert_allclose(found.means[k], means[k], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(found.variances[k], variances[k], rtol=1e-5, atol=1e-8)
    assert (np.abs(found.joint_covariance() - joint) <= 2e-5 * scale).all()


@given(order=st.permutations(range(8)))
def test_moments_do_not_depend_on_the_order_of_the_batches(order: list[int]) -> None:
    values = samples(160, [5, 5])
    shuffled = torch.cat([torch.arange(160).reshape(8, 20)[index] for index in order])
    first = accumulate(values, range(20, 160, 20), full_pairs(2))
    second = accumulate([value[shuffled] for value in values], range(20, 160, 20), full_pairs(2))
    assert_equal(second, first)


def test_more_samples_than_one_fold_holds_are_summed_without_loss() -> None:
    values = samples(3 * FOLD_ROWS + 17, [3, 2])
    found = accumulate(values, [5], full_pairs(2))
    means, variances, joint = expected(values)
    np.testing.assert_allclose(np.concatenate(found.means), np.concatenate(means), rtol=1e-6)
    np.testing.assert_allclose(np.concatenate(found.variances), np.concatenate(variances), rtol=1e-5)
    np.testing.assert_allclose(found.joint_covariance(), joint, rtol=1e-4, atol=1e-5)


# -- numbers that are easily lost -----------------------------------------------------------------------------------


@pytest.mark.parametrize("pairs", [cross_pairs(2), full_pairs(2)], ids=["cross", "full"])
@pytest.mark.parametrize("batch", [1, 7, 100, 5000])
def test_a_large_mean_does_not_cost_the_digits_of_a_small_variance(
    batch: int, pairs: Sequence[tuple[int, int]]
) -> None:
    rng = np.random.default_rng(3)
    base = rng.normal(size=(5000, 1))
    values = [torch.from_numpy(1e4 + base + 0.5 * rng.normal(size=(5000, 3))).float() for _ in range(2)]
    found = accumulate(values, range(batch, 5000, batch), pairs)
    means, variances, joint = expected(values)
    for k in range(2):
        np.testing.assert_allclose(found.variances[k], variances[k], rtol=1e-4)
        np.testing.assert_allclose(found.means[k], means[k], rtol=1e-7)
    np.testing.assert_allclose(found.covariance(0, 1), joint[:3, 3:], rtol=1e-4)


@pytest.mark.parametrize("value", [0.0, 0.1, -3.7, 1e4])
@pytest.mark.parametrize("pairs", [cross_pairs(2), full_pairs(2)], ids=["cross", "full"])
def test_a_dead_unit_has_variance_zero_and_correlation_zero(value: float, pairs: Sequence[tuple[int, int]]) -> None:
    values = samples(500, [4, 4])
    values[0][:, 1] = value
    values[1][:, 2] = value
    found = accumulate(values, [100, 300], pairs)
    assert found.variances[0][1] == pytest.approx(0, abs=1e-12)
    correlation = found.correlation(0, 1)
    assert np.isfinite(correlation).all()
    assert np.abs(correlation[1]).max() < 1e-6
    assert np.abs(correlation[:, 2]).max() < 1e-6
    assert np.abs(correlation[0, [0, 1, 3]]).max() > 0.01


def test_a_unit_that_is_always_zero_has_correlation_exactly_zero() -> None:
    values = samples(50, [3, 3])
    values[0][:, 1] = 0
    found = accumulate(values, [10], full_pairs(2))
    assert found.variances[0][1] == 0
    assert not found.correlation(0, 1)[1].any()
    assert not found.correlation(0, 0)[1].any()


@given(
    level=st.floats(-1e5, 1e5),
    spread=st.sampled_from([0.0, 1e-6, 1e-3]),
    cuts=st.lists(st.integers(1, 63), max_size=4),
    full=st.booleans(),
)
def test_variances_are_never_negative(level: float, spread: float, cuts: list[int], full: bool) -> None:
    rng = np.random.default_rng(0)
    values = [torch.from_numpy(level + spread * rng.normal(size=(64, 3))).float() for _ in range(2)]
    found = accumulate(values, cuts, full_pairs(2) if full else cross_pairs(2))
    assert all((variance >= 0).all() for variance in found.variances)
    assert np.isfinite(found.correlation(0, 1)).all()


@pytest.mark.parametrize("pairs", [cross_pairs(2), full_pairs(2)], ids=["cross", "full"])
def test_a_variance_that_rounding_made_negative_is_zero(pairs: Sequence[tuple[int, int]]) -> None:
    """Sums of constant units whose squares were rounded to float32, as a batch far from the shift would leave them."""
    levels = torch.rand(100, generator=torch.Generator().manual_seed(0))
    squares = (7 * levels.square()).double()
    assert (squares / 7 < levels.double().square()).any()
    accumulator = MomentAccumulator("space", pairs)
    accumulator.update([torch.zeros(7, 100)] * 2)
    accumulator._sums = [7 * levels.double()] * 2
    accumulator._squares = [squares] * 2
    accumulator._products = dict.fromkeys(pairs, torch.diag(squares))
    found = accumulator.finish()
    assert all(variance.min() == 0 for variance in found.variances)


def test_correlations_lie_between_minus_one_and_one() -> None:
    found = accumulate(samples(400, [6, 6]), [100], full_pairs(2))
    joint = found.joint_correlation()
    assert np.abs(joint).max() <= 1 + 1e-6
    np.testing.assert_allclose(np.diagonal(joint), 1, atol=1e-6)
    np.testing.assert_allclose(joint, joint.T, atol=1e-12)


def test_a_unit_correlates_fully_with_its_scaled_copy() -> None:
    (values,) = samples(300, [4])
    found = accumulate([values, -3 * values + 2], [50], cross_pairs(2))
    np.testing.assert_allclose(np.diagonal(found.correlation(0, 1)), -1, atol=1e-5)


# -- several models -------------------------------------------------------------------------------------------------


def test_cross_pairs_are_between_models_and_full_pairs_also_within() -> None:
    assert cross_pairs(3) == ((0, 1), (0, 2), (1, 2))
    assert full_pairs(2) == ((0, 0), (0, 1), (1, 1))


def test_full_blocks_hold_the_cross_blocks() -> None:
    values = samples(400, [5, 4])
    full, cross = accumulate(values, [90], full_pairs(2)), accumulate(values, [90], cross_pairs(2))
    assert set(cross.covariances) == {(0, 1)}
    np.testing.assert_array_equal(full.covariance(0, 1), cross.covariance(0, 1))
    for k in range(2):
        np.testing.assert_allclose(full.variances[k], cross.variances[k], rtol=1e-5)
        np.testing.assert_array_equal(full.variances[k], np.diagonal(full.covariance(k, k)))


def test_a_block_reads_the_same_from_both_sides() -> None:
    found = accumulate(samples(100, [3, 5]), [], cross_pairs(2))
    assert found.covariance(1, 0).shape == (5, 3)
    np.testing.assert_array_equal(found.covariance(1, 0), found.covariance(0, 1).T)


def test_a_block_that_was_not_collected_is_named() -> None:
    found = accumulate(samples(10, [2, 2]), [], cross_pairs(2))
    with pytest.raises(KeyError, match=r"space 'space': the block of models 0 and 0 was not collected.*\[\(0, 1\)\]"):
        found.covariance(0, 0)


def test_no_samples_are_an_error_that_names_the_space() -> None:
    with pytest.raises(ValueError, match=r"'layer1': no samples"):
        MomentAccumulator("layer1", cross_pairs(2)).finish()


def test_select_renumbers_the_models_in_the_order_given() -> None:
    whole = accumulate(samples(200, [3, 4, 5]), [70], full_pairs(3))
    found = whole.select([2, 0])
    assert found.sizes == (5, 3)
    assert set(found.covariances) == {(0, 0), (0, 1), (1, 1)}
    np.testing.assert_array_equal(found.covariance(0, 1), whole.covariance(2, 0))
    np.testing.assert_array_equal(found.covariance(0, 0), whole.covariance(2, 2))
    np.testing.assert_array_equal(found.variances[1], whole.variances[0])


def test_select_keeps_only_blocks_that_there_are() -> None:
    found = accumulate(samples(50, [3, 3, 3]), [], cross_pairs(3)).select([1, 2])
    assert set(found.covariances) == {(0, 1)}


# -- networks -------------------------------------------------------------------------------------------------------


def test_one_pass_over_three_models_equals_pairwise_passes(trained: Trained) -> None:
    images = trained.toy.inputs(48)
    together = collect_moments(trained.models, trained.spaces, images.split(16), full_pairs(3))
    for i, j in cross_pairs(3):
        pair = [trained.models[i], trained.models[j]]
        alone = collect_moments(pair, trained.spaces, images.split(16), full_pairs(2))
        assert list(alone) == list(together) == [space.name for space in trained.spaces.free]
        for name, moments in alone.items():
            assert_equal(together[name].select([i, j]), moments)


@pytest.mark.parametrize("size", [1, 5, 48])
def test_moments_of_networks_do_not_depend_on_the_batch_size(size: int, trained: Trained) -> None:
    images = trained.toy.inputs(48)
    pair = trained.models[:2]
    reference = collect_moments(pair, trained.spaces, images.split(16), full_pairs(2))
    found = collect_moments(pair, trained.spaces, images.split(size), full_pairs(2))
    for name, moments in reference.items():
        assert_equal(found[name], moments)


def test_moments_of_networks_are_those_of_their_activations(trained: Trained) -> None:
    images = trained.toy.inputs(20)
    pair = trained.models[:2]
    found = collect_moments(pair, trained.spaces, images.split(8))
    walks = [Walk(trained.spaces, model) for model in pair]
    with torch.no_grad():
        seen: dict[str, list[list[Tensor]]] = {}
        for space, values in lockstep(walks, images):
            seen.setdefault(space.name, []).append([value.clone() for value in values])
        for space in trained.spaces.free:
            values = [torch.cat(own) for own in zip(*seen[space.name], strict=True)]
            means, variances, joint = expected(values)
            moments = found[space.name]
            assert moments.n == len(values[0])
            for k in range(2):
                np.testing.assert_allclose(moments.means[k], means[k], rtol=1e-4, atol=1e-5)
                np.testing.assert_allclose(moments.variances[k], variances[k], rtol=1e-4, atol=1e-7)
            scale = np.sqrt(np.outer(*variances)) + 1e-6
            assert (np.abs(moments.covariance(0, 1) - joint[: space.size, space.size :]) <= 1e-4 * scale).all()


def test_every_position_of_every_image_is_a_sample(trained: Trained) -> None:
    pair, inputs = trained.models[:2], [trained.toy.inputs(10)]
    ends = collect_moments(pair, trained.spaces.at_ends(), inputs)
    assert {name: moments.n for name, moments in ends.items() if "." not in name} == {
        "conv1": 10 * 16 * 16,
        "layer3": 10 * 4 * 4,
    }
    for name, moments in collect_moments(pair, trained.spaces, inputs).items():
        assert moments.n == len(trained.spaces[name].observations) * ends[name].n


def test_collecting_moments_changes_no_model(trained: Trained) -> None:
    before = trained.states()
    collect_moments(trained.models, trained.spaces, [trained.toy.inputs(8)])
    for old, model in zip(before, trained.models, strict=True):
        assert all(torch.equal(old[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.gpu
def test_moments_on_a_gpu_equal_those_on_a_cpu(trained: Trained) -> None:
    images = trained.toy.inputs(64)
    pair = trained.models[:2]
    on_cpu = collect_moments(pair, trained.spaces, images.split(16), full_pairs(2))
    try:
        tf32 = torch.backends.cudnn.allow_tf32
        torch.backends.cudnn.allow_tf32 = False
        on_gpu = collect_moments(
            [model.cuda() for model in pair], trained.spaces, images.cuda().split(16), full_pairs(2)
        )
    finally:
        torch.backends.cudnn.allow_tf32 = tf32
        for model in pair:
            model.cpu()
    for name, moments in on_cpu.items():
        assert_equal(on_gpu[name], moments, rtol=1e-3)
