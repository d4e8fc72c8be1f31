"""``spread``: the shallow network's blocks at even distances in each stage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mergeline.depth.placer import Depths, Placement, Placer, at_starts

__all__ = ["SPREAD", "SpreadOptions", "place_spread"]


def place_spread(shallow: Sequence[int], deep: Sequence[int]) -> Placement:
    """Block ``i`` of ``n`` stands at ``floor(i * deep / n)``: the segments differ in length by one at most.

    >>> place_spread((2, 2), (4, 3))
    ((0, None, 1, None), (0, 1, None))
    """
    return _place(Depths(tuple(shallow), tuple(deep)), SpreadOptions())


@dataclass(frozen=True)
class SpreadOptions:
    """``spread`` has no options."""


def _place(depths: Depths, options: SpreadOptions) -> Placement:
    return tuple(
        at_starts([block * total // own for block in range(own)], total)
        for own, total in zip(depths.shallow, depths.deep, strict=True)
    )


SPREAD = Placer("spread", "blocks at even distances in each stage", SpreadOptions, _place)
