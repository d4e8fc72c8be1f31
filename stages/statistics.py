"""Stage ``statistics``: the activation moments of a group's models in every space, in one pass."""

from __future__ import annotations

from mergeline.images import batches
from mergeline.moments import collect_moments, cross_pairs, full_pairs
from stages.context import Context
from stages.formats.moments import write_moments
from stages.groups import load_group, training_images
from stages.plan import paths
from stages.plan.cells import parse_group

__all__ = ["run"]


def run(context: Context, cell: str) -> None:
    """``cell``: a group, ``digits.r35+r17.s0+s1``."""
    group = parse_group(cell)
    options = context.params.statistics
    loaded = load_group(context, group)
    images = training_images(context, group, "statistics", options.images)
    pairs = {"cross": cross_pairs, "full": full_pairs}[options.blocks](len(loaded.models))
    moments = collect_moments(
        [context.place(model) for model in loaded.models],
        loaded.spaces,
        (batch for part in images.values() for batch in batches(part, options.batch_size)),
        pairs,
    )
    description = {
        "cell": cell, "models": loaded.hashes, "tasks": list(group.tasks), "seed": context.params.seed,
        "images": {name: len(part) for name, part in images.items()}, "blocks": options.blocks,
    }  # fmt: skip
    write_moments(context.path(paths.statistics(group)), moments, description)
