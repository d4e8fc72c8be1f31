"""``reset``: batch-norm running statistics recomputed on a fixed set of images (vanishing_feature Sec. 2).

Without it a merged network's activations have the wrong scale.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mergeline.normalization.normalizer import Finished, Normalizer

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.nn.modules.batchnorm import _BatchNorm

    from mergeline.heads import MultiHead

__all__ = ["RESET", "ResetOptions", "batch_norms", "reset", "reset_multi_head"]


def batch_norms(model: nn.Module) -> list[_BatchNorm]:
    """The batch-norm layers that track statistics."""
    from torch.nn.modules.batchnorm import _BatchNorm

    return [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]


def reset(model: nn.Module, batches: Iterable[Tensor], part: nn.Module | None = None) -> int:
    """Recompute running means and variances as plain averages over ``batches``; returns the number of images.

    ``part``: the part of the model whose statistics are recomputed; all of it by default.

    Only batch norms are in train mode while the images pass, nothing else (dropout stays off). The same batches in
    the same order give the same statistics, bit for bit.
    """
    import torch

    layers = batch_norms(model if part is None else part)
    model.eval()
    momenta = [layer.momentum for layer in layers]
    images = 0
    try:
        for layer in layers:
            layer.reset_running_stats()
            layer.momentum = None
            layer.train()
        with torch.no_grad():
            for batch in batches:
                images += len(batch)
                if layers:
                    model(batch)
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
        model.eval()
    return images


def reset_multi_head(model: MultiHead, mixed: Iterable[Tensor], own: Mapping[str, Iterable[Tensor]]) -> int:
    """``reset`` for a trunk with heads: the trunk on images of all tasks, each head on its own task's."""
    images = reset(model.trunk, mixed)
    for name, head in zip(model.names, model.heads, strict=True):
        if batch_norms(head):
            reset(model.alone(name), own[name], part=head)
    return images


@dataclass(frozen=True)
class ResetOptions:
    """``reset`` has no options."""


def _run(finished: Finished, options: ResetOptions) -> None:
    from mergeline.heads import MultiHead

    network = finished.network
    if isinstance(network, MultiHead):
        reset_multi_head(network, finished.mixed, finished.own)
    else:
        reset(network, finished.mixed)


RESET = Normalizer("reset", "batch-norm statistics recomputed on images of the merged tasks", ResetOptions, _run)
