"""Stages ``evaluate``, ``evaluate-edge`` and ``evaluate-ensemble``: scores on the test images.

A merged network is scored on each of its tasks with that task's head; the joint accuracy is over the union of all
heads' classes and all tasks' images. Source models are read from their stored predictions.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from mergeline.evaluation import (
    agreement,
    confusion,
    ensemble_logits,
    flops,
    joint_accuracy,
    parameters,
    predict,
    score,
    target_of,
)
from mergeline.fusing import fused
from mergeline.inputs import network_input
from mergeline.metrics import MAIN
from stages.context import Context
from stages.errors import StageError
from stages.formats.files import file_hash, write_json
from stages.formats.merged import load_merged, units_without_partner
from stages.formats.models import load_edge
from stages.formats.predictions import read_predictions
from stages.plan import paths
from stages.plan.keys import Key, Prediction, Sources, parse_edge, parse_merge, parse_sources
from stages.sources import head_names

__all__ = ["run_edge", "run_ensemble", "run_merge", "scores_of", "write_scores"]

MOST_CONFUSED = 50
"""Classes up to which a confusion matrix is kept."""
Logits = dict[str, list[Tensor]]
"""By task: each head's logits on that task's test images."""


def run_merge(context: Context, cell: str) -> None:
    """``cell``: a merge, ``digits+landcover.r35+r17.s0+s1.permute.reset``."""
    merge = parse_merge(cell)
    sources = merge.sources
    path = context.path(paths.merged_model(merge))
    network = context.place(load_merged(path))
    heads = head_names(sources)
    fast = fused(network)
    logits: Logits = {}
    for task in sources.tasks:
        images, _ = context.task(task).part("test")
        outputs = predict(fast, context.input_batches(images, context.params.evaluate.batch_size))
        if isinstance(outputs, dict):
            logits[task] = [
                context.readout(edge.task)(outputs[head]) for head, edge in zip(heads, sources.edges, strict=True)
            ]
        else:  # one output for all: a single task, or text embeddings that any task's classes are compared with
            logits[task] = [context.readout(name)(outputs) for name in sources.tasks]
    result = scores_of(context, sources, logits)
    source_logits = _source_logits(context, sources)
    for index, task in enumerate(sources.tasks):
        own, target = _own_head(context, sources, task, logits[task]), context.task(task).target
        if target == "values":  # no two networks tell the same number
            values = {}
        elif sources.same_task:
            values = agreement(own, [source_logits[edge][task] for edge in sources.edges])
        else:
            values = {
                "agree_own": float(
                    (own.argmax(1) == source_logits[sources.edges[index]][task].argmax(1)).double().mean()
                )
            }
        result["tasks"][task] |= {key: value for key, value in values.items() if not math.isnan(value)}
    result["without_partner"] = units_without_partner(path)
    write_scores(context, "merge", Key(sources, merge), result, path, network)


def run_edge(context: Context, cell: str) -> None:
    """``cell``: an edge, ``digits.r35.s0``."""
    edge = parse_edge(cell)
    path = context.path(paths.edge_model(edge))
    logits = read_predictions(context.path(paths.prediction(Prediction(edge, edge.task))))
    key = Key(Sources((edge,)))
    result = scores_of(context, key.sources, {edge.task: [logits]})
    write_scores(context, "edge", key, result, path, load_edge(path)[0])


def run_ensemble(context: Context, cell: str) -> None:
    """``cell``: the sources of merges; the models side by side, the upper bound that merging is measured against."""
    sources = parse_sources(cell)
    source_logits = _source_logits(context, sources)
    if sources.same_task:
        task = sources.tasks[0]
        target = context.task(task).target
        logits = {task: [ensemble_logits([source_logits[edge][task] for edge in sources.edges], target)]}
    else:
        logits = {task: [source_logits[edge][task] for edge in sources.edges] for task in sources.tasks}
    result = scores_of(context, sources, logits)
    models = [load_edge(context.path(paths.edge_model(edge)))[0] for edge in sources.edges]
    example = network_input(torch.from_numpy(context.task(sources.tasks[0]).inputs[:1]))
    result["parameters"] = sum(parameters(model) for model in models)
    result["flops"] = sum(flops(model, example) for model in models)
    write_scores(context, "ensemble", Key(sources), result, None, None)


def _source_logits(context: Context, sources: Sources) -> dict[Any, dict[str, Tensor]]:
    return {
        edge: {task: read_predictions(context.path(paths.prediction(Prediction(edge, task)))) for task in sources.tasks}
        for edge in sources.edges
    }


def _own_head(context: Context, sources: Sources, task: str, heads: list[Tensor]) -> Tensor:
    """The logits that a task's images are judged by: its own head's, or the mean of the heads that share the task."""
    if len(heads) == 1:
        return heads[0]
    if len(heads) == len(sources.tasks):
        return heads[sources.tasks.index(task)]
    own = [heads[index] for index, edge in enumerate(sources.edges) if edge.task == task]
    return own[0] if len(own) == 1 else ensemble_logits(own, context.task(task).target)


def scores_of(context: Context, sources: Sources, logits: Logits) -> dict[str, Any]:
    """Scores by task, the mean of the tasks' main metrics, and the joint accuracy where all of several tasks tell classes."""
    labels = {task: torch.from_numpy(context.task(task).part("test")[1]) for task in sources.tasks}
    targets = {task: target_of(own) for task, own in labels.items()}
    tasks: dict[str, dict[str, Any]] = {}
    for task in sources.tasks:
        own = _own_head(context, sources, task, logits[task])
        try:
            scores = score(own, labels[task], context.params.evaluate.calibration_bins)
        except ValueError as error:
            raise StageError(f"{sources}: on {task}, {error}") from None
        if not all(math.isfinite(value) for value in scores.values()):
            raise StageError(f"{sources}: the scores on {task} are not finite numbers: {scores}")
        tasks[task] = dict(scores)
        if targets[task] != "values" and own.shape[1] <= MOST_CONFUSED:
            tasks[task]["confusion"] = confusion(own, labels[task]).flatten().tolist()
    mains = {MAIN[target] for target in targets.values()}
    result: dict[str, Any] = {
        "tasks": tasks,
        mains.pop() if len(mains) == 1 else "score": sum(tasks[t][MAIN[targets[t]]] for t in tasks) / len(tasks),
        "data": {task: context.task(task).hash for task in sources.tasks},
        "training_images": {task: context.task(task).n_train for task in sources.tasks},
    }
    if len(sources.tasks) > 1 and "values" not in targets.values():
        per_task = [
            [_own_head(context, sources, head, logits[task]) for head in sources.tasks] for task in sources.tasks
        ]
        result["joint_accuracy"] = joint_accuracy(per_task, list(labels.values()))
    return result


def write_scores(context: Context, kind: str, key: Key, result: dict[str, Any], path: Any, network: Any) -> None:
    """An evaluation's file; ``path``, ``network``: of one that is evaluated itself, in whose place an ensemble has None."""
    if network is not None:
        task = next(iter(result["tasks"]))
        example = network_input(torch.from_numpy(context.task(task).inputs[:1]))
        result["parameters"] = parameters(network)
        result["flops"] = flops(network.cpu(), example)
    edges = dict.fromkeys(key.sources.edges)
    hashes = {str(edge): file_hash(context.path(paths.edge_model(edge))) for edge in edges}
    values = {"cell": str(key), "kind": kind, **result, "sources": hashes}
    if path is not None:
        values["model"] = file_hash(path)
    write_json(context.path(paths.evaluation(key)), values)
