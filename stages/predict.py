"""Stage ``predict``: the logits of one edge model on the test images of one task.

Ensembles, and how far a merged model agrees with its sources, are read from these, so that no source model runs twice.
"""

from __future__ import annotations

from mergeline.evaluation import predict
from mergeline.fusing import fused
from stages.context import Context
from stages.formats.models import load_edge
from stages.formats.predictions import write_predictions
from stages.plan import paths
from stages.plan.keys import parse_prediction

__all__ = ["run"]


def run(context: Context, cell: str) -> None:
    """``cell``: ``digits.r35.s0.on-landcover``."""
    prediction = parse_prediction(cell)
    model, _ = load_edge(context.path(paths.edge_model(prediction.edge)))
    images, _ = context.task(prediction.task).part("test")
    outputs = predict(fused(context.place(model)), context.input_batches(images, context.params.evaluate.batch_size))
    logits = context.readout(prediction.edge.task)(outputs)  # type: ignore[arg-type]
    write_predictions(context.path(paths.prediction(prediction)), logits)
