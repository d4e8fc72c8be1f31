"""``permute``: the permutation with the largest summed correlation of activations.

zipit ("Permute"), depth_heterogeneity App. D. Every model is aligned to model 0 by an exact assignment.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mergeline.maps import Permutation, UnitMap
from mergeline.matching.problem import Matcher, per_space

if TYPE_CHECKING:
    from mergeline.moments import Moments
    from mergeline.spaces import Space

__all__ = ["PERMUTE", "PermuteOptions", "match_grouped", "match_permutation"]


def match_permutation(correlation: ArrayLike) -> NDArray[np.int64]:
    """The optimal assignment between the units of two models.

    Parameters
    ----------
    correlation: ``(C, C)``; rows are the reference's units, columns the other model's.

    Returns
    -------
    ``(C,)`` indices: unit ``i`` of the reference goes with unit ``p[i]`` of the other.

    Raises
    ------
    ValueError: not a square matrix of finite numbers.

    >>> match_permutation([[0.1, 0.9], [0.8, 0.2]]).tolist()
    [1, 0]
    """
    matrix = np.asarray(correlation, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"a permutation needs a square correlation matrix, got shape {matrix.shape}")
    if not np.isfinite(matrix).all():
        raise ValueError("the correlation matrix has values that are not finite")
    from scipy.optimize import linear_sum_assignment  # slow to load, and planning a benchmark needs none of it

    _, columns = linear_sum_assignment(matrix, maximize=True)
    return columns.astype(np.int64)


def match_grouped(correlation: ArrayLike, groups: int) -> NDArray[np.int64]:
    """The optimal assignment that keeps ``groups`` equal, consecutive groups of units together (mudsc Sec. 3.3).

    Units are assigned within every pair of groups, then groups on the sum of what their units gain. The result is
    optimal among all permutations that map groups to groups.
    """
    matrix = np.asarray(correlation, dtype=np.float64)
    if groups == 1:
        return match_permutation(matrix)
    per_group = len(matrix) // groups
    if per_group * groups != len(matrix):
        raise ValueError(f"{len(matrix)} units do not fall into {groups} equal groups")
    inner = np.empty((groups, groups, per_group), dtype=np.int64)
    gain = np.empty((groups, groups))
    rows = np.arange(per_group)
    for a in range(groups):
        for b in range(groups):
            block = matrix[a * per_group : (a + 1) * per_group, b * per_group : (b + 1) * per_group]
            inner[a, b] = match_permutation(block)
            gain[a, b] = block[rows, inner[a, b]].sum()
    outer = match_permutation(gain)
    return np.concatenate([outer[a] * per_group + inner[a, outer[a]] for a in range(groups)])


@dataclass(frozen=True)
class PermuteOptions:
    """``permute`` has no options."""


def _match(space: Space, moments: Moments, options: PermuteOptions) -> tuple[list[UnitMap], float]:
    maps: list[UnitMap] = [Permutation.identity(space.size)]
    total = 0.0
    for model in range(1, len(moments.means)):
        correlation = moments.correlation(0, model)
        index = match_grouped(correlation, space.groups)
        total += float(correlation[np.arange(space.size), index].mean())
        maps.append(Permutation(index))
    return maps, total / max(1, len(maps) - 1)


PERMUTE = Matcher(
    "permute",
    "the permutation with the largest correlation of activations",
    "cross",
    PermuteOptions,
    per_space(_match),
)
