"""What the match stage judges merges by, for methods with an option that is chosen by accuracy."""

from __future__ import annotations

from mergeline.images import batches
from mergeline.matching.judge import TrainingAccuracy
from stages.context import Context
from stages.groups import LoadedGroup, head_names, training_samples
from stages.plan.cells import Group

__all__ = ["training_accuracy"]


def training_accuracy(context: Context, group: Group, loaded: LoadedGroup) -> TrainingAccuracy:
    """Accuracy of merges on as many training images as the statistics are taken on."""
    options = context.params.statistics
    samples = training_samples(context, group, "judge", options.images)
    heads = dict(zip(head_names(group), group.edges, strict=True))
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
