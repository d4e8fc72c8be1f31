"""Stages ``embed`` and ``similarity``: how alike the tasks' images are to a frozen encoder."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from mergeline.encoders import embed, load_encoder
from mergeline.inputs import to_device
from mergeline.seeds import numpy_generator
from mergeline.similarity import Gaussian, frechet_distance, pool, similarity
from mergeline.tasks.task import PreparedTask
from stages.context import Context, Progress
from stages.errors import StageError
from stages.formats import FORMAT, KEY
from stages.formats.files import reading, write_json
from stages.formats.tables import write_table
from stages.plan import paths
from stages.plan.keys import parse_task_pair

__all__ = ["read_embedding", "run_embed", "run_similarity"]

_SCHEMA = pa.schema(
    [
        ("half", pa.int32()),
        ("n", pa.int64()),
        ("mean", pa.list_(pa.float64())),
        ("covariance", pa.list_(pa.float64())),
    ]
)


def run_embed(context: Context, cell: str) -> None:
    """``cell``: a task. The images are split at random in two halves, whose distance is the floor of what "the same
    distribution" measures at this number of images."""
    options = context.params.similarity
    task = context.task(cell)
    weights = context.path(options.weights) if options.weights else None
    encoder = load_encoder(options.encoder, weights, options.weights_sha256, context.device)
    count = min(options.images, len(task.inputs))
    order = numpy_generator(context.params.seed, "embed", cell).permutation(len(task.inputs))[:count]
    progress = Progress(f"embed {cell}")
    rows, done = [], 0
    for half, chosen in enumerate(np.array_split(order, 2)):
        part = embed(encoder, _told(_batches(context, task, chosen), progress, done, count))
        done += part.n
        rows.append({"half": half, "n": part.n, "mean": part.mean, "covariance": part.covariance.ravel()})
    description = {
        "format": FORMAT, "task": cell, "data": task.hash, "encoder": encoder.name, "weights": encoder.weights_sha256,
        "size": getattr(encoder, "size", task.inputs.shape[1]),
    }  # fmt: skip
    schema = _SCHEMA.with_metadata({KEY: json.dumps(description, sort_keys=True)})
    write_table(context.path(paths.embedding(cell)), pa.Table.from_pylist(rows, schema=schema))


def _batches(context: Context, task: PreparedTask, chosen: Any) -> Iterator[torch.Tensor]:
    size = context.params.similarity.batch_size
    for begin in range(0, len(chosen), size):
        yield to_device(task.inputs[np.sort(chosen[begin : begin + size])], context.device)


def _told(batches: Iterator[torch.Tensor], progress: Progress, done: int, total: int) -> Iterator[torch.Tensor]:
    for batch in batches:
        yield batch
        done += len(batch)
        progress(done, total)


def read_embedding(path: Path) -> tuple[list[Gaussian], dict[str, Any]]:
    """The moments of both halves, and what they are of.

    Raises
    ------
    StageError: missing or damaged.
    """
    with reading(path, f"embed@{path.stem}"):
        table = pq.read_table(path)
        description = json.loads(table.schema.metadata[KEY.encode()])
    halves = []
    for row in range(table.num_rows):
        mean = table["mean"][row].values.to_numpy(zero_copy_only=False)
        covariance = table["covariance"][row].values.to_numpy(zero_copy_only=False).reshape(len(mean), -1)
        halves.append(Gaussian(table["n"][row].as_py(), mean, covariance))
    return halves, description


def run_similarity(context: Context, cell: str) -> None:
    """``cell``: two tasks, ``digits+landcover``."""
    pair = parse_task_pair(cell)
    names = [pair.first, pair.second]
    loaded = [read_embedding(context.path(paths.embedding(name))) for name in names]
    first, second = (description for _, description in loaded)
    if (first["encoder"], first["weights"]) != (second["encoder"], second["weights"]):
        raise StageError(f"{cell}: embedded by different encoders ({first['encoder']}, {second['encoder']})")
    whole = [pool(*halves) for halves, _ in loaded]
    distance = _distance(*whole)
    tau = context.params.similarity.tau
    write_json(
        context.path(paths.similarity(pair)),
        {
            "tasks": names,
            "encoder": first["encoder"],
            "weights": first["weights"],
            "dimensions": len(whole[0].mean),
            "n": [part.n for part in whole],
            "distance": distance,
            "floors": [_distance(*halves) for halves, _ in loaded],
            "floor_n": [[half.n for half in halves] for halves, _ in loaded],
            "tau": tau,
            "similarity": similarity(distance, tau),
            "data": {name: description["data"] for name, (_, description) in zip(names, loaded, strict=True)},
        },
    )


def _distance(first: Gaussian, second: Gaussian) -> float:
    return frechet_distance(first.mean, first.covariance, second.mean, second.covariance)
