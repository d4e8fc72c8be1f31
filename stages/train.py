"""Stages ``train``, ``finetune``, ``untrained`` and ``import``: the edge models."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torch import nn

from mergeline.architectures import ARCHITECTURES, Architecture, build
from mergeline.checkpoint_names import split_part
from mergeline.checkpoints import fitted, read_checkpoint
from mergeline.evaluation import predict, score
from mergeline.inputs import to_device
from mergeline.kinds import OF_PIXELS
from mergeline.metrics import MAIN
from mergeline.normalization.reset import reset
from mergeline.pretrained import start_from
from mergeline.pretrained_files import PretrainedError, local_place, weights_file
from mergeline.seeds import derive_seed, numpy_generator, torch_generator
from mergeline.tasks import TASKS
from mergeline.tasks.task import PreparedTask
from mergeline.training import EpochRecord, Recipe, TrainState, train
from mergeline.weights import WeightsError
from stages.context import Context, Progress
from stages.errors import StageError
from stages.formats.files import file_hash, write_json, writing
from stages.formats.models import load_edge, save_edge
from stages.formats.tables import write_table
from stages.plan import paths
from stages.plan.expansion import base_edge
from stages.plan.keys import INITIALIZATION, Edge, known, parse_edge
from stages.plan.params import Params
from stages.plan.recipes import recipe_settings

__all__ = ["load_pretrained", "run_finetune", "run_import", "run_train", "run_untrained"]

TEST_BATCH = 250
"""Images at a time for the scores in metrics.json; not ``evaluate.batch_size``, which must touch no training."""


def run_train(context: Context, cell: str) -> None:
    """``cell``: an edge, ``digits.r35.s0``. Starts from its architecture's trained weights, if params.yaml names some, else
    from random ones, which depend on the edge's name alone; so does the head in either case."""
    edge = parse_edge(cell)
    task = context.task(edge.task)
    if not edge.trained or base_edge(context.params, edge) is not None:
        other = "untrained" if not edge.trained else "finetune"
        raise StageError(f"{cell} is not trained from scratch: python -m stages {other} {cell}")
    architecture = _architecture(context, edge, task)
    model = _start(context, edge, architecture)
    start = load_pretrained(context.root, context.params, model, edge.architecture)
    _train(context, edge, task, architecture, model, "train", start)


def load_pretrained(root: Path, params: Params, model: nn.Module, architecture: str) -> str:
    """Give a network the weights that its architecture starts from, in place, and say what they are: their hash, or "random".

    Raises
    ------
    StageError: they are missing or do not fit; names the key.
    """
    place = params.pretrained.get(architecture)
    if place is None:
        return "random"
    place = str(root / place) if local_place(place) is not None else place
    try:
        start_from(model, place, dict(_head_parameters(model)))
        return file_hash(weights_file(place))
    except PretrainedError as error:
        raise StageError(f"pretrained.{architecture}: {error}") from error


def run_finetune(context: Context, cell: str) -> None:
    """``cell``: an edge whose task has a pretrain task. Starts from that task's edge, with a new head."""
    edge = parse_edge(cell)
    task = context.task(edge.task)
    base = base_edge(context.params, edge)
    if base is None:
        raise StageError(f"{cell} is not finetuned: tasks.{edge.task}.pretrain is not set")
    architecture = _architecture(context, edge, task)
    model = _start(context, edge, architecture)
    path = context.path(paths.edge_model(base))
    source, _ = load_edge(path)
    kept = {
        name: tensor for name, tensor in source.state_dict().items() if tensor.shape == model.state_dict()[name].shape
    }
    head = [name for name in kept if name in dict(_head_parameters(model))]
    for name in head:
        del kept[name]
    model.load_state_dict(kept, strict=False)
    _train(context, edge, task, architecture, model, "finetune", start=file_hash(path))


def run_untrained(context: Context, cell: str) -> None:
    """``cell``: ``digits.r35.u0``, a network that never trained (a control); only its batch statistics are set."""
    edge = parse_edge(cell)
    task = context.task(edge.task)
    architecture = _architecture(context, edge, task)
    model = context.place(_start(context, edge, architecture))
    images, _ = task.part("train")
    options = context.params.normalize["reset"]
    chosen = numpy_generator(context.params.seed, "reset", cell).permutation(len(images))[: options.images]
    reset(model, context.input_batches(images[chosen], options.batch_size))
    save_edge(context.path(paths.edge_model(edge)), model, architecture, edge.task, edge.seed)


def run_import(context: Context, cell: str) -> None:
    """``cell``: an edge that ``imports`` in params.yaml names a checkpoint for."""
    edge = parse_edge(cell)
    task = context.task(edge.task)
    architecture = _architecture(context, edge, task)
    path = context.path(context.params.imports[known("import", cell, context.params.imports)])
    model = build(architecture)
    model.load_state_dict(check_checkpoint(path, model, cell))
    context.place(model)
    _write_edge(context, edge, task, architecture, model, {"start": file_hash(split_part(path)[0]), "epochs": 0})


def check_checkpoint(place: Path, model: nn.Module, cell: str) -> dict[str, torch.Tensor]:
    """The state dict in a checkpoint (:mod:`mergeline.checkpoints`), if it fits ``model``.

    Raises
    ------
    StageError: missing, unreadable, or another network; names the first tensors that do not fit.
    """
    try:
        return fitted(read_checkpoint(place), model.state_dict()).state
    except WeightsError as error:
        raise StageError(f"{error} (imports.{cell})") from error


def _architecture(context: Context, edge: Edge, task: PreparedTask) -> Architecture:
    model = context.params.model
    known("architecture", edge.architecture, ARCHITECTURES)
    return Architecture(edge.architecture, context.outputs(edge.task, task.n_classes), model.width, model.input_size)


def _start(context: Context, edge: Edge, architecture: Architecture) -> nn.Module:
    """The network with its initial weights, which depend on the edge's name alone."""
    seed = derive_seed(context.params.seed, "init", str(edge))
    return build(architecture, seed, dict(edge.recipe).get(INITIALIZATION))


def _head_parameters(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """The parameters of the last linear layer, or where a network has none of its last convolution, which tells pixels."""
    layers = list(model.named_modules())
    name, head = (
        [e for e in layers if isinstance(e[1], nn.Linear)] or [e for e in layers if isinstance(e[1], nn.Conv2d)]
    )[-1]
    return [(f"{name}.{leaf}", parameter) for leaf, parameter in head.named_parameters()]


def _recipe(context: Context, edge: Edge, section: str) -> Recipe:
    task = context.params.tasks[edge.task]
    flip = TASKS[task.source or edge.task].mirror_safe if task.flip is None else task.flip
    settings = recipe_settings(context.params, edge, section)
    if TASKS[task.source or edge.task].target in OF_PIXELS:  # whose labels do not move with the image
        settings, flip = settings | {"shift": 0}, False
    return Recipe(**settings, flip=flip)


def _train(
    context: Context,
    edge: Edge,
    task: PreparedTask,
    architecture: Architecture,
    model: nn.Module,
    section: str,
    start: str,
) -> None:
    recipe = _recipe(context, edge, section)
    images, labels = task.part("train")
    device = context.device
    context.place(model)
    generator = torch_generator(context.params.seed, "train", str(edge), device=device)
    checkpoint = _Checkpoint(
        context,
        edge,
        [
            task.hash,
            start,
            str(edge),
            context.params.targets.model_dump(),
            architecture,
            recipe,
            context.params.seed,
            str(device),
        ],
    )
    history = train(
        model,
        to_device(images, device),
        torch.from_numpy(labels).to(device),
        recipe,
        generator,
        readout=context.readout(edge.task),
        resume=checkpoint.load(),
        on_epoch=checkpoint.save,
        on_step=Progress(f"train {edge}"),
    )
    write_table(context.path(paths.edge_history(edge)), _history_table(history))
    _write_edge(
        context, edge, task, architecture, model,
        {"start": start, "epochs": recipe.epochs, f"train_{MAIN[task.target]}": history[-1].accuracy},
    )  # fmt: skip
    checkpoint.remove()


def _write_edge(
    context: Context,
    edge: Edge,
    task: PreparedTask,
    architecture: Architecture,
    model: nn.Module,
    more: dict[str, Any],
) -> None:
    images, labels = task.part("test")
    outputs = predict(model, context.input_batches(images, TEST_BATCH))
    assert isinstance(outputs, torch.Tensor)
    scores = score(context.readout(edge.task)(outputs), torch.from_numpy(labels))
    told = {f"test_{name}": scores[name] for name in (MAIN[task.target], "l1" if task.target == "values" else "loss")}
    save_edge(context.path(paths.edge_model(edge)), model, architecture, edge.task, edge.seed)
    write_json(
        context.path(paths.edge_metrics(edge)),
        {**told, **more, "data_hash": task.hash},
    )


def _history_table(history: list[EpochRecord]) -> pa.Table:
    rows = [dataclasses.asdict(record) for record in history]
    return pa.Table.from_pylist(rows)


class _Checkpoint:
    """The state after each epoch, outside the stage's outputs, in a file named by all that the training depends on.

    A changed recipe or data set never resumes from another's state.
    """

    def __init__(self, context: Context, edge: Edge, key: list[Any]) -> None:
        text = json.dumps([dataclasses.asdict(k) if dataclasses.is_dataclass(k) else k for k in key], sort_keys=True)  # type: ignore[arg-type]
        digest = hashlib.sha256(text.encode()).hexdigest()[:16]
        self.path = context.path(paths.checkpoint(edge, digest))

    def load(self) -> TrainState | None:
        if not self.path.is_file():
            return None
        try:
            return TrainState.from_dict(torch.load(self.path, map_location="cpu", weights_only=True))
        except Exception:  # a damaged checkpoint costs time, never correctness
            self.path.unlink()
            return None

    def save(self, state: TrainState) -> None:
        with writing(self.path) as temporary:
            torch.save(state.to_dict(), temporary)

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)
