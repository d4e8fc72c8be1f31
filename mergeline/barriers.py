"""Barriers: how far the loss between two models rises over the straight line between their own losses, or accuracy falls below.

vanishing_feature A.4; docs/numerics.md, "Along the line, and inside of networks".
"""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["ALPHAS", "accuracy_barrier", "barrier", "check_alphas"]

ALPHAS = tuple(step / 20 for step in range(21))
"""Shares of the second model at which a curve is measured: 21 points from 0 to 1."""


def barrier(losses: Sequence[float], alphas: Sequence[float] = ALPHAS) -> float:
    """``max_a L(a) - ((1 - a) L(0) + a L(1))``, in the unit of the losses; never negative, as both ends are among them.

    Parameters
    ----------
    losses: at each of ``alphas``, which lie between 0 and 1 in any order, both ends included.

    Raises
    ------
    ValueError: other numbers of losses than alphas, one that is not finite, an alpha outside of 0..1 or twice, no end.

    >>> barrier([1.0, 3.5, 2.0], [0.0, 0.5, 1.0])
    2.0
    """
    return max(value - line for value, line in _against_line(losses, alphas))


def accuracy_barrier(accuracies: Sequence[float], alphas: Sequence[float] = ALPHAS) -> float:
    """``max_a (1 - a) A(0) + a A(1) - A(a)``: as :func:`barrier`, of a score that is better the larger it is.

    >>> accuracy_barrier([1.0, 0.25, 0.5], [0.0, 0.5, 1.0])
    0.5
    """
    return max(line - value for value, line in _against_line(accuracies, alphas))


def _against_line(values: Sequence[float], alphas: Sequence[float]) -> list[tuple[float, float]]:
    """Each value, and where the straight line between the two ends is."""
    values, alphas = [float(value) for value in values], [float(alpha) for alpha in alphas]
    if len(values) != len(alphas):
        raise ValueError(f"a barrier needs a value for every alpha, got {len(values)} values and {len(alphas)} alphas")
    check_alphas(alphas)
    if not all(map(math.isfinite, values)):
        raise ValueError("a barrier needs finite values")
    first, last = values[alphas.index(0.0)], values[alphas.index(1.0)]
    return [(value, (1 - alpha) * first + alpha * last) for value, alpha in zip(values, alphas, strict=True)]


def check_alphas(alphas: Sequence[float]) -> None:
    """Refuse shares outside of 0..1, some that stand twice, and ends that are missing."""
    if not all(0 <= alpha <= 1 for alpha in alphas) or len(set(alphas)) != len(alphas):
        raise ValueError(f"alphas must lie between 0 and 1, each once, got {list(alphas)}")
    if 0.0 not in alphas or 1.0 not in alphas:
        raise ValueError(f"alphas must hold both ends, 0 and 1, got {list(alphas)}")
