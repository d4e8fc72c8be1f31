"""Coefficient of determination of values."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from mergeline.metrics.metric import Metric

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["R2", "r2"]


def r2(values: Tensor, labels: Tensor, bins: int = 0) -> float:
    """One less the squared errors over those of the labels' own mean: 1 is perfect, 0 as good as that mean; no lower bound.

    ``values``: ``(N, 1)``, ``labels``: ``(N,)``. NaN where all labels are equal, of which nothing can be explained.
    """
    true = labels.double()
    errors = (values[:, 0].double() - true).square().sum()
    spread = (true - true.mean()).square().sum()
    return float(1 - errors / spread) if float(spread) > 0 else math.nan


R2 = Metric(
    "r2", "share of the variance of values that is explained (can be negative)", r2, -math.inf, 1, targets=("values",),
    label="R²",
)  # fmt: skip
