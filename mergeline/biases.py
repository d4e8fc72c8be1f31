"""Giving a bias to layers that have none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor, fx, nn

from mergeline.spaces.layers import layers

TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)

__all__ = ["add_biases", "add_missing_biases", "bias_name", "check_bias"]


def bias_name(weight: str) -> str:
    """What the bias beside a weight is called.

    >>> bias_name("layer1.0.conv1.weight"), bias_name("attention.in_proj_weight")
    ('layer1.0.conv1.bias', 'attention.in_proj_bias')
    """
    return weight.removesuffix("weight") + "bias"


def add_biases(network: nn.Module, weights: Iterable[str]) -> None:
    """Give layers a bias of zeros, which changes nothing; one that a layer has already stays.

    Parameters
    ----------
    weights: names of the layers' weights.

    Raises
    ------
    ValueError: a weight is none of a module that would use a bias.
    """
    graphs: set[fx.GraphModule] = set()
    for name in weights:
        path, _, leaf = name.rpartition(".")
        owner = network.get_submodule(path)
        if getattr(owner, bias_name(leaf), None) is not None:
            continue
        check_bias(network, name)
        weight = owner.get_parameter(leaf)
        graph = _graph_module(network, path)
        size = weight.shape[1] * owner.groups if isinstance(owner, TRANSPOSED) else weight.shape[0]
        owner.register_parameter(bias_name(leaf), nn.Parameter(weight.new_zeros(size), weight.requires_grad))
        if graph is not None:
            graphs.add(graph)
    for graph in graphs:
        _read_biases(graph)


def check_bias(network: nn.Module, weight: str) -> None:
    """Refuse a layer whose module would not use a bias that it is given.

    Raises
    ------
    ValueError: names the weight and its module.
    """
    path, _, leaf = weight.rpartition(".")
    owner = network.get_submodule(path)
    knows = isinstance(owner, nn.Linear | nn.modules.conv._ConvNd | nn.MultiheadAttention)
    if not leaf.endswith("weight") or not (knows or _graph_module(network, path)):
        raise ValueError(
            f"{weight!r} has no bias, and its module {type(owner).__name__} would not use one; choose rescale"
        )


def add_missing_biases(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Give a network the biases that a state dict has and it has not, as :func:`add_biases` did before it was saved."""
    own = network.state_dict()
    weights = {bias_name(name): name for name in own if name.endswith("weight")}
    add_biases(network, [weights[name] for name in state if name not in own and name in weights])


def _graph_module(network: nn.Module, path: str) -> fx.GraphModule | None:
    """The recorded part of a network that a module's tensors belong to."""
    parts = path.split(".") if path else []
    for end in range(len(parts), -1, -1):
        module = network.get_submodule(".".join(parts[:end]))
        if isinstance(module, fx.GraphModule):
            return module
    return None


def _read_biases(module: fx.GraphModule) -> None:
    """Let every layer of a recorded part read the bias that its weight has beside it."""
    for layer in layers(module.graph):
        name = bias_name(layer.weight)
        if layer.bias or not hasattr(module.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2]):
            continue
        for node in layer.nodes:
            with module.graph.inserting_before(node):
                value = module.graph.get_attr(name)
                if layer.rows is not None:
                    value = module.graph.call_method("__getitem__", (value, slice(*layer.rows)))
            args = list(node.args)
            node.args = (*args[:2], value, *args[3:])
    module.recompile()
