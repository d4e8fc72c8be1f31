"""Labels: which unit each entry of a value holds.

A unit is known by the entries of parameters that make it or read it. Every entry of every axis of a parameter is an
*element*; a value carries elements along some of its axes (a *field*), and operations tie elements that must be the
same unit. Some units move only as parts of a *bundle* (the units of an attention head, of a group of a grouped
convolution or of a group norm): bundles are elements too, and units are members of them.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

__all__ = ["Elements", "Field", "LabelError", "Operand", "Value", "across", "contract", "joined", "refit"]

NONE = 0
"""In place of an element: the entry holds no unit, and the same value as its like (padding)."""


class LabelError(ValueError):
    """An operation does something to units that no space describes."""


@dataclass(frozen=True)
class Field:
    """Elements along some axes of a value, constant along all others: ``ids`` has the sizes of ``axes``, in order."""

    axes: tuple[int, ...]
    ids: Tensor


@dataclass(frozen=True)
class Value:
    """A tensor's shape and what its entries hold. ``uniform``: all its entries are one constant. ``tensor``: the
    parameter or buffer that it is."""

    shape: tuple[int, ...]
    fields: tuple[Field, ...] = ()
    uniform: bool = False
    tensor: str = ""

    def full(self, own: Field) -> Tensor:
        """A field's elements in the value's shape (a view that repeats)."""
        shape = [self.shape[axis] if axis in own.axes else 1 for axis in range(len(self.shape))]
        return own.ids.reshape(shape).expand(self.shape)


@dataclass
class Elements:
    """All elements of a network, and what is known of them."""

    count: int = 1
    axes: dict[tuple[str, int], Tensor] = field(default_factory=dict)
    """Elements of each axis of each tensor."""
    makes: dict[tuple[str, int], bool] = field(default_factory=dict)
    """Whether an axis makes its units, or reads them."""
    ties: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    members: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    """Units and the bundles that they are members of."""
    kinds: list[tuple[int, int]] = field(default_factory=list)
    """First and last element of each set of bundles that were made together."""
    pinned: list[Tensor] = field(default_factory=list)
    """Elements that must stay where they are."""
    normed: list[tuple[Tensor, str]] = field(default_factory=list)
    """Units that something compares with each other, and what does: no map but a permutation commutes with it."""

    def new(self, shape: Sequence[int]) -> Tensor:
        """Fresh elements."""
        size = 1
        for length in shape:
            size *= length
        ids = torch.arange(self.count, self.count + size).reshape(tuple(shape))
        self.count += size
        return ids

    def axis(self, tensor: str, axis: int, size: int, makes: bool = True) -> Tensor:
        """The elements of an axis of a tensor."""
        if (tensor, axis) not in self.axes:
            self.axes[tensor, axis] = self.new([size])
            self.makes[tensor, axis] = makes
        return self.axes[tensor, axis]

    def bundles(self, shape: Sequence[int]) -> Tensor:
        """Fresh bundles."""
        first = self.count
        ids = self.new(shape)
        self.kinds.append((first, self.count))
        return ids

    def tie(self, first: Tensor, second: Tensor) -> None:
        """The same units; an entry without a unit ties nothing."""
        first, second = torch.broadcast_tensors(first, second)
        mask = (first != NONE) & (second != NONE)
        self.ties.append((first[mask], second[mask]))

    def join(self, units: Tensor, bundles: Tensor) -> None:
        """Make units members of bundles."""
        units, bundles = torch.broadcast_tensors(units, bundles)
        mask = (units != NONE) & (bundles != NONE)
        self.members.append((units[mask], bundles[mask]))

    def pin(self, ids: Tensor) -> None:
        """These stay where they are."""
        self.pinned.append(ids[ids != NONE].reshape(-1))

    def compare(self, ids: Tensor, what: str) -> None:
        """Note that ``what`` compares these units with each other."""
        self.normed.append((ids[ids != NONE].reshape(-1), what))


@dataclass(frozen=True)
class Operand:
    """A value with a letter for each axis; axes of one letter are summed over, or are the same axis of the result."""

    value: Value
    letters: tuple[Hashable, ...]

    def sizes(self) -> Iterable[tuple[Hashable, int]]:
        return zip(self.letters, self.value.shape, strict=True)


def _aligned(letters: Sequence[Hashable], ids: Tensor, order: Sequence[Hashable]) -> Tensor:
    return ids.permute([list(letters).index(letter) for letter in order])


def contract(elements: Elements, operands: Sequence[Operand], out: Sequence[Hashable]) -> tuple[Field, ...]:
    """The fields of a product of values: summed over the letters that ``out`` lacks, entry by entry over the others.

    Entries that meet hold the same unit. Along an axis that carries units on one side and none on the other the units
    are pinned, unless the axis is of size 1 or the other value is one constant.
    """
    sizes: dict[Hashable, int] = {}
    for operand in operands:
        for letter, size in operand.sizes():
            sizes[letter] = max(sizes.get(letter, 1), size)
    found: dict[frozenset[Hashable], tuple[tuple[Hashable, ...], Tensor]] = {}
    covered: list[set[Hashable]] = []
    for operand in operands:
        own: set[Hashable] = set()
        for entry in operand.value.fields:
            letters = [operand.letters[axis] for axis in entry.axes]
            keep = [i for i, letter in enumerate(letters) if entry.ids.shape[i] > 1 or sizes[letter] == 1]
            if not keep:
                continue
            ids = entry.ids.reshape([entry.ids.shape[i] for i in keep])
            kept = tuple(letters[i] for i in keep)
            own |= set(kept)
            if (key := frozenset(kept)) in found:
                elements.tie(found[key][1], _aligned(kept, ids, found[key][0]))
            else:
                found[key] = (kept, ids)
        covered.append(own)
    _nest(elements, found)
    _pin_uncovered(elements, operands, found, covered)
    return _remaining(elements, found, list(out))


def _nest(elements: Elements, found: Mapping[frozenset[Hashable], tuple[tuple[Hashable, ...], Tensor]]) -> None:
    """Units that share some of their axes with others are members of bundles along those axes, in line with them."""
    keys = list(found)
    for small, (letters, ids) in found.items():
        for large, (others, units) in found.items():
            if small < large:
                order = [letter for letter in others if letter in small]
                shape = [units.shape[i] if letter in small else 1 for i, letter in enumerate(others)]
                elements.join(units, _aligned(letters, ids, order).reshape(shape))
    for position, first in enumerate(keys):
        for second in keys[position + 1 :]:
            shared = first & second
            if not shared or shared in (first, second):
                continue
            order = [letter for letter in found[first][0] if letter in shared]
            sizes = dict(zip(found[first][0], found[first][1].shape, strict=True))
            bundles = elements.bundles([sizes[letter] for letter in order])
            for letters, ids in (found[first], found[second]):
                inside = [letter for letter in letters if letter in shared]
                shape = [ids.shape[i] if letter in shared else 1 for i, letter in enumerate(letters)]
                elements.join(ids, _aligned(order, bundles, inside).reshape(shape))


def _pin_uncovered(
    elements: Elements,
    operands: Sequence[Operand],
    found: dict[frozenset[Hashable], tuple[tuple[Hashable, ...], Tensor]],
    covered: Sequence[set[Hashable]],
) -> None:
    """Pin units that meet values without any; the result carries them no more."""
    for key, (letters, ids) in list(found.items()):
        for operand, own in zip(operands, covered, strict=True):
            if operand.value.uniform:
                continue
            sizes = dict(operand.sizes())
            bare = {letter for letter in key if sizes.get(letter, 1) > 1 and letter not in own}
            if bare == key:
                elements.pin(ids)
                found.pop(key, None)
            elif bare:
                shape = [ids.shape[i] if letter in bare else 1 for i, letter in enumerate(letters)]
                fixed = elements.bundles(shape)
                elements.pin(fixed)
                elements.join(ids, fixed)


def _remaining(
    elements: Elements,
    found: Mapping[frozenset[Hashable], tuple[tuple[Hashable, ...], Tensor]],
    out: list[Hashable],
) -> tuple[Field, ...]:
    result: dict[frozenset[Hashable], Field] = {}
    for letters, ids in found.values():
        kept = [letter for letter in letters if letter in out]
        if not kept or (len(kept) < len(letters) and frozenset(kept) in found):
            continue
        if len(kept) < len(letters):
            shape = [ids.shape[i] if letter in kept else 1 for i, letter in enumerate(letters)]
            bundles = elements.bundles(shape)
            elements.join(ids, bundles)
            ids = bundles.reshape([length for length, letter in zip(shape, letters, strict=True) if letter in kept])
        order = sorted(kept, key=out.index)
        key = frozenset(kept)
        if key not in result:
            result[key] = Field(tuple(out.index(letter) for letter in order), _aligned(kept, ids, order))
    return tuple(own for key, own in result.items() if not any(key < other for other in result))


def across(elements: Elements, value: Value, axes: Iterable[int], what: str) -> tuple[Field, ...]:
    """Note that an operation looks at entries along ``axes`` together, all in the same way; the fields as they were."""
    chosen = set(axes)
    for own in value.fields:
        inside = chosen & set(own.axes)
        if not inside:
            continue
        elements.compare(own.ids, what)
        if inside != set(own.axes):
            shape = [1 if axis in inside else own.ids.shape[i] for i, axis in enumerate(own.axes)]
            elements.join(own.ids, elements.bundles(shape))
    return value.fields


def refit(full: Tensor) -> Field | None:
    """The field of elements that stand in a value's shape: constant axes left out; None where there are no units."""
    axes = []
    for axis in range(full.dim()):
        if full.shape[axis] == 1 or full.stride(axis) == 0:
            full = full.narrow(axis, 0, 1)
            continue
        first = full.narrow(axis, 0, 1)
        if bool((full == first).all()):
            full = first
        else:
            axes.append(axis)
    if not axes:
        return None if not bool((full != NONE).any()) else _single(full)
    return Field(tuple(axes), full.reshape([full.shape[axis] for axis in axes]).clone())


def _single(full: Tensor) -> Field | None:
    """One unit alone: along its axis of size 1 it is nobody's equal, so there is nothing to carry."""
    return None


def joined(
    elements: Elements, values: Sequence[Value], fulls: Sequence[Sequence[Tensor | None]], dim: int
) -> list[list[Tensor]]:
    """Elements of values that are laid side by side along ``dim``, ready to be concatenated: one list a field.

    ``fulls``: for each value, the full elements of its fields.
    """
    along: list[list[Tensor]] = []
    inside = [[f for f in own if f is not None and _varies(f, dim)] for own in fulls]
    if any(inside):
        parts = []
        for value, own in zip(values, inside, strict=True):
            if len(own) > 1:
                raise LabelError("concatenates a value that carries units in two ways along the same axis")
            if own:
                parts.append(own[0])
                continue
            shape = [1] * len(value.shape)
            shape[dim] = value.shape[dim]
            ids = torch.zeros(shape, dtype=torch.int64) if value.uniform else elements.new(shape)
            if not value.uniform:
                elements.pin(ids)
            parts.append(ids.expand(value.shape))
        along.append(parts)
    return along


def _varies(full: Tensor, dim: int) -> bool:
    return full.stride(dim) != 0 and full.shape[dim] > 1
