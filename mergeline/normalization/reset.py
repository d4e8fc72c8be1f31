"""``reset``: batch-norm running statistics recomputed on a fixed set of images (vanishing_feature Sec. 2).

Without it a merged network's activations have the wrong scale.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mergeline.normalization.normalizer import Finished, Normalizer

if TYPE_CHECKING:
    from torch import nn
    from torch.nn.modules.batchnorm import _BatchNorm

    from mergeline.heads import MultiHead

__all__ = ["RESET", "ResetOptions", "batch_norms", "reset", "reset_multi_head"]


def batch_norms(model: nn.Module) -> list[_BatchNorm]:
    """The batch-norm layers that track statistics."""
    from torch.nn.modules.batchnorm import _BatchNorm

    return [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]


def reset(model: nn.Module, batches: Iterable[Any], part: nn.Module | None = None) -> int:
    """Recompute running means and variances as averages over ``batches``; returns the number of images.

    Batches weigh by their number of images; one that is too small for a variance of its own (less than an eighth of the
    first) is joined to the batch before it. Only batch norms are in train mode while the images pass, nothing else
    (dropout stays off). The same batches in the same order give the same statistics, bit for bit.

    ``part``: the part of the model whose statistics are recomputed; all of it by default.
    """
    import torch

    from mergeline.spaces.recording import run_on

    layers = batch_norms(model if part is None else part)
    model.eval()
    momenta = [layer.momentum for layer in layers]
    images = 0
    try:
        for layer in layers:
            layer.reset_running_stats()
            layer.train()
        with torch.no_grad():
            for batch in _joined_tail(batches):
                count = _count(batch)
                images += count
                for layer in layers:
                    layer.momentum = count / images
                if layers:
                    run_on(model, batch)
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
        model.eval()
    return images


def _count(batch: Any) -> int:
    from torch.utils import _pytree as pytree

    return len(pytree.tree_leaves(batch)[0])


def _joined_tail(batches: Iterable[Any]) -> Iterator[Any]:
    """Batches, with those that are too small joined to the one before."""
    import torch
    from torch.utils import _pytree as pytree

    held: Any = None
    first = 0
    for batch in batches:
        if held is None:
            held, first = batch, _count(batch)
        elif _count(batch) * 8 < first:
            held = pytree.tree_map(lambda *tensors: torch.cat(tensors), held, batch)
        else:
            yield held
            held = batch
    if held is not None:
        yield held


def reset_multi_head(model: MultiHead, mixed: Iterable[Any], own: Mapping[str, Iterable[Any]]) -> int:
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


def _idle(network: nn.Module) -> str:
    return "" if batch_norms(network) else "the network has no batch norms to reset; choose repair, or none"


RESET = Normalizer(
    "reset",
    "batch-norm statistics recomputed on images of the merged tasks",
    ResetOptions,
    _run,
    sets_statistics=True,
    needs_batch_norms=True,
    idle=_idle,
)
