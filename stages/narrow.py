"""Stage ``narrow``: an edge model with a share of its units, and the statistics of what is left set right."""

from __future__ import annotations

from mergeline.inputs import batches
from mergeline.narrowing import METHODS, narrow
from mergeline.normalization import NORMALIZATIONS
from mergeline.seeds import derive_seed
from stages.context import Context
from stages.errors import StageError
from stages.formats.merged import save_compressed
from stages.formats.models import load_edge
from stages.normalising import task_batches
from stages.plan import paths
from stages.plan.keys import known, parse_narrowed
from stages.plan.params import Narrower, Normalization
from stages.sources import training_images

__all__ = ["run"]


def run(context: Context, cell: str) -> None:
    """``cell``: a narrowed edge, ``digits.r35.s0.zip-width=0.5.reset``."""
    narrowed = parse_narrowed(cell)
    task = narrowed.edge.task
    known("narrowing method", narrowed.method, METHODS)
    normalizer = NORMALIZATIONS[known("normalisation", narrowed.normalize, NORMALIZATIONS)]
    model, architecture = load_edge(context.path(paths.edge_model(narrowed.edge)))
    settings = context.params.narrowers.get(narrowed.method, Narrower())
    after = context.params.normalize.get(narrowed.normalize, Normalization())
    images = training_images(context, [task], "statistics", settings.images)[task]
    try:
        made = narrow(
            context.place(model), narrowed.share, narrowed.method, list(batches(images, settings.batch_size)),
            narrowed.normalize, options=settings.options, normalize_options=after.options,
            calibration=task_batches(context, task, after) if normalizer.reads_images else None,
            seed=derive_seed(context.params.seed, "narrow", narrowed.edge),
        )  # fmt: skip
    except ValueError as error:
        raise StageError(f"{cell}: {error}") from error
    path = context.path(paths.compressed_model(narrowed))
    save_compressed(path, made.model, narrowed.kind, task, architecture, made.sizes)
