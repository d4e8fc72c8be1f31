"""Spaces of interchangeable units, as data: which entries of which tensors belong to a unit, and where it is seen.

A *space* is one set of units that can be put in any order: the channels between two convolutions, a whole residual
stream, the units of all heads of an attention. Nothing is written by hand for an architecture: see
:mod:`mergeline.spaces.tracing`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import groupby
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from mergeline.spaces.labels import NONE, Field
from mergeline.spaces.recording import Example, Recording

__all__ = [
    "Axis",
    "Carried",
    "Observation",
    "Places",
    "Space",
    "Spaces",
    "entries_of",
    "places",
    "put",
    "seen_at",
    "spread",
    "take",
    "transferred",
    "unspread",
]

Index = NDArray[np.int64]
Places = Literal["all", "last"]
"""Where units that several layers read are seen."""


@dataclass(frozen=True, eq=False)
class Axis:
    """Entries of one axis of one tensor that belong to the units of a space.

    ``index``: ``(units, repeat)`` entries; unit ``i`` has ``index[i]``, in an order that is the same for all units (more
    than one where a feature map was flattened, or where a tensor makes queries and keys). ``size``: entries of the whole
    axis; others may belong to other spaces. ``produces`` is true where the axis makes the units (a convolution's
    output, a bias, a norm), false where it reads them (the next layer's input).
    """

    tensor: str
    axis: int
    index: Index
    size: int
    produces: bool

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Axis):
            return NotImplemented
        same = (self.tensor, self.axis, self.size, self.produces) == (
            other.tensor,
            other.axis,
            other.size,
            other.produces,
        )
        return same and np.array_equal(self.index, other.index)

    @property
    def repeat(self) -> int:
        """Entries of each unit."""
        return self.index.shape[1]

    @property
    def in_order(self) -> bool:
        """Whether the units have the whole axis, one after the other."""
        flat = self.index.reshape(-1)
        return len(flat) == self.size and bool((flat == np.arange(self.size)).all())


@dataclass(frozen=True, eq=False)
class Observation:
    """Where units are seen: the value of a node of the graph, along ``axes`` (flattened), at ``index`` (units, repeat)."""

    node: str
    axes: tuple[int, ...]
    index: Index

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Observation):
            return NotImplemented
        return (self.node, self.axes) == (other.node, other.axes) and np.array_equal(self.index, other.index)

    def units(self, value: Tensor) -> Tensor:
        """``(samples, units)`` of a value: every position of every image is one sample."""
        n_units, repeat = self.index.shape
        if len(self.axes) == 1:
            flat = value.movedim(self.axes[0], -1)
        else:
            flat = value.movedim(self.axes, tuple(range(-len(self.axes), 0))).flatten(-len(self.axes))
        flat = flat.reshape(-1, flat.shape[-1])
        order = self.index.reshape(-1)
        if len(order) == flat.shape[1] and (order == np.arange(len(order))).all():
            return flat if repeat == 1 else flat.unflatten(1, (n_units, repeat)).transpose(1, 2).reshape(-1, n_units)
        chosen = flat.index_select(1, torch.from_numpy(order).to(flat.device))
        return chosen if repeat == 1 else chosen.unflatten(1, (n_units, repeat)).transpose(1, 2).reshape(-1, n_units)

    def reordered(self, value: Tensor, permutation: Tensor) -> Tensor:
        """A value with the units in another order: unit ``i`` is what ``permutation[i]`` was."""
        sizes = [value.shape[axis] for axis in self.axes]
        order = order_of(math.prod(sizes), self.index, permutation).to(value.device)
        if len(sizes) == 1:
            return value.index_select(self.axes[0], order)
        ends = tuple(range(-len(sizes), 0))
        flat = value.movedim(self.axes, ends).flatten(-len(sizes))
        return flat.index_select(-1, order).unflatten(-1, sizes).movedim(ends, self.axes)


@dataclass(frozen=True)
class Space:
    """A set of ``size`` interchangeable units.

    ``bundles``: equal, consecutive bundles that the units stay in (attention heads, groups of a convolution or a norm); 1
    means that every unit moves alone. ``bundle_space``: the space whose units are these bundles; others may have the same
    bundles, and all of them move together. ``fixed`` spaces (the input, the outputs) are never permuted and are not observed.
    ``compared``: what compares units of this space with each other (a norm over channels); then no map but a
    permutation commutes with the network. ``observations``: every place that reads the units, in forward order; ``ends``: whether
    the last of them alone shows the units done.
    """

    name: str
    size: int
    axes: tuple[Axis, ...]
    observations: tuple[Observation, ...] = ()
    bundles: int = 1
    bundle_space: str = ""
    fixed: bool = False
    compared: str = ""
    ends: bool = False

    @property
    def node(self) -> str:
        """The node of the graph by which the units are complete."""
        return self.observations[-1].node if self.observations else ""

    @property
    def outputs(self) -> tuple[Axis, ...]:
        """The axes that make the units."""
        return tuple(axis for axis in self.axes if axis.produces)

    @property
    def inputs(self) -> tuple[Axis, ...]:
        """The axes that read the units."""
        return tuple(axis for axis in self.axes if not axis.produces)


@dataclass(frozen=True, eq=False)
class Spaces(Mapping[str, Space]):
    """All spaces of a topology, in the order in which a forward pass completes them.

    The result holds the graph but no weights: it serves every model of the same topology and width. ``grouped``: weights of
    grouped convolutions, whose axes are those of the block-diagonal weight they stand for (see :func:`spread`). Where models
    differ in width, these are the merged network's spaces, and :meth:`of` gives each model's own, of the same names.
    """

    recording: Recording = field(repr=False)
    spaces: dict[str, Space]
    tensors: dict[str, tuple[tuple[str, Axis], ...]] = field(repr=False)
    """For each tensor of the state dict, the spaces (by name) that index its axes."""
    grouped: dict[str, tuple[int, int]] = field(repr=False)
    """For each grouped weight, the axis that holds one group's entries, and the number of groups."""
    carried: Carried = field(repr=False)
    """For each node whose value carries units of spaces: the spaces, and where."""
    example: Example = field(repr=False, default=None)
    models: tuple[Spaces, ...] = field(repr=False, default=())
    """Each model's own, where widths differ; none where these are every model's."""

    def of(self, model: int) -> Spaces:
        """The spaces of a model's own width."""
        return self.models[model] if self.models else self

    def at_ends(self) -> Spaces:
        """The same, seen only at the last place that reads them: a residual stream at its end (the papers' convention)."""
        found = {
            name: replace(space, observations=space.observations[-1:]) if space.ends else space
            for name, space in self.spaces.items()
        }
        return replace(self, spaces=found, models=tuple(own.at_ends() for own in self.models))

    @property
    def graph(self) -> fx.Graph:
        return self.recording.graph

    def __getitem__(self, name: str) -> Space:
        return self.spaces[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.spaces)

    def __len__(self) -> int:
        return len(self.spaces)

    @property
    def free(self) -> tuple[Space, ...]:
        """The spaces that a matcher maps, in forward order."""
        return tuple(space for space in self.spaces.values() if not space.fixed and space.observations)

    @property
    def movable(self) -> tuple[Space, ...]:
        """All spaces whose units may move: the free ones, and those of bundles that tensors of their own belong to."""
        return tuple(space for space in self.spaces.values() if not space.fixed and (space.observations or space.axes))

    @property
    def output_tensors(self) -> frozenset[str]:
        """Tensors that make a network's outputs (its classifiers)."""
        return frozenset(
            axis.tensor for name, space in self.spaces.items() if name.startswith("output") for axis in space.axes
        )

    def together(self) -> list[tuple[tuple[Space, int], ...]]:
        """The spaces that may move, in sets that have their bundles in common, each with the number of bundles.

        A space that moves alone is a set of its own. The space whose units are the bundles is in the set, too: there each
        unit is a bundle.
        """
        sets: dict[str, list[tuple[Space, int]]] = {}
        owners = {space.bundle_space for space in self.movable}
        for space in self.movable:
            count = space.size if space.name in owners else space.bundles
            sets.setdefault(space.bundle_space or space.name, []).append((space, count))
        return [tuple(found) for found in sets.values()]


def seen_at(places: Places, spaces: Spaces) -> Spaces:
    """Spaces seen at "all" places that read them, or at the "last" (:meth:`Spaces.at_ends`).

    Raises
    ------
    ValueError: neither of them.
    """
    if places not in get_args(Places):
        raise ValueError(f"unknown places {places!r}; known: {', '.join(get_args(Places))}")
    return spaces if places == "all" else spaces.at_ends()


class Carried(Mapping[str, tuple[tuple[str, Observation], ...]]):
    """For each node whose value carries units of free spaces: the spaces, and where; found out when asked for.

    Parameters
    ----------
    fields: by node. unit: the unit of each element. members: by space, its units in order.
    """

    def __init__(self, fields: Mapping[str, tuple[Field, ...]], unit: Index, members: Mapping[str, Index]) -> None:
        self._fields, self._unit, self._members = dict(fields), unit, dict(members)
        self._names = list(members)

    @cached_property
    def _home(self) -> Index:
        """For each unit, the number of the space that it is in; -1 for none, which is also what the last entry says."""
        last = max((int(units.max()) for units in self._members.values() if len(units)), default=-1)
        home = np.full(max(last, int(self._unit.max(initial=-1))) + 2, -1, np.int64)
        for number, units in enumerate(self._members.values()):
            home[units] = number
        return home

    def __getitem__(self, node: str) -> tuple[tuple[str, Observation], ...]:
        found = []
        for own in self._fields[node]:
            units = entries_of(own, self._unit)
            numbers, first = np.unique(self._home[units], return_index=True)
            for number in numbers[np.argsort(first)]:
                if number < 0:
                    continue
                name = self._names[number]
                index = places(units, self._members[name])
                if index is not None:
                    found.append((name, Observation(node, own.axes, index)))
        return tuple(found)

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)


def entries_of(own: Field, unit: Index) -> Index:
    """The unit at each entry of a field, flattened; -1 where there is none."""
    ids = own.ids.reshape(-1).numpy()
    return np.where(ids == NONE, -1, unit[ids])


def places(entries: Index, units: Index) -> Index | None:
    """Where units stand in a list of entries, ``(units, repeat)``, in order; None if not all stand there equally often."""
    found = np.flatnonzero(np.isin(entries, units))
    if not len(found) or len(found) % len(units):
        return None
    ordered = found[np.argsort(entries[found], kind="stable")].reshape(len(units), -1)
    if not (entries[ordered] == np.sort(units)[:, None]).all():
        return None
    return ordered[np.argsort(np.argsort(units, kind="stable"), kind="stable")].astype(np.int64)


def order_of(length: int, index: Index, permutation: Tensor) -> Tensor:
    """The order of ``length`` entries when the units at ``index`` (units, repeat) are put into another order."""
    order = torch.arange(length)
    where = torch.from_numpy(index)
    order[where.reshape(-1)] = where[permutation.cpu()].reshape(-1)
    return order


# -- parts of tensors -------------------------------------------------------------------------------------------------


def take(tensor: Tensor, axis: Axis) -> Tensor:
    """The entries of a space's units: the axis as two, ``(units, repeat)``."""
    if axis.in_order:
        return tensor.unflatten(axis.axis, (-1, axis.repeat))
    order = torch.from_numpy(axis.index.reshape(-1)).to(tensor.device)
    return tensor.index_select(axis.axis, order).unflatten(axis.axis, axis.index.shape)


def put(tensor: Tensor, axis: Axis, entries: Tensor) -> Tensor:
    """A tensor with other entries for a space's units; where the space has the whole axis their number may differ."""
    flat = entries.flatten(axis.axis, axis.axis + 1)
    if axis.in_order:
        return flat
    if flat.shape[axis.axis] != axis.index.size:
        raise ValueError(
            f"{axis.tensor!r}: {axis.index.size} entries of axis {axis.axis} cannot become {flat.shape[axis.axis]}"
        )
    order = torch.from_numpy(axis.index.reshape(-1)).to(tensor.device)
    return tensor.index_copy(axis.axis, order, flat)


Change = Callable[[Tensor, int], Tensor]
"""What becomes of the units along an axis."""


def transferred(tensor: Tensor, entries: Sequence[tuple[Axis, Axis, Change]]) -> Tensor:
    """A tensor with changed units, at their places in a tensor of other widths.

    Parameters
    ----------
    entries: where the units of each space stand, where they are to stand, and what becomes of them; all entries of one axis
        next to each other. What belongs to none of these spaces keeps its order.
    """
    for axis, found in groupby(entries, lambda entry: entry[0].axis):
        own = list(found)
        changed = [(before, after, change(take(tensor, before), axis)) for before, after, change in own]
        if all(before is after or (before.in_order and after.in_order) for before, after, _ in changed):
            for before, _, units in changed:
                tensor = put(tensor, before, units)
        else:
            tensor = _placed(tensor, axis, changed)
    return tensor


def _placed(tensor: Tensor, axis: int, changed: Sequence[tuple[Axis, Axis, Tensor]]) -> Tensor:
    """All that stands along an axis, at other places."""
    size = changed[0][1].size
    shape = list(tensor.shape)
    shape[axis] = size
    kept = np.setdiff1d(
        np.arange(tensor.shape[axis]), np.concatenate([before.index.ravel() for before, _, _ in changed])
    )
    places = [np.setdiff1d(np.arange(size), np.concatenate([after.index.ravel() for _, after, _ in changed]))]
    values = [tensor.index_select(axis, torch.from_numpy(kept).to(tensor.device))]
    for _, after, units in changed:
        places.append(after.index.ravel())
        values.append(units.flatten(axis, axis + 1))
    for own, place in zip(values, places, strict=True):
        if own.shape[axis] != len(place):
            raise ValueError(
                f"{changed[0][0].tensor!r}: {own.shape[axis]} entries of axis {axis} cannot become {len(place)}"
            )
    result = tensor.new_empty(shape)
    for own, place in zip(values, places, strict=True):
        result.index_copy_(axis, torch.from_numpy(place).to(tensor.device), own)
    return result


def spread(tensor: Tensor, axis: int, groups: int) -> Tensor:
    """The block-diagonal weight that a grouped convolution's weight stands for; ``axis`` holds one group's entries."""
    other = 1 - axis
    rows, inside = tensor.shape[other], tensor.shape[axis]
    shape = list(tensor.shape)
    shape[axis] = groups * inside
    whole = tensor.new_zeros(shape)
    per_group = rows // groups
    for group in range(groups):
        part = tensor.narrow(other, group * per_group, per_group)
        whole.narrow(other, group * per_group, per_group).narrow(axis, group * inside, inside).copy_(part)
    return whole


def unspread(whole: Tensor, axis: int, groups: int) -> Tensor:
    """The grouped convolution's weight again; what lies outside of the groups is dropped."""
    other = 1 - axis
    per_group, inside = whole.shape[other] // groups, whole.shape[axis] // groups
    return torch.cat(
        [
            whole.narrow(other, group * per_group, per_group).narrow(axis, group * inside, inside)
            for group in range(groups)
        ],
        other,
    )
