"""Cutting networks: one trunk that is merged, and a head per model that stays its own.

Up to a chosen space the models become one *trunk*; above it each keeps its own layers, its *head*. Merging everything
below the classifiers is the case where the heads are the classifiers alone; merging the whole network has no heads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.flop_counter import FlopCounterMode

from mergeline.architectures import ARCHITECTURES, Architecture, Design, build
from mergeline.biases import add_missing_biases
from mergeline.bundles import with_bundles
from mergeline.inputs import example_input
from mergeline.kinds import Kind
from mergeline.maps import Dense, Groups, Permutation, UnitMap
from mergeline.merging import Maps, counterparts, mapped, merge_folded
from mergeline.spaces import Axis, Observation, Spaces, put, take, trace
from mergeline.spaces.recording import flat_inputs, operation
from mergeline.spaces.rules import canonical
from mergeline.spaces.tracing import INPUT
from mergeline.spaces.walking import model_tensors, run_node

__all__ = [
    "Cut",
    "MappedUnits",
    "MultiHead",
    "OneHead",
    "Part",
    "blank",
    "copies",
    "cumulative_flops",
    "cut",
    "filled",
    "load_resized",
    "multi_head",
    "multi_head_from_state",
    "stop_space",
    "tensors_read",
    "trace_architecture",
    "trace_network",
]


N = TypeVar("N", bound=nn.Module)


@dataclass(frozen=True)
class Cut:
    """A graph cut after the node where a space is observed.

    ``boundary``: the nodes whose values pass from the trunk to a head; ``entry``: those whose values pass from a stem to what
    follows. ``trunk`` and ``head`` name the nodes of each part;
    ``trunk_tensors`` the tensors that are merged.
    """

    stop: str
    trunk: tuple[str, ...]
    head: tuple[str, ...]
    boundary: tuple[str, ...]
    trunk_tensors: frozenset[str]
    trunk_spaces: tuple[str, ...]
    entry: tuple[str, ...] = ()


def cut(model: nn.Module, spaces: Spaces, stop: str | None = None, stem: frozenset[str] = frozenset()) -> Cut:
    """Cut the network after space ``stop`` is complete (by default the last free one: only classifiers stay apart).

    After ``input``, nothing is merged: the heads are the whole models. ``stem``: names of nodes before the trunk.

    Raises
    ------
    ValueError: unknown space, or the output; names the spaces there are.
    """
    free = [space.name for space in spaces.free]
    stop = free[-1] if stop is None else stop
    if stop not in (INPUT, *free):
        raise ValueError(
            f"unknown space {stop!r} to stop at; besides {INPUT} (nothing is merged), this network's spaces are: "
            f"{', '.join(free)}"
        )
    nodes = list(spaces.graph.nodes)
    position = [node.name for node in nodes].index(spaces[stop].node)
    # Pooling and flattening of the last space belong to the trunk: the heads then are the classifiers alone.
    while stop == free[-1] and nodes[position + 1].op in ("call_function", "call_method"):
        position += 1
    while nodes[position + 1].op == "placeholder" or canonical(operation(nodes[position + 1])) == "_batch_times":
        position += 1
    inside = set(nodes[: position + 1])
    for node in nodes[position + 1 :]:  # parts of a tuple that the trunk has made belong to it
        if canonical(operation(node)) == "item" and set(node.all_input_nodes) <= inside:
            inside.add(node)
    trunk = [n for n in nodes if n in inside and n.name not in stem]
    head = [n for n in nodes if n not in inside]
    late = next((node for node in head if node.name in stem and node.op != "get_attr"), None)
    if late is not None:
        raise ValueError(
            f"preserve keeps layers apart that lie above {stop!r}, where merging stops ({late.name}): nothing would be merged; "
            "preserve less, or stop later"
        )
    lower = [n for n in nodes if n in inside and n.op != "get_attr"]
    boundary = [node for node in lower if any(user not in inside for user in node.users)]
    trunk_tensors = tensors_read(trunk)
    entry = [node for node in lower if node.name in stem and any(user.name not in stem for user in node.users)]
    carried = {
        name for node in [*boundary, *entry] if node.name in spaces.carried for name, _ in spaces.carried[node.name]
    }
    trunk_spaces = tuple(
        space.name
        for space in spaces.movable
        if space.name in carried or any(axis.tensor in trunk_tensors for axis in space.axes)
    )
    return Cut(
        stop,
        tuple(node.name for node in trunk),
        tuple(node.name for node in head),
        tuple(node.name for node in boundary),
        trunk_tensors,
        trunk_spaces,
        tuple(node.name for node in entry),
    )


def tensors_read(nodes: Sequence[fx.Node]) -> frozenset[str]:
    """The names of the network's tensors that some nodes read."""
    return frozenset(str(used.target) for node in nodes for used in node.all_input_nodes if used.op == "get_attr")


def stop_space(model: nn.Module, spaces: Spaces, stop: str | None) -> str | None:
    """The space to cut after: ``stop`` as it is, or, if it is a number, the first space by whose end at least that share
    of the network's multiply-adds is done.

    Raises
    ------
    ValueError: a share outside 0 to 1.
    """
    try:
        share = float(stop) if stop is not None else None
    except ValueError:
        return stop
    if share is None:
        return None
    if not 0 <= share <= 1:
        raise ValueError(f"stop {stop}: a share of the multiply-adds must lie between 0 and 1")
    done = cumulative_flops(model, spaces, spaces.example)
    total = max(done.values())
    stops = [spaces[INPUT], *spaces.free]
    return next((space.name for space in stops if done[space.node] >= share * total), stops[-1].name)


@torch.no_grad()
def cumulative_flops(model: nn.Module, spaces: Spaces, example: Any) -> dict[str, int]:
    """Floating-point operations up to and including each node of the graph."""
    tensors = model_tensors(model.eval()) | spaces.recording.constants
    device = next((tensor.device for tensor in tensors.values()), torch.device("cpu"))
    inputs = iter(flat_inputs(example)[0])
    values: dict[fx.Node, Any] = {}
    done = {}
    counter = FlopCounterMode(display=False)
    with counter:
        for node in spaces.graph.nodes:
            if node.op == "placeholder":
                values[node] = next(inputs).to(device)
            elif node.op == "get_attr":
                values[node] = tensors[str(node.target)]
            elif node.op != "output":
                values[node] = run_node(node, values.__getitem__)
            done[node.name] = counter.get_total_flops()
    return done


# -- a trunk with heads -----------------------------------------------------------------------------------------------


class MappedUnits(nn.Module):
    """A value with other units in place of a space's: gathered by an index, or mixed by a matrix ``(new, old)``."""

    def __init__(self, place: Observation, size: int, by: Tensor) -> None:
        super().__init__()
        if len(place.axes) != 1:
            raise ValueError(f"cannot cut at {place.node!r}, inside of an attention: cut before or after it")
        self.place = Axis("", place.axes[0], place.index, size, True)
        if len(by) != len(place.index) and not self.place.in_order:
            raise ValueError(
                f"cannot cut at {place.node!r}, which holds units of several spaces of other widths than the models': cut "
                "before or after it"
            )
        self.register_buffer("matrix" if by.dim() == 2 else "index", by)

    def forward(self, x: Tensor) -> Tensor:
        units = take(x, self.place)
        axis = self.place.axis
        if hasattr(self, "index"):
            units = units.index_select(axis, self.index)  # type: ignore[arg-type]
        else:
            units = torch.tensordot(units, self.matrix.to(x.dtype), dims=([axis], [1])).movedim(-1, axis)
        return put(x, self.place, units)


def restored(unit_map: UnitMap, place: Observation, size: int) -> MappedUnits:
    """Gives a head its own model's units back from the merged ones: a gather, or a matrix for dense maps."""
    if isinstance(unit_map, Dense):
        return MappedUnits(place, size, torch.from_numpy(unit_map.to_own).float())
    return MappedUnits(place, size, unit_map.restore(torch.arange(unit_map.merged), 0))


class MultiHead(nn.Module):
    """One trunk, run once, and a head per task: ``forward`` gives each head's outputs by task name."""

    def __init__(self, trunk: fx.GraphModule, heads: Mapping[str, nn.Module], outputs: Sequence[str] = ("",)) -> None:
        super().__init__()
        self.trunk = trunk
        self.names = list(heads)
        self.heads = nn.ModuleList(heads.values())
        self.outputs = tuple(outputs)

    def forward(self, *inputs: Any, **named: Any) -> dict[str, Any]:
        return self.of_values(flat_inputs(named or inputs)[0])

    def of_values(self, given: Sequence[Any]) -> dict[str, Any]:
        """The same of all that the trunk reads, numbers too (the length of a batch), where it does not start at the inputs."""
        values = self.trunk(*given)
        last = len(self.heads) - 1
        return {
            name: self._named(head(*(values if place == last else copies(values))))
            for place, (name, head) in enumerate(zip(self.names, self.heads, strict=True))
        }

    def _named(self, found: tuple[Tensor, ...]) -> Any:
        """One tensor as it is, several by name."""
        return found[0] if len(found) == 1 else dict(zip(self.outputs, found, strict=True))

    def alone(self, name: str) -> nn.Module:
        """The trunk with one head, sharing their tensors: ``forward`` gives that head's outputs."""
        return OneHead(self, self.heads[self.names.index(name)])


def copies(values: Sequence[Any]) -> list[Any]:
    """Values of one's own, for a part that may change them in place before others have read them."""
    return [value.clone() if isinstance(value, Tensor) else value for value in values]


class OneHead(nn.Module):
    """A trunk with one of its heads."""

    def __init__(self, whole: MultiHead, head: nn.Module) -> None:
        super().__init__()
        self.trunk, self.head = whole.trunk, head
        self._named: Callable[..., Any] = whole._named

    def forward(self, *inputs: Any, **named: Any) -> Any:
        return self.of_values(flat_inputs(named or inputs)[0])

    def of_values(self, given: Sequence[Any]) -> Any:
        """As :meth:`MultiHead.of_values`."""
        return self._named(self.head(*self.trunk(*given)))


def multi_head(
    models: Mapping[str, nn.Module],
    spaces: Spaces,
    maps: Sequence[Maps] | None = None,
    weights: Sequence[float] | None = None,
    stop: str | None = None,
    stem: frozenset[str] = frozenset(),
    reference: nn.Module | None = None,
) -> MultiHead:
    """Merge ``models`` (by head, of one topology up to their classifiers) up to ``stop``; above it each keeps its own.

    Parameters
    ----------
    maps: each model's maps by space name; identity by default.
    weights: each model's weight in the trunk; uniform by default.
    stop: the last space that is merged (see :func:`cut`).
    stem: names of nodes that are no part of the trunk but before it; the trunk then reads their values.
    reference: a network of the merged widths; the first model by default.
    """
    networks = list(models.values())
    reference = networks[0] if reference is None else reference
    plan = cut(reference, spaces, stop, stem)
    states = [model.state_dict() for model in networks]
    if maps is None:
        maps = [{name: Permutation.identity(spaces[name].size) for name in plan.trunk_spaces} for _ in networks]
    whole = [with_bundles(spaces, own) for own in maps]
    chosen = [{name: own[name] for name in plan.trunk_spaces if name in own} for own in whole]
    trunk = _trunk_module(reference, spaces, plan)
    load_resized(trunk, merge_folded(spaces, states, chosen, weights, only=set(plan.trunk_tensors)))
    heads = {
        name: _head_module(model, spaces, spaces.of(index), plan, own)
        for index, ((name, model), own) in enumerate(zip(models.items(), chosen, strict=True))
    }
    return MultiHead(trunk, heads, spaces.recording.outputs).eval()


def multi_head_from_state(
    models: Mapping[str, nn.Module],
    spaces: Spaces,
    state: Mapping[str, Tensor],
    stop: str | None = None,
    reference: nn.Module | None = None,
) -> MultiHead:
    """A multi-head network again from its state dict; ``models`` and ``reference`` give the layers, not the weights."""
    reference = next(iter(models.values())) if reference is None else reference
    plan = cut(reference, spaces, stop)
    blanks = [
        {name: blank(spaces, plan, name, index, f"heads.{index}", state) for name in plan.trunk_spaces}
        for index in range(len(models))
    ]
    return filled(multi_head(models, spaces, blanks, stop=stop, reference=reference), state)


def filled(network: N, state: Mapping[str, Tensor]) -> N:
    """A network of parts with the tensors of a saved one: of other sizes, and with biases that were given to it.

    Raises
    ------
    ValueError: the state dict is of another network.
    """
    add_missing_biases(network, state)
    if set(network.state_dict()) != set(state):
        odd = sorted(set(network.state_dict()) ^ set(state))
        raise ValueError(f"the state dict is of another network; tensors that differ: {', '.join(odd[:4])}")
    load_resized(network, state)
    return network


def blank(spaces: Spaces, plan: Cut, space: str, model: int, head: str, state: Mapping[str, Tensor]) -> UnitMap:
    """A map of the kind, dense or not, that a model's head was given its units back with; methods mix them."""
    own, merged = spaces.of(model)[space].size, spaces[space].size
    nodes = [
        node
        for node in plan.boundary
        if node in spaces.carried and any(name == space for name, _ in spaces.carried[node])
    ]
    if any(f"{head}.{restore_name(node, spaces, space)}.matrix" in state for node in nodes):
        return Dense(np.eye(merged, own), np.eye(own, merged))
    return Permutation.identity(own) if own == merged else Groups(np.arange(own) % merged, merged)


def restore_name(node: str, spaces: Spaces, space: str) -> str:
    names = [name for name, _ in spaces.carried[node]]
    return f"restore_{node}" + (f"_{names.index(space)}" if names.index(space) else "")


# -- parts of a graph as modules --------------------------------------------------------------------------------------


def _trunk_module(model: nn.Module, spaces: Spaces, plan: Cut) -> fx.GraphModule:
    part = Part(model, spaces)
    inside = set(plan.trunk)
    for name in plan.entry:
        part.place(name)
    for node in spaces.graph.nodes:
        if node.name in inside:
            part.add(node)
    by_name = {node.name: copy for node, copy in part.copies.items()}
    part.graph.output(tuple(by_name[name] for name in plan.boundary))
    return part.module()


def _head_module(model: nn.Module, spaces: Spaces, its: Spaces, plan: Cut, own: Maps) -> fx.GraphModule:
    """The rest of a model, reading merged units: folded into its consuming tensors, or restored at the boundary.

    ``its``: the model's own spaces.
    """
    part = Part(model, its)
    outside, fold = set(plan.head), set()
    foldable = its is spaces or _calls(spaces, outside) == _calls(its, outside)
    for node in its.graph.nodes:
        if node.name in plan.boundary:
            part.copies[node] = part.graph.placeholder(node.name)
            for space, place in spaces.carried.get(node.name, ()):
                if space not in own:
                    continue
                later = [axis for axis in spaces[space].axes if axis.tensor not in plan.trunk_tensors]
                if foldable and not any(axis.produces or axis.tensor in spaces.grouped for axis in later):
                    fold.add(space)
                    continue
                shape = spaces.recording.shapes[node.name]
                name = restore_name(node.name, spaces, space)
                part.root[name] = restored(own[space], place, shape[place.axes[0]])
                part.copies[node] = part.graph.call_module(name, (part.copies[node],))
    for node in its.graph.nodes:
        if node.name in outside:
            part.add(node)
    module = part.module()
    state = dict(module.state_dict())
    for name, tensor in state.items():
        read = [entry for entry in counterparts(spaces, its, name) if entry[0] in fold and not entry[2].produces]
        state[name] = mapped(tensor, read, "unmerge", own)
    load_resized(module, state)
    return module


def _calls(spaces: Spaces, names: set[str]) -> list[str]:
    """What some nodes take: a number that is a width (of a view) holds for values of that width alone."""
    return [str((node.args, node.kwargs)) for node in spaces.graph.nodes if node.name in names]


class Part:
    """Some nodes of a recorded graph, as a module with copies of the tensors they use."""

    def __init__(self, model: nn.Module, spaces: Spaces) -> None:
        self.spaces = spaces
        self.tensors = {
            **dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers(remove_duplicate=False)),
            **spaces.recording.constants,
        }  # fmt: skip
        self.owner = model
        self.graph = fx.Graph()
        self.copies: dict[fx.Node, fx.Node] = {}
        self.root: dict[str, Any] = {}

    def place(self, name: str) -> None:
        """Read a node's value as an input."""
        node = next(node for node in self.spaces.graph.nodes if node.name == name)
        self.copies[node] = self.graph.placeholder(name)

    def add(self, node: fx.Node) -> None:
        """Copy a node, with the tensors that it reads."""
        if node.op == "output":
            self.graph.output(tuple(self._copy(used) for used in node.args[0]))  # type: ignore[union-attr, arg-type]
            return
        path = self._norm(node)
        if path is not None:
            self.root[path] = _plain_norm(self.owner.get_submodule(path), len(self.spaces.recording.shapes[node.name]))
            self.copies[node] = self.graph.call_module(path, (self._copy(node.all_input_nodes[0]),))
        elif node.op == "call_method" and node.target == "__setitem__":
            self.copies[node] = self.graph.call_function(with_item, fx.node.map_arg(node.args, self._copy))
        elif node.op != "get_attr":
            self.copies[node] = self.graph.node_copy(node, self._copy)

    def _copy(self, node: fx.Node) -> fx.Node:
        if node not in self.copies:
            assert node.op == "get_attr", node
            name = str(node.target)
            tensor = self.tensors[name]
            kind = nn.Parameter if isinstance(tensor, nn.Parameter) else (lambda value, **_: value)
            self.root[name] = kind(tensor.detach().clone(), requires_grad=tensor.requires_grad)
            self.copies[node] = self.graph.create_node("get_attr", name)
        return self.copies[node]

    def _norm(self, node: fx.Node) -> str | None:
        """The path of a batch norm that keeps statistics, which must stay a module for them to be set anew."""
        if node.op != "call_function" or canonical(operation(node)) != "batch_norm":
            return None
        path = self.spaces.recording.modules.get(node.name, "")
        statistics = [str(used.target) for used in node.all_input_nodes if used.op == "get_attr"]
        module = self.owner.get_submodule(path) if path else None
        return path if isinstance(module, _BatchNorm) and f"{path}.running_mean" in statistics else None

    def module(self) -> fx.GraphModule:
        return fx.GraphModule(self.root, self.graph, class_name="Part").eval()


def with_item(values: Tensor, index: Any, new: Any) -> Tensor:
    """``values`` with ``new`` written to ``index``, in place; ``__setitem__`` itself gives nothing to go on with."""
    values[index] = new
    return values


def _plain_norm(norm: nn.Module, rank: int) -> _BatchNorm:
    """The batch norm alone, of a module that may do more."""
    assert isinstance(norm, _BatchNorm)
    kind = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}[rank]
    made = kind(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
    own = norm.state_dict()
    first = next(tensor for tensor in own.values() if tensor.is_floating_point())
    made.to(first.device, first.dtype).load_state_dict({name: own[name] for name in made.state_dict()})
    return made


def load_resized(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load tensors whose consuming axis may have changed its size (more or fewer merged units than own)."""
    for name, tensor in state.items():
        parent, _, leaf = name.rpartition(".")
        owner = module.get_submodule(parent)
        current = getattr(owner, leaf)
        if isinstance(current, nn.Parameter):
            setattr(owner, leaf, nn.Parameter(tensor.clone(), requires_grad=current.requires_grad))
        else:
            owner.register_buffer(leaf, tensor.clone())


def trace_network(model: nn.Module, input_size: int, reads: Kind = "images") -> Spaces:
    """Trace one of our architectures, which reads images of ``input_size`` pixels or texts of as many tokens."""
    return trace(model, example_input(reads, input_size))


def trace_architecture(architecture: Architecture) -> Spaces:
    """The spaces of every network of an architecture, those expanded to it too; a process traces each of the last few once."""
    return _traced(architecture, ARCHITECTURES[architecture.name])


@lru_cache(maxsize=8)
def _traced(architecture: Architecture, design: Design) -> Spaces:  # a name may be given to another design
    return trace_network(build(architecture, seed=0), architecture.input_size, design.reads)
