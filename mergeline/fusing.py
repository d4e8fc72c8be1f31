"""A network for evaluation alone: each batch norm behind a convolution is part of it, which saves a pass over memory each."""

from __future__ import annotations

import copy

from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_weights

from mergeline.spaces.norms import is_convolution, is_transposed, layer_tensors

__all__ = ["fused"]


def fused(network: nn.Module) -> nn.Module:
    """A copy in eval mode that gives the same outputs but for rounding; the network itself where its graph cannot be followed.

    A norm is folded if nothing else reads the convolution before it: in a network with heads part by part, in any other by
    torch's own pass.
    """
    from torch.fx.experimental.optimization import fuse

    network = network.eval()
    if not any(isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) for module in network.modules()):
        return network
    if any(isinstance(module, fx.GraphModule) for module in network.modules()):
        result = copy.deepcopy(network)
        for module in result.modules():
            if isinstance(module, fx.GraphModule):
                _fuse_part(module)
        return result
    try:
        return fuse(network).eval()
    except Exception:  # control flow that hangs on values: torch's tracer raises many kinds
        return network


def _fuse_part(part: fx.GraphModule) -> None:
    """Fold the norms of a part of a network in place; its layers are functions of its tensors, and its norms modules."""
    modules, tensors = dict(part.named_modules()), dict(part.named_parameters())
    for node in list(part.graph.nodes):
        norm = modules.get(str(node.target)) if node.op == "call_module" else None
        if not isinstance(norm, _BatchNorm) or norm.running_mean is None or norm.running_var is None:
            continue
        layer = node.all_input_nodes[0]
        names = layer_tensors(layer) if is_convolution(layer) else None
        if names is None or names[0] not in tensors:
            continue
        weight, bias = fuse_conv_bn_weights(
            tensors[names[0]], tensors[names[1]] if names[1] else None, norm.running_mean, norm.running_var, norm.eps,
            norm.weight, norm.bias, transpose=is_transposed(layer),
        )  # fmt: skip
        with part.graph.inserting_before(layer):
            for place, (name, tensor) in enumerate((("weight", weight), ("bias", bias)), 1):
                own = f"fused_{name}_{layer.name}"
                part.register_buffer(own, tensor.detach())
                _give(layer, place, name, part.graph.get_attr(own))
        node.replace_all_uses_with(layer)
        part.graph.erase_node(node)
    part.graph.eliminate_dead_code()
    part.delete_all_unused_submodules()
    part.recompile()


def _give(node: fx.Node, place: int, name: str, value: fx.Node) -> None:
    """Set an argument that a node takes by place or by name."""
    if place < len(node.args):
        node.update_arg(place, value)
    else:
        node.update_kwarg(name, value)
