"""Batch norms that follow a layer at once, and so are a part of it: what the two compute is one linear map."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, fx
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_weights

from mergeline.spaces.recording import operation
from mergeline.spaces.rules import Arguments, canonical

__all__ = [
    "BatchNorm",
    "LayerNormed",
    "batch_norm_of",
    "convolutions_with_norms",
    "fused_tensors",
    "layers_with_norms",
]

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


def convolutions_with_norms(nodes: Iterable[fx.Node]) -> Iterator[LayerNormed]:
    """The convolutions that a batch norm alone reads; each call by itself, as what a call computes may share its tensors."""
    for node in nodes:
        own = _of(node)
        if own is not None and operation(own.layer).startswith("conv"):
            yield own


def fused_tensors(own: LayerNormed, tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Weight and bias of a convolution that gives what it and its norm give; that of images in channels last."""

    def named(name: str) -> Tensor | None:
        return tensors[name] if name else None

    weight, bias = fuse_conv_bn_weights(
        tensors[own.weight], named(own.bias), tensors[own.running_mean], tensors[own.running_var], own.eps,
        named(own.gamma), named(own.beta), transpose=_is_transposed(own.layer),
    )  # fmt: skip
    laid_out = weight.contiguous(memory_format=torch.channels_last) if weight.dim() == 4 else weight
    return laid_out.detach(), bias.detach()


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
    """The batch norm that a node is, if it divides by running statistics and all its tensors are the network's.

    In a part of a network, which a graph module is, norms are modules; in a recorded graph they are calls.
    """
    if node.op == "call_module":
        return _norm_module(node)
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


def _norm_module(node: fx.Node) -> BatchNorm | None:
    """The same of a module, whose tensors have its path before their names."""
    path, owner = str(node.target), node.graph.owning_module
    norm = None if owner is None else owner.get_submodule(path)
    if not isinstance(norm, _BatchNorm) or norm.running_mean is None or norm.running_var is None:
        return None
    gamma, beta = (f"{path}.weight", f"{path}.bias") if norm.affine else ("", "")
    return BatchNorm(node.all_input_nodes[0], f"{path}.running_mean", f"{path}.running_var", gamma, beta, norm.eps)


def _layer_tensors(node: fx.Node) -> tuple[str, str] | None:
    """The names of a layer's weight and bias (empty where it has none), if one node alone reads the layer's output, a norm's
    factor is one number for each of its units, and both are the network's."""
    kind = operation(node)
    if node.op != "call_function" or kind not in LAYERS or len(node.users) != 1:
        return None
    made = Arguments(node)
    if _is_transposed(node) and made.get(6, "groups", 1) != 1:
        return None
    weight, bias = made.get(1, "weight"), made.get(2, "bias")
    if weight is None or any(part is not None and part.op != "get_attr" for part in (weight, bias)):
        return None
    return str(weight.target), "" if bias is None else str(bias.target)


def _of(node: fx.Node) -> LayerNormed | None:
    norm = batch_norm_of(node)
    tensors = None if norm is None else _layer_tensors(norm.source)
    if norm is None or tensors is None:
        return None
    axis = 1 if _is_transposed(norm.source) else 0
    return LayerNormed(norm.source, node, *tensors, norm.gamma, norm.beta, norm.mean, norm.variance, norm.eps, axis)


def _is_transposed(node: fx.Node) -> bool:
    return operation(node).startswith("conv_transpose")
