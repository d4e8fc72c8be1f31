"""The layers of a traced network: every convolution and linear map, in forward order, with its depth.

Depth counts layers from 1 along the path with the most of them, so that the projection of a shortcut, or queries beside keys,
count no further (vanishing_feature A.3: convolutions of shortcuts are not counted).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import fx

from mergeline.spaces.norms import LAYERS
from mergeline.spaces.recording import operation
from mergeline.spaces.rules import Arguments, canonical

__all__ = ["Layer", "computed_layers", "layers", "node_depths"]


@dataclass(frozen=True)
class Layer:
    """A convolution or a linear map, with all its uses.

    ``weight``, ``bias``: names of its tensors (``bias`` is empty where there is none). ``rows``: the part of both along
    ``axis`` that is this layer's, where several layers share a tensor (queries, keys and values in one); None for all of it.
    ``axis``: of ``weight``, that the layer's units are along. ``channel``: of its output, from the end (negative).
    ``depth``: the number of layers on the longest path up to it, itself counted. ``nodes``: its uses in the graph.
    """

    weight: str
    bias: str
    rows: tuple[int, int | None] | None
    axis: int
    channel: int
    depth: int
    nodes: tuple[fx.Node, ...]

    @property
    def name(self) -> str:
        """The weight's name, with the rows where they are a part of it."""
        return (
            self.weight
            if self.rows is None
            else f"{self.weight}[{self.rows[0]}:{'' if self.rows[1] is None else self.rows[1]}]"
        )


def node_depths(graph: fx.Graph) -> dict[fx.Node, int]:
    """For each node, the most layers on a path from an input to it, itself counted."""
    depths: dict[fx.Node, int] = {}
    for node in graph.nodes:
        before = max((depths[used] for used in node.all_input_nodes), default=0)
        depths[node] = before + (_of(node, 0) is not None)
    return depths


def layers(graph: fx.Graph) -> list[Layer]:
    """All convolutions and linear maps by tensors that the network has, in forward order."""
    depths = node_depths(graph)
    found: dict[str, Layer] = {}
    for node in graph.nodes:
        own = _of(node, depths[node])
        if own is None:
            continue
        known = found.get(own.name)
        found[own.name] = own if known is None else replace(known, nodes=(*known.nodes, node))
    return list(found.values())


def computed_layers(graph: fx.Graph) -> list[fx.Node]:
    """Convolutions and linear maps whose weight is computed from others', or that are not supported otherwise."""
    calls = [node for node in graph.nodes if node.op == "call_function" and operation(node) in LAYERS]
    return [node for node in calls if _of(node, 0) is None]


def _of(node: fx.Node, depth: int) -> Layer | None:
    if node.op != "call_function" or operation(node) not in LAYERS:
        return None
    given = Arguments(node)
    weight, rows = _part(given.get(1, "weight"))
    bias, bias_rows = _part(given.get(2, "bias"))
    if not weight or (bias and bias_rows != rows):
        return None
    kind = operation(node)
    transposed = kind.startswith("conv_transpose")
    if transposed and given.get(6, "groups", 1) != 1:
        return None
    channel = -1 if kind == "linear" else -1 - int(kind[-2])
    return Layer(weight, bias, rows, 1 if transposed else 0, channel, depth, (node,))


def _part(node: Any) -> tuple[str, tuple[int, int | None] | None]:
    """The tensor that an argument is, and the rows of it; an empty name where it is none of the network's."""
    if not isinstance(node, fx.Node):
        return "", None
    if node.op == "get_attr":
        return str(node.target), None
    if (node.op == "call_method" and canonical(operation(node)) == "getitem") or operation(node) == "getitem":
        source, index = node.args
        if isinstance(index, tuple) and len(index) == 1:
            index = index[0]
        if isinstance(index, slice) and isinstance(source, fx.Node) and source.op == "get_attr":
            start, stop, step = index.start or 0, index.stop, index.step or 1
            if isinstance(start, int) and isinstance(stop, int | None) and step == 1:
                return str(source.target), (start, stop)
    return "", None
