"""Small networks of the architectures that merging and normalising treat differently, away from their starts."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mergeline.architectures import Architecture, build

__all__ = ["images", "network"]


def network(name: str, seed: int, classes: int = 5) -> nn.Module:
    """All biases, and the parameters of norms, at random; "vit" is a vision transformer of two blocks."""
    torch.manual_seed(seed)
    if name == "vit":
        from torchvision.models import VisionTransformer

        model: nn.Module = VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=classes)
        nn.init.normal_(model.heads.head.weight, std=0.3)  # type: ignore[union-attr, arg-type]
    else:
        model = build(Architecture(name, classes, 0.5 if name.endswith("gn") else 0.125, 32), seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def images(count: int = 24, seed: int = 0) -> Tensor:
    """Noise with a mean, ``(count, 3, 32, 32)``."""
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(seed)) + 0.3
