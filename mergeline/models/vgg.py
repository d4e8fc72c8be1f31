"""VGG for small images: plain, with batch norm, or with layer norm over channels (vanishing_feature Sec. 3)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from mergeline.models.init import init_convolutions

__all__ = ["VGG", "ChannelNorm", "layer_plan"]

CHANNELS = (64, 128, 256, 512, 512)
"""Of the convolutions of each stage, at width 1."""


def layer_plan(blocks: Sequence[int]) -> tuple[int | str, ...]:
    """Channels of the 3x3 convolutions at width 1, and "M" for a 2x2 max pool, from the convolutions of each stage."""
    plan: list[int | str] = []
    for channels, count in zip(CHANNELS, blocks, strict=True):
        plan += [*[channels] * count, "M"]
    return tuple(plan)


class ChannelNorm(nn.Module):
    """Layer norm over the channels of every position."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class VGG(nn.Module):
    """VGG with one linear layer on the averaged last feature map.

    Parameters
    ----------
    layers: as from :func:`layer_plan`.
    norm: makes a normalisation layer for a number of channels, or None (then convolutions have biases).
    num_classes: size of the output.
    width: multiplier of every channel count.
    input_size: at least 32, as there are five poolings.
    """

    def __init__(
        self,
        layers: tuple[int | str, ...],
        norm: Callable[[int], nn.Module] | None,
        num_classes: int,
        width: float = 1.0,
        input_size: int = 32,
    ) -> None:
        super().__init__()
        features: list[nn.Module] = []
        channels_in = 3
        for entry in layers:
            if entry == "M":
                features.append(nn.MaxPool2d(2, 2))
                continue
            channels = round(int(entry) * width)
            features.append(nn.Conv2d(channels_in, channels, 3, 1, 1, bias=norm is None))
            if norm is not None:
                features.append(norm(channels))
            features.append(nn.ReLU(inplace=True))
            channels_in = channels
        self.features = nn.Sequential(*features)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.classifier = nn.Linear(channels_in, num_classes)
        init_convolutions(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))
