"""Initial weights: what the convolutional networks share, and the two ways that are compared (vanishing_feature A.5,
"Initialization Strategy")."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

__all__ = ["INITIALIZERS", "init_convolutions", "kaiming_normal", "kaiming_uniform"]


def init_convolutions(network: nn.Module) -> None:
    """Draw every convolution's weight by He's rule for ReLU, from the fan out, in the order of the modules; biases are 0."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def kaiming_uniform(network: nn.Module) -> None:
    """Draw convolutions and linear layers anew as torch does: ``U[-1 / sqrt(k), 1 / sqrt(k)]``, ``k`` the fan in."""
    for module in _layers(network):
        module.reset_parameters()


def kaiming_normal(network: nn.Module) -> None:
    """Draw convolutions anew from ``N(0, 2 / k)``, ``k`` the fan out, linear layers with a deviation of 0.01; biases are 0."""
    for module in _layers(network):
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0, 0.01)
        else:
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _layers(network: nn.Module) -> Iterator[Any]:
    return (module for module in network.modules() if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d))


INITIALIZERS: dict[str, Callable[[nn.Module], None]] = {
    "kaiming_normal": kaiming_normal,
    "kaiming_uniform": kaiming_uniform,
}
"""Ways to draw the weights of a network anew, in the order of its modules; norms stay as they are."""
