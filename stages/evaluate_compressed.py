"""Stages ``evaluate-pruned`` and ``evaluate-narrowed``: scores of an edge model that was made smaller on its task's test images."""

from __future__ import annotations

from typing import Any

from torch import nn

from mergeline.evaluation import predict
from mergeline.fusing import fused
from mergeline.pruning import sparsity_of
from stages.context import Context
from stages.errors import StageError
from stages.evaluate import scores_of, write_scores
from stages.formats.merged import load_merged
from stages.plan import paths
from stages.plan.keys import Compressed, Key, Sources, parse_narrowed, parse_pruned

__all__ = ["run_narrowed", "run_pruned"]


def run_pruned(context: Context, cell: str) -> None:
    """``cell``: a pruned edge, ``digits.r35.s0.magnitude-sparsity=0.9.repair``; its file has the sparsity that it came to."""
    pruned = parse_pruned(cell)
    network = _network(context, pruned)
    try:
        found = {"sparsity": sparsity_of(network)}
    except ValueError as error:
        raise StageError(f"{cell}: {error}") from error
    _evaluate(context, pruned, network, found)


def run_narrowed(context: Context, cell: str) -> None:
    """``cell``: a narrowed edge, ``digits.r35.s0.zip-width=0.5.reset``."""
    narrowed = parse_narrowed(cell)
    _evaluate(context, narrowed, _network(context, narrowed), {})


def _network(context: Context, cell: Compressed) -> nn.Module:
    return context.place(load_merged(context.path(paths.compressed_model(cell))))


def _evaluate(context: Context, cell: Compressed, network: nn.Module, more: dict[str, Any]) -> None:
    """``more``: what the file has beside the scores."""
    key = Key(Sources((cell.edge,)), compressed=cell)
    task = cell.edge.task
    images, _ = context.task(task).part("test")
    outputs = predict(fused(network), context.input_batches(images, context.params.evaluate.batch_size))
    assert not isinstance(outputs, dict)
    result = scores_of(context, key.sources, {task: [context.readout(task)(outputs)]})
    write_scores(context, cell.kind, key, result | more, context.path(paths.compressed_model(cell)), network)
