"""Batch norms that follow a layer at once, and so are a part of it: what the two compute is one linear map."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property

from torch import fx

from mergeline.spaces.recording import operation
from mergeline.spaces.rules import Arguments, canonical

__all__ = ["BatchNorm", "LayerNormed", "batch_norm_of", "layers_with_norms"]

LAYERS = ("linear", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d")


@dataclass(frozen=True)
class LayerNormed:
    """A layer and the batch norm that alone reads it.

    ``layer``, ``norm``: their nodes. ``weight`` ... ``running_var``: names of their tensors, empty where there is none.
    ``axis``: of ``weight``, that the layer's units are along.
    """

    layer: fx.Node
    norm: fx.Node
    weight: str
    bias: str
    gamma: str
    beta: str
    running_mean: str
    running_var: str
    eps: float
    axis: int

    @cached_property
    def tensors(self) -> tuple[str, ...]:
        """The names of all its tensors."""
        names = (self.weight, self.bias, self.gamma, self.beta, self.running_mean, self.running_var)
        return tuple(name for name in names if name)


def layers_with_norms(graph: fx.Graph) -> list[LayerNormed]:
    """All layers with a batch norm behind them, of running statistics, where nothing else reads the layer's output and
    no tensor of the two is used twice."""
    uses = Counter(str(user_of.target) for user_of in graph.nodes if user_of.op == "get_attr" for _ in user_of.users)
    found = []
    for node in graph.nodes:
        own = _of(node)
        if own is not None and all(uses[name] == 1 for name in own.tensors):
            found.append(own)
    return found


@dataclass(frozen=True)
class BatchNorm:
    """A call of a batch norm with running statistics: what it reads, and the names of its tensors (empty where there is none)."""

    source: fx.Node
    mean: str
    variance: str
    gamma: str
    beta: str
    eps: float


def batch_norm_of(node: fx.Node) -> BatchNorm | None:
    """The batch norm that a node is, if it divides by running statistics and all its tensors are the network's."""
    if node.op != "call_function" or canonical(operation(node)) != "batch_norm":
        return None
    given = Arguments(node)
    places = ("input", "running_mean", "running_var", "weight", "bias")
    source, *parts = (given.get(place, name) for place, name in enumerate(places))
    if given.get(5, "training", False) or not isinstance(source, fx.Node):
        return None
    if any(part is not None and part.op != "get_attr" for part in parts):
        return None
    mean, variance, gamma, beta = ("" if part is None else str(part.target) for part in parts)
    return (
        BatchNorm(source, mean, variance, gamma, beta, float(given.get(7, "eps", 1e-5))) if mean and variance else None
    )


def _of(node: fx.Node) -> LayerNormed | None:
    norm = batch_norm_of(node)
    if norm is None or norm.source.op != "call_function":
        return None
    layer = norm.source
    kind = operation(layer)
    if kind not in LAYERS or len(layer.users) != 1:
        return None
    made = Arguments(layer)
    transposed = kind.startswith("conv_transpose")
    if transposed and made.get(6, "groups", 1) != 1:
        return None
    weight, bias = made.get(1, "weight"), made.get(2, "bias")
    if weight is None or any(part is not None and part.op != "get_attr" for part in (weight, bias)):
        return None
    own = str(weight.target), "" if bias is None else str(bias.target)
    axis = 1 if transposed else 0
    return LayerNormed(layer, node, *own, norm.gamma, norm.beta, norm.mean, norm.variance, norm.eps, axis)
