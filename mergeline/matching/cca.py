"""``cca``: linear maps to the space in which the models' activations correlate most.

vanishing_feature App. A.8.3, after Horoi et al., "Harmony in Diversity: Merging Neural Networks with Canonical
Correlation Analysis" (2024). Maps are dense: they are no symmetry of a network with ReLU, so that the merge needs its
normalisation recomputed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mergeline.assignment import match_permutation
from mergeline.bundles import in_bundles
from mergeline.maps import Dense, Permutation, UnitMap
from mergeline.matching.permute import PERMUTE
from mergeline.matching.problem import Matcher, Matching, Problem, per_space

if TYPE_CHECKING:
    from mergeline.moments import Moments
    from mergeline.spaces import Space

__all__ = ["CCA", "CcaOptions", "match_cca"]

Float64 = NDArray[np.float64]
Index = NDArray[np.int64]

RANK = 1e-2
"""Canonical correlations below this say nothing: their directions have a hundredth of the ridge's variance at most, where
float32 moments are rounding, or correlate with nothing. They are no match, only what is left over."""


def match_cca(
    xx: ArrayLike, yy: ArrayLike, xy: ArrayLike, gamma: float = 0.1, assignment: Index | None = None
) -> tuple[Float64, Float64]:
    """Map units ``y`` to units ``x`` through their canonical variables.

    With ``X = S_xx + g I`` and ``Y = S_yy + g I`` and the singular value decomposition
    ``X^-1/2 S_xy Y^-1/2 = U s V'``, a value ``y`` goes to ``X^1/2 U V' Y^-1/2 y``. Where ``s`` is 0 (dead units, fewer
    samples than units), ``U`` and ``V`` are only given up to a rotation; the one is taken that is nearest to ``assignment``.

    Parameters
    ----------
    xx, yy: ``(C, C)`` covariances of the units of the reference and of the other model.
    xy: ``(C, C)`` covariances between them.
    gamma: ridge, as a multiple of each model's mean variance; above 0.
    assignment: unit ``i`` of the reference goes with ``assignment[i]`` of the other where nothing else says so; by default
        the assignment of largest correlation.

    Returns
    -------
    ``(C, C)`` from ``y`` to ``x``, and its inverse.

    Raises
    ------
    ValueError: the blocks are not square, of one size and finite.
    """
    xx, yy, xy = (np.asarray(block, dtype=np.float64) for block in (xx, yy, xy))
    if xx.ndim != 2 or xx.shape[0] != xx.shape[1] or not xx.shape == yy.shape == xy.shape:
        raise ValueError(f"cca needs three square blocks of one size, got shapes {xx.shape}, {yy.shape}, {xy.shape}")
    if not all(np.isfinite(block).all() for block in (xx, yy, xy)):
        raise ValueError("the covariances have values that are not finite")
    scales = [float(np.trace(block)) / len(block) for block in (xx, yy)]
    # A model whose units are all dead takes the other's scale, so that its map is no blow-up.
    ridges = [gamma * (own or other or 1.0) for own, other in (scales, scales[::-1])]
    x_root, x_inverse = _roots(xx, ridges[0])
    y_root, y_inverse = _roots(yy, ridges[1])
    if assignment is None:
        spread = np.sqrt(np.outer(np.diagonal(xx), np.diagonal(yy)))
        correlation = np.divide(xy, spread, out=np.zeros_like(xy), where=spread > 0)
        assignment = match_permutation(correlation + 1e-9 * np.eye(len(xx)))  # where nothing is known, nothing moves
    rotation = _nearest_rotation(x_inverse @ xy @ y_inverse, np.eye(len(xx))[assignment])
    return x_root @ rotation @ y_inverse, y_root @ rotation.T @ x_inverse


def _roots(covariance: Float64, ridge: float) -> tuple[Float64, Float64]:
    """The symmetric square root of ``covariance + ridge I``, and its inverse."""
    from scipy.linalg import eigh

    values, vectors = eigh((covariance + covariance.T) / 2)
    roots = np.sqrt(np.maximum(values, 0.0) + ridge)
    return (vectors * roots) @ vectors.T, (vectors / roots) @ vectors.T


def _nearest_rotation(matrix: Float64, target: Float64) -> Float64:
    """``U V'`` of the singular value decomposition, completed where singular values are 0: there, nearest to ``target``."""
    left, values, right = np.linalg.svd(matrix)
    rank = int((values > RANK).sum())
    rotation = left[:, :rank] @ right[:rank]
    if rank < len(values):
        inner, _, outer = np.linalg.svd(left[:, rank:].T @ target @ right[rank:].T)
        rotation += left[:, rank:] @ inner @ outer @ right[rank:]
    return rotation


@dataclass(frozen=True)
class CcaOptions:
    """``gamma``: ridge on both covariances, as a multiple of the mean variance; above 0."""

    gamma: float = 0.1

    def __post_init__(self) -> None:
        if not self.gamma > 0:
            raise ValueError(f"gamma must be above 0, got {self.gamma}")


def _match(problem: Problem, options: CcaOptions) -> Matching:
    """What activations leave open follows the assignment of ``permute``."""
    for space in problem.spaces.free:
        sizes = problem.moments[space.name].sizes
        if len(set(sizes)) != 1:
            raise ValueError(f"space {space.name!r}: cca needs models of one width, got {list(sizes)}")
    assigned = PERMUTE.match(problem, PERMUTE.options()).maps

    def match(
        space: Space, moments: Moments, partners: Sequence[Index], options: CcaOptions
    ) -> tuple[list[UnitMap], float]:
        return _match_space(space, moments, partners, [own[space.name] for own in assigned], options)

    return per_space(match)(problem, options)


def _match_space(
    space: Space, moments: Moments, partners: Sequence[Index], assigned: Sequence[UnitMap], options: CcaOptions
) -> tuple[list[UnitMap], float]:
    """Every model to model 0; the objective is the mean correlation of mapped units with those they are mapped to.

    Bundles are mapped each to its own, so that they stay apart.
    """
    eye = np.eye(space.size)
    maps: list[UnitMap] = [Dense(eye, eye)]
    total = 0.0
    for model in range(1, len(moments.sizes)):
        xx, yy, xy = (moments.covariance(*pair) for pair in ((0, 0), (model, model), (0, model)))
        assignment = assigned[model]
        assert isinstance(assignment, Permutation)
        to_merged, to_own = np.zeros_like(eye), np.zeros_like(eye)
        for own, other in in_bundles(xy.shape, partners[model]):
            to_merged[own, other], to_own[other, own] = match_cca(
                xx[own, own],
                yy[other, other],
                xy[own, other],
                options.gamma,
                assignment.index[own] - other.start,
            )
        maps.append(Dense(to_merged, to_own))
        total += _mean_correlation(xx, yy, xy, to_merged)
    return maps, total / max(1, len(maps) - 1)


def _mean_correlation(xx: Float64, yy: Float64, xy: Float64, to_merged: Float64) -> float:
    covariance = np.einsum("ij,ij->i", to_merged, xy)
    scale = np.sqrt(np.maximum(np.diagonal(xx) * np.einsum("ij,ij->i", to_merged @ yy, to_merged), 0.0))
    return float(np.where(scale > 0, covariance / np.where(scale > 0, scale, 1.0), 0.0).mean())


CCA = Matcher(
    "cca",
    "linear maps to the canonical variables of the activations",
    "full",
    CcaOptions,
    _match,
    mixes=lambda options: True,
)
