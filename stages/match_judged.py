"""Stage ``match-judged``: matching by a method with an option that is chosen by the merge's accuracy.

A stage of its own, so that other methods depend neither on this code nor on the training images.
"""

from __future__ import annotations

from functools import partial

from mergeline.inputs import batches
from mergeline.matching.judge import TrainingAccuracy
from stages.context import Context
from stages.match import match
from stages.plan.keys import Sources
from stages.sources import LoadedSources, head_names, training_samples

__all__ = ["run"]


def run(context: Context, cell: str) -> None:
    """``cell``: the sources of a merge and a method, ``digits.r35+r17.s0+s1.zip``."""
    match(context, cell, partial(_training_accuracy, context))


def _training_accuracy(context: Context, sources: Sources, loaded: LoadedSources) -> TrainingAccuracy:
    """Accuracy of merges on as many training images as the statistics are taken on."""
    options = context.params.statistics
    samples = training_samples(context, sources.tasks, "judge", options.images)
    heads = dict(zip(head_names(sources), sources.edges, strict=True))
    parts = {
        head: list(
            zip(
                batches(samples[edge.task][0], options.batch_size),
                samples[edge.task][1].split(options.batch_size),
                strict=True,
            )
        )
        for head, edge in heads.items()
    }
    return TrainingAccuracy(
        {head: context.place(model) for head, model in zip(heads, loaded.models, strict=True)},
        loaded.spaces,
        parts,
        same_outputs=loaded.same_outputs,
        readouts={head: context.readout(edge.task) for head, edge in heads.items()},
    )
