"""How often each class was predicted as each."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["confusion_counts"]


def confusion_counts(logits: Tensor, labels: Tensor) -> Tensor:
    """True class (row) by predicted class (column), ``(classes, classes)`` int64; logits ``(N, classes)``, labels ``(N,)``."""
    import torch

    classes = logits.shape[1]
    return torch.bincount(labels * classes + logits.argmax(1), minlength=classes * classes).view(classes, classes)
