"""Unit maps: how the units of one model go to the units of the merged network, and back.

A matcher answers one map per model and space. ``merge`` takes a tensor axis from a model's own units to the merged
ones; ``unmerge`` rewrites an axis that consumes the units so that it reads merged ones. A permutation is an index
vector and is applied by gathering, never by a matrix product: the aligned model is the same function, bit for bit.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # matching is planned and tested without torch; only tensors that come in are
    from torch import Tensor

__all__ = ["Absent", "Dense", "Groups", "Permutation", "UnitMap", "among_more", "without_partner"]

Index = NDArray[np.int64]
Float64 = NDArray[np.float64]


class UnitMap(ABC):
    """A map from ``size`` units of one model to ``merged`` units of the merged network."""

    size: int
    merged: int

    @abstractmethod
    def merge(self, tensor: Tensor, axis: int) -> Tensor:
        """Sum the own units on ``axis`` into the merged units they belong to: ``size`` -> ``merged`` entries."""

    @abstractmethod
    def unmerge(self, tensor: Tensor, axis: int) -> Tensor:
        """Make ``axis``, which reads own units, read merged units instead: ``size`` -> ``merged`` entries."""

    @abstractmethod
    def restore(self, tensor: Tensor, axis: int) -> Tensor:
        """Give the values of the own units from those of the merged units: ``merged`` -> ``size`` entries."""

    @abstractmethod
    def mass(self) -> Float64:
        """How many own units each merged unit takes, ``(merged,)``."""

    @property
    @abstractmethod
    def is_permutation(self) -> bool:
        """Whether every merged unit is one own unit and no own unit is lost: then norms and their statistics stay true."""

    @abstractmethod
    def deviations(self, tensor: Tensor, axis: int) -> Tensor:
        """:meth:`merge` of the units' standard deviations, which add up in another way than the units do."""


def _indices(index: Index, like: Tensor) -> Tensor:
    import torch

    return torch.from_numpy(index).to(like.device)


@dataclass(frozen=True, eq=False)
class Permutation(UnitMap):
    """Merged unit ``i`` is own unit ``index[i]``; ``index`` is a permutation, ``(C,)`` int64."""

    index: Index

    def __post_init__(self) -> None:
        if not np.array_equal(np.sort(self.index), np.arange(len(self.index))):
            raise ValueError("a Permutation's index must hold every unit exactly once")

    @classmethod
    def identity(cls, size: int) -> Permutation:
        """Every unit stays where it is."""
        return cls(np.arange(size))

    @property
    def size(self) -> int:  # type: ignore[override]
        return len(self.index)

    @property
    def merged(self) -> int:  # type: ignore[override]
        return len(self.index)

    @property
    def is_permutation(self) -> bool:
        return True

    @property
    def is_identity(self) -> bool:
        """Whether no unit moves."""
        return np.array_equal(self.index, np.arange(self.size))

    def merge(self, tensor: Tensor, axis: int) -> Tensor:
        return tensor if self.is_identity else tensor.index_select(axis, _indices(self.index, tensor))

    unmerge = merge

    def restore(self, tensor: Tensor, axis: int) -> Tensor:
        return self.invert().merge(tensor, axis)

    def mass(self) -> Float64:
        return np.ones(self.size)

    def deviations(self, tensor: Tensor, axis: int) -> Tensor:
        return self.merge(tensor, axis)

    def invert(self) -> Permutation:
        """The permutation that undoes this one."""
        return Permutation(np.argsort(self.index))

    def compose(self, then: Permutation) -> Permutation:
        """This permutation followed by ``then``."""
        return Permutation(self.index[then.index])


@dataclass(frozen=True, eq=False)
class Absent(UnitMap):
    """Units that are there in name only, as in the identity blocks of an expanded network: they have no part in the merged
    ones, which are the other models' alone. All tensors that make them are 0, and nothing reads them."""

    size: int
    merged: int

    @property
    def is_permutation(self) -> bool:
        return True  # no unit is lost: there is none

    def merge(self, tensor: Tensor, axis: int) -> Tensor:
        shape = list(tensor.shape)
        shape[axis] = self.merged
        return tensor.new_zeros(shape)

    unmerge = merge

    def restore(self, tensor: Tensor, axis: int) -> Tensor:
        """Of any merged units, as nothing reads them."""
        return tensor.index_select(axis, _indices(np.arange(self.size) % self.merged, tensor))

    def deviations(self, tensor: Tensor, axis: int) -> Tensor:
        return self.merge(tensor, axis)

    def mass(self) -> Float64:
        return np.zeros(self.merged)


def among_more(unit_map: UnitMap, merged: int) -> UnitMap:
    """The same map to the first units of a merged network that has ``merged`` of them; the others take none."""
    if isinstance(unit_map, Permutation):
        return Groups(np.argsort(unit_map.index), merged)
    if isinstance(unit_map, Groups):
        return Groups(unit_map.labels, merged)
    assert isinstance(unit_map, Dense)
    added = merged - unit_map.merged
    return Dense(np.pad(unit_map.to_merged, ((0, added), (0, 0))), np.pad(unit_map.to_own, ((0, 0), (0, added))))


def without_partner(maps: Sequence[Mapping[str, UnitMap]]) -> tuple[int, ...]:
    """For each model, how many merged units it has no part in: units of the others that have no partner in it.

    ``maps``: each model's by space.
    """
    return tuple(sum(found.merged for found in own.values() if isinstance(found, Absent)) for own in maps)


@dataclass(frozen=True, eq=False)
class Groups(UnitMap):
    """Own unit ``i`` belongs to merged unit ``labels[i]`` of ``merged`` (zipit Sec. 3).

    Merging averages the members of a group (over all models: see ``mergeline.merging``); unmerging copies the group's
    feature to each member.
    """

    labels: Index
    merged: int

    def __post_init__(self) -> None:
        if len(self.labels) and not 0 <= self.labels.min() <= self.labels.max() < self.merged:
            raise ValueError(f"group labels must lie in 0..{self.merged - 1}")

    @property
    def size(self) -> int:  # type: ignore[override]
        return len(self.labels)

    @property
    def is_permutation(self) -> bool:
        return self.size == self.merged and len(np.unique(self.labels)) == self.size

    def merge(self, tensor: Tensor, axis: int) -> Tensor:
        shape = list(tensor.shape)
        shape[axis] = self.merged
        return tensor.new_zeros(shape).index_add_(axis, _indices(self.labels, tensor), tensor)

    unmerge = merge

    def restore(self, tensor: Tensor, axis: int) -> Tensor:
        return tensor.index_select(axis, _indices(self.labels, tensor))

    def mass(self) -> Float64:
        return np.bincount(self.labels, minlength=self.merged).astype(np.float64)

    def deviations(self, tensor: Tensor, axis: int) -> Tensor:
        return self.merge(tensor, axis)


@dataclass(frozen=True, eq=False)
class Dense(UnitMap):
    """Linear maps: ``to_merged`` ``(merged, C)`` takes own units to merged ones, ``to_own`` ``(C, merged)`` back."""

    to_merged: Float64
    to_own: Float64

    @property
    def size(self) -> int:  # type: ignore[override]
        return self.to_merged.shape[1]

    @property
    def merged(self) -> int:  # type: ignore[override]
        return self.to_merged.shape[0]

    @cached_property
    def is_permutation(self) -> bool:
        matrix = self.to_merged
        return (
            matrix.shape == self.to_own.T.shape
            and matrix.shape[0] == matrix.shape[1]
            and np.count_nonzero(matrix) == len(matrix)
            and bool((matrix.max(axis=0) == 1).all() and (matrix.max(axis=1) == 1).all())
            and np.array_equal(matrix, self.to_own.T)
        )

    def merge(self, tensor: Tensor, axis: int) -> Tensor:
        return _product(self.to_merged, tensor, axis)

    def unmerge(self, tensor: Tensor, axis: int) -> Tensor:
        return _product(self.to_own.T, tensor, axis)

    def restore(self, tensor: Tensor, axis: int) -> Tensor:
        return _product(self.to_own, tensor, axis)

    def mass(self) -> Float64:
        return np.ones(self.merged)

    def deviations(self, tensor: Tensor, axis: int) -> Tensor:
        """As of units that do not correlate."""
        return _product(self.to_merged**2, tensor.square(), axis).sqrt()


def _product(matrix: Float64, tensor: Tensor, axis: int) -> Tensor:
    """``matrix`` times one axis of a tensor, in float64, given back in the tensor's type."""
    import torch

    factor = torch.from_numpy(np.ascontiguousarray(matrix)).to(tensor.device)
    return torch.tensordot(factor, tensor.double(), dims=([1], [axis])).movedim(0, axis).to(tensor.dtype)
