"""Stage ``curve``: loss and accuracy on the line between the two models of a merge, aligned and normalised as the merge is."""

from __future__ import annotations

import numpy as np
import torch

from mergeline.interpolation import interpolate
from stages.assembling import matched_maps
from stages.context import Context, Progress
from stages.errors import StageError
from stages.formats.measurements import write_measurement
from stages.normalising import normalization_images, source_layers
from stages.plan import paths
from stages.plan.keys import parse_merge
from stages.plan.methods import normalization_options
from stages.sources import load_sources

__all__ = ["run"]


def run(context: Context, cell: str) -> None:
    """``cell``: a merge of two models of one task, ``digits.r35+r17.s0+s1.permute.reset``."""
    merge = parse_merge(cell)
    if not merge.sources.same_task or len(merge.edges) != 2 or merge.kept_apart or merge.weights is not None:
        raise StageError(f"{cell}: a curve is that of two models of one task, whole and with all weights")
    loaded = load_sources(context, merge.sources)
    maps = matched_maps(context, merge, loaded)
    task = merge.sources.tasks[0]
    images, labels = context.task(task).part("test")
    mixed, _ = normalization_images(context, merge)
    try:
        curve = interpolate(
            [context.place(model) for model in loaded.models],
            loaded.spaces,
            maps,
            np.linspace(0, 1, context.params.curve.points).tolist(),
            context.input_batches(images, context.params.evaluate.batch_size),
            torch.from_numpy(labels),
            merge.normalize.name,
            normalization_options(context.params, merge.normalize),
            mixed,
            layers=[next(iter(by_head.values())) for by_head in source_layers(context, merge, loaded)],
            readout=context.readout(task),
            on_point=Progress(f"curve {cell}"),
            reference=context.place(loaded.reference),
        )
    except ValueError as error:
        raise StageError(f"{cell}: {error}") from error
    rows = [
        {"alpha": alpha, "loss": loss, "accuracy": accuracy}
        for alpha, loss, accuracy in zip(curve.alphas, curve.losses, curve.accuracies, strict=True)
    ]
    made_from = {"cell": cell, "models": loaded.hashes, "data": context.task(task).hash}
    write_measurement(context.path(paths.measurement("curve", merge)), "curve", rows, made_from)
