"""Batch statistics after merging (vanishing_feature Sec. 2, 5.3, A.3).

``reset`` recomputes batch-norm running statistics on a fixed set of images: without it a merged network's
activations have the wrong scale.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mergeline.merging import MultiHead

__all__ = ["NORMALIZATIONS", "batch_norms", "reset", "reset_multi_head"]

NORMALIZATIONS: dict[str, str] = {
    "none": "statistics as merged",
    "reset": "batch-norm statistics recomputed on images of the merged tasks",
}


def batch_norms(model: nn.Module) -> list[_BatchNorm]:
    """The batch-norm layers that track statistics."""
    return [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]


@torch.no_grad()
def reset(model: nn.Module, batches: Iterable[Tensor]) -> int:
    """Recompute running means and variances as plain averages over ``batches``; returns the number of images.

    Only batch norms are in train mode while the images pass, nothing else (dropout stays off). The same batches in
    the same order give the same statistics, bit for bit.
    """
    layers = batch_norms(model)
    model.eval()
    momenta = [layer.momentum for layer in layers]
    images = 0
    try:
        for layer in layers:
            layer.reset_running_stats()
            layer.momentum = None
            layer.train()
        for batch in batches:
            images += len(batch)
            if layers:
                model(batch)
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
        model.eval()
    return images


@torch.no_grad()
def reset_multi_head(model: MultiHead, mixed: Iterable[Tensor], per_task: dict[str, list[Tensor]]) -> int:
    """``reset`` for a trunk with heads: the trunk on images of all tasks, each head on its own task's."""
    images = reset(model.trunk, mixed)
    for name, head in zip(model.names, model.heads, strict=True):
        layers = batch_norms(head)
        if layers:
            _reset_head(model.trunk, head, per_task[name])
    return images


def _reset_head(trunk: nn.Module, head: nn.Module, batches: list[Tensor]) -> None:
    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = head

        def forward(self, x: Tensor) -> Tensor:
            return self.head(*trunk(x))

    reset(Whole(), batches)
