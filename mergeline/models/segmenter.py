"""ResNets that tell something of every pixel: an encoder, and a small decoder as DeepLabv3+ has it.

The encoder's tensors are named as those of the network that it is of, so that its weights fit.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mergeline.models.init import init_convolutions
from mergeline.models.resnet import BottleneckResNet
from mergeline.models.resnet20 import Norm, ResNet20

__all__ = ["Segmenter", "Segmenter20"]


def _projection(channels_in: int, channels: int, kernel: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels, kernel, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
    )


def _add_decoder(network: nn.Module, near: int, far: int, channels: int, num_outputs: int) -> None:
    """In place of a network's pooling and classifier; ``near``, ``far``: channels of its first and of its last stage."""
    del network.avgpool, network.fc
    network.near = _projection(near, channels, 1)
    network.far = _projection(far, channels, 1)
    network.decoder = _projection(2 * channels, channels, 3)
    network.classifier = nn.Conv2d(channels, num_outputs, 1)
    init_convolutions(network)


def _decoded(network: Any, near: Tensor, far: Tensor, size: torch.Size) -> Tensor:
    """What the last stage's features ``far`` and the first stage's, ``near``, say of every pixel of an image."""
    far, near = network.far(far), network.near(near)
    far = F.interpolate(far, size=near.shape[-2:], mode="bilinear", align_corners=False)
    x = network.classifier(network.decoder(torch.cat([near, far], dim=1)))
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


class Segmenter(BottleneckResNet):
    """``(B, 3, S, S)`` to ``(B, num_classes, S, S)``.

    The last stage's features, enlarged, beside the first stage's, both projected to ``128 * width`` channels; a 3x3 convolution of
    both, and a classifier for every pixel, whose outputs are enlarged to the image's size. Parameters as for
    :class:`BottleneckResNet`.
    """

    def __init__(
        self, blocks: tuple[int, int, int, int], num_classes: int, width: float = 1.0, input_size: int = 224
    ) -> None:
        super().__init__(blocks, num_classes, width, input_size)
        base = round(64 * width)
        _add_decoder(self, 4 * base, 32 * base, round(128 * width), num_classes)

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[-2:]
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        near = self.layer1(x)  # type: ignore[operator]
        return _decoded(self, near, self.layer4(self.layer3(self.layer2(near))), size)  # type: ignore[operator]


class Segmenter20(ResNet20):
    """The same of a ResNet-20, whose first stage has the image's size: ``(B, 3, S, S)`` to ``(B, num_classes, S, S)``.

    Both stages are projected to ``32 * width`` channels. Parameters as for :class:`ResNet20`.
    """

    def __init__(self, norm: Norm, num_classes: int, width: float = 1.0, input_size: int = 32) -> None:
        super().__init__(norm, num_classes, width, input_size)
        base = round(16 * width)
        _add_decoder(self, base, 4 * base, 2 * base, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[-2:]
        near = self.layer1(self.relu(self.bn1(self.conv1(x))))  # type: ignore[operator]
        return _decoded(self, near, self.layer3(self.layer2(near)), size)  # type: ignore[operator]
