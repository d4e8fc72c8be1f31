"""Walking through a network: its recorded graph, run so that each space's units can be read on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from mergeline.spaces.norms import convolutions_with_norms, fused_tensors
from mergeline.spaces.recording import Example, flat_inputs
from mergeline.spaces.rules import Arguments
from mergeline.spaces.space import Space, Spaces

__all__ = ["Walk", "last_uses", "model_tensors", "run_node"]

SMALL_TYPES = (torch.float16, torch.bfloat16)
"""Types that sums of thousands of values are too long for: computed in float32."""


def model_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, without gradients, in a type that can be computed in."""
    found = {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }
    return {
        name: tensor.detach().float() if tensor.dtype in SMALL_TYPES else tensor.detach()
        for name, tensor in found.items()
    }


def run_node(node: fx.Node, lookup: Callable[[fx.Node], Any]) -> Any:
    """What a node gives for the values of those before it."""
    args = fx.node.map_arg(node.args, lookup)
    kwargs = fx.node.map_arg(node.kwargs, lookup)
    if node.op == "call_method":
        result = getattr(args[0], str(node.target))(*args[1:], **kwargs)
        return args[0] if node.target == "__setitem__" else result
    assert callable(node.target)
    return node.target(*args, **kwargs)


def last_uses(nodes: Sequence[fx.Node]) -> dict[fx.Node, list[fx.Node]]:
    """For each node, those whose value nothing after it reads."""
    found: dict[fx.Node, list[fx.Node]] = {}
    seen: set[fx.Node] = set()
    for node in reversed(nodes):
        for used in node.all_input_nodes:
            if used not in seen:
                seen.add(used)
                found.setdefault(node, []).append(used)
    return found


class Walk:
    """A model of a traced topology, run so that each space's units can be read on the way.

    Batch norms are folded into the convolutions before them, which leaves every observed value the same up to
    rounding and saves a pass over memory each.

    ``tensors``: parameters and buffers by name, in place of the model's own.
    """

    def __init__(self, spaces: Spaces, model: nn.Module, tensors: Mapping[str, Tensor] | None = None) -> None:
        self.spaces = spaces
        self.tensors = dict(model_tensors(model.eval()) if tensors is None else tensors)
        first = next((t for t in self.tensors.values() if t.is_floating_point()), torch.zeros(1))
        self.type, self.device = first.dtype, first.device
        for name, constant in spaces.recording.constants.items():
            self.tensors[name] = constant.to(self.device)
        self.nodes = [node for node in spaces.graph.nodes if node.op != "output"]
        self.observed: dict[str, list[tuple[Space, int]]] = {}
        for space in spaces.free:
            for number, place in enumerate(space.observations):
                self.observed.setdefault(place.node, []).append((space, number))
        self.folded = self._fold()
        self.channels_last = _allows_channels_last(spaces)
        if self.channels_last:
            for name, tensor in self.tensors.items():
                if tensor.dim() == 4:
                    self.tensors[name] = tensor.contiguous(memory_format=torch.channels_last)
        self.last_uses = last_uses(self.nodes)

    def activations(self, images: Example) -> Iterator[tuple[Space, Tensor]]:
        """Run on ``images`` and yield each free space with its units' values, ``(samples, units)``.

        Every spatial position of every image is one sample. A value is dropped as soon as the forward pass no longer
        needs it, so that several models can be stepped side by side with few values alive at a time.
        """
        remaining = sum(map(len, self.observed.values()))
        for node, value in self.values(images):
            for space, number in self.observed.get(node.name, ()):
                yield space, space.observations[number].units(value)
                remaining -= 1
            if remaining == 0:
                return

    def values(self, images: Example) -> Iterator[tuple[fx.Node, Any]]:
        """Run on ``images`` and yield every node's value as it is made."""
        leaves, _ = flat_inputs(images)
        inputs = iter([self._input(leaf) for leaf in leaves])
        values: dict[fx.Node, Any] = {}
        for node in self.nodes:
            if node.op == "placeholder":
                value: Any = next(inputs)
            elif node.op == "get_attr":
                value = self.tensors[str(node.target)]
            elif node in self.folded:
                value = self._run_folded(node, values)
            else:
                value = run_node(node, values.__getitem__)
            values[node] = value
            yield node, value
            for dead in self.last_uses.get(node, ()):
                values.pop(dead, None)

    def _input(self, leaf: Tensor) -> Tensor:
        leaf = leaf.to(self.device, self.type) if leaf.is_floating_point() else leaf.to(self.device)
        if self.channels_last and leaf.dim() == 4:
            return leaf.contiguous(memory_format=torch.channels_last)
        return leaf

    # -- folding ------------------------------------------------------------------------------------------------

    def _fold(self) -> dict[fx.Node, tuple[Tensor, Tensor] | None]:
        """Convolutions with a batch norm after them: their weights with the norm in them. The norm then does nothing."""
        folded: dict[fx.Node, tuple[Tensor, Tensor] | None] = {}
        for own in convolutions_with_norms(self.nodes):
            if own.layer.name not in self.observed:
                folded[own.layer], folded[own.norm] = fused_tensors(own, self.tensors), None
        return folded

    def _run_folded(self, node: fx.Node, values: dict[fx.Node, Any]) -> Any:
        tensors = self.folded[node]
        own = Arguments(node)
        source = values[own.get(0, "input")]
        if tensors is None:
            return source
        rest = fx.node.map_arg(node.args[3:], values.__getitem__)
        kwargs = {key: value for key, value in node.kwargs.items() if key not in ("input", "weight", "bias")}
        assert callable(node.target)
        return node.target(source, *tensors, *rest, **fx.node.map_arg(kwargs, values.__getitem__))


def _allows_channels_last(spaces: Spaces) -> bool:
    """Whether no operation depends on how a feature map lies in memory."""
    for node in spaces.graph.nodes:
        if node.op == "call_method" and node.target == "view":
            shape = spaces.recording.shapes.get(node.all_input_nodes[0].name, ())
            if len(shape) == 4 and shape[2] * shape[3] > 1:
                return False
        if node.op == "call_method" and node.target == "as_strided":
            return False
    return True
