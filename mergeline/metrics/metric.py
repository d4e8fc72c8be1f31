"""What a metric is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Metric"]


@dataclass(frozen=True)
class Metric:
    """A registered score.

    ``measure``: from logits ``(N, classes)``, labels ``(N,)`` and the number of bins for what is binned. ``low``,
    ``high``: what it can be; a value outside is an error in the audit.
    """

    name: str
    summary: str
    measure: Callable[[Tensor, Tensor, int], float]
    low: float
    high: float
