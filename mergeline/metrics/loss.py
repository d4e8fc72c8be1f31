"""Cross-entropy in nats."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from mergeline.metrics.metric import Metric

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["LOSS"]


def _loss(logits: Tensor, labels: Tensor, bins: int) -> float:
    import torch.nn.functional as F

    return float(F.cross_entropy(logits.double(), labels))


LOSS = Metric("loss", "cross-entropy in nats", _loss, 0, math.inf, "lower")
