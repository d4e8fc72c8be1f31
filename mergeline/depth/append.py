"""``append``: the shallow network's blocks first, identity blocks at the end of each stage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mergeline.depth.placer import Placement, Placer

__all__ = ["APPEND", "AppendOptions", "place_append"]


def place_append(shallow: Sequence[int], deep: Sequence[int]) -> Placement:
    """Shallow blocks first, in order; identity blocks at the end of each stage (depth_heterogeneity App. C).

    >>> place_append((1, 2), (2, 2))
    ((0, None), (0, 1))
    """
    if len(shallow) != len(deep) or any(s > d for s, d in zip(shallow, deep, strict=True)):
        raise ValueError(f"blocks {tuple(shallow)} do not fit into {tuple(deep)}")
    return tuple(
        tuple(position if position < own else None for position in range(total))
        for own, total in zip(shallow, deep, strict=True)
    )


@dataclass(frozen=True)
class AppendOptions:
    """``append`` has no options."""


def _place(shallow: Sequence[int], deep: Sequence[int], options: AppendOptions) -> Placement:
    return place_append(shallow, deep)


APPEND = Placer("append", "identity blocks at the end of each stage", AppendOptions, _place)
