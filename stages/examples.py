"""Stage ``examples``: what the models of a merge and the merge itself tell of the pixels of some test images, classes or values.

The images are spread evenly over the test part, so that all merges of a task show the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mergeline.evaluation import predict
from mergeline.kinds import OF_PIXELS
from mergeline.readings import MERGED, source_names
from stages.context import Context
from stages.errors import StageError
from stages.formats.files import file_hash
from stages.formats.measurements import INPUT, TARGET, write_measurement
from stages.formats.merged import load_merged
from stages.formats.models import load_edge
from stages.plan import paths
from stages.plan.keys import Merge, parse_merge
from stages.sources import head_names

__all__ = ["run"]

IMAGES = 4
"""Of each task."""


def run(context: Context, cell: str) -> None:
    """``cell``: a merge, ``covermap+watermap.r26-seg+r26-seg.s0+s1.permute.reset``."""
    merge = parse_merge(cell)
    path = context.path(paths.merged_model(merge))
    files = [context.path(paths.edge_model(edge)) for edge in merge.edges]
    merged = context.place(load_merged(path))
    rows: list[dict[str, Any]] = []
    for task in merge.sources.tasks:
        prepared = context.task(task)
        if prepared.target not in OF_PIXELS:
            raise StageError(f"{cell}: {task} tells classes of whole {prepared.target}; examples are shown of pixels")
        images, labels = prepared.part("test")
        chosen = np.unique(np.linspace(0, len(images) - 1, IMAGES).astype(int))
        pictures = {INPUT: images[chosen], TARGET: labels[chosen]}
        for name, edge, file in zip(source_names(len(files)), merge.edges, files, strict=True):
            if edge.task == task:
                pictures[name] = _told(context, context.place(load_edge(file)[0]), images[chosen], edge.task)
        pictures[MERGED] = _told(context, merged, images[chosen], task, _head(merge, task))
        rows += _rows(task, prepared.classes, pictures)
    made_from = {"cell": cell, "models": [file_hash(file) for file in (path, *files)]}
    write_measurement(context.path(paths.measurement("examples", merge)), "examples", rows, made_from)


def _head(merge: Merge, task: str) -> str:
    """The first of the merge's heads that is the task's."""
    return next(head for head, edge in zip(head_names(merge.sources), merge.edges, strict=True) if edge.task == task)


def _told(context: Context, network: nn.Module, images: NDArray[Any], task: str, head: str = "") -> NDArray[Any]:
    """The class of each pixel, ``(K, S, S)`` int16, or its value, float32; ``head``: the one that is read, of several."""
    outputs = predict(network, context.input_batches(images, len(images)))
    own = outputs[head] if isinstance(outputs, dict) else outputs
    assert isinstance(own, Tensor)
    side = images.shape[1]
    logits = context.readout(task)(own)
    found = logits[:, 0] if context.task(task).target == "values" else logits.argmax(1).to(torch.int16)
    return found.view(-1, side, side).numpy()


def _rows(task: str, classes: tuple[str, ...], pictures: dict[str, NDArray[Any]]) -> Iterator[dict[str, Any]]:
    for name, values in pictures.items():
        for place, picture in enumerate(values):
            numbers = picture.dtype.kind == "f"
            yield {
                "scope": task,
                "image": place,
                "picture": name,
                "size": picture.shape[0],
                "values": None if numbers else picture.astype(np.int16).ravel().tolist(),
                "numbers": picture.ravel().tolist() if numbers else None,
                "classes": list(classes) if name == TARGET else None,
            }
