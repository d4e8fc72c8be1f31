"""The architectures of the papers as networks.

``build`` makes a network from an :class:`Architecture`, the small frozen description that travels with every
checkpoint and every cell of a benchmark.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from mergeline.architectures import BLOCKS, Architecture
from mergeline.models.resnet import BottleneckResNet
from mergeline.models.resnet20 import ResNet20, group_norm
from mergeline.models.vgg import LAYERS, VGG, ChannelNorm

__all__ = ["BUILDERS", "VGG", "Architecture", "BottleneckResNet", "ResNet20", "build"]

BUILDERS: dict[str, Callable[..., nn.Module]] = {
    **{name: partial(BottleneckResNet, blocks) for name, blocks in BLOCKS.items()},
    "resnet20": partial(ResNet20, nn.BatchNorm2d),
    "resnet20-gn": partial(ResNet20, group_norm),
    **{name: partial(VGG, layers, None) for name, layers in LAYERS.items()},
    **{f"{name}-bn": partial(VGG, layers, nn.BatchNorm2d) for name, layers in LAYERS.items()},
    **{f"{name}-ln": partial(VGG, layers, ChannelNorm) for name, layers in LAYERS.items()},
}


def build(architecture: Architecture, seed: int | None = None) -> nn.Module:
    """The network of ``architecture``; with ``seed`` its initial weights depend on that seed alone."""
    maker = partial(
        BUILDERS[architecture.name],
        num_classes=architecture.num_classes,
        width=architecture.width,
        input_size=architecture.input_size,
    )
    if seed is None:
        return maker()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return maker()
