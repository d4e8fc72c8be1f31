"""Which elements are one unit, and which units are bundled: ties and memberships, solved once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from mergeline.spaces.errors import SpaceError
from mergeline.spaces.labels import Elements

__all__ = ["Solution", "solve"]

Index = NDArray[np.int64]


@dataclass(frozen=True)
class Solution:
    """``unit``: the unit of each element. ``pinned``: whether a unit must stay. ``bundle``: the unit that is a unit's
    bundle, or -1."""

    unit: Index
    pinned: NDArray[np.bool_]
    bundle: Index


def solve(elements: Elements) -> Solution:
    """Solve the ties.

    Raises
    ------
    SpaceError: the units' bundles cannot be reconciled.
    """
    system = _System(elements)
    for _ in range(200):
        pairs = system.solved()
        counts = np.bincount(pairs[:, 0], minlength=len(system.fixed))
        if not (counts > 1).any() and system.join_nested(pairs):
            continue
        if not (counts > 1).any():
            bundle = np.full(len(system.fixed), -1, dtype=np.int64)
            bundle[pairs[:, 0]] = pairs[:, 1]
            return Solution(system.unit[: elements.count], system.fixed, bundle)
        system.reconcile(pairs[counts[pairs[:, 0]] > 1], pairs)
    raise SpaceError("spaces: the units' bundles cannot be reconciled")


class _System:
    """Ties, memberships and pins, until no unit is in two bundles."""

    def __init__(self, elements: Elements) -> None:
        self.count = elements.count
        self.ties = [_pair(first, second) for first, second in elements.ties]
        self.members = _stacked([_pair(units, bundles) for units, bundles in elements.members])
        self.pins = [ids.numpy() for ids in elements.pinned]
        self.kinds = np.full(elements.count, -1, dtype=np.int64)
        """Which set of bundles an element was made with."""
        for number, ids in enumerate(elements.axes.values()):
            self.kinds[ids.numpy()] = number
        for number, (first, last) in enumerate(elements.kinds, start=len(elements.axes)):
            self.kinds[first:last] = number

    def solved(self) -> Index:
        """Units, and every pair of a unit and a bundle that it is in."""
        edges = _stacked(self.ties)
        graph = coo_matrix((np.ones(len(edges), dtype=np.int8), (edges[:, 0], edges[:, 1])), shape=(self.count,) * 2)
        self.unit = connected_components(graph, directed=False)[1].astype(np.int64)
        self.first = np.unique(self.unit, return_index=True)[1]
        self.fixed = np.zeros(self.unit.max() + 1, dtype=bool)
        for ids in self.pins:
            self.fixed[self.unit[ids]] = True
        pairs = self.unit[self.members].reshape(-1, 2)
        pairs = np.unique(pairs[pairs[:, 0] != pairs[:, 1]], axis=0)
        return pairs

    def reconcile(self, conflicts: Index, pairs: Index) -> None:
        """Bundles of the same units are one. Where units lie in rows and columns, each row becomes one unit. A unit in
        several bundles of one kind keeps them where they are."""
        kind = self._kind_of()
        if self._join_equals(conflicts, pairs):
            return
        by_unit: dict[int, list[int]] = {}
        for unit, bundle in conflicts.tolist():
            by_unit.setdefault(unit, []).append(bundle)
        for bundles in by_unit.values():
            kinds = list(dict.fromkeys(kind[bundle] for bundle in bundles))
            if len(kinds) > 1:
                self._join_rows(self._row_kind(kinds[0], kinds[1], pairs, kind), kind)
                return
        self._keep_in_place(by_unit)

    def join_nested(self, pairs: Index) -> bool:
        """Bundles that are in bundles themselves become one unit with all that is in them; whether there were any."""
        nested = np.isin(pairs[:, 1], pairs[:, 0])
        if not nested.any():
            return False
        inner = np.unique(pairs[nested, 1])
        self.ties.append(self.members[np.isin(self.unit[self.members[:, 1]], inner)])
        return True

    def _kind_of(self) -> dict[int, int]:
        bundles = np.unique(self.members[:, 1])
        return dict(zip(self.unit[bundles].tolist(), self.kinds[bundles].tolist(), strict=True))

    def _join_equals(self, conflicts: Index, pairs: Index) -> bool:
        """Tie bundles of different kinds that hold the same units."""
        kind = self._kind_of()
        holders = {int(bundle) for bundle in conflicts[:, 1]}
        contents: dict[int, list[int]] = {bundle: [] for bundle in holders}
        for unit, bundle in pairs.tolist():
            if bundle in holders:
                contents[bundle].append(unit)
        same: dict[tuple[int, ...], list[int]] = {}
        for bundle, units in contents.items():
            same.setdefault(tuple(units), []).append(bundle)
        found = False
        for bundles in same.values():
            if len(bundles) > 1 and len({kind[b] for b in bundles}) == len(bundles):
                elements = [self._element(bundle) for bundle in bundles]
                self.ties.append(np.array([[elements[0], other] for other in elements[1:]]))
                found = True
        return found

    def _element(self, unit: int) -> int:
        return int(self.first[unit])

    def _row_kind(self, first: int, second: int, pairs: Index, kind: dict[int, int]) -> int:
        """Of two kinds of bundles the one whose bundles become units: what can move, and the one with more of them."""
        sizes, fixed = {first: 0, second: 0}, {first: False, second: False}
        for bundle in np.unique(pairs[:, 1]).tolist():
            if kind.get(bundle) in sizes:
                sizes[kind[bundle]] += 1
                fixed[kind[bundle]] |= bool(self.fixed[bundle])
        if fixed[first] != fixed[second]:
            return second if fixed[first] else first
        return first if sizes[first] >= sizes[second] else second

    def _join_rows(self, chosen: int, kind: dict[int, int]) -> None:
        mask = np.array([kind[bundle] == chosen for bundle in self.unit[self.members[:, 1]].tolist()])
        self.ties.append(self.members[mask])

    def _keep_in_place(self, by_unit: dict[int, list[int]]) -> None:
        bundles = sorted({bundle for own in by_unit.values() for bundle in own})
        self.pins.append(np.array([self._element(bundle) for bundle in bundles]))
        sets: dict[tuple[int, ...], int] = {}
        replaced = []
        for unit, own in by_unit.items():
            key = tuple(sorted(own))
            if key not in sets:
                sets[key] = self.count
                self.count += 1
            replaced.append((self._element(unit), sets[key]))
        self.kinds = np.concatenate([self.kinds, np.full(len(sets), self.kinds.max() + 1, dtype=np.int64)])
        self.pins.append(np.array(list(sets.values())))
        left = ~np.isin(self.unit[self.members[:, 0]], list(by_unit))
        self.members = np.concatenate([self.members[left], np.array(replaced)])


def _pair(first: torch.Tensor, second: torch.Tensor) -> Index:
    return np.stack([first.reshape(-1).numpy(), second.reshape(-1).numpy()], axis=1)


def _stacked(pairs: list[Index]) -> Index:
    return np.concatenate(pairs) if pairs else np.zeros((0, 2), dtype=np.int64)
