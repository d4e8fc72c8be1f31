"""Initial weights that the convolutional networks share."""

from __future__ import annotations

from torch import nn

__all__ = ["init_convolutions"]


def init_convolutions(network: nn.Module) -> None:
    """Draw every convolution's weight by He's rule for ReLU, from the fan out, in the order of the modules; biases are 0."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
