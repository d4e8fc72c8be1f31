"""``append``: the shallow network's blocks first, identity blocks at the end of each stage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mergeline.depth.placer import Depths, Placement, Placer, at_starts

__all__ = ["APPEND", "AppendOptions", "place_append"]


def place_append(shallow: Sequence[int], deep: Sequence[int]) -> Placement:
    """Shallow blocks first, in order; identity blocks at the end of each stage (depth_heterogeneity App. C).

    >>> place_append((1, 2), (2, 2))
    ((0, None), (0, 1))
    """
    return _place(Depths(tuple(shallow), tuple(deep)), AppendOptions())


@dataclass(frozen=True)
class AppendOptions:
    """``append`` has no options."""


def _place(depths: Depths, options: AppendOptions) -> Placement:
    return tuple(at_starts(range(own), total) for own, total in zip(depths.shallow, depths.deep, strict=True))


APPEND = Placer("append", "identity blocks at the end of each stage", AppendOptions, _place)
