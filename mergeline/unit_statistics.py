"""Mean and deviation of every unit of an output, over all images and positions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

__all__ = ["LayerStatistics", "UnitStatistics", "pooled", "unit_statistics"]


@dataclass(frozen=True)
class UnitStatistics:
    """Over ``n`` samples, each unit's mean and sum of squared deviations from it, ``(C,)`` float64."""

    n: int
    mean: Tensor
    squares: Tensor

    @property
    def deviation(self) -> Tensor:
        """Standard deviations (population), ``(C,)``."""
        return (self.squares / self.n).sqrt()

    def joined(self, other: UnitStatistics) -> UnitStatistics:
        """Of the samples of both."""
        n = self.n + other.n
        difference = other.mean - self.mean
        mean = self.mean + difference * (other.n / n)
        squares = self.squares + other.squares + difference.square() * (self.n * other.n / n)
        return UnitStatistics(n, mean, squares)


LayerStatistics = Mapping[str, UnitStatistics]
"""A network's statistics by the name of the target."""


def unit_statistics(values: Iterable[Tensor], channel: int) -> UnitStatistics:
    """Of each unit along an axis (negative), over every position of some values."""
    whole: UnitStatistics | None = None
    for value in values:
        axis = value.dim() + channel
        others = [other for other in range(value.dim()) if other != axis]
        count = value.numel() // value.shape[axis]
        # Two passes over the values: as exact as torch.var_mean, and three to five times as fast on a CPU.
        mean = value.mean(others, keepdim=True) if others else value
        squares = (value - mean).square_()
        squares = squares.sum(others) if others else squares
        own = UnitStatistics(count, mean.reshape(-1).double(), squares.double())
        whole = own if whole is None else whole.joined(own)
    assert whole is not None
    return whole


def pooled(parts: Sequence[LayerStatistics]) -> LayerStatistics:
    """Statistics over the images of several parts."""
    whole = dict(parts[0])
    for part in parts[1:]:
        whole = {name: whole[name].joined(own) for name, own in part.items()}
    return whole
