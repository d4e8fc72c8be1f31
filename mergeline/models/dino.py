"""A ResNet-50 with the projection head that DINO trains it with (mudsc Table 3 starts from such networks)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from mergeline.models.resnet import BottleneckResNet

__all__ = ["DinoHead", "DinoResNet"]


class DinoHead(nn.Module):
    """Three layers, a normalised bottleneck, and prototypes of unit length: ``(B, inputs)`` to ``(B, prototypes)``."""

    def __init__(self, inputs: int, prototypes: int, hidden: int = 2048, bottleneck: int = 256) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(inputs, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, bottleneck)
        )
        self.last_layer = nn.utils.parametrizations.weight_norm(nn.Linear(bottleneck, prototypes, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        return self.last_layer(F.normalize(self.mlp(x), dim=-1))


class DinoResNet(nn.Module):
    """``(B, 3, S, S)`` to the scores of the prototypes ``(B, prototypes)``.

    Parameters
    ----------
    blocks: of each stage; (3, 4, 6, 3) is ResNet-50.
    hidden, bottleneck: sizes of the head; 2048 and 256 in DINO.
    """

    def __init__(
        self, prototypes: int, blocks: tuple[int, int, int, int] = (3, 4, 6, 3), width: float = 1.0,
        input_size: int = 224, hidden: int = 2048, bottleneck: int = 256,
    ) -> None:  # fmt: skip
        super().__init__()
        self.backbone = BottleneckResNet(blocks, 1, width, input_size)
        features = self.backbone.fc.in_features
        self.backbone.fc = nn.Identity()  # type: ignore[assignment]
        self.head = DinoHead(features, prototypes, hidden, bottleneck)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.backbone(x))
