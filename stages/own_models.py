"""``mergeline merge A B``: merge one's own checkpoints of one architecture family, outside a benchmark."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mergeline.api import MergeResult, merge
from mergeline.architectures import ARCHITECTURES, Architecture, as_wide, build, deepest, known_names, multiplier
from mergeline.checkpoints import fitted, read_checkpoint
from mergeline.evaluation import pixel_logits, predict, score
from mergeline.inputs import batches, to_device
from mergeline.kinds import OF_PIXELS
from mergeline.metrics import MAIN
from mergeline.tasks import TASKS, prepare
from mergeline.tasks.task import PreparedTask, TaskError
from mergeline.weights import WeightsError
from stages.errors import InputError
from stages.formats.merged import save_merged

__all__ = ["check_architectures", "check_target", "load_checkpoint", "merge_files", "own_task", "some_images"]


def merge_files(
    files: Sequence[Path],
    architectures: Sequence[str],
    source: str,
    root: Path | None,
    target: Path,
    *,
    method: str,
    options: Mapping[str, Any],
    input_size: int,
    width: float,
    images: int,
    normalize: str = "reset",
    normalize_options: Mapping[str, Any] | None = None,
    preserve: str | None = None,
    depth: str = "append",
    batch_size: int = 100,
) -> dict[str, Any]:
    """Merge checkpoints of one task and score them and the result on its test images.

    Raises
    ------
    InputError: an unknown name, a file that does not fit, a normalisation that cannot be done, or a target that exists.
    """
    check_architectures(architectures)
    check_target(target)
    task = own_task(source, root, input_size)
    _check_tells(architectures, task)
    deep = Architecture(deepest(architectures), task.n_classes, width, input_size)
    models: list[nn.Module] = []
    sources = []
    for path, name in zip(files, architectures, strict=True):
        architecture = Architecture(name, task.n_classes, width, input_size)
        model = load_checkpoint(path, architecture)
        sources.append(_score(model, task, batch_size))
        models.append(model.eval())
    inputs = list(batches(some_images(task, images), batch_size))
    try:
        result = merge(
            models, inputs, method, normalize, options=options, normalize_options=normalize_options, preserve=preserve,
            depth=depth,
        )  # fmt: skip
    except ValueError as error:
        raise InputError(str(error)) from None
    _save(target, result, source, deep, architectures)
    return {
        "sources": dict(zip(map(str, files), sources, strict=True)),
        "merged": _score(result.model, task, batch_size),
        "metric": MAIN[task.target],
        "method": method,
        "normalize": normalize,
        "images": result.report["images"],
        "out": str(target),
        "architecture": json.loads(json.dumps(deep.__dict__)),
    }


def _save(target: Path, result: MergeResult, source: str, deep: Architecture, architectures: Sequence[str]) -> None:
    """Write a merge with what it takes to build it again, and to place its sources' blocks as it did."""
    kept, count = result.preserved, len(architectures)
    placed = [result.placed.get(str(place)) for place in range(count)]
    placements = [None if own is None else own.placement for own in placed]
    widths = [replace(deep, name=as_wide(deep.name, multiplier(name))) for name in architectures]
    save_merged(
        target, result.model, {source: deep}, None, False, kept, count if kept else 0, placements,
        widths if kept and len(set(widths)) > 1 else (),
    )  # fmt: skip


def check_architectures(names: Iterable[str]) -> None:
    """Refuse an architecture that is not known (InputError)."""
    for name in names:
        if name not in ARCHITECTURES:
            raise InputError(f"unknown architecture {name!r}; known: {known_names()}")


def _check_tells(names: Iterable[str], task: PreparedTask) -> None:
    """Refuse an architecture that does not tell what the task's labels are of (InputError)."""
    wanted = OF_PIXELS[0] if task.target in OF_PIXELS else task.target
    for name in names:
        if ARCHITECTURES[name].tells != wanted:
            raise InputError(f"{name} tells {ARCHITECTURES[name].tells}, and {task.name} has {task.target}")


def check_target(target: Path) -> None:
    """Refuse to write over a file (InputError)."""
    if target.exists():
        raise InputError(f"{target} exists already; choose another --out")


def own_task(source: str, root: Path | None, input_size: int) -> PreparedTask:
    """One's own images at the size that networks read; InputError where there are none."""
    if source not in TASKS:
        raise InputError(f"unknown data {source!r}; known: {', '.join(TASKS)} (folder: one's own images, with --root)")
    try:
        return prepare(source, TASKS[source].load(TASKS[source].find(root)), input_size)
    except TaskError as error:
        raise InputError(str(error)) from None


def some_images(task: PreparedTask, count: int) -> torch.Tensor:
    """A fixed random choice of a task's training images."""
    train, _ = task.part("train")
    chosen = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))[:count].numpy()
    return to_device(train[chosen], "cpu")


def load_checkpoint(path: Path, architecture: Architecture) -> nn.Module:
    """A checkpoint's network; InputError where it does not fit."""
    model = build(architecture)
    try:
        model.load_state_dict(fitted(read_checkpoint(path), model.state_dict()).state)
    except WeightsError as error:
        raise InputError(f"{error}; read as {architecture.name}") from None
    return model


def _score(model: nn.Module, task: PreparedTask, batch_size: int) -> float:
    test, labels = task.part("test")
    logits = predict(model.to(memory_format=torch.channels_last), batches(to_device(test, "cpu"), batch_size))
    assert isinstance(logits, torch.Tensor)
    return score(pixel_logits(logits), torch.from_numpy(labels))[MAIN[task.target]]
