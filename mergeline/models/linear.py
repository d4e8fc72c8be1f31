"""Linear networks: layers without activations between them, which vanishing features are explained by
(vanishing_feature Sec. 4, 5.2 and A.3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["LinearNetwork"]


class LinearNetwork(nn.Module):
    """``depth`` linear layers with biases and nothing between them, on flattened images.

    Parameters
    ----------
    depth: number of layers, at least 2; the paper has 8, and 5 for the comparison of residual connections.
    num_classes: size of the output. inputs: entries of a flattened image.
    width: units of every layer but the last.
    residual: whether each layer but the first and the last adds its input to its output.

    Raises
    ------
    ValueError: fewer than 2 layers.
    """

    def __init__(self, depth: int, num_classes: int, inputs: int, width: int = 32, residual: bool = False) -> None:
        super().__init__()
        if depth < 2:
            raise ValueError(f"a linear network needs 2 layers at least, a first and a last, got depth={depth}")
        sizes = [inputs, *[width] * (depth - 1), num_classes]
        self.layers = nn.ModuleList(nn.Linear(sizes[i], sizes[i + 1]) for i in range(depth))
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        x = torch.flatten(x, 1)
        for number, layer in enumerate(self.layers):
            inner = 0 < number < len(self.layers) - 1
            x = layer(x) + x if self.residual and inner else layer(x)
        return x
