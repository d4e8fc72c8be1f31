"""The Fréchet distance of two Gaussians, moments pooled from parts, and the floor of "the same distribution"."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.linalg import sqrtm
from torch import Tensor, nn

from mergeline.encoders import Encoder, EncoderError, embed
from mergeline.similarity import Gaussian, frechet_distance, pool, similarity

Float64 = NDArray[np.float64]
SIZES = {"more images than dimensions": 2000, "fewer images than dimensions": 150}
DIMENSIONS = 384


def gaussian(values: Float64) -> Gaussian:
    return Gaussian(len(values), values.mean(0), np.atleast_2d(np.cov(values, rowvar=False)))


def distance(first: Gaussian, second: Gaussian) -> float:
    return frechet_distance(first.mean, first.covariance, second.mean, second.covariance)


def embeddings(n: int, d: int, seed: int, shift: float = 0.0) -> Float64:
    """Correlated values whose variances fall off over three decades, as an encoder's do."""
    rng = np.random.default_rng(seed)
    mixing = np.linalg.qr(np.random.default_rng(99).normal(size=(d, d)))[0] * np.logspace(0, -1.5, d)
    return rng.normal(size=(n, d)) @ mixing.T + shift * rng.normal(size=d)


@pytest.fixture(scope="module", params=SIZES.values(), ids=SIZES.keys())
def pair(request: pytest.FixtureRequest) -> tuple[Gaussian, Gaussian]:
    n = request.param
    return gaussian(embeddings(n, DIMENSIONS, 0)), gaussian(2 * embeddings(n, DIMENSIONS, 1, shift=0.5))


def by_matrix_root(first: Gaussian, second: Gaussian) -> float:
    """The formula as it is written, with scipy's root of a product that is made regular where it is singular."""
    tiny = 1e-10 * np.eye(len(first.mean)) * (first.n <= len(first.mean))
    root = sqrtm((first.covariance + tiny) @ (second.covariance + tiny))
    difference = first.mean - second.mean
    return float(difference @ difference + np.trace(first.covariance + second.covariance) - 2 * np.trace(np.real(root)))


# -- the distance ------------------------------------------------------------------------------------------------


def test_identical_sets_have_distance_zero(pair: tuple[Gaussian, Gaussian]) -> None:
    for one in pair:
        assert distance(one, one) <= 1e-9 * np.trace(one.covariance)


def test_the_distance_is_symmetric(pair: tuple[Gaussian, Gaussian]) -> None:
    assert distance(*pair) == pytest.approx(distance(*pair[::-1]), rel=1e-10)


def test_the_distance_is_that_of_the_matrix_root(pair: tuple[Gaussian, Gaussian]) -> None:
    few = pair[0].n <= DIMENSIONS  # there scipy's root is only as good as what makes the product regular
    assert distance(*pair) == pytest.approx(by_matrix_root(*pair), rel=1e-4 if few else 1e-6)


def test_the_distance_is_that_of_the_products_nonzero_eigenvalues(pair: tuple[Gaussian, Gaussian]) -> None:
    """``tr (S T)^1/2`` in the space of the images: no singular matrix even where there are fewer than dimensions."""
    first, second = pair
    a, b = (embeddings(one.n, DIMENSIONS, seed) * (seed + 1) for seed, one in enumerate(pair))
    a, b = ((x - x.mean(0)) / math.sqrt(len(x) - 1) for x in (a, b))
    root_trace = np.linalg.norm(a @ b.T, ord="nuc") if first.n < 500 else np.sqrt(
        np.maximum(np.linalg.eigvals(first.covariance @ second.covariance).real, 0)
    ).sum()  # fmt: skip
    difference = first.mean - second.mean
    expected = difference @ difference + np.trace(first.covariance + second.covariance) - 2 * root_trace
    assert distance(first, second) == pytest.approx(expected, rel=1e-6)


def test_the_distance_is_that_of_torch_fidelity(pair: tuple[Gaussian, Gaussian]) -> None:
    metric = pytest.importorskip("torch_fidelity.metric_fid")
    first, second = ({"mu": one.mean, "sigma": one.covariance} for one in pair)
    found = metric.fid_statistics_to_metric(first, second, verbose=False)
    expected = found["frechet_inception_distance"] if isinstance(found, dict) else found
    assert distance(*pair) == pytest.approx(float(expected), rel=1e-6)


@given(scales=st.lists(st.tuples(st.floats(0, 100), st.floats(0, 100), st.floats(-50, 50)), min_size=1, max_size=12))
def test_diagonal_gaussians_have_the_closed_form(scales: list[tuple[float, float, float]]) -> None:
    a, b, shift = (np.array(column) for column in zip(*scales, strict=True))
    expected = (shift**2).sum() + ((a - b) ** 2).sum()
    found = frechet_distance(np.zeros(len(a)), np.diag(a**2), shift, np.diag(b**2))
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-9 * (1 + (a**2 + b**2).sum()))


@given(seed=st.integers(0, 1000), n=st.integers(2, 20), d=st.integers(1, 12), scale=st.floats(1e-3, 1e3))
def test_the_distance_is_never_negative_and_scales_as_a_square(seed: int, n: int, d: int, scale: float) -> None:
    values = np.random.default_rng(seed).normal(size=(2, n, d))
    first, second = gaussian(values[0]), gaussian(values[1])
    found = distance(first, second)
    assert found >= 0
    scaled = distance(gaussian(scale * values[0]), gaussian(scale * values[1]))
    assert scaled == pytest.approx(scale**2 * found, rel=1e-6, abs=1e-9 * scale**2)


def test_a_rotation_of_both_sets_changes_nothing() -> None:
    first, second = embeddings(60, 20, 0), embeddings(70, 20, 1, shift=1.0)
    turn = np.linalg.qr(np.random.default_rng(5).normal(size=(20, 20)))[0]
    expected = distance(gaussian(first), gaussian(second))
    assert distance(gaussian(first @ turn), gaussian(second @ turn)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (([0.0, 0.0], np.eye(2), [0.0], np.eye(1)), "do not fit"),
        (([0.0], np.eye(2), [0.0], np.eye(2)), "do not fit"),
        (([np.nan], [[1.0]], [0.0], [[1.0]]), "not finite"),
        (([0.0], [[1.0]], [0.0], [[np.inf]]), "not finite"),
    ],
)
def test_moments_that_do_not_fit_are_refused(arguments: tuple, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        frechet_distance(*arguments)


@pytest.mark.parametrize(
    ("distance", "tau"), [(-1.0, 500.0), (math.nan, 500.0), (1.0, 0.0), (1.0, -5.0), (1.0, math.inf)]
)
def test_a_similarity_of_no_distance_or_scale_is_refused(distance: float, tau: float) -> None:
    with pytest.raises(ValueError, match="a finite tau above 0"):
        similarity(distance, tau)


def test_similarity_is_one_at_distance_zero_and_falls() -> None:
    found = [similarity(distance, 500.0) for distance in (0.0, 1.0, 500.0, 1e9)]
    assert found[0] == 1.0
    assert found[2] == pytest.approx(math.exp(-1))
    assert all(a > b for a, b in pairwise(found))


# -- pooling and streaming ---------------------------------------------------------------------------------------


@given(
    seed=st.integers(0, 1000),
    d=st.integers(1, 6),
    sizes=st.lists(st.integers(1, 9), min_size=2, max_size=6).filter(lambda sizes: sum(sizes) > 1),
    shift=st.sampled_from([0.0, 3.0, 1e4]),
)
def test_parts_pooled_are_the_whole_whatever_their_sizes(seed: int, d: int, sizes: list[int], shift: float) -> None:
    values = np.random.default_rng(seed).normal(size=(sum(sizes), d)) + shift
    parts = np.split(values, np.cumsum(sizes)[:-1])
    whole = _single(parts[0])
    for part in parts[1:]:
        whole = pool(whole, _single(part))
    expected = gaussian(values)
    assert whole.n == expected.n
    np.testing.assert_allclose(whole.mean, expected.mean, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(whole.covariance, expected.covariance, rtol=1e-8, atol=1e-10 * (1 + 1e-3 * shift))


def _single(values: Float64) -> Gaussian:
    """Moments of a part, which may be one sample: its covariance counts for nothing."""
    d = values.shape[1]
    return gaussian(values) if len(values) > 1 else Gaussian(1, values[0], np.zeros((d, d)))


class _Pixels(nn.Module):
    """An encoder whose embedding is the image's first pixels, moved and scaled."""

    def __init__(self, shift: float = 0.0, scale: float = 1.0) -> None:
        super().__init__()
        self.shift, self.scale = shift, scale

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :5] * self.scale + self.shift


def pixels(shift: float = 0.0, scale: float = 1.0) -> Encoder:
    return Encoder("pixels", _Pixels(shift, scale), 4, (0.0,) * 3, (255.0,) * 3, "bilinear", "")


def images(n: int, seed: int = 0) -> Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.integers(0, 256, (n, 4, 4, 3), dtype=np.uint8))


@given(n=st.integers(2, 80), size=st.integers(1, 90), seed=st.integers(0, 50))
def test_streamed_embeddings_have_the_moments_of_all_at_once(n: int, size: int, seed: int) -> None:
    chosen = images(n, seed)
    found = embed(pixels(), chosen.split(size))
    expected = gaussian(pixels()(chosen).double().numpy())
    assert found.n == n
    np.testing.assert_allclose(found.mean, expected.mean, rtol=1e-5)
    np.testing.assert_allclose(found.covariance, expected.covariance, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [1, 7, 500])
def test_a_large_mean_does_not_swallow_a_small_variance(size: int) -> None:
    encoder = pixels(shift=1e4, scale=4.0)  # float32 keeps steps of 1/1024 there
    chosen = images(500)
    expected = gaussian(encoder(chosen).double().numpy())
    found = embed(encoder, chosen.split(size))
    assert expected.covariance.diagonal().max() < 2
    np.testing.assert_allclose(found.mean, expected.mean, rtol=1e-8)
    np.testing.assert_allclose(found.covariance.diagonal(), expected.covariance.diagonal(), rtol=1e-4)


@pytest.mark.parametrize("n", [0, 1])
def test_a_covariance_of_fewer_than_two_images_is_refused(n: int) -> None:
    with pytest.raises(EncoderError, match=f"at least two samples, got {n}"):
        embed(pixels(), [images(1)] * n)


# -- the floor ---------------------------------------------------------------------------------------------------


def test_halves_of_one_distribution_have_a_floor_that_falls_with_their_number() -> None:
    floors = []
    for n in (100, 400, 1600):
        values = embeddings(n, 32, seed=3)
        floors.append(distance(gaussian(values[::2]), gaussian(values[1::2])))
    assert floors[0] > 2 * floors[1] > 4 * floors[2] > 0


def test_other_distributions_are_further_apart_than_the_floor() -> None:
    values = embeddings(800, 32, seed=3)
    floor = distance(gaussian(values[::2]), gaussian(values[1::2]))
    assert distance(gaussian(values), gaussian(embeddings(800, 32, seed=4, shift=0.5))) > 10 * floor
