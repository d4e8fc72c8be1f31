"""From a prepared task's samples to what a network takes: images normalised, texts as token numbers.

A sample's kind shows in its array: images are ``(N, H, W, C)`` uint8, texts ``(N, T)`` whole numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mergeline.images import MEAN, STD, augment, normalize
from mergeline.kinds import Kind

__all__ = ["augmented", "batches", "example_input", "network_input", "to_device"]


def to_device(values: NDArray[Any], device: torch.device | str) -> Tensor:
    """Samples, or their labels, as a tensor on ``device``."""
    return torch.from_numpy(np.ascontiguousarray(values)).to(device)


def network_input(samples: Tensor, mean: Sequence[float] = MEAN, std: Sequence[float] = STD) -> Tensor:
    """Images as ``(N, 3, H, W)`` float32 (:func:`mergeline.images.normalize`), texts as ``(N, T)`` int64."""
    return normalize(samples, mean, std) if _images(samples) else samples.long()


def batches(
    samples: Tensor,
    size: int,
    device: torch.device | str | None = None,
    mean: Sequence[float] = MEAN,
    std: Sequence[float] = STD,
) -> Iterator[Tensor]:
    """Batches of :func:`network_input` in order; the last may be smaller."""
    for begin in range(0, len(samples), size):
        batch = samples[begin : begin + size]
        yield network_input(batch if device is None else batch.to(device, non_blocking=True), mean, std)


def augmented(samples: Tensor, shift: int, flip: bool, generator: torch.Generator) -> Tensor:
    """Images varied at random (:func:`mergeline.images.augment`); texts as they are."""
    return augment(samples, shift, flip, generator) if _images(samples) else samples


def example_input(kind: Kind, size: int, batch: int = 2) -> Tensor:
    """What a network takes, without content: black-mean images ``(batch, 3, size, size)``, or ``size`` tokens of a text each."""
    return torch.ones(batch, size, dtype=torch.int64) if kind == "texts" else torch.zeros(batch, 3, size, size)


def _images(samples: Tensor) -> bool:
    return samples.dim() == 4
