"""The architectures by name: what describes a network without building it.

Nothing here imports torch, so that a benchmark can be planned and checked at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = [
    "ARCHITECTURES",
    "BLOCKS",
    "GROUP_NORM_GROUPS",
    "INPUT_SIZES",
    "Architecture",
    "deepest",
    "size_mismatch",
    "stage_blocks",
]

BLOCKS: dict[str, tuple[int, int, int, int]] = {
    "r17": (1, 1, 2, 1),
    "r29": (2, 2, 3, 2),
    "r35": (2, 3, 4, 2),
    "r50": (3, 4, 6, 3),
    "r101": (3, 4, 23, 3),
    "r152": (3, 8, 36, 3),
}
"""Bottleneck blocks in each of the four stages (depth_heterogeneity Table 1)."""

INPUT_SIZES = (32, 64, 224)
"""Pixels; each has a stem of its own."""

ARCHITECTURES: tuple[str, ...] = (
    *BLOCKS, "resnet20", "resnet20-gn", "vgg11", "vgg11-bn", "vgg11-ln", "vgg16", "vgg16-bn", "vgg16-ln",
)  # fmt: skip
"""Bottleneck ResNets (width 1 is 64 channels), ResNet-20 (16 channels) and VGG (64 channels)."""


GROUP_NORM_GROUPS = 8


@dataclass(frozen=True)
class Architecture:
    """What it takes to build a network again: its name, classes, width multiplier and input size in pixels."""

    name: str
    num_classes: int
    width: float = 1.0
    input_size: int = 224

    def __post_init__(self) -> None:
        if self.name not in ARCHITECTURES:
            raise ValueError(f"unknown architecture {self.name!r}; known: {', '.join(ARCHITECTURES)}")
        if self.num_classes < 1 or self.width <= 0:
            raise ValueError(
                f"architecture {self.name!r}: needs num_classes >= 1 and width > 0, "
                f"got num_classes={self.num_classes}, width={self.width}"
            )
        if self.name == "resnet20-gn" and round(16 * self.width) % GROUP_NORM_GROUPS:
            raise ValueError(
                f"architecture {self.name!r}: group norm needs 16 * width divisible by {GROUP_NORM_GROUPS}, "
                f"got width={self.width}; take 0.5, 1, 2, ..."
            )
        if self.input_size not in INPUT_SIZES:
            raise ValueError(f"input size {self.input_size} has no stem; known: {', '.join(map(str, INPUT_SIZES))}")


def stage_blocks(name: str) -> tuple[int, ...]:
    """Residual blocks per stage of the architecture ``name``; empty where depth is not counted in blocks."""
    return BLOCKS.get(name, ())


def deepest(names: Sequence[str]) -> str:
    """The architecture whose topology holds all the others.

    Raises
    ------
    ValueError: no one of them has at least as many blocks as every other in every stage.

    >>> deepest(["r17", "r50", "r35"])
    'r50'
    """
    for name in names:
        if all(other == name or _holds(stage_blocks(name), stage_blocks(other)) for other in names):
            return name
    raise ValueError(f"none of {', '.join(names)} can hold the others: depths can differ only within one family")


def _holds(deep: tuple[int, ...], shallow: tuple[int, ...]) -> bool:
    return len(deep) == len(shallow) > 0 and all(d >= s for d, s in zip(deep, shallow, strict=True))


def size_mismatch(first: str, second: str) -> float:
    """Per stage ``|n_A - n_B| / max(n_A, n_B)`` blocks, averaged over stages (depth_heterogeneity Sec. 3).

    >>> size_mismatch("r50", "r50")
    0.0
    """
    pairs = list(zip(stage_blocks(first), stage_blocks(second), strict=True))
    return sum(abs(a - b) / max(a, b) for a, b in pairs) / len(pairs) if pairs else 0.0
