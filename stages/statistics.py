"""Stage ``statistics``: the activation moments of a merge's sources in every space, in one pass."""

from __future__ import annotations

from mergeline.inputs import batches
from mergeline.moments import collect_moments, cross_pairs, full_pairs
from mergeline.spaces import seen_at
from stages.context import Context
from stages.formats.moments import write_moments
from stages.plan import paths
from stages.plan.keys import parse_sources
from stages.sources import load_sources, training_images

__all__ = ["run"]


def run(context: Context, cell: str) -> None:
    """``cell``: the sources of merges, ``digits.r35+r17.s0+s1``."""
    sources = parse_sources(cell)
    options = context.params.statistics
    loaded = load_sources(context, sources)
    images = training_images(context, sources.tasks, "statistics", options.images)
    pairs = {"cross": cross_pairs, "full": full_pairs}[options.moments](len(loaded.models))
    moments = collect_moments(
        [context.place(model) for model in loaded.models],
        seen_at(options.places, loaded.spaces),
        (batch for part in images.values() for batch in batches(part, options.batch_size)),
        pairs,
    )
    description = {
        "cell": cell, "models": loaded.hashes, "tasks": list(sources.tasks), "seed": context.params.seed,
        "images": {name: len(part) for name, part in images.items()}, "moments": options.moments,
    }  # fmt: skip
    write_moments(context.path(paths.statistics(sources)), moments, description)
