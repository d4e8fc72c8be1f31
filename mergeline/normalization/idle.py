"""Why a normalisation would do nothing to a network; empty where it does something."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # so that the registry can be read without torch
    from torch import nn

__all__ = ["without_biases", "without_layers"]


def without_layers(network: nn.Module) -> str:
    matrices = any(parameter.dim() > 1 for parameter in network.parameters())
    return "" if matrices else "the network has no convolution and no linear map; choose none"


def without_biases(network: nn.Module) -> str:
    from torch import nn

    kinds = (nn.Linear, nn.modules.conv._ConvNd, nn.MultiheadAttention)
    for module in network.modules():
        bias = getattr(module, "in_proj_bias" if isinstance(module, nn.MultiheadAttention) else "bias", None)
        if isinstance(module, kinds) and bias is not None:
            return ""
    return "no layer has a bias; choose reset or repair"
