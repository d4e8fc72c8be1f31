"""The best matching by trying them all: a check on the ways to match, for a handful of units.

Not a registered matcher.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations, product

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["optimal_grouped"]

LIMIT = 8
"""Units at most: 8 have 40 320 permutations."""


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
