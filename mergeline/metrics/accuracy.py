"""Share of images whose largest logit is their class's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mergeline.metrics.metric import Metric

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["ACCURACY"]


def _accuracy(logits: Tensor, labels: Tensor, bins: int) -> float:
    return float((logits.argmax(1) == labels).double().mean())


ACCURACY = Metric("accuracy", "share of images that are named right", _accuracy, 0, 1)
