"""Similarity of tasks: the Fréchet distance of their images' embeddings (depth_heterogeneity App. G)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["Gaussian", "frechet_distance", "pool", "similarity"]

Float64 = NDArray[np.float64]


@dataclass(frozen=True)
class Gaussian:
    """Mean ``(d,)`` and covariance ``(d, d)`` (n - 1) of ``n`` embeddings."""

    n: int
    mean: Float64
    covariance: Float64


def pool(first: Gaussian, second: Gaussian) -> Gaussian:
    """The moments of two disjoint sets of embeddings together."""
    n = first.n + second.n
    difference = second.mean - first.mean
    mean = first.mean + difference * (second.n / n)
    scatter = (
        (first.n - 1) * first.covariance
        + (second.n - 1) * second.covariance
        + np.outer(difference, difference) * (first.n * second.n / n)
    )
    return Gaussian(n, mean, scatter / (n - 1))


def frechet_distance(mean_s: ArrayLike, cov_s: ArrayLike, mean_t: ArrayLike, cov_t: ArrayLike) -> float:
    """``|mu_S - mu_T|^2 + tr(S + T - 2 (S T)^1/2)`` between two Gaussians.

    The trace of the root is the sum of the singular values of ``S^1/2 T^1/2``: real for any pair of covariances,
    singular ones (fewer samples than dimensions) too, without the root of a rounding error that eigenvalues of the
    product would bring.

    Parameters
    ----------
    mean_s, mean_t: ``(d,)``. cov_s, cov_t: ``(d, d)`` symmetric, positive semidefinite.

    Raises
    ------
    ValueError: shapes do not fit, or a value is not finite.

    >>> frechet_distance([0.0], [[4.0]], [3.0], [[1.0]])
    10.0
    """
    mu_s, mu_t = np.asarray(mean_s, dtype=np.float64), np.asarray(mean_t, dtype=np.float64)
    s, t = np.asarray(cov_s, dtype=np.float64), np.asarray(cov_t, dtype=np.float64)
    if mu_s.ndim != 1 or mu_s.shape != mu_t.shape or s.shape != t.shape or s.shape != 2 * mu_s.shape:
        raise ValueError(f"means {mu_s.shape}, {mu_t.shape} and covariances {s.shape}, {t.shape} do not fit together")
    if not all(np.isfinite(values).all() for values in (mu_s, mu_t, s, t)):
        raise ValueError("a mean or covariance has values that are not finite")
    root_trace = np.linalg.svd(_root(s).T @ _root(t), compute_uv=False).sum()
    distance = float(((mu_s - mu_t) ** 2).sum() + np.trace(s) + np.trace(t) - 2 * root_trace)
    return max(distance, 0.0)


def _root(covariance: Float64) -> Float64:
    """``A`` with ``A A' = covariance``, from its eigenvalues; those that rounding made negative are 0."""
    values, vectors = np.linalg.eigh((covariance + covariance.T) / 2)
    return vectors * np.sqrt(np.maximum(values, 0.0))


def similarity(distance: float, tau: float) -> float:
    """``exp(-distance / tau)``.

    Raises
    ------
    ValueError: a distance below 0, a ``tau`` that is not above it, or either no number.
    """
    if not (distance >= 0 and 0 < tau < math.inf):
        raise ValueError(
            f"a similarity needs a distance of 0 or more and a finite tau above 0, got {distance} and {tau}"
        )
    return math.exp(-distance / tau)
