"""Mean absolute error of values."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from mergeline.metrics.metric import Metric

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["L1"]


def _l1(values: Tensor, labels: Tensor, bins: int) -> float:
    return float((values[:, 0].double() - labels.double()).abs().mean())


L1 = Metric(
    "l1", "mean absolute error of values, in their deviations over training pixels", _l1, 0, math.inf, "lower", ("values",), "L1"
)  # fmt: skip
