"""Batch norms that follow a layer at once, and so are a part of it: what the two compute is one linear map."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property

from torch import fx

from mergeline.spaces.recording import operation
from mergeline.spaces.rules import Arguments, canonical

__all__ = ["LayerNormed", "layers_with_norms"]

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


def _of(norm: fx.Node) -> LayerNormed | None:
    if norm.op != "call_function" or canonical(operation(norm)) != "batch_norm":
        return None
    given = Arguments(norm)
    layer = given.get(0, "input")
    if given.get(5, "training", False) or not isinstance(layer, fx.Node) or layer.op != "call_function":
        return None
    kind = operation(layer)
    if kind not in LAYERS or len(layer.users) != 1:
        return None
    made = Arguments(layer)
    transposed = kind.startswith("conv_transpose")
    if transposed and made.get(6, "groups", 1) != 1:
        return None
    parts = [made.get(1, "weight"), made.get(2, "bias"), given.get(3, "weight"), given.get(4, "bias")]
    parts += [given.get(1, "running_mean"), given.get(2, "running_var")]
    if any(part is not None and part.op != "get_attr" for part in parts) or parts[0] is None or None in parts[4:]:
        return None
    names = [str(part.target) if part is not None else "" for part in parts]
    weight, bias, gamma, beta, mean, variance = names
    eps = float(given.get(7, "eps", 1e-5))
    return LayerNormed(layer, norm, weight, bias, gamma, beta, mean, variance, eps, axis=1 if transposed else 0)
