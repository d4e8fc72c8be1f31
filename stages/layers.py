"""Stage ``layers``: mean and deviation of every layer's units of one edge model on one task's training images.

What REPAIR and RESCALE compare a merged network with. Each model is seen once for each task, whatever it is merged with.
"""

from __future__ import annotations

from mergeline.heads import trace_architecture
from mergeline.inputs import batches
from mergeline.normalization.targets import layer_statistics
from stages.context import Context
from stages.formats.files import file_hash
from stages.formats.layers import write_layers
from stages.formats.models import load_edge
from stages.plan import paths
from stages.plan.keys import parse_prediction
from stages.sources import training_images

__all__ = ["run"]


def run(context: Context, cell: str) -> None:
    """``cell``: ``digits.r35.s0.on-landcover``."""
    place = parse_prediction(cell)
    path = context.path(paths.edge_model(place.edge))
    model, architecture = load_edge(path)
    spaces = trace_architecture(architecture)
    options = context.params.statistics
    images = training_images(context, [place.task], "reset", options.images)[place.task]
    found = layer_statistics(context.place(model), spaces, batches(images, options.batch_size))
    description = {"cell": cell, "model": file_hash(path), "images": len(images), "seed": context.params.seed}
    write_layers(context.path(paths.layers(place)), found, description)
