"""What a placement is, and what a way to choose one gets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Depths", "Placement", "Placer", "at_starts"]

Placement = tuple[tuple[int | None, ...], ...]
"""For each stage and each block of the deep topology: the shallow block that stands there, or None (identity)."""


@dataclass(frozen=True, eq=False)
class Depths:
    """What is known of two networks when the blocks of one are placed among those of the other.

    ``shallow``, ``deep``: blocks per stage. ``similarity``: for each stage ``(deep blocks, shallow blocks)``, how alike the
    blocks' outputs are (CKA); empty unless the placement compares.

    Raises
    ------
    ValueError: stages that do not match, a shallow network with the longer stage, or similarities of other blocks.
    """

    shallow: tuple[int, ...]
    deep: tuple[int, ...]
    similarity: tuple[NDArray[np.float64], ...] = ()

    def __post_init__(self) -> None:
        fits = len(self.shallow) == len(self.deep)
        if not fits or any(not 1 <= own <= total for own, total in zip(self.shallow, self.deep, strict=True)):
            raise ValueError(f"blocks {self.shallow} do not fit into {self.deep}")
        if self.similarity:
            found = [np.shape(own) for own in self.similarity]
            wanted = list(zip(self.deep, self.shallow, strict=True))
            if found != wanted:
                raise ValueError(f"similarities have shapes {found}, the blocks of the stages are {wanted}")
            if not all(np.isfinite(own).all() for own in self.similarity):
                raise ValueError("similarities of blocks are not all finite")


@dataclass(frozen=True)
class Placer:
    """A registered way to say which block of a shallow network stands where in a deep one.

    ``options``: a frozen dataclass; its fields are the keys that params.yaml may set. ``place``: from what is known of the
    two networks. ``compares``: it reads the similarity of their blocks.
    """

    name: str
    summary: str
    options: type
    place: Callable[[Depths, Any], Placement]
    compares: bool = False


def at_starts(starts: Sequence[int], n_deep: int) -> tuple[int | None, ...]:
    """A stage's placement from the deep position of each shallow block: identities stand everywhere else.

    Raises
    ------
    ValueError: the positions do not start at 0, do not rise, or leave the stage.
    """
    inside = list(starts) == sorted(set(starts)) and len(starts) > 0 and starts[0] == 0 and starts[-1] < n_deep
    if not inside:
        raise ValueError(f"blocks at {tuple(starts)} are no placement in a stage of {n_deep}: 0 first, then rising")
    own = {start: block for block, start in enumerate(starts)}
    return tuple(own.get(position) for position in range(n_deep))
