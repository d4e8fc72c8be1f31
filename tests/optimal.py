"""The best matching by trying them all: a check on the ways to match, for a handful of units.

Not registered matchers.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations, product

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["optimal_grouped", "optimal_pairs"]

LIMIT = 8
"""Units at most: 8 have 40 320 permutations."""
PAIR_LIMIT = 16
"""Units of all models at most: 16 have 65 536 subsets."""


def optimal_grouped(correlation: ArrayLike, groups: int) -> NDArray[np.int64]:
    """The permutation of largest summed correlation among all that map groups of units to groups.

    Parameters
    ----------
    correlation: ``(C, C)``, at most 8 units; rows are the reference's, columns the other model's.
    groups: equal, consecutive groups that stay together.

    Returns
    -------
    ``(C,)`` indices: unit ``i`` of the reference goes with unit ``p[i]`` of the other.

    Raises
    ------
    ValueError: too many units, or they do not fall into equal groups.
    """
    matrix = np.asarray(correlation, dtype=np.float64)
    n_units = len(matrix)
    if n_units > LIMIT or n_units % groups:
        raise ValueError(f"{n_units} units in {groups} groups: needs at most {LIMIT} units in equal groups")
    rows = np.arange(n_units)
    return max(_grouped(n_units // groups, groups), key=lambda index: float(matrix[rows, index].sum()))


def _grouped(per_group: int, groups: int) -> Iterator[NDArray[np.int64]]:
    inside = list(permutations(range(per_group)))
    for order in permutations(range(groups)):
        for choice in product(inside, repeat=groups):
            yield np.concatenate([g * per_group + np.array(own) for g, own in zip(order, choice, strict=True)])


def optimal_pairs(similarity: ArrayLike) -> NDArray[np.int64]:
    """The pairs of largest summed similarity among all ways to pair units, within models as well as between them.

    What ``zip`` of two models finds greedily where no unit may be joined twice (zipit Sec. 3).

    Parameters
    ----------
    similarity: ``(N, N)`` between the units of all models, symmetric, an even number of at most 16.

    Returns
    -------
    ``(N,)`` labels, two of each, numbered by their first unit.

    Raises
    ------
    ValueError: too many units, or an odd number.
    """
    matrix = np.asarray(similarity, dtype=np.float64)
    n_units = len(matrix)
    if n_units > PAIR_LIMIT or n_units % 2:
        raise ValueError(f"{n_units} units: needs an even number of at most {PAIR_LIMIT}")
    # best[units]: the largest sum of pairs within a set of units, as bits, and the partner of its first unit.
    best: dict[int, tuple[float, int]] = {0: (0.0, 0)}
    for units in range(1, 1 << n_units):
        if units.bit_count() % 2 == 0:
            first = (units & -units).bit_length() - 1
            rest = units ^ (1 << first)
            others = [unit for unit in range(first + 1, n_units) if rest >> unit & 1]
            best[units] = max((best[rest ^ (1 << unit)][0] + float(matrix[first, unit]), -unit) for unit in others)
    labels = np.empty(n_units, dtype=np.int64)
    units = (1 << n_units) - 1
    for label in range(n_units // 2):
        first, partner = (units & -units).bit_length() - 1, -best[units][1]
        labels[[first, partner]] = label
        units ^= 1 << first | 1 << partner
    return labels
