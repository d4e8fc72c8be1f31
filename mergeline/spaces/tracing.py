"""Spaces of interchangeable units, derived from what a network computes.

``trace`` records a network (:mod:`mergeline.spaces.recording`) and carries labels through it that say which unit each
entry holds (:mod:`mergeline.spaces.labels`, :mod:`mergeline.spaces.rules`). Elements that must be the same unit are tied;
the ties are solved once; units that always occur together in the same places form a space. Nothing is written by hand
for an architecture; an operation that is not known is an error that names it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from mergeline.spaces.errors import SpaceError
from mergeline.spaces.labels import NONE, Elements, Field, LabelError, Value
from mergeline.spaces.recording import Example, Recording, operation, record
from mergeline.spaces.rules import COLLAPSING, CONSTANT, Arguments, canonical, rule_of
from mergeline.spaces.solving import Solution, solve
from mergeline.spaces.space import Axis, Carried, Observation, Space, Spaces, entries_of, places

__all__ = ["INPUT", "Tracer", "trace"]

Index = NDArray[np.int64]
INPUT = "input"
"""The space of a network's inputs."""
STATISTICS_OF = ("batch_norm", "instance_norm")
"""Operations whose buffers are statistics of units, and move with them."""


@dataclass(frozen=True)
class Seen:
    """A value that carries units and that something reads. ``meeting``: both sides of a product of two values are seen."""

    order: int
    node: fx.Node
    field: Field
    meeting: bool = False


def trace(model: nn.Module, example: Example) -> Spaces:
    """Trace ``model`` into its spaces.

    Parameters
    ----------
    model: any module that runs on ``example``; in eval mode here, and left as it was.
    example: one input batch: a tensor (``(batch, channels, height, width)``, ``(batch, features)``, tokens, ...), or a
        tuple or dict of tensors; only shapes and types matter.

    Raises
    ------
    SpaceError: the network does not run, has an operation that is not known, or ties units in a way that no space
        describes; names the operation and the module.
    """
    recording = record(model, example)
    return Tracer(model, recording).run(example)


class Tracer:
    """One walk over a recorded graph: each operation's rule ties elements; afterwards each set of units is a space."""

    def __init__(self, model: nn.Module, recording: Recording) -> None:
        self.model = model
        self.recording = recording
        self.elements = Elements()
        self.values: dict[fx.Node, Any] = {}
        self.seen: list[Seen] = []
        self.grouped: dict[str, tuple[int, int]] = {}
        self.parameters: set[fx.Node] = set()
        """Nodes that depend on parameters and buffers alone."""
        self.inputs: list[Tensor] = []
        self.outputs: list[tuple[str, Value]] = []
        self.order = {node: position for position, node in enumerate(recording.graph.nodes)}
        self.tensors = dict(_named_tensors(model)) | recording.constants
        self.buffers = {name for name, _ in model.named_buffers(remove_duplicate=False)}
        self._real: dict[fx.Node, Any] = {}
        self._owners: list[tuple[int, int, tuple[str, int]]] = []

    # -- what rules ask -----------------------------------------------------------------------------------------

    def shape(self, node: fx.Node) -> tuple[int, ...]:
        """The shape of a node's tensor."""
        return self.recording.shapes[node.name]

    def shapes_of(self, node: fx.Node) -> list[tuple[int, ...]]:
        """The shapes of all tensors that a node gives."""
        if node.name in self.recording.shapes:
            return [self.shape(node)]
        items: dict[Any, fx.Node] = {user.args[1]: user for user in node.users if canonical(operation(user)) == "item"}
        return [self.shape(items[index]) if index in items else () for index in range(max(items, default=-1) + 1)]

    def is_tensor(self, node: fx.Node) -> bool:
        """Whether a node gives one tensor and no tuple."""
        return node.name in self.recording.shapes

    def call(self, node: fx.Node, given: Mapping[fx.Node, Tensor]) -> Any:
        """Run a node with tensors in place of some of its arguments; others are as they really are."""

        def fill(value: Any) -> Any:
            return (given[value] if value in given else self.real(value)) if isinstance(value, fx.Node) else value

        args, kwargs = _map(node.args, fill), _map(node.kwargs, fill)
        if node.op == "call_method":
            if node.target == "view" and not isinstance(args[1], torch.dtype):  # labels lie in memory as they like
                return args[0].reshape(*args[1:])
            result = getattr(args[0], str(node.target))(*args[1:], **kwargs)
            return args[0] if node.target == "__setitem__" else result
        assert callable(node.target)
        try:
            return node.target(*args, **kwargs)
        except RuntimeError:  # some are not there for whole numbers
            return _map(node.target(*(_map(args, _as_float)), **kwargs), _as_ids)

    def real(self, value: Any) -> Any:
        """What a value is: of an index, or of a number that the batch size makes."""
        if isinstance(value, tuple | list | slice | dict):
            return _map(value, self.real)
        if not isinstance(value, fx.Node):
            return value
        if value not in self._real:
            self._real[value] = self._evaluate(value)
        return self._real[value]

    def _evaluate(self, node: fx.Node) -> Any:
        if node.op == "get_attr":
            return self.tensors[str(node.target)].detach()
        if node.op == "placeholder":  # indices that the data hold: any that exist
            return torch.zeros(self.shape(node), dtype=self.recording.dtypes[node.name])
        if node.name in self.recording.shapes and self._depends_on_data(node):
            return torch.zeros(self.shape(node), dtype=self.recording.dtypes[node.name])
        return self.call(node, {})

    def _depends_on_data(self, node: fx.Node) -> bool:
        todo, found = [node], set()
        while todo:
            current = todo.pop()
            if current in found:
                continue
            found.add(current)
            if current.op == "placeholder":
                return True
            if current.name in self.recording.shapes:
                todo += [n for n in current.all_input_nodes if not _is_size(n)]
        return False

    def reads(self, value: Value, axis: int) -> None:
        """Note that an axis of a weight reads units."""
        for own in value.fields:
            if axis in own.axes:
                first = int(own.ids.reshape(-1)[0])
                for begin, end, key in self._owners:
                    if begin <= first < end:
                        self.elements.makes[key] = False

    def consumed(self, node: fx.Node, value: Value, axis: int) -> None:
        """Note that a weight reads the units that a value carries along an axis."""
        for own in value.fields:
            if axis in own.axes:
                self.seen.append(Seen(self.order[node], node, own))

    def met(self, first: fx.Node, a: Value, axis: int, second: fx.Node, b: Value, other: int) -> None:
        """Note a product of two values, summed over an axis of each."""
        sides = [(first, a, axis), (second, b, other)]
        if any(node in self.parameters for node, _, _ in sides):
            for node, value, place in sides:
                if node in self.parameters:
                    self.reads(value, place)
                else:
                    self.consumed(node, value, place)
            return
        for node, value, place in sides:
            for own in value.fields:
                if place in own.axes:
                    self.seen.append(Seen(self.order[node], node, own, meeting=True))

    def channels_only(self, value: Value, spatial: int) -> Value:
        """A value for an operation that goes over its last ``spatial`` axes, which must carry no units that move."""
        places = set(range(len(value.shape) - spatial, len(value.shape)))
        kept = []
        for own in value.fields:
            if not set(own.axes) & places:
                kept.append(own)
            elif not self._is_pinned(own.ids):
                raise LabelError("goes over an axis that carries units")
        return Value(value.shape, tuple(kept), value.uniform)

    def _is_pinned(self, ids: Tensor) -> bool:
        known = torch.cat(self.elements.pinned) if self.elements.pinned else torch.zeros(0, dtype=torch.int64)
        return bool(torch.isin(ids[ids != NONE], known).all())

    def grouped_axis(self, weight: Value, axis: int, groups: int, makes: bool, per_group: int) -> Tensor | None:
        """The elements of an axis of a grouped convolution's weight, as of the block-diagonal weight that it stands for."""
        name = weight.tensor or self._owner(weight)
        if weight.shape[axis] != per_group:  # this axis has the entries of all groups
            return self._axis(name, axis, groups * per_group, makes)
        if per_group == 1 and not makes:
            return None  # each row reads one unit: there is nothing to order
        self.grouped[name] = (axis, groups)
        self.elements.axes.pop((name, axis), None)
        return self._axis(name, axis, groups * per_group, makes)

    def _owner(self, weight: Value) -> str:
        """The tensor whose rows a weight that was computed from it has, all and in order."""
        rows = next((own.ids for own in weight.fields if own.axes == (0,)), None)
        for (tensor, axis), ids in self.elements.axes.items():
            if rows is not None and axis == 0 and torch.equal(ids, rows):
                return tensor
        raise LabelError("groups a weight that is computed from others, which is not supported")

    def _axis(self, tensor: str, axis: int, size: int, makes: bool) -> Tensor:
        known = self.elements.axes.get((tensor, axis))
        if known is not None and len(known) == size:
            return known
        ids = self.elements.axis(tensor, axis, size, makes)
        self._owners.append((int(ids[0]), int(ids[-1]) + 1, (tensor, axis)))
        return ids

    # -- the walk -----------------------------------------------------------------------------------------------

    def run(self, example: Example) -> Spaces:
        for node in self.recording.graph.nodes:
            if node.op == "output":
                self._end(node)
                continue
            self.values[node] = self._visit(node)
        return _Builder(self, solve(self.elements)).build(example)

    def _visit(self, node: fx.Node) -> Any:
        if node.op == "placeholder":
            return self._input(node)
        if node.op == "get_attr":
            return self._parameter(node)
        tensors = [used for used in node.all_input_nodes if isinstance(self.values.get(used), Value | tuple)]
        if tensors and all(used in self.parameters for used in tensors):
            self.parameters.add(node)
        if not any(_has_units(self.values[used]) for used in tensors):
            return self._without_units(node)
        rule = rule_of(node)
        if rule is None:
            raise self.error(
                node, "is not known; add a rule for it to mergeline/spaces/rules.py, or keep it out of the merged part"
            )
        try:
            found = rule(self, node, Arguments(node))
        except LabelError as error:
            raise self.error(node, str(error)) from None
        self._check_shape(node, found)
        return _map(found, self._told_apart)

    def _told_apart(self, value: Any) -> Any:
        """A value whose fields have no axis in common: units that a reshape laid across each other can no longer move."""
        if not isinstance(value, Value) or len(value.fields) < 2:
            return value
        mixed = set()
        for own, other in permutations(value.fields, 2):
            mine, others = set(own.axes), set(other.axes)
            if mine & others and (mine <= others or others <= mine):
                mixed |= {id(own), id(other)}
        for own in value.fields:
            if id(own) in mixed:
                self.elements.pin(own.ids)
        return replace(value, fields=tuple(own for own in value.fields if id(own) not in mixed))

    def _without_units(self, node: fx.Node) -> Any:
        if not self.is_tensor(node):
            items = self.shapes_of(node)
            return tuple(Value(shape) for shape in items) if items else None
        name = canonical(operation(node))
        constant = name in CONSTANT
        tensors = [self.values[used] for used in node.all_input_nodes if isinstance(self.values.get(used), Value)]
        kept = bool(tensors) and all(value.uniform for value in tensors) and name != "setitem"
        return Value(self.shape(node), uniform=constant or kept)

    def _check_shape(self, node: fx.Node, found: Any) -> None:
        if isinstance(found, Value) and self.is_tensor(node) and found.shape != self.shape(node):
            raise self.error(node, f"gives shape {self.shape(node)}, its rule {found.shape}")

    def _input(self, node: fx.Node) -> Value:
        shape = self.shape(node)
        if len(shape) < 2 or not self.recording.dtypes[node.name].is_floating_point:
            return Value(shape)
        key = node.name if self.values else INPUT
        ids = self._axis(f"<{key}>", 1, shape[1], makes=True)
        self.elements.pin(ids)
        return Value(shape, (Field((1,), ids),))

    def _parameter(self, node: fx.Node) -> Value:
        name, shape = str(node.target), self.shape(node)
        self.parameters.add(node)
        if name in self.recording.constants or not self.recording.dtypes[node.name].is_floating_point:
            return Value(shape)
        if name in self.buffers and any(canonical(operation(user)) not in STATISTICS_OF for user in node.users):
            return Value(shape)  # a table or mask of the architecture: its entries have their places
        fields = tuple(
            Field((axis,), self._axis(name, axis, size, True)) for axis, size in enumerate(shape) if size > 1
        )
        return Value(shape, fields, tensor=name)

    def _end(self, node: fx.Node) -> None:
        outputs = node.args[0]
        assert isinstance(outputs, tuple)
        for name, used in zip(self.recording.outputs, outputs, strict=True):
            value = self.values[used]
            label = "output" if not self.outputs else f"output.{name or len(self.outputs)}"
            self.outputs.append((label, value))
            for own in value.fields:
                self.elements.pin(own.ids)

    def error(self, node: fx.Node, reason: str) -> SpaceError:
        place = self.recording.modules.get(node.name, "")
        where = f"in module {place!r}" if place else "at the top of the model"
        return SpaceError(f"spaces: operation {operation(node)} ({where}, node {node.name!r}) {reason}")


def _has_units(value: Any) -> bool:
    return (
        any(_has_units(part) for part in value)
        if isinstance(value, tuple)
        else isinstance(value, Value) and bool(value.fields)
    )


def _is_size(node: fx.Node) -> bool:
    return operation(node) in ("_batch_times", "input_device")


def _named_tensors(model: nn.Module) -> Iterable[tuple[str, Tensor]]:
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)


def _map(values: Any, function: Any) -> Any:
    if isinstance(values, tuple | list):
        return type(values)(_map(value, function) for value in values)
    if isinstance(values, dict):
        return {key: _map(value, function) for key, value in values.items()}
    if isinstance(values, slice):
        return slice(*(_map(part, function) for part in (values.start, values.stop, values.step)))
    return function(values)


def _as_float(value: Any) -> Any:
    return value.double() if isinstance(value, Tensor) and not value.dtype.is_floating_point else value


def _as_ids(value: Any) -> Any:
    return value.round().long() if isinstance(value, Tensor) else value


# -- spaces from units ------------------------------------------------------------------------------------------------


class _Builder:
    """Spaces from the solved units of a trace."""

    def __init__(self, tracer: Tracer, solution: Solution) -> None:
        self.tracer = tracer
        self.solution = solution
        self.keys = list(tracer.elements.axes)
        self.units = [solution.unit[ids.numpy()] for ids in tracer.elements.axes.values()]
        self.makes = [tracer.elements.makes[key] for key in self.keys]
        self.nodes = {node.name: node for node in tracer.order}
        self.marks = self._marks()
        self.members: dict[int, list[int]] = {}
        for unit in np.flatnonzero(solution.bundle >= 0).tolist():
            self.members.setdefault(int(solution.bundle[unit]), []).append(unit)
        self.final: list[tuple[Space, Index]] = []
        self._field_units: dict[int, Index] = {}
        self._sorted_units: dict[int, Index] = {}
        units = [self._unique(seen.field) for seen in tracer.seen]
        read = np.concatenate([np.zeros(0, dtype=np.int64), *units])
        order = np.argsort(read, kind="stable")
        self._read = read[order]
        """Units that something reads, and for each reading its place in ``tracer.seen``."""
        self._readings = np.repeat(np.arange(len(units)), [len(own) for own in units])[order]

    def build(self, example: Example) -> Spaces:
        sets = self._sets(self._live())
        fixed = self._fixed()
        made = sorted((self._space(units) for units in sets), key=lambda entry: entry[0])
        self._name(made, fixed)
        bundled = self._with_bundles()
        ends = dict(fixed)
        start = {INPUT: ends.pop(INPUT)} if INPUT in ends else {}
        spaces = {**start, **bundled, **ends}
        tensors: dict[str, list[tuple[str, Axis]]] = {}
        for space in spaces.values():
            for axis in space.axes:
                tensors.setdefault(axis.tensor, []).append((space.name, axis))
        return Spaces(
            self.tracer.recording,
            spaces,
            {name: tuple(sorted(entries, key=lambda entry: entry[1].axis)) for name, entries in tensors.items()},
            {name: entry for name, entry in self.tracer.grouped.items() if name in tensors},
            Carried(
                self._fields(),
                self.solution.unit,
                {space.name: units for space, units in self.final},
            ),
            example,
        )

    def _fields(self) -> dict[str, tuple[Field, ...]]:
        values = self.tracer.values.items()
        return {node.name: value.fields for node, value in values if isinstance(value, Value) and value.fields}

    # -- sets of units that always occur together ---------------------------------------------------------------

    def _marks(self) -> dict[int, tuple[tuple[int, int], ...]]:
        """For each unit, the axes that it occurs on (by number) and how often."""
        codes, counts = np.unique(
            np.concatenate([own * len(self.keys) + number for number, own in enumerate(self.units)]), return_counts=True
        )
        pairs = np.stack([codes % len(self.keys), counts], axis=1)
        units, starts = np.unique(codes // len(self.keys), return_index=True)
        known: dict[bytes, tuple[tuple[int, int], ...]] = {}  # of the same for all units of a space
        marks = {}
        for unit, begin, end in zip(units.tolist(), starts.tolist(), [*starts.tolist()[1:], len(pairs)], strict=True):
            own = pairs[begin:end].tobytes()
            if own not in known:
                known[own] = tuple((number, count) for number, count in pairs[begin:end].tolist())
            marks[unit] = known[own]
        return marks

    def _live(self) -> NDArray[np.bool_]:
        """Units that a value carries to where something reads them, and the bundles that they are in."""
        live = np.zeros(len(self.solution.pinned), dtype=bool)
        live[self._read] = True
        bundles = self.solution.bundle[live]
        live[bundles[bundles >= 0]] = True
        return live & ~self.solution.pinned

    def _sets(self, live: NDArray[np.bool_]) -> list[Index]:
        """Units that occur in the same places equally often, in sets."""
        sets: dict[Any, list[int]] = {}
        for unit in np.flatnonzero(live).tolist():
            bundle = int(self.solution.bundle[unit])
            first = self.members.get(unit, [-1])[0]
            key = (self.marks.get(unit, ()), self.marks.get(bundle), self.marks.get(first))
            sets.setdefault(key, []).append(unit)
        return [np.array(units) for units in sets.values()]

    def _space(self, units: Index) -> tuple[tuple[int, int], Index, tuple[Axis, ...], tuple[Observation, ...]]:
        units = self._ordered(units)
        observations = self._observations(units)
        position = max((self.tracer.order[self.nodes[o.node]] for o in observations), default=len(self.tracer.order))
        return (position, int(units.min())), units, tuple(self._axes(units)), observations

    def _ordered(self, units: Index) -> Index:
        """In the order of the first tensor that makes them; bundles together, in the order of their first units."""
        numbers = [number for number, _ in self.marks.get(int(units[0]), ())]
        numbers.sort(key=lambda number: not self.makes[number])
        if numbers:
            own = self.units[numbers[0]]
            first = np.full(len(self.solution.pinned), len(own))
            np.minimum.at(first, own, np.arange(len(own)))
            units = units[np.argsort(first[units], kind="stable")]
        elif int(units[0]) in self.members:  # bundles without tensors: in the order of their members
            number = self.marks[self.members[int(units[0])][0]][0][0]
            own = self.units[number]
            first = np.full(len(self.solution.pinned), len(own))
            np.minimum.at(first, own, np.arange(len(own)))
            units = units[np.argsort([min(first[self.members[unit]]) for unit in units.tolist()], kind="stable")]
        bundles = self.solution.bundle[units]
        if (bundles >= 0).all():
            rank: dict[int, int] = {}
            for bundle in bundles.tolist():
                rank.setdefault(bundle, len(rank))
            units = units[np.argsort([rank[bundle] for bundle in bundles.tolist()], kind="stable")]
        return units

    def _axes(self, units: Index) -> Iterable[Axis]:
        for number, _ in self.marks.get(int(units[0]), ()):
            tensor, axis = self.keys[number]
            if not tensor.startswith("<"):
                index = places(self.units[number], units)
                assert index is not None
                yield Axis(tensor, axis, index, len(self.units[number]), self.makes[number])

    # -- where units are seen -----------------------------------------------------------------------------------

    def _units(self, own: Field) -> Index:
        """The unit at each entry of a field, flattened; -1 where there is none."""
        if id(own) not in self._field_units:
            self._field_units[id(own)] = entries_of(own, self.solution.unit)
        return self._field_units[id(own)]

    def _unique(self, own: Field) -> Index:
        if id(own) not in self._sorted_units:
            found = np.unique(self._units(own))
            self._sorted_units[id(own)] = found[found >= 0]
        return self._sorted_units[id(own)]

    def _holds(self, own: Field, unit: int) -> bool:
        found = self._unique(own)
        place = int(np.searchsorted(found, unit))
        return place < len(found) and int(found[place]) == unit

    def _observations(self, units: Index) -> tuple[Observation, ...]:
        """Where the units are read, in order: at every place, of a product's two sides at the last product."""
        unit = int(units[0])
        first, last = np.searchsorted(self._read, [unit, unit + 1])
        found = [self.tracer.seen[place] for place in self._readings[first:last].tolist()]
        reads = [seen for seen in found if not seen.meeting]
        if reads:
            nodes = {self._before_collapse(seen.node, unit) for seen in reads}
        else:
            nodes = {seen.node for seen in found[-2:]}
        made = (self._observation(node, units) for node in sorted(nodes, key=self.tracer.order.__getitem__))
        return tuple(observation for observation in made if observation is not None)

    def _ends(self, units: Index) -> bool:
        """Whether the last place alone shows the units done: not where a layer makes them several times, or in a product."""
        unit = int(units[0])
        first, last = np.searchsorted(self._read, [unit, unit + 1])
        reads = any(not self.tracer.seen[place].meeting for place in self._readings[first:last].tolist())
        return reads and self._calls(unit) <= 1

    def _calls(self, unit: int) -> int:
        """How often the layer that makes the units runs."""
        for number, _ in self.marks.get(unit, ()):
            tensor = self.keys[number][0]
            if self.makes[number] and len(self._shape(tensor)) > 1:
                return sum(
                    len(node.users) for node in self.tracer.order if node.op == "get_attr" and node.target == tensor
                )
        return 1

    def _shape(self, tensor: str) -> tuple[int, ...]:
        return tuple(self.tracer.tensors[tensor].shape) if tensor in self.tracer.tensors else ()

    def _before_collapse(self, node: fx.Node, unit: int) -> fx.Node:
        """Back over pooling, flattening and choosing among positions: units are seen at every position, before them."""
        while node.op in ("call_function", "call_method") and canonical(operation(node)) in COLLAPSING:
            before = node.all_input_nodes[0] if node.all_input_nodes else None
            value = self.tracer.values.get(before) if before is not None else None
            if (
                before is None
                or not isinstance(value, Value)
                or not any(self._holds(own, unit) for own in value.fields)
            ):
                break
            node = before
        return node

    def _observation(self, node: fx.Node, units: Index) -> Observation | None:
        for own in self.tracer.values[node].fields:
            if self._holds(own, int(units[0])):
                index = places(self._units(own), units)
                if index is not None:
                    return Observation(node.name, own.axes, index)
        return None

    # -- fixed spaces, bundles, names ---------------------------------------------------------------------------

    def _fixed(self) -> dict[str, Space]:
        """The input's and the outputs' units, which never move."""
        first = next(iter(self.tracer.order)).name
        ends: list[tuple[str, Index, tuple[Observation, ...]]] = []
        for (tensor, _), units in zip(self.keys, self.units, strict=True):
            if tensor.startswith("<"):
                name = tensor.strip("<>")
                place = Observation(first if name == INPUT else name, (1,), np.arange(len(units))[:, None])
                ends.append((name, units, (place,)))
        for name, value in self.tracer.outputs:
            for own in value.fields[:1]:
                units = self._units(own)
                ends.append((name, np.array(list(dict.fromkeys(units[units >= 0].tolist()))), ()))
        found = {}
        for name, units, seen in ends:
            plain = len(np.unique(units)) == len(units) and len({self.marks[u] for u in units.tolist()}) == 1
            found[name] = Space(name, len(units), tuple(self._axes(units)) if plain else (), seen, fixed=True)
        return found

    def _name(
        self,
        made: Sequence[tuple[tuple[int, int], Index, tuple[Axis, ...], tuple[Observation, ...]]],
        fixed: Mapping[str, Space],
    ) -> None:
        """The common module path of what makes a space (``layer1``), or else its first maker."""
        taken = set(fixed)
        compared = self._compared()
        for _, units, axes, observations in made:
            makers = self._makers(axes)
            name = self._path(makers, units)
            if name in taken and makers:
                name = ".".join(makers[0])
            base, count = name, 1
            while name in taken:
                count += 1
                name = f"{base}#{count}"
            taken.add(name)
            self.final.append(
                (
                    Space(
                        name,
                        len(units),
                        axes,
                        observations,
                        compared=compared.get(int(units[0]), ""),
                        ends=self._ends(units),
                    ),
                    units,
                )
            )

    def _compared(self) -> dict[int, str]:
        found: dict[int, str] = {}
        for ids, what in self.tracer.elements.normed:
            for unit in np.unique(self.solution.unit[ids.numpy()]).tolist():
                found.setdefault(unit, what)
        return found

    def _makers(self, axes: Sequence[Axis]) -> list[list[str]]:
        """Module paths of what makes the units: of layers, or of vectors where there are no layers."""
        makers = [axis.tensor.rpartition(".")[0].split(".") for axis in axes if axis.produces]
        layers = [
            axis.tensor.rpartition(".")[0].split(".")
            for axis in axes
            if axis.produces and len(self._shape(axis.tensor)) > 1 and "." in axis.tensor
        ]
        return layers or [maker for maker in makers if maker != [""]]

    def _path(self, makers: Sequence[Sequence[str]], units: Index) -> str:
        if not makers:  # bundles: after their first members
            members = next((s.name for s, own in self.final if (self.solution.bundle[own] == units[0]).any()), "units")
            return f"{members}.bundles"
        common = []
        for parts in zip(*makers, strict=False):
            if len(set(parts)) > 1:
                break
            common.append(parts[0])
        return ".".join(common or makers[0])

    def _with_bundles(self) -> dict[str, Space]:
        """The spaces, each with the space that its bundles are the units of."""
        home = {int(unit): space.name for space, units in self.final for unit in units}
        result: dict[str, Space] = {}
        for space, units in self.final:
            bundles = self.solution.bundle[units]
            if (bundles < 0).all():
                result[space.name] = space
                continue
            kinds = list(dict.fromkeys(bundles.tolist()))
            where = {home[b] for b in kinds if b in home}
            fixed = any(self.solution.pinned[b] for b in kinds)
            if len(units) % len(kinds) or (len(where) != 1 and not fixed):
                raise SpaceError(f"spaces: the {len(units)} units of {space.name!r} do not fall into equal bundles")
            name = "" if fixed else where.pop()
            result[space.name] = replace(space, bundles=len(kinds), bundle_space=name)
        return result
