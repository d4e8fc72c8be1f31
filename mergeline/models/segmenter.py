"""A bottleneck ResNet that tells the class of every pixel: its encoder, and a small decoder as DeepLabv3+ has it.

The encoder's tensors are named as those of :class:`mergeline.models.resnet.BottleneckResNet`, so that its weights fit.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mergeline.models.init import init_convolutions
from mergeline.models.resnet import BottleneckResNet

__all__ = ["Segmenter"]


def _projection(channels_in: int, channels: int, kernel: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels, kernel, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
    )


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
        del self.avgpool, self.fc
        base, channels = round(64 * width), round(128 * width)
        self.near = _projection(4 * base, channels, 1)
        self.far = _projection(32 * base, channels, 1)
        self.decoder = _projection(2 * channels, channels, 3)
        self.classifier = nn.Conv2d(channels, num_classes, 1)
        init_convolutions(self)

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[-2:]
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        near = self.layer1(x)  # type: ignore[operator]
        far = self.far(self.layer4(self.layer3(self.layer2(near))))  # type: ignore[operator]
        near = self.near(near)
        far = F.interpolate(far, size=near.shape[-2:], mode="bilinear", align_corners=False)
        x = self.classifier(self.decoder(torch.cat([near, far], dim=1)))
        return F.interpolate(x, size=size, mode="bilinear", align_corners=False)
