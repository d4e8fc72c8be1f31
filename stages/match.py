"""Stage ``match``: one map per model and space, by one method."""

from __future__ import annotations

from mergeline.images import batches
from mergeline.matching import MATCHERS, Problem
from mergeline.matching.judge import TrainingAccuracy
from mergeline.seeds import numpy_generator
from stages import paths
from stages.cells import CellError, Group, known, parse_match
from stages.context import Context
from stages.formats.maps import write_maps
from stages.formats.moments import MomentFile
from stages.groups import LoadedGroup, head_names, load_group, training_samples
from stages.params import Method
from stages.plan import is_judged

__all__ = ["run"]


def run(context: Context, cell: str) -> None:
    """``cell``: a group and a method, ``digits.r35+r17.s0+s1.permute``."""
    group, method = parse_match(cell)
    declared = context.params.methods.get(method.name, Method())
    matcher = MATCHERS[known("method", declared.use or method.name, [*context.params.methods, *MATCHERS])]
    try:
        options = matcher.options(**{**(declared.options or {}), **dict(method.options)})
    except (TypeError, ValueError) as error:
        raise CellError(f"{cell!r}: {error}") from error
    loaded = load_group(context, group)
    moments = {} if matcher.blocks == "none" else MomentFile(context.path(paths.statistics(group)))
    problem = Problem(
        loaded.spaces,
        [model.state_dict() for model in loaded.models],
        moments,
        numpy_generator(context.params.seed, "match", cell),
        _judge(context, group, loaded) if is_judged(context.params, method) else None,
        same_outputs=group.same_task or context.outputs_are_text,
    )
    matching = matcher.match(problem, options)
    description = {
        "cell": cell,
        "models": loaded.hashes,
        "method": matcher.name,
        "objective": matching.objective,
    }
    write_maps(context.path(paths.match(cell)), matching.maps, description)


def _judge(context: Context, group: Group, loaded: LoadedGroup) -> TrainingAccuracy:
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
        whole=group.same_task or context.outputs_are_text,
        readouts={head: context.readout(edge.task) for head, edge in heads.items()},
    )
