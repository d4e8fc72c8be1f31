"""``sma`` and ``lma``: a stage of the deep network is cut into as many segments as the shallow one has blocks.

heterogeneous_merging Sec. III-B. Both are the exact optimum of their objective; the recurrences of the paper's supplement
and of its code are not (docs/numerics.md, "Different depths").
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mergeline.depth.placer import Depths, Placement, Placer, at_starts

__all__ = ["LMA", "SMA", "LmaOptions", "SmaOptions", "place_lma", "place_sma"]

Float64 = NDArray[np.float64]


def place_sma(similarity: ArrayLike) -> tuple[int, ...]:
    """Segments whose last blocks are most like the shallow network's blocks: segment-wise model alignment.

    Parameters
    ----------
    similarity: ``(n_deep, n_shallow)``, how alike the blocks' outputs are.

    Returns
    -------
    The deep position of each shallow block, which is the first of its segment; the first is 0, the segments follow each
    other and cover all deep blocks. Among optima that with the smallest first positions.

    Raises
    ------
    ValueError: not a matrix of finite numbers, or fewer deep blocks than shallow ones.

    >>> place_sma([[0.9, 0.1], [0.8, 0.2], [0.1, 0.7]])
    (0, 1)
    """
    values = _checked(similarity)
    n_deep, n_shallow = values.shape
    gains = np.broadcast_to(values.T[:, None, :], (n_shallow, n_deep, n_deep))
    return _best_starts(gains)


def place_lma(similarity: ArrayLike) -> tuple[int, ...]:
    """Segments all of whose blocks are like the shallow network's blocks: layer-wise model alignment.

    Parameters, returns and errors as of :func:`place_sma`.

    >>> place_lma([[0.9, 0.1], [0.8, 0.2], [0.1, 0.7]])
    (0, 2)
    """
    values = _checked(similarity)
    sums = np.vstack([np.zeros(values.shape[1]), values.cumsum(0)]).T
    return _best_starts(sums[:, None, 1:] - sums[:, :-1, None])


def _checked(similarity: ArrayLike) -> Float64:
    values = np.asarray(similarity, dtype=np.float64)
    if values.ndim != 2 or not 1 <= values.shape[1] <= values.shape[0]:
        raise ValueError(f"a similarity has as many rows as columns, or more (deep, shallow); got shape {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError("similarities of blocks are not all finite")
    return values


def _best_starts(gains: Float64) -> tuple[int, ...]:
    """The segments' first positions with the largest sum of gains.

    ``gains``: ``(shallow, deep, deep)``, what block ``i`` gains from a segment with that first and that last position.
    """
    n_shallow, n_deep, _ = gains.shape
    best = np.full((n_shallow + 1, n_deep + 1), -np.inf)
    best[n_shallow, n_deep] = 0.0
    following = np.zeros((n_shallow, n_deep), dtype=np.int64)
    for block in range(n_shallow - 1, -1, -1):
        for start in range(block, n_deep):
            found = gains[block, start, start:] + best[block + 1, start + 1 :]  # by the segment's last position
            following[block, start] = start + 1 + int(found.argmax())  # the smallest among equals
            best[block, start] = found.max()
    starts = [0]
    for block in range(n_shallow - 1):
        starts.append(int(following[block, starts[-1]]))
    return tuple(starts)


@dataclass(frozen=True)
class SmaOptions:
    """``sma`` has no options."""


@dataclass(frozen=True)
class LmaOptions:
    """``lma`` has no options."""


def _sma(depths: Depths, options: SmaOptions) -> Placement:
    return tuple(at_starts(place_sma(own), len(own)) for own in depths.similarity)


def _lma(depths: Depths, options: LmaOptions) -> Placement:
    return tuple(at_starts(place_lma(own), len(own)) for own in depths.similarity)


SMA = Placer("sma", "the last block of each segment is most like the shallow one", SmaOptions, _sma, compares=True)
LMA = Placer("lma", "all blocks of each segment are most like the shallow one", LmaOptions, _lma, compares=True)
