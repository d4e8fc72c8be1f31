"""A plain U-Net: an encoder that halves the image, a decoder that doubles it, and concatenated skips between them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mergeline.models.init import init_convolutions

__all__ = ["UNet"]

CHANNELS = 32
"""Of the first level at width 1; each deeper level has twice as many."""


def _double(channels_in: int, channels: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for size in (channels_in, channels):
        layers += [nn.Conv2d(size, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """``(B, 3, S, S)`` to ``(B, num_outputs, S, S)``; ``S`` must be divisible by ``2 ** levels``.

    Parameters
    ----------
    levels: how often the image is halved.
    """

    def __init__(self, num_outputs: int, width: float = 1.0, levels: int = 3) -> None:
        super().__init__()
        sizes = [max(1, round(CHANNELS * width)) * 2**level for level in range(levels + 1)]
        self.down = nn.ModuleList(_double(a, b) for a, b in zip([3, *sizes], sizes, strict=False))
        self.pool = nn.MaxPool2d(2)
        self.rise = nn.ModuleList(nn.ConvTranspose2d(2 * size, size, 2, 2) for size in sizes[-2::-1])
        self.up = nn.ModuleList(_double(2 * size, size) for size in sizes[-2::-1])
        self.head = nn.Conv2d(sizes[0], num_outputs, 1)
        init_convolutions(self)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        x = x.expand(-1, 3, -1, -1)
        for level, block in enumerate(self.down):
            x = block(x if level == 0 else self.pool(x))
            skips.append(x)
        for rise, block, skip in zip(self.rise, self.up, skips[-2::-1], strict=True):
            x = block(torch.cat([skip, rise(x)], dim=1))
        return self.head(x)
