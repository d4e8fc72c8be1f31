"""The options of the methods that :mod:`mergeline.pruning` has, without torch, so that a plan can be checked at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["OPTIONS", "READ_LABELS", "FisherOptions", "MagnitudeOptions", "WandaOptions", "WoodFisherOptions"]


@dataclass(frozen=True)
class MagnitudeOptions:
    """Magnitude pruning has no options."""


@dataclass(frozen=True)
class FisherOptions:
    """How the empirical Fisher is estimated; fewer images than asked for are no error."""

    samples: int = 400
    """Gradients that the Fisher is the mean of (A.3 takes 400 on CIFAR)."""
    minibatch: int = 1
    """Images whose mean loss one gradient is taken of (A.3 takes 400 on CIFAR); 1 is the empirical Fisher proper."""

    def __post_init__(self) -> None:
        _at_least_one(self, "samples", "minibatch")


@dataclass(frozen=True)
class WoodFisherOptions(FisherOptions):
    """How the inverse of the empirical Fisher is estimated."""

    damping: float = 1e-5
    """What is added to the diagonal of the Fisher."""
    block: int = 100
    """Weights of a diagonal block: that many that follow each other in a layer's flattened weight. Time and memory (8
    bytes times ``block`` for each weight of a layer) grow with it; from a layer's size on, the layer is one block."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _at_least_one(self, "block")
        if not isinstance(self.damping, int | float) or not 0 < self.damping < float("inf"):
            raise ValueError(f"damping must be a number above 0; got {self.damping!r}")


@dataclass(frozen=True)
class WandaOptions:
    """How the inputs' norms are estimated."""

    samples: int | None = None
    """Images that the norms are taken over; all that the data has by default."""

    def __post_init__(self) -> None:
        if self.samples is not None:
            _at_least_one(self, "samples")


def _at_least_one(options: Any, *names: str) -> None:
    for name in names:
        value = getattr(options, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be an integer from 1 on; got {value!r}")


OPTIONS: dict[str, type] = {
    "magnitude": MagnitudeOptions,
    "magnitude_layer": MagnitudeOptions,
    "fisher": FisherOptions,
    "woodfisher": WoodFisherOptions,
    "wanda": WandaOptions,
}
"""By method, the class of its options."""

READ_LABELS = frozenset(name for name, options in OPTIONS.items() if issubclass(options, FisherOptions))
"""The methods that read a label of each input."""
