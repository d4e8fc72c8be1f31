"""ResNet-20 for small images, with batch or group norm (zipit Sec. 4, mudsc Sec. 4).

Three stages of three basic blocks with 16, 32 and 64 channels times ``width``; the projections are 1x1 convolutions.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from mergeline.models.init import init_convolutions

__all__ = ["BasicBlock", "ResNet20", "group_norm"]

Norm = Callable[[int], nn.Module]


def group_norm(groups: int) -> Norm:
    """What makes a group norm of ``groups`` groups for a number of channels."""
    return partial(nn.GroupNorm, groups)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and the shortcut; ``y = relu(x + F(x))``."""

    def __init__(self, channels_in: int, channels: int, stride: int, norm: Norm) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.bn1 = norm(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = norm(channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module | None = None
        if stride != 1 or channels_in != channels:
            self.downsample = nn.Sequential(nn.Conv2d(channels_in, channels, 1, stride, bias=False), norm(channels))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        y = self.relu(self.bn1(self.conv1(x)))
        return self.relu(shortcut + self.bn2(self.conv2(y)))


class ResNet20(nn.Module):
    """ResNet-20.

    Parameters
    ----------
    norm: makes a normalisation layer for a number of channels.
    num_classes: size of the output.
    width: multiplier of 16 channels.
    input_size: any; the last stage is averaged over positions.
    """

    def __init__(self, norm: Norm, num_classes: int, width: float = 1.0, input_size: int = 32) -> None:
        super().__init__()
        base = round(16 * width)
        self.conv1 = nn.Conv2d(3, base, 3, 1, 1, bias=False)
        self.bn1 = norm(base)
        self.relu = nn.ReLU(inplace=True)
        channels_in = base
        for stage in range(3):
            channels = base * 2**stage
            blocks = []
            for position in range(3):
                stride = 2 if stage > 0 and position == 0 else 1
                blocks.append(BasicBlock(channels_in, channels, stride, norm))
                channels_in = channels
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(channels_in, num_classes)
        init_convolutions(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))  # type: ignore[operator]
        return self.fc(torch.flatten(self.avgpool(x), 1))
