"""Images on the device: uint8 in, normalised channels-last floats out, augmentation as tensor operations."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["MEAN", "STD", "augment", "normalize"]

MEAN = (0.485, 0.456, 0.406)
"""ImageNet's channel means; one normalisation for all tasks, so that a merged trunk reads them all."""
STD = (0.229, 0.224, 0.225)


def normalize(images: Tensor, mean: Sequence[float] = MEAN, std: Sequence[float] = STD) -> Tensor:
    """``(N, H, W, 1 or 3)`` uint8 to ``(N, 3, H, W)`` float32 in channels-last layout; gray becomes three channels.

    ``mean``, ``std``: of each channel's values, of 0 to 1.
    """
    shift = torch.tensor(mean, device=images.device) * 255
    scale = 1 / (torch.tensor(std, device=images.device) * 255)
    return ((images.float() - shift) * scale).permute(0, 3, 1, 2)


def augment(images: Tensor, shift: int, flip: bool, generator: torch.Generator) -> Tensor:
    """Random shifts by up to ``shift`` pixels (edges repeated) and, with ``flip``, horizontal mirroring, per image.

    ``images`` and the result: ``(N, H, W, C)`` uint8.
    """
    count, height, width, _ = images.shape
    if shift == 0 and not flip:
        return images
    device = images.device
    offsets = torch.randint(-shift, shift + 1, (count, 2), generator=generator, device=device)
    rows = (torch.arange(height, device=device) + offsets[:, :1]).clamp_(0, height - 1)
    columns = (torch.arange(width, device=device) + offsets[:, 1:]).clamp_(0, width - 1)
    if flip:
        mirrored = torch.rand(count, 1, generator=generator, device=device) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
    return images[torch.arange(count, device=device)[:, None, None], rows[:, :, None], columns[:, None, :]]
