"""What a metric is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from mergeline.kinds import Target

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Metric"]


@dataclass(frozen=True)
class Metric:
    """A registered score.

    ``measure``: from logits ``(N, classes)``, labels ``(N,)`` and the number of bins for what is binned; where labels are values,
    from values ``(N, 1)``. ``low``, ``high``: what it can be; a value outside is an error in the audit. ``better``: which end is.
    ``targets``: of what labels it holds. ``label``: what it is called in tables and figures, by default its name.
    """

    name: str
    summary: str
    measure: Callable[[Tensor, Tensor, int], float]
    low: float
    high: float
    better: Literal["higher", "lower"] = "higher"
    targets: tuple[Target, ...] = ("classes", "pixels")
    label: str = ""

    @property
    def title(self) -> str:
        return self.label or self.name
