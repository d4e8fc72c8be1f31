"""What a placement is, and what a way to choose one gets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Placement", "Placer"]

Placement = tuple[tuple[int | None, ...], ...]
"""For each stage and each block of the deep topology: the shallow block that stands there, or None (identity)."""


@dataclass(frozen=True)
class Placer:
    """A registered way to say which block of a shallow network stands where in a deep one.

    ``options``: a frozen dataclass; its fields are the keys that params.yaml may set. ``place``: from the blocks per
    stage of the shallow network and of the deep one.
    """

    name: str
    summary: str
    options: type
    place: Callable[[Sequence[int], Sequence[int], Any], Placement]
