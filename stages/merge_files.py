"""``mergeline merge A B``: merge one's own checkpoints, outside a benchmark."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mergeline.api import MergeResult, merge, resolved_cuts
from mergeline.architectures import ARCHITECTURES, Architecture, as_wide, build, deepest, multiplier
from mergeline.evaluation import ensemble_logits, parameters, pixel_logits, score
from mergeline.images import MEAN, STD
from mergeline.kinds import OF_PIXELS
from mergeline.merging import checked_weights
from mergeline.metrics import MAIN
from mergeline.normalization import NORMALIZATIONS
from mergeline.spaces import Places, SpaceError, trace
from mergeline.tasks.task import PreparedTask
from stages.errors import InputError
from stages.exported import EXPORTS, check_exports, export
from stages.formats.files import writing
from stages.formats.merged import save_merged
from stages.own_models import OwnModel, Preprocessing, check_target, logits_of, own_model, own_task, some_images

__all__ = ["Data", "Merged", "Prepared", "Request", "check_request", "merge_files", "prepare_merge", "state_dict_file"]

STATE_DICTS = (".pth", ".pt", ".bin")
"""Endings of files that ``torch.save`` writes."""
ENDINGS = (".safetensors", *STATE_DICTS)
SETUP = 5.0
"""Seconds that following a network's graph and matching take, of one of common size."""
PASSES = 3.5
"""What a merge takes, in forward passes of all sources over the images: proof, moments, the merged network's statistics."""


@dataclass(frozen=True)
class Data:
    """Images that a model was trained on: the name of a task, and its folder, where it needs one."""

    source: str
    root: Path | None = None

    @property
    def label(self) -> str:
        """What a head on these data is called: letters, digits, _ and - alone, as parts of a network are."""
        folder = self.root is not None and self.source == "folder"
        return re.sub(r"[^A-Za-z0-9_-]+", "-", self.root.resolve().name if folder and self.root else self.source)


@dataclass(frozen=True)
class Request:
    """What is to be merged, and how. ``files``: checkpoints, ``FILE`` or ``FILE#PART``; ``data``: of each of them.

    ``architectures``: of each; none where the tensors are to say it. The rest as for :func:`mergeline.merge`.
    """

    files: tuple[str, ...]
    data: tuple[Data, ...]
    target: Path
    architectures: tuple[str | None, ...] = ()
    method: str = "permute"
    options: Mapping[str, Any] = field(default_factory=dict)
    normalize: str | None = None
    normalize_options: Mapping[str, Any] = field(default_factory=dict)
    weights: tuple[float, ...] | None = None
    stop: str | None = None
    preserve: str | None = None
    depth: str = "append"
    places: Places = "all"
    seed: int = 0
    input_size: int | None = None
    width: float | None = None
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD
    images: int = 1000
    batch_size: int = 100
    exports: tuple[Path, ...] = ()
    """Other files to write the network to: ONNX, or a program of ``torch.export``, by their endings."""


@dataclass(frozen=True)
class Prepared:
    """A request whose models and data have been read. ``tasks``: by head, one alone where all models have one task."""

    request: Request
    models: tuple[OwnModel, ...]
    tasks: dict[str, PreparedTask]
    preprocessing: Preprocessing
    normalize: str
    warnings: tuple[str, ...] = ()

    @property
    def several(self) -> bool:
        """Whether each model keeps its head."""
        return len(self.tasks) > 1

    def task_of(self, model: int) -> PreparedTask:
        return list(self.tasks.values())[model if self.several else 0]

    def seconds(self) -> float:
        """About how long the merge takes, by one batch through every source."""
        batch = next(iter(self.preprocessing.batches(some_images(self.task_of(0), 32), 32)))
        with torch.no_grad():
            for _ in range(2):  # the first pass sets things up
                start = perf_counter()
                for own in self.models:
                    own.network(batch)
                each = (perf_counter() - start) / len(batch)
        shown = sum(min(self.request.images, task.n_train) for task in self.tasks.values())
        tested = sum(task.n_test for task in self.tasks.values())
        return SETUP + each * (PASSES * shown + 2 * tested)


@dataclass(frozen=True)
class Merged:
    """What a merge made. ``scores``: a row each for the sources, their ensemble and the merged network, by task its main metric."""

    prepared: Prepared
    architecture: Architecture
    plain: bool
    """Whether the file's tensors are those of the architecture's own class."""
    scores: list[dict[str, Any]]
    report: Mapping[str, Any]
    parameters: int
    doubts: tuple[str, ...] = ()
    """What is odd of the sources, now that they have been scored."""


def prepare_merge(request: Request) -> Prepared:
    """Read everything that a merge needs, and refuse what cannot be merged, before any work.

    Raises
    ------
    InputError: with the file, or the option, and the fix.
    """
    check_target(request.target)
    check_exports(request.exports)
    for place in (request.target, *request.exports):
        _check_place(place, ENDINGS if place == request.target else tuple(EXPORTS))
    names = request.architectures or (None,) * len(request.files)
    models = tuple(
        own_model(file, name, request.input_size, request.width)
        for file, name in zip(request.files, names, strict=True)
    )
    sizes = {own.architecture.input_size for own in models}
    if len(sizes) > 1:
        raise InputError(f"the networks read images of different sizes, {sorted(sizes)}; merged ones read one size")
    preprocessing = Preprocessing(sizes.pop(), request.mean, request.std)
    tasks = _tasks(request, preprocessing.size)
    for model, own in enumerate(models):
        head, task = list(tasks.items())[model if len(tasks) > 1 else 0]
        wanted = OF_PIXELS[0] if task.target in OF_PIXELS else task.target
        tells = ARCHITECTURES[own.architecture.name].tells
        if tells != wanted and not ARCHITECTURES[own.architecture.name].foreign:
            raise InputError(f"{own.place}: {own.architecture.name} tells {tells}, and {head} has {task.target}")
        if own.architecture.num_classes != task.n_classes:
            raise InputError(
                f"{own.place} tells {own.architecture.num_classes} classes apart, and {head} has {task.n_classes}: "
                f"{', '.join(task.classes[:5])}{', ...' if task.n_classes > 5 else ''}"
            )
    if len(tasks) > 1 and request.target.suffix in STATE_DICTS:
        raise InputError(
            f"{request.target}: a network with a head for each model goes into a .safetensors file, which says what it is"
        )
    return Prepared(request, models, tasks, preprocessing, _normalization(request, models), _warnings(models))


def check_request(prepared: Prepared) -> None:
    """Refuse, where nothing is merged, what a merge would refuse once the first network is followed: weights, and layers to keep or
    to stop at that there are not. Networks of different depth say it when they are brought to one.

    Raises
    ------
    InputError: with the cause.
    """
    try:
        checked_weights(prepared.request.weights, len(prepared.models))
        _check_cuts(prepared)
    except (ValueError, SpaceError) as error:
        raise InputError(str(error)) from None


def _check_cuts(prepared: Prepared) -> None:
    request, network = prepared.request, prepared.models[0].network
    names = {(own.architecture.name, own.architecture.width) for own in prepared.models}
    if (request.stop is None and request.preserve is None) or len(names) > 1:
        return
    batch = next(iter(prepared.preprocessing.batches(some_images(prepared.task_of(0), 2), 2)))
    resolved_cuts(network, trace(network, batch), request.stop, request.preserve, prepared.several)


def _check_place(target: Path, endings: Sequence[str]) -> None:
    if target.suffix not in endings:
        raise InputError(f"{target}: a merged network's file ends in {', '.join(endings)}")
    folder = next(parent for parent in target.absolute().parents if parent.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise InputError(f"{target} cannot be written: {folder} is no folder that you may write to")


def _tasks(request: Request, size: int) -> dict[str, PreparedTask]:
    """By head: one task if all models have the same data, else one for each model."""
    if len(set(request.data)) == 1:
        return {request.data[0].label: own_task(request.data[0].source, request.data[0].root, size)}
    read = {data: own_task(data.source, data.root, size) for data in dict.fromkeys(request.data)}
    tasks: dict[str, PreparedTask] = {}
    for data in request.data:
        name, count = data.label, 1
        while name in tasks:
            count += 1
            name = f"{data.label}-{count}"
        tasks[name] = read[data]
    return tasks


def _normalization(request: Request, models: Sequence[OwnModel]) -> str:
    """What was asked for; by default "reset" for networks with batch norms, and "repair" for others."""
    if request.normalize is not None:
        return request.normalize
    idle = NORMALIZATIONS["reset"].idle
    return "repair" if idle is not None and idle(models[0].network) else "reset"


def _warnings(models: Sequence[OwnModel]) -> tuple[str, ...]:
    seen: dict[str, str] = {}
    found = []
    for own in models:
        name = f"{own.sha256}{own.place.partition('#')[2]}"
        if name in seen:
            found.append(f"{own.place} and {seen[name]} are the same network: their merge is that network")
        seen[name] = own.place
    return tuple(found)


def merge_files(prepared: Prepared, say: Callable[[str], None] = lambda text: None) -> Merged:
    """Merge, write the network, and score it beside its sources on their test images.

    ``say``: is told what is being done.

    Raises
    ------
    InputError: the networks do not fit together, the normalisation cannot be done, or a network gives no finite outputs; nothing
        is written then.
    """
    request = prepared.request
    networks = [own.network for own in prepared.models]
    parts = {
        name: list(prepared.preprocessing.batches(some_images(task, request.images), request.batch_size))
        for name, task in prepared.tasks.items()
    }
    say("merging")
    try:
        result = merge(
            dict(zip(prepared.tasks, networks, strict=True)) if prepared.several else networks,
            parts if prepared.several else next(iter(parts.values())),
            request.method, prepared.normalize, options=request.options, normalize_options=request.normalize_options,
            weights=request.weights, stop=request.stop, preserve=request.preserve, depth=request.depth, places=request.places,
            seed=request.seed,
        )  # fmt: skip
    except (ValueError, SpaceError) as error:
        raise InputError(str(error)) from None
    say("scoring")
    scores = _scores(prepared, result.model)
    architecture = _topology(prepared, result)
    plain = not prepared.several and _is_plain(result, architecture)
    if request.target.suffix in STATE_DICTS and not plain:
        raise InputError(
            f"{request.target}: this network is of no plain class (layers kept, or biases added); write a .safetensors file"
        )
    _export(prepared, result.model, say)
    _save(prepared, result, architecture)
    doubts = tuple(_doubts(prepared, scores))
    return Merged(prepared, architecture, plain, scores, result.report, parameters(result.model), doubts)


def _export(prepared: Prepared, network: nn.Module, say: Callable[[str], None]) -> None:
    """Write the other files: all of them, or none."""
    batch = next(iter(prepared.preprocessing.batches(some_images(prepared.task_of(0), 3), 3)))
    written: list[Path] = []
    try:
        for place in prepared.request.exports:
            say(f"exporting {place.name}")
            export(network, place, batch)
            written.append(place)
    except InputError:
        for place in written:
            place.unlink()
        raise


def _scores(prepared: Prepared, merged: nn.Module) -> list[dict[str, Any]]:
    size = prepared.request.batch_size
    rows: list[dict[str, Any]] = []
    by_task: dict[str, list[Tensor]] = {}
    for number, own in enumerate(prepared.models):
        task = prepared.task_of(number)
        head = list(prepared.tasks)[number if prepared.several else 0]
        logits = logits_of(own.network, task, prepared.preprocessing, size)
        assert isinstance(logits, Tensor)
        by_task.setdefault(head, []).append(logits)
        rows.append({"network": own.place, "kind": "source", "score": {head: _score(own.place, logits, task)}})
    if not prepared.several:
        head, task = next(iter(prepared.tasks.items()))
        together = ensemble_logits([pixel_logits(own) for own in by_task[head]], task.target)
        rows.append(
            {
                "network": "ensemble of the sources",
                "kind": "ensemble",
                "score": {head: _score("the ensemble", together, task)},
            }
        )
    scores = {}
    for head, task in prepared.tasks.items():
        logits = logits_of(merged, task, prepared.preprocessing, size)
        scores[head] = _score("the merge", logits[head] if isinstance(logits, dict) else logits, task)
    rows.append({"network": str(prepared.request.target), "kind": "merged", "score": scores})
    return rows


def _doubts(prepared: Prepared, scores: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Sources that know nothing of the images: prepared in another way, or classes in another order."""
    for row in scores:
        for head, value in row["score"].items():
            task = prepared.tasks[head]
            if row["kind"] != "source" or task.target != "classes":
                continue
            labels = task.part("test")[1]
            usual = np.bincount(labels).max() / len(labels)
            if value <= usual + 0.02:
                names = f"{', '.join(task.classes[:4])}{', ...' if task.n_classes > 4 else ''}"
                yield (
                    f"{row['network']} is right on {100 * value:.1f} % of {head}, and whoever always says its most frequent class "
                    f"on {100 * usual:.1f} %: were images prepared otherwise (--mean, --std, --input-size), or classes in another "
                    f"order than {names}?"
                )


def _score(network: str, logits: Tensor, task: PreparedTask) -> float:
    """The main metric of the task's target, of outputs in any form. InputError if they are not finite: they mean nothing."""
    try:
        return score(pixel_logits(logits), torch.from_numpy(task.part("test")[1]))[MAIN[task.target]]
    except ValueError as error:
        raise InputError(f"{network}, on its test images: {error}; nothing is written") from None


def _topology(prepared: Prepared, result: MergeResult) -> Architecture:
    """The architecture that the merged network has, of one task."""
    architectures = [own.architecture for own in prepared.models]
    if prepared.several or len(set(architectures)) == 1:
        return architectures[0]
    if not any(ARCHITECTURES[own.name].foreign for own in architectures):
        return replace(architectures[0], name=deepest([own.name for own in architectures]))
    return next((own for own in architectures if _is_plain(result, own)), architectures[0])


def _is_plain(result: MergeResult, architecture: Architecture) -> bool:
    """Whether the merged tensors are those of the architecture's own class."""
    own = {name: tensor.shape for name, tensor in build(architecture).state_dict().items()}
    return own == {name: tensor.shape for name, tensor in result.model.state_dict().items()}


def _save(prepared: Prepared, result: MergeResult, deep: Architecture) -> None:
    """Write a merge with what it takes to build it again, and to place its sources' blocks as it did."""
    target = prepared.request.target
    if target.suffix in STATE_DICTS:
        state_dict_file(target, result.model)
        return
    if prepared.several:
        heads = {head: own.architecture for head, own in zip(prepared.tasks, prepared.models, strict=True)}
        save_merged(
            target,
            result.model,
            heads,
            prepared.request.stop,
            True,
            result.preserved,
            len(heads) if result.preserved else 0,
        )
        return
    names = [own.architecture.name for own in prepared.models]
    kept, count = result.preserved, len(names)
    placed = [result.placed.get(str(place)) for place in range(count)]
    placements = [None if own is None else own.placement for own in placed]
    widths = (
        [replace(deep, name=as_wide(deep.name, multiplier(name))) for name in names]
        if multiplier(deep.name) != 1 or kept
        else []
    )
    save_merged(
        target, result.model, {next(iter(prepared.tasks)): deep}, None, False, kept, count if kept else 0, placements,
        widths if kept and len(set(widths)) > 1 else (),
    )  # fmt: skip


def state_dict_file(target: Path, model: nn.Module) -> None:
    """A network's tensors as ``torch.save`` writes them, for its own class."""
    with writing(target) as temporary:
        torch.save({name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}, temporary)
