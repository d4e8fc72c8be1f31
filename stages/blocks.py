"""Stage ``blocks``: how alike the blocks of two edges of different depth are, by which the shallow one's are placed.

One cell serves every placement that compares blocks, and every method and normalisation after it.
"""

from __future__ import annotations

from mergeline.depth.blocks import find_chains
from mergeline.depth.similarity import block_similarity
from stages.context import Context
from stages.errors import StageError
from stages.formats.blocks import write_similarity
from stages.formats.files import file_hash
from stages.formats.models import load_edge
from stages.plan import paths
from stages.plan.keys import parse_sources
from stages.sources import comparable_batches, training_images

__all__ = ["run"]


def run(context: Context, cell: str) -> None:
    """``cell``: two edges, the deeper first, ``digits.r35+r17.s0+s1``. They see the same training images of their tasks."""
    pair = parse_sources(cell)
    if len(pair.edges) != 2:
        raise StageError(f"{cell} are {len(pair.edges)} models; blocks are compared of two")
    files = [context.path(paths.edge_model(edge)) for edge in pair.edges]
    deep, shallow = (context.place(load_edge(path)[0]) for path in files)
    options = context.params.statistics
    images = training_images(context, pair.tasks, "blocks", options.images)
    batches = (batch for part in images.values() for batch in comparable_batches(part, options.batch_size))
    try:
        similarity = block_similarity(shallow, deep, find_chains(shallow, deep), batches)
    except ValueError as error:
        raise StageError(f"{cell}: {error}") from error
    description = {
        "cell": cell, "models": [file_hash(path) for path in files], "seed": context.params.seed,
        "images": {name: len(part) for name, part in images.items()},
    }  # fmt: skip
    write_similarity(context.path(paths.blocks(pair)), similarity, description)
