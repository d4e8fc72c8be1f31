"""Mean intersection over union of the classes of pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mergeline.metrics.confusion import confusion_counts
from mergeline.metrics.metric import Metric

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["MEAN_IOU", "mean_iou"]


def mean_iou(logits: Tensor, labels: Tensor, bins: int = 0) -> float:
    """Pixels that are of a class and predicted as such, over those that are either, averaged over the classes.

    A class that no pixel has and none is predicted as is left out.
    """
    pairs = confusion_counts(logits, labels)
    both = pairs.diagonal().double()
    either = pairs.sum(0) + pairs.sum(1) - pairs.diagonal()
    found = either > 0
    return float((both[found] / either[found]).mean())


MEAN_IOU = Metric(
    "mean_iou", "intersection over union of pixels, mean over classes", mean_iou, 0, 1, targets=("pixels",)
)
