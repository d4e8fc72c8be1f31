"""Bottleneck ResNets that differ in depth and width only (depth_heterogeneity App. B).

At width 1 and the 224 stem the state dict has torchvision's names and shapes, so its ResNet-50/101/152 weights load
strictly.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mergeline.models.init import init_convolutions

EXPANSION = 4


@dataclass(frozen=True)
class Stem:
    """The first convolution and whether a 3x3 max pool with stride 2 follows it."""

    kernel: int
    stride: int
    pool: bool


STEMS: dict[int, Stem] = {
    32: Stem(kernel=3, stride=2, pool=False),
    64: Stem(kernel=3, stride=2, pool=True),
    224: Stem(kernel=7, stride=2, pool=True),
}


class Bottleneck(nn.Module):
    """1x1, 3x3 (with the stride), 1x1 convolutions and the shortcut; ``y = relu(x + F(x))``."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        channels_out = channels * EXPANSION
        self.conv1 = nn.Conv2d(channels_in, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, channels_out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels_out)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module | None = None
        if stride != 1 or channels_in != channels_out:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels_in, channels_out, 1, stride, bias=False), nn.BatchNorm2d(channels_out)
            )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return self.relu(shortcut + y)


class BottleneckResNet(nn.Module):
    """A bottleneck ResNet.

    Parameters
    ----------
    blocks: blocks in each of the four stages.
    num_classes: size of the output.
    width: multiplier of every channel count; 1 is torchvision's width (64 in the stem).
    input_size: 32, 64 or 224; chooses the stem.
    """

    def __init__(
        self, blocks: tuple[int, int, int, int], num_classes: int, width: float = 1.0, input_size: int = 224
    ) -> None:
        super().__init__()
        stem = STEMS[input_size]
        base = round(64 * width)
        self.conv1 = nn.Conv2d(3, base, stem.kernel, stem.stride, stem.kernel // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(base)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool: nn.Module = nn.MaxPool2d(3, 2, 1) if stem.pool else nn.Identity()
        channels_in = base
        for stage, count in enumerate(blocks):
            channels = base * 2**stage
            layers: list[nn.Module] = []
            for position in range(count):
                stride = 2 if stage > 0 and position == 0 else 1
                layers.append(Bottleneck(channels_in, channels, stride))
                channels_in = channels * EXPANSION
            setattr(self, f"layer{stage + 1}", nn.Sequential(*layers))
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(channels_in, num_classes)
        init_convolutions(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))  # type: ignore[operator]
        return self.fc(torch.flatten(self.avgpool(x), 1))
