"""The main metric of batches, counted as they come, without a copy to the CPU for each."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from mergeline.kinds import UNLABELLED, Target

__all__ = ["Tally", "tally_of"]


class Tally(ABC):
    """What :data:`mergeline.metrics.MAIN` names, of all batches together. ``sums``: what is counted."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.sums = torch.zeros(4, dtype=torch.float64, device=device)

    @abstractmethod
    def add(self, logits: Tensor, labels: Tensor) -> None:
        """Count a batch: ``(N, classes)`` or ``(N, 1)``, and ``(N,)``; what has no label counts for nothing."""

    @property
    @abstractmethod
    def value(self) -> float:
        """The metric so far."""


class _Accuracy(Tally):
    """Right decisions, and all."""

    def add(self, logits: Tensor, labels: Tensor) -> None:
        self.sums[0] += (logits.argmax(1) == labels).sum()
        self.sums[1] += (labels != UNLABELLED).sum()

    @property
    def value(self) -> float:
        right, count, *_ = self.sums.tolist()
        return right / count


class _Explained(Tally):
    """Squared errors, squared labels, labels, and their number."""

    def add(self, logits: Tensor, labels: Tensor) -> None:
        told = ~labels.isnan()
        true = labels.double().masked_fill(~told, 0)
        errors = (logits[:, 0].double() - true).masked_fill(~told, 0)
        self.sums += torch.stack([errors.square().sum(), true.square().sum(), true.sum(), told.sum()])

    @property
    def value(self) -> float:
        errors, squares, total, count = self.sums.tolist()
        return 1 - errors / (squares - total**2 / count)


def tally_of(target: Target, device: torch.device | str = "cpu") -> Tally:
    """An empty one for labels of a kind."""
    return (_Explained if target == "values" else _Accuracy)(device)
