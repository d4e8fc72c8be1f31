"""Stage ``prune``: an edge model with a share of its weights set to zero, and the statistics of what is left set right."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from mergeline.inputs import batches
from mergeline.normalization import NORMALIZATIONS
from mergeline.pruned import normalise_pruned
from mergeline.pruning import METHODS, prune
from mergeline.seeds import numpy_generator
from stages.context import Context
from stages.errors import StageError
from stages.formats.merged import save_compressed
from stages.formats.models import load_edge
from stages.normalising import task_batches
from stages.plan import paths
from stages.plan.keys import Pruned, known, parse_pruned
from stages.plan.params import Pruner
from stages.sources import training_samples

__all__ = ["run"]


def run(context: Context, cell: str) -> None:
    """``cell``: a pruned edge, ``digits.r35.s0.magnitude-sparsity=0.9.repair``."""
    pruned = parse_pruned(cell)
    known("pruning method", pruned.method, METHODS)
    known("normalisation", pruned.normalize, NORMALIZATIONS)
    model, architecture = load_edge(context.path(paths.edge_model(pruned.edge)))
    original = context.place(model)
    try:
        network = _pruned(context, pruned, original)
        _normalise(context, pruned, network, original)
    except ValueError as error:
        raise StageError(f"{cell}: {error}") from error
    save_compressed(context.path(paths.compressed_model(pruned)), network, pruned.kind, pruned.edge.task, architecture)


class _Classifier(nn.Module):
    """A network whose outputs are read as logits, which the Fisher is taken of."""

    def __init__(self, network: nn.Module, readout: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.network = network
        self.readout = readout

    def forward(self, images: Tensor) -> Tensor:
        return self.readout(self.network(images))


def _pruned(context: Context, pruned: Pruned, original: nn.Module) -> nn.Module:
    task = pruned.edge.task
    settings = context.params.pruners.get(pruned.method, Pruner())
    read = METHODS[pruned.method].reads != "nothing"
    data = _labelled_batches(context, task, settings) if read else None
    classifier = _Classifier(original, context.readout(task))
    found = prune(classifier, pruned.share, pruned.method, data, settings.options)
    return found.get_submodule("network")


def _labelled_batches(context: Context, task: str, settings: Pruner) -> list[tuple[Tensor, Tensor]]:
    """Training images with labels in a fixed random order: a method may stop before it has seen all of them."""
    images, labels = training_samples(context, [task], "prune", settings.images)[task]
    order = numpy_generator(context.params.seed, "prune order", task).permutation(len(images))
    chosen = torch.from_numpy(order).to(images.device)
    parts = labels[chosen].split(settings.batch_size)
    return list(zip(batches(images[chosen], settings.batch_size), parts, strict=True))


def _normalise(context: Context, pruned: Pruned, network: nn.Module, original: nn.Module) -> None:
    """In place, on the images that merges of the task are normalised on."""
    if not NORMALIZATIONS[pruned.normalize].restores:
        return
    settings = context.params.normalize[pruned.normalize]
    data = task_batches(context, pruned.edge.task, settings)
    normalise_pruned(network, original, data, pruned.normalize, settings.options)
