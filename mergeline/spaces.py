"""Spaces of interchangeable units, derived from the network itself.

A *space* is one set of units (channels) that must be permuted together: the channels between two convolutions, or a
whole residual stream. ``trace`` follows a model's torch.fx graph once and joins, with union-find, every tensor axis
that the same units index. Nothing is written by hand for an architecture; an operation that is not known is an error
that names it. Everything else (moments, matching, merging, cutting) is driven by the result.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.fx.experimental.optimization import fuse
from torch.fx.passes.shape_prop import ShapeProp

__all__ = [
    "Axis",
    "Space",
    "SpaceError",
    "Spaces",
    "Walk",
    "permute_state",
    "random_permutation",
    "trace",
    "verify",
]


class SpaceError(ValueError):
    """A model cannot be traced into spaces, or its spaces are wrong."""


@dataclass(frozen=True)
class Axis:
    """One axis of one tensor of the state dict, indexed by the units of a space.

    ``repeat`` consecutive entries belong to one unit (more than one where a feature map was flattened before a linear
    layer). ``produces`` is true where the axis makes the units (a convolution's output, a bias, a norm), false where
    it consumes them (the next layer's input).
    """

    tensor: str
    axis: int
    repeat: int
    produces: bool


@dataclass(frozen=True)
class Space:
    """A set of ``size`` interchangeable units.

    ``groups`` is the number of equal, consecutive groups the units fall into (group norm); 1 means no structure.
    ``node`` names the fx node where the units are observed, on axis ``channel_axis`` of its value. ``fixed`` spaces
    (the input, the class logits) are never permuted and are not observed.
    """

    name: str
    size: int
    axes: tuple[Axis, ...]
    node: str
    channel_axis: int
    groups: int = 1
    fixed: bool = False

    @property
    def outputs(self) -> tuple[Axis, ...]:
        """The axes that make the units."""
        return tuple(axis for axis in self.axes if axis.produces)

    @property
    def inputs(self) -> tuple[Axis, ...]:
        """The axes that consume the units."""
        return tuple(axis for axis in self.axes if not axis.produces)


@dataclass(frozen=True)
class Spaces(Mapping[str, Space]):
    """All spaces of a topology, in the order in which a forward pass completes them.

    The result holds the graph but no weights: it serves every model of the same topology.
    """

    graph: fx.Graph
    spaces: dict[str, Space]
    tensors: dict[str, tuple[tuple[str, Axis], ...]] = field(repr=False)
    """For each tensor of the state dict, the spaces (by name) that index its axes."""
    carried: dict[str, tuple[str, int, int]] = field(repr=False)
    """For each fx node whose value carries units: its space, the axis, and the repeat."""

    def __getitem__(self, name: str) -> Space:
        return self.spaces[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.spaces)

    def __len__(self) -> int:
        return len(self.spaces)

    @property
    def free(self) -> tuple[Space, ...]:
        """The spaces that a matcher maps, in forward order."""
        return tuple(space for space in self.spaces.values() if not space.fixed)

    def walk(self, model: nn.Module) -> Walk:
        """Prepare ``model``, in eval mode, for stepping through its spaces."""
        return Walk(self, model)


class Walk:
    """A model of a traced topology, run so that each space's units can be read on the way.

    Batch norms are folded into the convolutions before them, which leaves every observed value the same up to
    rounding and saves a pass over memory each.
    """

    def __init__(self, spaces: Spaces, model: nn.Module) -> None:
        self.observed = {space.node: space for space in spaces.free}
        module = fx.GraphModule(model.eval(), spaces.graph)
        folded = fuse(module)
        assert isinstance(folded, fx.GraphModule)
        if set(self.observed) <= {node.name for node in folded.graph.nodes}:
            module = folded.to(memory_format=torch.channels_last)
        self.nodes = list(module.graph.nodes)
        self.interpreter = fx.Interpreter(module, garbage_collect_values=False)
        self.last_uses: dict[fx.Node, list[fx.Node]] = {}
        seen: set[fx.Node] = set()
        for node in reversed(self.nodes):
            for used in node.all_input_nodes:
                if used not in seen:
                    seen.add(used)
                    self.last_uses.setdefault(node, []).append(used)

    def activations(self, images: Tensor) -> Iterator[tuple[Space, Tensor]]:
        """Run on ``images`` and yield each free space with its units' values, ``(samples, units)``.

        Every spatial position of every image is one sample. A value is dropped as soon as the forward pass no longer
        needs it, so that several models can be stepped side by side with few values alive at a time.
        """
        interpreter = self.interpreter
        interpreter.args_iter = iter([images])
        interpreter.env = {}
        remaining = len(self.observed)
        for node in self.nodes:
            value = interpreter.run_node(node)
            interpreter.env[node] = value
            if node.name in self.observed:
                space = self.observed[node.name]
                yield space, value.movedim(space.channel_axis, -1).reshape(-1, space.size)
                remaining -= 1
                if remaining == 0:
                    return
            for dead in self.last_uses.get(node, ()):
                interpreter.env.pop(dead, None)


def trace(model: nn.Module, example: Tensor) -> Spaces:
    """Trace ``model`` into its spaces.

    Parameters
    ----------
    model: any module that torch.fx can trace symbolically.
    example: one input batch, ``(batch, channels, height, width)`` or ``(batch, features)``; only its shape matters.

    Raises
    ------
    SpaceError: the graph has an operation that is not known, or one that ties units in a way that no space describes.
    """
    training = model.training
    model.eval()
    try:
        traced = fx.symbolic_trace(model)
        with torch.no_grad():
            ShapeProp(traced).propagate(example)
    except SpaceError:
        raise
    except Exception as error:
        raise SpaceError(f"torch.fx cannot trace {type(model).__name__}: {error}") from error
    finally:
        model.train(training)
    return _Tracer(model, traced.graph).run()


def random_permutation(space: Space, generator: torch.Generator) -> Tensor:
    """A random permutation of the space's units that keeps its groups together: ``(size,)`` indices."""
    per_group = space.size // space.groups
    order = torch.randperm(space.groups, generator=generator)
    return torch.cat([group * per_group + torch.randperm(per_group, generator=generator) for group in order])


def permute_state(spaces: Spaces, state: Mapping[str, Tensor], permutations: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same function with its units reordered: unit ``i`` of the result is unit ``permutations[space][i]``."""
    result = {}
    for name, tensor in state.items():
        for space, axis in spaces.tensors.get(name, ()):
            if space in permutations:
                tensor = _gather(tensor, axis, permutations[space].to(tensor.device))
        result[name] = tensor
    return result


def verify(model: nn.Module, example: Tensor, seed: int = 0, tolerance: float = 1e-4) -> dict[str, float]:
    """Permute each space at random, one after the other, and compare outputs.

    Returns the largest difference per space, relative to the largest absolute output. Batch statistics are set to
    random values first, so that a norm that was forgotten shows.

    Raises
    ------
    SpaceError: a permutation changed the function by more than ``tolerance``; names the space.
    """
    spaces = trace(model, example)
    generator = torch.Generator().manual_seed(seed)
    original = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    probe = {name: _randomized(name, tensor, generator) for name, tensor in original.items()}
    training = model.training
    model.eval()
    differences = {}
    try:
        with torch.no_grad():
            model.load_state_dict(probe)
            expected = model(example)
            scale = expected.abs().max().clamp_min(1e-12)
            for space in spaces.free:
                permutation = {space.name: random_permutation(space, generator)}
                model.load_state_dict(permute_state(spaces, probe, permutation))
                difference = float((model(example) - expected).abs().max() / scale)
                differences[space.name] = difference
                if not difference <= tolerance:
                    raise SpaceError(
                        f"permuting space {space.name!r} ({space.size} units) changes the output by "
                        f"{difference:.2e} relative (tolerance {tolerance:.0e}): its axes are incomplete"
                    )
    finally:
        model.load_state_dict(original)
        model.train(training)
    return differences


def _randomized(name: str, tensor: Tensor, generator: torch.Generator) -> Tensor:
    """Norm parameters and statistics away from their symmetric start (weight 1, bias 0, mean 0, variance 1)."""
    if not tensor.is_floating_point() or tensor.dim() != 1:
        return tensor
    noise = torch.rand(tensor.shape, generator=generator).to(tensor)
    return tensor * (0.5 + noise) + (0 if name.endswith("running_var") else 0.1 * (noise - 0.5))


def _gather(tensor: Tensor, axis: Axis, index: Tensor) -> Tensor:
    if axis.repeat == 1:
        return tensor.index_select(axis.axis, index)
    split = tensor.unflatten(axis.axis, (index.numel(), axis.repeat))
    return split.index_select(axis.axis, index).flatten(axis.axis, axis.axis + 1)


@dataclass(frozen=True)
class _Channel:
    """The axis of a value that carries units, and the element of the union-find they belong to."""

    element: int
    axis: int
    repeat: int = 1


Handler = Callable[["_Tracer", fx.Node, Any], "_Channel | None"]


class _Tracer:
    """One walk over a graph: a handler per operation joins axes; afterwards each joined set is a space."""

    def __init__(self, model: nn.Module, graph: fx.Graph) -> None:
        self.model = model
        self.graph = graph
        self.node = next(iter(graph.nodes))  # the one being visited
        self.parent: list[int] = []
        self.sizes: list[int] = []
        self.groups: list[int] = []
        self.axes: dict[tuple[str, int], tuple[int, int, bool]] = {}
        self.channels: dict[fx.Node, _Channel | None] = {}
        self.consumers: list[tuple[int, fx.Node]] = []
        self.fixed: dict[int, str] = {}

    # -- union-find ---------------------------------------------------------------------------------------------

    def new(self, size: int) -> int:
        self.parent.append(len(self.parent))
        self.sizes.append(size)
        self.groups.append(1)
        return len(self.parent) - 1

    def find(self, element: int) -> int:
        while self.parent[element] != element:
            self.parent[element] = self.parent[self.parent[element]]
            element = self.parent[element]
        return element

    def join(self, first: int, second: int, node: fx.Node) -> None:
        a, b = self.find(first), self.find(second)
        if a == b:
            return
        if self.sizes[a] != self.sizes[b]:
            raise self.error(node, f"ties {self.sizes[a]} units to {self.sizes[b]}")
        low, high = min(a, b), max(a, b)
        self.parent[high] = low
        self.set_groups(low, self.groups[high], node)

    def set_groups(self, element: int, groups: int, node: fx.Node) -> None:
        root = self.find(element)
        if groups == 1 or self.groups[root] == groups:
            return
        if self.groups[root] != 1:
            raise self.error(node, f"groups the same units by {groups} and by {self.groups[root]}")
        self.groups[root] = groups

    # -- what handlers use --------------------------------------------------------------------------------------

    def channel(self, node: fx.Node, argument: Any) -> _Channel:
        """The channel of an operation's argument."""
        channel = self.channels.get(argument) if isinstance(argument, fx.Node) else None
        if channel is None:
            raise self.error(node, "reads a value that carries no units")
        return channel

    def produce(self, tensor: str, axis: int, element: int, repeat: int = 1) -> None:
        """Note that ``axis`` of ``tensor`` makes the units of ``element``."""
        self._tie(tensor, axis, element, repeat, produces=True)

    def consume(self, node: fx.Node, value: fx.Node, tensor: str, axis: int, channel: _Channel) -> None:
        """Note that ``axis`` of ``tensor`` consumes the units that ``value`` carries."""
        self._tie(tensor, axis, channel.element, channel.repeat, produces=False)
        self.consumers.append((channel.element, value))

    def _tie(self, tensor: str, axis: int, element: int, repeat: int, produces: bool) -> None:
        known = self.axes.get((tensor, axis))
        if known is None:
            self.axes[tensor, axis] = (element, repeat, produces)
        else:  # a shared module, called again
            self.join(known[0], element, self.node)

    def shape(self, node: fx.Node) -> torch.Size | None:
        meta = node.meta.get("tensor_meta")
        return getattr(meta, "shape", None)

    def error(self, node: fx.Node, reason: str) -> SpaceError:
        stack = node.meta.get("nn_module_stack") or {}
        inside = next(reversed(stack), "") if stack else ""
        place = str(node.target) if node.op == "call_module" else inside
        operation = _operation_name(self.model, node)
        where = f"in module {place!r}" if place else "at the top of the model"
        return SpaceError(f"spaces: operation {operation} ({where}, node {node.name!r}) {reason}")

    # -- the walk -----------------------------------------------------------------------------------------------

    def run(self) -> Spaces:
        for node in self.graph.nodes:
            self.node = node
            self.channels[node] = self.visit(node)
        return self.finish()

    def visit(self, node: fx.Node) -> _Channel | None:
        if node.op == "placeholder":
            shape = self.shape(node)
            if shape is None:
                return None
            element = self.new(shape[1])
            self.fixed[element] = "input"
            return _Channel(element, 1)
        if node.op == "output":
            for value in node.all_input_nodes:
                channel = self.channels.get(value)
                if channel is not None:
                    self.fixed[channel.element] = "output"
            return None
        if node.op == "get_attr" or self.shape(node) is None:
            return None
        handler = self.handler(node)
        if handler is None:
            raise self.error(
                node,
                "is not known; add a handler for it to mergeline/spaces.py, or keep it out of the merged part",
            )
        module = self.model.get_submodule(str(node.target)) if node.op == "call_module" else None
        found = handler(self, node, module)
        if found is not None:
            self.check_size(node, found)
        return found

    def check_size(self, node: fx.Node, channel: _Channel) -> None:
        """An operation that a handler takes for one that keeps the units must keep their number."""
        shape, units = self.shape(node), self.sizes[channel.element]
        if shape is not None and shape[channel.axis] != units * channel.repeat:
            raise self.error(node, f"turns {units * channel.repeat} units into {shape[channel.axis]}")

    def handler(self, node: fx.Node) -> Handler | None:
        if node.op == "call_module":
            module = self.model.get_submodule(str(node.target))
            return next((MODULES[kind] for kind in type(module).__mro__ if kind in MODULES), None)
        if node.op == "call_function":
            return FUNCTIONS.get(node.target)
        return METHODS.get(str(node.target))

    # -- spaces from the joined sets ----------------------------------------------------------------------------

    def finish(self) -> Spaces:
        fixed = {self.find(element): name for element, name in self.fixed.items()}
        axes: dict[int, list[Axis]] = {}
        for (tensor, number), (element, repeat, produces) in self.axes.items():
            axes.setdefault(self.find(element), []).append(Axis(tensor, number, repeat, produces))
        order = {node: position for position, node in enumerate(self.graph.nodes)}
        observed: dict[int, tuple[fx.Node, _Channel]] = {}
        for element, value in self.consumers:
            root = self.find(element)
            node, channel = self.before_collapse(value)
            if root not in observed or order[node] > order[observed[root][0]]:
                observed[root] = (node, channel)
        roots = sorted(axes, key=lambda root: order[observed[root][0]] if root in observed else len(order))
        names = self.names(roots, axes, fixed)
        spaces: dict[str, Space] = {}
        found: dict[str, list[tuple[str, Axis]]] = {}
        for root in roots:
            name = names[root]
            if root not in fixed and root not in observed:
                raise SpaceError(f"spaces: the units of {axes[root][0].tensor!r} are never consumed")
            where = observed.get(root)
            spaces[name] = Space(
                name=name,
                size=self.sizes[root],
                axes=tuple(axes[root]),
                node=where[0].name if where is not None else "",
                channel_axis=where[1].axis if where is not None else 1,
                groups=self.groups[root],
                fixed=root in fixed,
            )
            for axis in axes[root]:
                found.setdefault(axis.tensor, []).append((name, axis))
        carried = {
            node.name: (names[self.find(channel.element)], channel.axis, channel.repeat)
            for node, channel in self.channels.items()
            if channel is not None and self.find(channel.element) in names
        }
        tensors = {name: tuple(sorted(entries, key=lambda entry: entry[1].axis)) for name, entries in found.items()}
        return Spaces(self.graph, spaces, tensors, carried)

    def before_collapse(self, node: fx.Node) -> tuple[fx.Node, _Channel]:
        """Walk back over average pooling and flattening: units are observed at every position, before them."""
        while _collapses(self.model, node) and node.all_input_nodes:
            node = node.all_input_nodes[0]
        channel = self.channels[node]
        assert channel is not None
        return node, channel

    def names(self, roots: list[int], axes: dict[int, list[Axis]], fixed: dict[int, str]) -> dict[int, str]:
        """The common module path of what produces a space (``layer1``), or else its first producer."""
        names: dict[int, str] = {}
        taken: set[str] = set()
        for root in roots:
            makers = [axis.tensor.rsplit(".", 1)[0].split(".") for axis in axes[root] if axis.produces]
            weights = [maker for maker in makers if self.is_layer(".".join(maker))] or makers
            common = []
            for parts in zip(*weights, strict=False):
                if len(set(parts)) > 1:
                    break
                common.append(parts[0])
            name = fixed.get(root) or ".".join(common or (weights[0] if weights else ["space"]))
            if name in taken:
                name = ".".join(weights[0])
            if name in taken:
                name = f"{name}#{root}"
            taken.add(name)
            names[root] = name
        return names

    def is_layer(self, path: str) -> bool:
        try:
            return isinstance(self.model.get_submodule(path), nn.Linear | nn.modules.conv._ConvNd)
        except AttributeError:
            return False


def _operation_name(model: nn.Module, node: fx.Node) -> str:
    if node.op == "call_module":
        return type(model.get_submodule(str(node.target))).__name__
    if node.op == "call_method":
        return f"Tensor.{node.target}"
    target = node.target
    return f"{getattr(target, '__module__', '')}.{getattr(target, '__name__', target)}".lstrip(".")


# -- handlers: which axes an operation ties ---------------------------------------------------------------------


def _first_input(node: fx.Node) -> fx.Node:
    return node.all_input_nodes[0]


def _keep(tracer: _Tracer, node: fx.Node, module: nn.Module | None) -> _Channel | None:
    """Elementwise and spatial operations leave the units where they are."""
    return tracer.channels.get(_first_input(node))


def _conv(tracer: _Tracer, node: fx.Node, module: nn.Conv2d) -> _Channel:
    value = _first_input(node)
    channel = tracer.channel(node, value)
    if channel.repeat != 1 or channel.axis != 1:
        raise tracer.error(node, "convolves a value whose units are not its channels")
    name = str(node.target)
    if module.groups == 1:
        tracer.consume(node, value, f"{name}.weight", 1, channel)
        element = tracer.new(module.out_channels)
    elif module.groups == module.in_channels == module.out_channels:
        element = channel.element  # depthwise: each unit keeps its own filter
    else:
        raise tracer.error(node, f"with groups={module.groups} mixes units only inside groups, which is not supported")
    tracer.produce(f"{name}.weight", 0, element)
    if module.bias is not None:
        tracer.produce(f"{name}.bias", 0, element)
    return _Channel(element, 1)


def _linear(tracer: _Tracer, node: fx.Node, module: nn.Linear) -> _Channel:
    value = _first_input(node)
    channel = tracer.channel(node, value)
    shape = tracer.shape(value)
    if shape is None or channel.axis != len(shape) - 1:
        raise tracer.error(node, "multiplies a value whose units are not on its last axis")
    name = str(node.target)
    tracer.consume(node, value, f"{name}.weight", 1, channel)
    element = tracer.new(module.out_features)
    tracer.produce(f"{name}.weight", 0, element)
    if module.bias is not None:
        tracer.produce(f"{name}.bias", 0, element)
    return _Channel(element, len(shape) - 1)


def _norm_parameters(tracer: _Tracer, node: fx.Node, module: nn.Module, axis: int, channel: _Channel) -> None:
    for name in ("weight", "bias", "running_mean", "running_var"):
        if getattr(module, name, None) is not None:
            tracer.produce(f"{node.target}.{name}", axis, channel.element, channel.repeat)


def _batch_norm(tracer: _Tracer, node: fx.Node, module: nn.Module) -> _Channel:
    channel = tracer.channel(node, _first_input(node))
    _norm_parameters(tracer, node, module, 0, channel)
    return channel


def _group_norm(tracer: _Tracer, node: fx.Node, module: nn.GroupNorm) -> _Channel:
    channel = tracer.channel(node, _first_input(node))
    _norm_parameters(tracer, node, module, 0, channel)
    if 1 < module.num_groups < module.num_channels:
        tracer.set_groups(channel.element, module.num_groups, node)
    return channel


def _layer_norm(tracer: _Tracer, node: fx.Node, module: nn.LayerNorm) -> _Channel:
    value = _first_input(node)
    channel = tracer.channel(node, value)
    shape = tracer.shape(value)
    assert shape is not None
    axis = channel.axis - (len(shape) - len(module.normalized_shape))
    if axis >= 0:
        _norm_parameters(tracer, node, module, axis, channel)
    return channel


def _flattened(tracer: _Tracer, node: fx.Node, module: nn.Module | None) -> _Channel | None:
    """Reshapes that keep the batch: units may spread over the positions they had, but may not interleave."""
    value = _first_input(node)
    channel = tracer.channels.get(value)
    before, after = tracer.shape(value), tracer.shape(node)
    if channel is None or before is None or after is None:
        return None
    if tuple(before) == tuple(after):
        return channel
    leading = math.prod(before[: channel.axis])
    inside = math.prod(before[channel.axis + 1 :])
    units = before[channel.axis]
    position = 1
    for axis, size in enumerate(after):
        if position == leading and size % units == 0 and size // units * math.prod(after[axis + 1 :]) == inside:
            return _Channel(channel.element, axis, channel.repeat * (size // units))
        position *= size
    raise tracer.error(node, f"reshapes {tuple(before)} to {tuple(after)}, which scatters its units")


def _reduced(tracer: _Tracer, node: fx.Node, module: nn.Module | None) -> _Channel | None:
    """Means and sums over positions; reducing over the units themselves would need them in order."""
    value = _first_input(node)
    channel = tracer.channel(node, value)
    before = tracer.shape(value)
    assert before is not None
    dims: Any = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else None)
    keepdim = bool(node.kwargs.get("keepdim", node.args[2] if len(node.args) > 2 else False))
    reduced = {int(d) % len(before) for d in (dims if isinstance(dims, tuple | list) else [dims]) if d is not None}
    if dims is None or channel.axis in reduced:
        raise tracer.error(node, "reduces over the units")
    return _Channel(
        channel.element,
        channel.axis if keepdim else channel.axis - sum(d < channel.axis for d in reduced),
        channel.repeat,
    )


def _moved(tracer: _Tracer, node: fx.Node, module: nn.Module | None) -> _Channel:
    """permute and transpose."""
    value = _first_input(node)
    channel = tracer.channel(node, value)
    shape = tracer.shape(value)
    assert shape is not None
    dims = [d for d in node.args[1:] if not isinstance(d, fx.Node)]
    if len(dims) == 1 and isinstance(dims[0], tuple | list):
        dims = list(dims[0])
    order = [int(d) % len(shape) for d in dims]  # type: ignore[arg-type]
    if node.target in ("transpose", torch.transpose):
        full = list(range(len(shape)))
        full[order[0]], full[order[1]] = full[order[1]], full[order[0]]
        order = full
    return _Channel(channel.element, order.index(channel.axis), channel.repeat)


def _joined(tracer: _Tracer, node: fx.Node, module: nn.Module | None) -> _Channel | None:
    """Arithmetic of two values ties their units one to one; arithmetic with a number ties nothing."""
    channels = [tracer.channels[value] for value in node.all_input_nodes if tracer.shape(value) is not None]
    first = channels[0]
    if any(channel is None for channel in channels):
        raise tracer.error(node, "combines units with a parameter or a value that carries none")
    assert first is not None
    for other in channels[1:]:
        assert other is not None
        if (other.axis, other.repeat) != (first.axis, first.repeat):
            raise tracer.error(node, "combines two values whose units lie on different axes")
        tracer.join(first.element, other.element, node)
    return first


def _concatenated(tracer: _Tracer, node: fx.Node, module: nn.Module | None) -> _Channel | None:
    shape = tracer.shape(node)
    assert shape is not None
    dim: Any = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else 0)
    channels = [tracer.channels.get(value) for value in node.all_input_nodes]
    if any(channel is not None and channel.axis == int(dim) % len(shape) for channel in channels):
        raise tracer.error(node, "concatenates along the units, which is not supported")
    return _joined(tracer, node, module)


MODULES: dict[type, Any] = {
    nn.modules.conv._ConvNd: _conv,
    nn.modules.conv._ConvTransposeNd: None,  # not a convolution with these axes; None makes it an unknown operation
    nn.Linear: _linear,
    nn.modules.batchnorm._BatchNorm: _batch_norm,
    nn.GroupNorm: _group_norm,
    nn.LayerNorm: _layer_norm,
    nn.Flatten: _flattened,
    **dict.fromkeys(
        (
            nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.GELU, nn.SiLU, nn.Hardswish, nn.Hardtanh, nn.Sigmoid, nn.Tanh, nn.ELU,
            nn.Softplus, nn.Mish, nn.Identity, nn.Dropout, nn.Dropout2d, nn.MaxPool1d, nn.MaxPool2d, nn.AvgPool1d,
            nn.AvgPool2d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.Upsample, nn.ZeroPad2d,
        ),
        _keep,
    ),
}  # fmt: skip

FUNCTIONS: dict[Any, Any] = {
    **dict.fromkeys(
        (
            F.relu, torch.relu, F.relu6, F.gelu, F.silu, F.leaky_relu, F.dropout, F.max_pool2d, F.avg_pool2d,
            F.adaptive_avg_pool2d, F.interpolate, torch.sigmoid, torch.tanh, F.pad, torch.clamp,
        ),
        _keep,
    ),
    **dict.fromkeys(
        (operator.add, operator.iadd, operator.sub, operator.mul, operator.imul, operator.truediv,
         torch.add, torch.sub, torch.mul),
        _joined,
    ),
    torch.flatten: _flattened,
    torch.reshape: _flattened,
    torch.mean: _reduced,
    torch.permute: _moved,
    torch.transpose: _moved,
    torch.cat: _concatenated,
}  # fmt: skip

METHODS: dict[str, Any] = {
    **dict.fromkeys(
        ("relu", "relu_", "contiguous", "clone", "clamp", "sigmoid", "tanh", "float", "to", "detach"), _keep
    ),
    **dict.fromkeys(("add", "add_", "sub", "mul", "mul_", "div"), _joined),
    **dict.fromkeys(("flatten", "view", "reshape", "squeeze"), _flattened),
    "mean": _reduced,
    "sum": _reduced,
    "permute": _moved,
    "transpose": _moved,
}

_COLLAPSING_MODULES = (
    nn.AdaptiveAvgPool1d,
    nn.AdaptiveAvgPool2d,
    nn.AvgPool2d,
    nn.Flatten,
    nn.Dropout,
    nn.Identity,
)
_COLLAPSING_FUNCTIONS = (
    torch.flatten,
    torch.reshape,
    torch.mean,
    F.adaptive_avg_pool2d,
    F.avg_pool2d,
    F.dropout,
)
_COLLAPSING_METHODS = ("flatten", "view", "reshape", "mean", "squeeze")


def _collapses(model: nn.Module, node: fx.Node) -> bool:
    if node.op == "call_module":
        return isinstance(model.get_submodule(str(node.target)), _COLLAPSING_MODULES)
    if node.op == "call_function":
        return node.target in _COLLAPSING_FUNCTIONS
    return node.op == "call_method" and node.target in _COLLAPSING_METHODS
