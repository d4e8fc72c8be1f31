"""Stage ``landscape``: losses on the plane through a merged network and its two source models (as mudsc Fig. 3 shows it)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from mergeline.biases import add_missing_biases
from mergeline.evaluation import predict, score
from mergeline.inputs import batches
from mergeline.interpolation import Landscape, landscape
from mergeline.normalization.reset import batch_norms, reset
from stages.context import Context, Progress
from stages.errors import StageError
from stages.formats.files import file_hash
from stages.formats.measurements import write_measurement
from stages.formats.merged import load_merged
from stages.normalising import mix
from stages.plan import paths
from stages.plan.keys import parse_merge
from stages.sources import load_sources, training_images

__all__ = ["run"]

NETWORKS = ("merged", "first", "second")


def run(context: Context, cell: str) -> None:
    """``cell``: a merge of two models that became one network, ``digits.r35+r17.s0+s1.permute.reset``."""
    merge = parse_merge(cell)
    loaded = load_sources(context, merge.sources)
    if not loaded.same_outputs or len(merge.edges) != 2 or merge.kept_apart:
        raise StageError(f"{cell}: a landscape is that of two models which became one network, nothing kept apart")
    if loaded.spaces.models:
        raise StageError(f"{cell}: no plane lies through networks of different widths")
    options, tasks = context.params.landscape, merge.sources.tasks
    valued = [task for task in tasks if context.task(task).target == "values"]
    if valued:
        raise StageError(f"{cell}: a landscape shows the loss of classes, and {valued[0]} tells values")
    path = context.path(paths.merged_model(merge))
    merged = load_merged(path)
    for model in loaded.models:  # a normalisation may have given the merged network biases, which are 0 in its sources
        add_missing_biases(model, merged.state_dict())
    networks = [context.place(model) for model in (merged, *loaded.models)]
    shown = {task: context.task(task).part("test") for task in tasks}
    images = {
        task: context.input_batches(own[: options.images], context.params.evaluate.batch_size)
        for task, (own, _) in shown.items()
    }
    labels = {task: torch.from_numpy(own[: options.images]) for task, (_, own) in shown.items()}
    calibration = _calibration(context, tasks) if batch_norms(networks[0]) else []
    progress, done = Progress(f"landscape {cell}"), 0

    def losses(network: nn.Module) -> list[float]:
        nonlocal done
        done += 1
        progress(done, options.steps**2 + len(NETWORKS))
        found = []
        for task in tasks:
            outputs = predict(network, images[task])
            assert isinstance(outputs, torch.Tensor)
            found.append(loss_of(context.readout(task)(outputs), labels[task]))
        return found

    def recalibrate(network: nn.Module) -> None:
        reset(network, calibration)

    try:
        found = landscape(
            networks, options.steps, losses, prepare=recalibrate if calibration else None, margin=options.margin
        )
    except ValueError as error:
        raise StageError(f"{cell}: {error}") from error
    made_from = {"cell": cell, "models": [file_hash(path), *loaded.hashes]}
    write_measurement(
        context.path(paths.measurement("landscape", merge)), "landscape", _rows(found, list(tasks)), made_from
    )


def loss_of(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """The loss of outputs, NaN where some are not finite: far out on the plane networks may explode, which is no fault of it."""
    return score(logits, labels)["loss"] if bool(torch.isfinite(logits).all()) else math.nan


def _calibration(context: Context, tasks: tuple[str, ...]) -> list[torch.Tensor]:
    """Images that the batch norms are set on at every point; fewer than for one merge, as there are many points."""
    parts = training_images(context, tasks, "reset", context.params.landscape.images)
    mixed = mix(list(parts.values()), context.params.seed)
    return list(batches(mixed, context.params.normalize["reset"].batch_size))


def _rows(found: Landscape, tasks: list[str]) -> Iterator[dict[str, Any]]:
    """The networks, then the grid row by row."""
    for name, (u, v), values in zip(NETWORKS, found.models, found.model_values, strict=True):
        for task, loss in zip(tasks, values, strict=True):
            yield {"point": name, "u": float(u), "v": float(v), "scope": task, "loss": float(loss)}
    for j, v in enumerate(found.v):
        for i, u in enumerate(found.u):
            for task, loss in zip(tasks, found.values[j, i], strict=True):
                yield {"point": "grid", "u": float(u), "v": float(v), "scope": task, "loss": float(loss)}
