"""Expected calibration error."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mergeline.metrics.metric import Metric

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["CALIBRATION_ERROR", "calibration_error"]


def calibration_error(logits: Tensor, labels: Tensor, bins: int = 15) -> float:
    """The gap between confidence and accuracy, averaged over equal-width bins."""
    import torch

    confidence, predicted = logits.double().softmax(1).max(1)
    correct = (predicted == labels).double()
    which = (confidence * bins).long().clamp_(max=bins - 1)
    gap = torch.zeros(bins, dtype=torch.float64).index_add_(0, which, confidence - correct)
    return float(gap.abs().sum() / len(labels))


CALIBRATION_ERROR = Metric("calibration_error", "gap between confidence and accuracy", calibration_error, 0, 1, "lower")
