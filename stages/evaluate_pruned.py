"""Stage ``evaluate-pruned``: scores of a pruned edge model on its task's test images, and the sparsity that it has."""

from __future__ import annotations

from mergeline.evaluation import predict
from mergeline.pruning import sparsity_of
from stages.context import Context
from stages.errors import StageError
from stages.evaluate import scores_of, write_scores
from stages.formats.merged import load_merged
from stages.plan import paths
from stages.plan.keys import Key, Sources, parse_pruned

__all__ = ["run"]


def run(context: Context, cell: str) -> None:
    """``cell``: a pruned edge, ``digits.r35.s0.magnitude-sparsity=0.9.repair``."""
    pruned = parse_pruned(cell)
    key = Key(Sources((pruned.edge,)), pruned=pruned)
    task = pruned.edge.task
    path = context.path(paths.pruned_model(pruned))
    network = context.place(load_merged(path))
    images, _ = context.task(task).part("test")
    outputs = predict(network, context.input_batches(images, context.params.evaluate.batch_size))
    assert not isinstance(outputs, dict)
    result = scores_of(context, key.sources, {task: [context.readout(task)(outputs)]})
    try:
        result["sparsity"] = sparsity_of(network)
    except ValueError as error:
        raise StageError(f"{cell}: {error}") from error
    write_scores(context, "pruned", key, result, path, network)
