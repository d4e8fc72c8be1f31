"""A network for evaluation alone: each batch norm behind a convolution is part of it, which saves a pass over memory each."""

from __future__ import annotations

import copy

from torch import fx, nn

from mergeline.spaces.norms import convolutions_with_norms, fused_tensors

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
    """Fold the norms of a part of a network in place."""
    tensors = dict(part.named_parameters()) | dict(part.named_buffers())
    for own in list(convolutions_with_norms(part.graph.nodes)):
        fused_pair = zip(("weight", "bias"), fused_tensors(own, tensors), strict=True)
        with part.graph.inserting_before(own.layer):
            for place, (name, tensor) in enumerate(fused_pair, 1):
                target = f"fused_{name}_{own.layer.name}"
                part.register_buffer(target, tensor)
                _give(own.layer, place, name, part.graph.get_attr(target))
        own.norm.replace_all_uses_with(own.layer)
        part.graph.erase_node(own.norm)
    part.graph.eliminate_dead_code()
    part.delete_all_unused_submodules()
    part.recompile()


def _give(node: fx.Node, place: int, name: str, value: fx.Node) -> None:
    """Set an argument that a node takes by place or by name."""
    if place < len(node.args):
        node.update_arg(place, value)
    else:
        node.update_kwarg(name, value)
