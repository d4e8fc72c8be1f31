"""Recording what a network computes: its graph, taken down while it runs.

The network itself runs, on tensors without data, and every torch function that it calls is noted; so whatever runs can
be recorded, with any Python around its operations. It runs twice, at two batch sizes: numbers that differ are written as
multiples of the batch size, and the graph serves any.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from mergeline.spaces.attention import multi_head_attention
from mergeline.spaces.errors import SpaceError

__all__ = [
    "Example", "Recording", "batch_size", "call_with", "flat_inputs", "input_device", "operation", "record", "run_on",
]  # fmt: skip

Example = Any
"""A network's input: a tensor, or a tuple or dict of tensors; its first axis counts the samples."""
BATCHES = (2, 3)
"""Samples in the two runs."""


@dataclass
class Recording:
    """A graph, and what is known of its values.

    ``shapes``: by node, of tensors at a batch of :data:`BATCHES`\\ ``[0]``. ``modules``: by node, the path of the module
    that was running. ``constants``: tensors that are neither parameters nor buffers, by the name that the graph gives
    them. ``aliases``: names of the state dict that are another name of the same tensor, with the name that the graph
    uses. ``outputs``: what the outputs are called, one a tensor.
    """

    graph: fx.Graph
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    dtypes: dict[str, torch.dtype] = field(default_factory=dict)
    modules: dict[str, str] = field(default_factory=dict)
    constants: dict[str, Tensor] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    outputs: tuple[str, ...] = ()
    module_outputs: dict[tuple[str, int], str] = field(default_factory=dict)
    """By module path and number of the call, the node that is its output, where that is one tensor."""


def batch_size(value: Tensor, per_sample: int) -> int:
    """The number of samples in a value that has ``per_sample`` rows for each."""
    return value.shape[0] // per_sample


def input_device(value: Tensor) -> torch.device:
    """Where the network runs; in place of the device that it was recorded on."""
    return value.device


def flat_inputs(example: Example) -> tuple[list[Tensor], Callable[[list[Any]], tuple[tuple[Any, ...], dict[str, Any]]]]:
    """The tensors of an input, and what makes positional and named arguments of as many others."""
    if isinstance(example, Mapping):
        arguments: tuple[Any, ...] = ()
        keywords: dict[str, Any] = dict(example)
    elif isinstance(example, tuple | list):
        arguments, keywords = tuple(example), {}
    else:
        arguments, keywords = (example,), {}
    leaves, spec = pytree.tree_flatten((arguments, keywords))
    places = [index for index, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
    if not places:
        raise SpaceError(
            f"an example input must be a tensor, or a tuple or dict of tensors; got {type(example).__name__}"
        )

    def build(values: list[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        filled = list(leaves)
        for place, value in zip(places, values, strict=True):
            filled[place] = value
        return pytree.tree_unflatten(filled, spec)

    return [leaves[index] for index in places], build


def run_on(model: nn.Module, batch: Example) -> Any:
    """What a model gives for a batch of any form."""
    leaves, build = flat_inputs(batch)
    arguments, keywords = build(list(leaves))
    return model(*arguments, **keywords)


def operation(node: fx.Node) -> str:
    """The name of what a node calls."""
    return str(node.target) if node.op == "call_method" else str(getattr(node.target, "__name__", node.target))


def call_with(
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    aliases: Mapping[str, str],
    arguments: tuple[Any, ...],
    keywords: dict[str, Any],
) -> Any:
    """What a model gives with other parameters and buffers; ``aliases``: other names of them.

    Each place that holds a tensor is filled once, whatever the names that lead to it: ``functional_call`` would put back
    what it filled in itself where one module has two names.
    """
    filled = {_place(model, name) for name in tensors if name not in aliases}
    given = {name: tensor for name, tensor in tensors.items() if name not in aliases}
    for alias, name in aliases.items():
        place = _place(model, alias)
        if place not in filled:
            filled.add(place)
            given[alias] = tensors[name]
    return torch.func.functional_call(model, given, arguments, keywords, tie_weights=False)


def _place(model: nn.Module, name: str) -> tuple[int, str]:
    path, _, leaf = name.rpartition(".")
    return id(model.get_submodule(path)), leaf


def record(model: nn.Module, example: Example) -> Recording:
    """Record ``model`` in eval mode on inputs of the shapes and types of ``example``.

    Raises
    ------
    SpaceError: the network does not run, or does something else at another batch size.
    """
    try:
        first, second = (_run(model, example, samples) for samples in BATCHES)
        _free_of_batch(model, first, second)
    except SpaceError:
        own = flat_inputs(example)[0][0]
        try:  # it may be made for this batch size alone
            return _run(model, example, len(own) if own.dim() else 1)
        except SpaceError:
            pass
        raise
    return first


def _run(model: nn.Module, example: Example, samples: int) -> Recording:
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        try:
            return _Recorder(model, example, samples, "meta").run()
        except Exception:  # an operation that needs data: run on some
            try:
                return _Recorder(model, example, samples, "cpu").run()
            except SpaceError:
                raise
            except Exception as error:
                reason = str(error).strip().split("\n")[0]
                raise SpaceError(
                    f"{type(model).__name__} does not run on the example: {type(error).__name__}: {reason}"
                ) from error
    finally:
        for module in training:
            module.training = True


class _Recorder(TorchFunctionMode):
    def __init__(self, model: nn.Module, example: Example, samples: int, device: str) -> None:
        super().__init__()
        self.model = model
        self.device = torch.device(device)
        self.recording = Recording(fx.Graph())
        self.nodes: dict[int, fx.Node] = {}
        self.kept: list[Any] = []  # so that no id is given twice
        self.stack: list[str] = []
        self.calls: dict[str, int] = {}
        self.paths = {id(module): path for path, module in model.named_modules()}
        leaves, self.build = flat_inputs(example)
        counts = {leaf.shape[0] if leaf.dim() else None for leaf in leaves[:1]}
        self.inputs = [self._resized(leaf, samples, counts) for leaf in leaves]

    def _resized(self, leaf: Tensor, samples: int, counts: set[int | None]) -> Tensor:
        if leaf.dim() == 0 or leaf.shape[0] not in counts or leaf.shape[0] == 0:
            return leaf.to(self.device)
        kept = leaf[:1].to(self.device)
        return kept.expand(samples, *leaf.shape[1:]).clone()

    # -- running ------------------------------------------------------------------------------------------------

    def run(self) -> Recording:
        tensors: dict[str, Tensor] = {}
        known: dict[int, str] = {}
        for name, tensor in [
            *self.model.named_parameters(remove_duplicate=False),
            *self.model.named_buffers(remove_duplicate=False),
        ]:
            if id(tensor) in known:
                self.recording.aliases[name] = known[id(tensor)]
                continue
            known[id(tensor)] = name
            tensors[name] = tensor.to("meta") if self.device.type == "meta" else tensor.detach()
        self.names = {id(tensor): name for name, tensor in tensors.items()}
        for index, value in enumerate(self.inputs):
            self._note(value, self.recording.graph.placeholder(f"x{index}"))
        arguments, keywords = self.build(self.inputs)
        with torch.no_grad(), self._modules_followed(), self:
            output = call_with(self.model, tensors, self.recording.aliases, arguments, keywords)
        self._end(output)
        return self.recording

    @contextmanager
    def _modules_followed(self) -> Iterator[None]:
        def enter(module: nn.Module, _: Any) -> None:
            self.stack.append(self.paths.get(id(module), ""))

        def leave(module: nn.Module, _: Any, output: Any) -> None:
            path = self.stack.pop()
            number = self.calls[path] = self.calls.get(path, -1) + 1
            if isinstance(output, Tensor) and id(output) in self.nodes:
                self.recording.module_outputs[path, number] = self.nodes[id(output)].name

        handles = [register_module_forward_pre_hook(enter), register_module_forward_hook(leave, always_call=True)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _end(self, output: Any) -> None:
        found = list(_tensors_in(output))
        if not found:
            raise SpaceError(f"{type(self.model).__name__} gives no tensor but a {type(output).__name__}")
        self.recording.outputs = tuple(name for name, _ in found)
        self.recording.graph.output(tuple(self._node_of(value) for _, value in found))

    # -- noting -------------------------------------------------------------------------------------------------

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.multi_head_attention_forward:  # in one piece it would hide the units of its heads
            with self:
                return multi_head_attention(*args, **kwargs)
        result = self._shaped(func, args, kwargs) if self.device.type == "meta" else None
        if result is None:
            result = func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        if name == "__get__":
            if isinstance(result, Tensor) and result is not args[0]:
                self._create("call_function", getattr, (args[0], func.__self__.__name__), {}, result)
            return result
        if name in ("__set__", "requires_grad_", "__len__", "__bool__", "__format__", "__repr__"):
            return result
        leaves = [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, Tensor)]
        if not leaves:
            if name == "__setitem__":
                self._create("call_method", name, args, kwargs, args[0])
                node = self.nodes[id(args[0])]
                node.meta["in_place"] = True
            return result
        if name in ("to", "type", "float", "half", "double", "contiguous", "detach", "expand_as") and result is args[0]:
            return result
        if getattr(torch.Tensor, name, None) is func:
            self._create("call_method", name, args, kwargs, result)
        else:
            self._create("call_function", func, args, kwargs, result)
        return result

    @staticmethod
    def _shaped(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
        """What common operations give on meta tensors; torch's own way there takes several times as long."""
        if func is F.linear and len(args) > 1 and not kwargs and args[0].shape[-1:] == args[1].shape[1:]:
            return args[0].new_empty((*args[0].shape[:-1], args[1].shape[0]))
        if func is F.layer_norm and len(args) > 1 and tuple(args[0].shape[-len(args[1]) :]) == tuple(args[1]):
            return args[0].new_empty(args[0].shape)
        if func is F.batch_norm and args:
            return torch.empty_like(args[0])
        return None

    def _create(self, op: str, target: Any, args: Any, kwargs: Any, result: Any) -> None:
        graph = self.recording.graph
        node = graph.create_node(op, target, self._arguments(args), self._arguments(kwargs))
        self._place(node)
        if isinstance(result, Tensor):
            self._note(result, node)
            return
        for path, leaf in _indexed(result):
            item = node
            for index in path:
                item = graph.call_function(_getitem, (item, index))
                self._place(item)
            self._note(leaf, item)

    def _place(self, node: fx.Node) -> None:
        self.recording.modules[node.name] = self.stack[-1] if self.stack else ""

    def _note(self, value: Tensor, node: fx.Node) -> None:
        self.nodes[id(value)] = node
        self.kept.append(value)
        self.recording.shapes[node.name] = tuple(value.shape)
        self.recording.dtypes[node.name] = value.dtype

    def _arguments(self, values: Any) -> Any:
        if isinstance(values, Tensor):
            return self._node_of(values)
        if isinstance(values, torch.Size):
            return tuple(values)
        if isinstance(values, tuple) and hasattr(values, "_fields"):
            return tuple(self._arguments(value) for value in values)
        if isinstance(values, tuple | list):
            return type(values)(self._arguments(value) for value in values)
        if isinstance(values, dict):
            return {key: self._arguments(value) for key, value in values.items()}
        if isinstance(values, slice):
            return slice(*(self._arguments(part) for part in (values.start, values.stop, values.step)))
        if isinstance(values, torch.device) and values.type == self.device.type:
            return self._device_node()
        return values

    def _device_node(self) -> fx.Node:
        graph = self.recording.graph
        first = next(iter(graph.nodes))
        for node in first.users:
            if node.target is input_device:
                return node
        node = graph.call_function(input_device, (first,))
        self._place(node)
        return node

    def _node_of(self, value: Tensor) -> fx.Node:
        known = self.nodes.get(id(value))
        if known is not None:
            return known
        graph = self.recording.graph
        name = self.names.get(id(value))
        if name is None:  # made outside of the recorded run: a tensor that the model keeps without saying so
            name = f"constant_{len(self.recording.constants)}"
            self.recording.constants[name] = value.detach().clone()
        node = graph.create_node("get_attr", name)
        self._place(node)
        self._note(value, node)
        return node


def _getitem(values: Any, index: Any) -> Any:
    return (
        values[index]
        if not isinstance(index, str)
        else (values[index] if isinstance(values, Mapping) else getattr(values, index))
    )


def _indexed(result: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Tensor]]:
    if isinstance(result, Tensor):
        yield path, result
    elif isinstance(result, tuple | list):
        for index, value in enumerate(result):
            yield from _indexed(value, (*path, index))
    elif isinstance(result, Mapping):
        for key, value in result.items():
            yield from _indexed(value, (*path, key))


def _tensors_in(output: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """The tensors of a network's output with what they are called: keys, places, attributes."""
    if isinstance(output, Tensor):
        yield name, output
    elif isinstance(output, Mapping):
        for key, value in output.items():
            yield from _tensors_in(value, f"{name}.{key}".lstrip("."))
    elif isinstance(output, tuple | list):
        for index, value in enumerate(output):
            yield from _tensors_in(value, f"{name}.{index}".lstrip("."))
    elif hasattr(output, "__dataclass_fields__"):
        for key in output.__dataclass_fields__:
            yield from _tensors_in(getattr(output, key), f"{name}.{key}".lstrip("."))


# -- any batch size ---------------------------------------------------------------------------------------------------


def _free_of_batch(model: nn.Module, first: Recording, second: Recording) -> None:
    """Write numbers of the first graph that depend on the batch size as multiples of it."""
    nodes, others = list(first.graph.nodes), list(second.graph.nodes)
    same = len(nodes) == len(others) and all(
        a.op == b.op and a.target == b.target for a, b in zip(nodes, others, strict=True)
    )
    if not same:
        raise SpaceError(f"{type(model).__name__} computes something else at another batch size; it cannot be traced")
    start: dict[int, fx.Node] = {}

    def merged(node: fx.Node, a: Any, b: Any) -> Any:
        if isinstance(a, tuple | list) and isinstance(b, tuple | list) and len(a) == len(b):
            return type(a)(merged(node, x, y) for x, y in zip(a, b, strict=True))
        if isinstance(a, dict):
            return {key: merged(node, a[key], b[key]) for key in a}
        if isinstance(a, slice):
            return slice(
                *(merged(node, x, y) for x, y in zip((a.start, a.stop, a.step), (b.start, b.stop, b.step), strict=True))
            )
        if isinstance(a, int | float) and not isinstance(a, bool) and a != b:
            if isinstance(a, int) and a % BATCHES[0] == 0 and b == a // BATCHES[0] * BATCHES[1]:
                return _multiple(first, start, a // BATCHES[0])
            place = first.modules.get(node.name, "")
            raise SpaceError(
                f"operation {operation(node)} (in module {place!r}) takes {a} at batch size {BATCHES[0]} and {b} at "
                f"{BATCHES[1]}; only multiples of the batch size are known"
            )
        return a

    for node, other in zip(nodes, others, strict=True):
        if any(_differ(x, y) for x, y in zip((node.args, node.kwargs), (other.args, other.kwargs), strict=True)):
            node.args = merged(node, node.args, other.args)
            node.kwargs = merged(node, node.kwargs, other.kwargs)
    first.graph.lint()


def _differ(a: Any, b: Any) -> bool:
    if isinstance(a, fx.Node):
        return False
    if isinstance(a, tuple | list):
        return len(a) != len(b) or any(_differ(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, Mapping):
        return any(_differ(a[key], b[key]) for key in a)
    if isinstance(a, slice):
        return any(_differ(x, y) for x, y in zip((a.start, a.stop, a.step), (b.start, b.stop, b.step), strict=True))
    return isinstance(a, int | float) and a != b


def _multiple(recording: Recording, known: dict[int, fx.Node], factor: int) -> fx.Node:
    """A node for ``factor`` times the batch size, at the start of the graph."""
    if factor not in known:
        graph = recording.graph
        placeholders = [node for node in graph.nodes if node.op == "placeholder"]
        with graph.inserting_after(placeholders[-1]):
            known[factor] = graph.call_function(_batch_times, (placeholders[0], factor))
        recording.modules[known[factor].name] = ""
    return known[factor]


def _batch_times(value: Tensor, factor: int) -> int:
    return value.shape[0] * factor
