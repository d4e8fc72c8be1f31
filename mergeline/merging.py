"""Merging: unit maps and models make one network.

Every tensor is mapped on its output axis with M and on its input axis with U, ``W* = sum_i w_i M_i W_i U_i``; biases
and norms with M (numerics: "Merging"). Which axis belongs to which space comes from :mod:`mergeline.spaces`.

Up to a chosen space the models become one *trunk*; above it each keeps its own layers, its *head*. Merging everything
below the classifiers is the case where the heads are the classifiers alone; merging the whole network has no heads.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.utils.flop_counter import FlopCounterMode

from mergeline.maps import Dense, Permutation, UnitMap
from mergeline.spaces import Axis, Spaces, trace

__all__ = [
    "Cut",
    "MultiHead",
    "cut",
    "merge_network",
    "merge_states",
    "multi_head",
    "multi_head_from_state",
    "stop_space",
    "trace_network",
    "uniform_weights",
]

Maps = Mapping[str, UnitMap]

INPUT = "input"
"""The space of a network's inputs (:func:`mergeline.spaces.trace`)."""


def uniform_weights(n_models: int) -> tuple[float, ...]:
    """``1/N`` for each model."""
    return (1.0 / n_models,) * n_models


def _along(tensor: Tensor, axis: Axis, apply: str, unit_map: UnitMap) -> Tensor:
    """Apply a map to one axis; ``repeat`` consecutive entries move together."""
    method = getattr(unit_map, apply)
    if axis.repeat == 1:
        return method(tensor, axis.axis)
    split = tensor.unflatten(axis.axis, (unit_map.size, axis.repeat))
    return method(split, axis.axis).flatten(axis.axis, axis.axis + 1)


def _group_weights(weights: Sequence[float], maps: Sequence[UnitMap]) -> list[Tensor]:
    """Each model's weight in every merged unit, so that the members of a unit average to one.

    A unit that takes ``m_i`` units of model ``i`` weighs each of them by ``w_i / sum_j w_j m_j``; for permutations
    that is ``w_i``. A merged unit that only models of weight 0 have units in is 0.
    """
    masses = [unit_map.mass() for unit_map in maps]
    total = sum(weight * mass for weight, mass in zip(weights, masses, strict=True))
    total = np.where(total == 0, 1.0, total)
    return [torch.from_numpy(weight / total) for weight in weights]


def merge_states(
    spaces: Spaces,
    states: Sequence[Mapping[str, Tensor]],
    maps: Sequence[Maps],
    weights: Sequence[float] | None = None,
    only: set[str] | None = None,
) -> dict[str, Tensor]:
    """The merged state dict.

    Parameters
    ----------
    states: each model's state dict, of the traced topology.
    maps: each model's maps by space name; a free space without a map keeps its units.
    weights: each model's weight ``w_i``; uniform by default.
    only: names of the tensors to merge; all by default.

    Raises
    ------
    ValueError: numbers of states, maps and weights differ, or weights do not sum to one.
    """
    n_models = len(states)
    weights = uniform_weights(n_models) if weights is None else tuple(weights)
    if not len(maps) == len(weights) == n_models:
        raise ValueError(f"{n_models} models need as many maps and weights, got {len(maps)} and {len(weights)}")
    if abs(sum(weights) - 1) > 1e-6:
        raise ValueError(f"merge weights must sum to 1, got {weights}")
    result = {}
    for name, reference in states[0].items():
        if only is not None and name not in only:
            continue
        if not reference.is_floating_point():
            result[name] = reference.clone()
            continue
        entries = spaces.tensors.get(name, ())
        produced = next((space for space, axis in entries if axis.produces and all(space in own for own in maps)), None)
        shares: Sequence[float | Tensor] = weights
        if produced is not None:
            shares = _group_weights(weights, [own[produced] for own in maps])
        merged: Tensor | None = None
        for state, own, share in zip(states, maps, shares, strict=True):
            tensor = state[name]
            for space, axis in entries:
                if space in own:
                    tensor = _along(tensor, axis, "merge" if axis.produces else "unmerge", own[space])
            merged = _scaled_sum(merged, tensor, share, next((a for s, a in entries if s == produced), None))
        assert merged is not None
        result[name] = merged
    return result


def _scaled_sum(total: Tensor | None, tensor: Tensor, share: float | Tensor, axis: Axis | None) -> Tensor:
    if isinstance(share, Tensor):
        assert axis is not None
        scale = share.to(tensor).repeat_interleave(axis.repeat)
        shape = [1] * tensor.dim()
        shape[axis.axis] = -1
        part = tensor * scale.view(shape)
    else:
        part = tensor * share
    return part if total is None else total + part


def merge_network(
    model: nn.Module,
    spaces: Spaces,
    states: Sequence[Mapping[str, Tensor]],
    maps: Sequence[Maps],
    weights: Sequence[float] | None = None,
) -> nn.Module:
    """Merge everything, the classifier too (same task), into ``model``, which is given the merged weights."""
    model.load_state_dict(merge_states(spaces, states, maps, weights))
    return model.eval()


@dataclass(frozen=True)
class Cut:
    """A graph cut after the node where a space is observed.

    ``boundary``: the nodes whose values pass from the trunk to a head, with the space, the axis and the repeat of their
    units. ``trunk`` and ``head`` name the nodes of each part; ``trunk_tensors`` the tensors that are merged.
    """

    stop: str
    trunk: tuple[str, ...]
    head: tuple[str, ...]
    boundary: tuple[str, ...]
    trunk_tensors: frozenset[str]
    trunk_spaces: tuple[str, ...]


def cut(model: nn.Module, spaces: Spaces, stop: str | None = None) -> Cut:
    """Cut the network after space ``stop`` is complete (by default the last free one: only classifiers stay apart).

    After ``input``, nothing is merged: the heads are the whole models.

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
    names = [node.name for node in nodes]
    position = names.index(spaces[stop].node)
    # Pooling and flattening of the last space belong to the trunk: the heads then are the classifiers alone.
    while position + 1 < len(nodes) and stop == free[-1] and _consumes_nothing(spaces, nodes[position + 1]):
        position += 1
    trunk, head = nodes[: position + 1], nodes[position + 1 :]
    inside = set(trunk)
    boundary = [node for node in trunk if any(user not in inside for user in node.users)]
    state = model.state_dict()
    trunk_tensors = frozenset(name for node in trunk for name in _tensors_of(node, state))
    trunk_spaces = tuple(
        name
        for name in free
        if any(axis.tensor in trunk_tensors for axis in spaces[name].axes)
        or any(spaces.carried.get(node.name, ("",))[0] == name for node in boundary)
    )
    return Cut(
        stop,
        tuple(node.name for node in trunk),
        tuple(node.name for node in head),
        tuple(node.name for node in boundary),
        trunk_tensors,
        trunk_spaces,
    )


def _consumes_nothing(spaces: Spaces, node: fx.Node) -> bool:
    """Whether a node only reshapes or pools units (it has no tensors of its own and is not the output)."""
    if node.op in ("output", "get_attr", "placeholder"):
        return False
    prefix = f"{node.target}."
    return not (node.op == "call_module" and any(name.startswith(prefix) for name in spaces.tensors))


def _tensors_of(node: fx.Node, state: Mapping[str, Tensor]) -> list[str]:
    if node.op == "call_module":
        return [name for name in state if name.startswith(f"{node.target}.")]
    return [str(node.target)] if node.op == "get_attr" else []


def stop_space(model: nn.Module, spaces: Spaces, stop: str | None, input_size: int) -> str | None:
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
    done = _cumulative_flops(model, spaces, input_size)
    total = max(done.values())
    stops = [spaces[INPUT], *spaces.free]
    return next((space.name for space in stops if done[space.node] >= share * total), stops[-1].name)


@torch.no_grad()
def _cumulative_flops(model: nn.Module, spaces: Spaces, input_size: int) -> dict[str, int]:
    """Floating-point operations up to and including each node of the graph."""
    interpreter = fx.Interpreter(fx.GraphModule(model.eval(), spaces.graph), garbage_collect_values=False)
    interpreter.args_iter = iter([example_input(input_size, 1)])
    counter = FlopCounterMode(display=False)
    done = {}
    with counter:
        for node in spaces.graph.nodes:
            interpreter.env[node] = interpreter.run_node(node)
            done[node.name] = counter.get_total_flops()
    return done


class Restore(nn.Module):
    """Gives a head its own model's units back from the merged ones: a gather, or a matrix for dense maps."""

    def __init__(self, unit_map: UnitMap, axis: int, repeat: int) -> None:
        super().__init__()
        self.axis, self.repeat = axis, repeat
        if isinstance(unit_map, Dense):
            self.register_buffer("matrix", torch.from_numpy(unit_map.to_own).float())
        else:
            self.register_buffer("index", unit_map.restore(torch.arange(unit_map.merged), 0))

    def forward(self, x: Tensor) -> Tensor:
        if self.repeat > 1:
            x = x.unflatten(self.axis, (-1, self.repeat))
        if hasattr(self, "index"):
            x = x.index_select(self.axis, self.index)  # type: ignore[arg-type]
        else:
            x = torch.tensordot(x, self.matrix, dims=([self.axis], [1])).movedim(-1, self.axis)
        return x.flatten(self.axis, self.axis + 1) if self.repeat > 1 else x


class MultiHead(nn.Module):
    """One trunk, run once, and a head per task: ``forward`` gives each head's logits by task name."""

    def __init__(self, trunk: fx.GraphModule, heads: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.trunk = trunk
        self.names = list(heads)
        self.heads = nn.ModuleList(heads.values())

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        values = self.trunk(x)
        return {name: head(*values) for name, head in zip(self.names, self.heads, strict=True)}

    def alone(self, name: str) -> nn.Module:
        """The trunk with one head, sharing their tensors: ``forward`` gives that head's logits."""
        return _OneHead(self.trunk, self.heads[self.names.index(name)])


class _OneHead(nn.Module):
    def __init__(self, trunk: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.trunk, self.head = trunk, head

    def forward(self, x: Tensor) -> Tensor:
        return self.head(*self.trunk(x))


def multi_head(
    models: Mapping[str, nn.Module],
    spaces: Spaces,
    maps: Sequence[Maps] | None = None,
    weights: Sequence[float] | None = None,
    stop: str | None = None,
) -> MultiHead:
    """Merge ``models`` (by head, of one topology up to their classifiers) up to ``stop``; above it each keeps its own.

    Parameters
    ----------
    maps: each model's maps by space name; identity by default.
    weights: each model's weight in the trunk; uniform by default.
    stop: the last space that is merged (see :func:`cut`).
    """
    networks = list(models.values())
    plan = cut(networks[0], spaces, stop)
    states = [model.state_dict() for model in networks]
    if maps is None:
        maps = [{name: Permutation.identity(spaces[name].size) for name in plan.trunk_spaces} for _ in networks]
    maps = [{name: own[name] for name in plan.trunk_spaces} for own in maps]
    trunk = _trunk_module(networks[0], spaces, plan)
    _load_resized(trunk, merge_states(spaces, states, maps, weights, only=set(plan.trunk_tensors)))
    heads = {
        name: _head_module(model, spaces, plan, own) for (name, model), own in zip(models.items(), maps, strict=True)
    }
    return MultiHead(trunk, heads).eval()


def multi_head_from_state(
    models: Mapping[str, nn.Module], spaces: Spaces, state: Mapping[str, Tensor], stop: str | None = None
) -> MultiHead:
    """A multi-head network again from its state dict; ``models`` give the layers, not the weights."""
    plan = cut(next(iter(models.values())), spaces, stop)
    blanks = [
        {name: _blank(spaces, plan, name, f"heads.{index}", state) for name in plan.trunk_spaces}
        for index in range(len(models))
    ]
    network = multi_head(models, spaces, blanks, stop=stop)
    if set(network.state_dict()) != set(state):
        odd = sorted(set(network.state_dict()) ^ set(state))
        raise ValueError(f"the state dict is of another network; tensors that differ: {', '.join(odd[:4])}")
    _load_resized(network, state)
    return network


def _blank(spaces: Spaces, plan: Cut, space: str, head: str, state: Mapping[str, Tensor]) -> UnitMap:
    """A map of the kind, dense or not, that a head was given its units back with; methods mix them."""
    nodes = [node for node in plan.boundary if spaces.carried[node][0] == space]
    if any(f"{head}.restore_{node}.matrix" in state for node in nodes):
        return Dense(np.eye(spaces[space].size), np.eye(spaces[space].size))
    return Permutation.identity(spaces[space].size)


def _trunk_module(model: nn.Module, spaces: Spaces, plan: Cut) -> fx.GraphModule:
    inside = set(plan.trunk)
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in spaces.graph.nodes:
        if node.name in inside:
            copies[node] = graph.node_copy(node, lambda used: copies[used])
    by_name = {node.name: copy for node, copy in copies.items()}
    graph.output(tuple(by_name[name] for name in plan.boundary))
    return _own_module(model, graph)


def _head_module(model: nn.Module, spaces: Spaces, plan: Cut, own: Maps) -> fx.GraphModule:
    """The rest of a model, reading merged units: folded into its consuming tensors, or restored at the boundary."""
    outside = set(plan.head)
    graph, copies = fx.Graph(), {}
    restores: dict[str, nn.Module] = {}
    fold: set[str] = set()
    for node in spaces.graph.nodes:
        if node.name in plan.boundary:
            copies[node] = graph.placeholder(node.name)
            space, axis, repeat = spaces.carried[node.name]
            if space not in own:
                continue
            if all(not axis_.produces for axis_ in spaces[space].axes if axis_.tensor not in plan.trunk_tensors):
                fold.add(space)
            else:
                name = f"restore_{node.name}"
                restores[name] = Restore(own[space], axis, repeat)
                copies[node] = graph.call_module(name, (copies[node],))
        elif node.name in outside:
            copies[node] = graph.node_copy(node, lambda used: copies[used])
    module = _own_module(model, graph, restores)
    state = module.state_dict()
    for tensor_name, tensor in state.items():
        for space, axis_entry in spaces.tensors.get(tensor_name, ()):
            if space in fold and not axis_entry.produces:
                tensor = _along(tensor, axis_entry, "unmerge", own[space])
        state[tensor_name] = tensor
    _load_resized(module, state)
    return module


def _own_module(model: nn.Module, graph: fx.Graph, extra: Mapping[str, nn.Module] | None = None) -> fx.GraphModule:
    """A GraphModule with copies of the submodules it uses, so that it shares no storage with the source."""
    root: dict[str, object] = dict(extra or {})
    for node in graph.nodes:
        if node.op == "call_module" and node.target not in root:
            root[str(node.target)] = copy.deepcopy(model.get_submodule(str(node.target)))
        elif node.op == "get_attr":
            root[str(node.target)] = copy.deepcopy(_attribute(model, str(node.target)))
    module = fx.GraphModule(root, graph, class_name="Part")
    return module.eval()


def _attribute(model: nn.Module, path: str) -> object:
    parent, _, name = path.rpartition(".")
    return getattr(model.get_submodule(parent), name)


def _load_resized(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load tensors whose consuming axis may have changed its size (more or fewer merged units than own)."""
    for name, tensor in state.items():
        parent, _, leaf = name.rpartition(".")
        owner = module.get_submodule(parent)
        current = getattr(owner, leaf)
        if isinstance(current, nn.Parameter):
            setattr(owner, leaf, nn.Parameter(tensor.clone(), requires_grad=current.requires_grad))
        else:
            owner.register_buffer(leaf, tensor.clone())


def example_input(input_size: int, batch: int = 2) -> Tensor:
    """Zeros of the shape that a network of this input size reads; enough to trace it."""
    return torch.zeros(batch, 3, input_size, input_size)


def trace_network(model: nn.Module, input_size: int) -> Spaces:
    """Trace one of our architectures."""
    return trace(model, example_input(input_size))
