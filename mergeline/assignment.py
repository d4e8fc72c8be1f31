"""The optimal assignment between the units of two models."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["match_permutation"]


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
