"""One's own checkpoints and images, outside a benchmark: read, recognised, and refused with the cause."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from mergeline.architectures import Architecture, build
from mergeline.checkpoint_names import split_part
from mergeline.checkpoints import Checkpoint, fitted, read_checkpoint
from mergeline.evaluation import predict
from mergeline.foreign import ForeignError, learn
from mergeline.images import MEAN, STD
from mergeline.inputs import batches, example_input, to_device
from mergeline.recognising import recognise
from mergeline.tasks import TASKS, prepare
from mergeline.tasks.task import PreparedTask, TaskError
from mergeline.weights import WeightsError
from stages.errors import InputError
from stages.formats.files import file_hash

__all__ = [
    "OwnModel",
    "Preprocessing",
    "check_architectures",
    "check_target",
    "load_checkpoint",
    "logits_of",
    "own_model",
    "own_task",
    "some_images",
]


@dataclass(frozen=True)
class Preprocessing:
    """How images become what networks read: their sides in pixels, and of each channel's values, of 0 to 1, the mean that is taken
    off and the deviation that is divided by."""

    size: int
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD

    def __post_init__(self) -> None:
        """Refuse numbers that would make every input infinite, or none at all."""
        if self.size < 1:
            raise InputError(f"images of {self.size} pixels a side: name at least 1")
        if not all(map(math.isfinite, self.mean)):
            raise InputError(f"mean {list(self.mean)}: not finite numbers")
        if not all(math.isfinite(deviation) and deviation > 0 for deviation in self.std):
            raise InputError(f"std {list(self.std)}: what is divided by must be finite and larger than 0")

    def batches(self, samples: Tensor, size: int) -> Iterator[Tensor]:
        """Batches of what networks read, of images ``(N, H, W, C)`` uint8 or texts ``(N, T)``."""
        return batches(samples, size, mean=self.mean, std=self.std)


@dataclass(frozen=True)
class OwnModel:
    """A network from a checkpoint; ``notes``: what was taken off its file, a sentence each."""

    place: str
    network: nn.Module
    architecture: Architecture
    notes: tuple[str, ...]

    @property
    def file(self) -> Path:
        return split_part(self.place)[0]

    @cached_property
    def sha256(self) -> str:
        """Of the file."""
        return file_hash(self.file)


def check_architectures(names: Iterable[str]) -> None:
    """Refuse an architecture that is not known (InputError); other libraries' become known."""
    try:
        for name in names:
            learn(name)
    except ForeignError as error:
        raise InputError(str(error)) from None


def check_target(target: Path) -> None:
    """Refuse to write over a file (InputError)."""
    if target.exists():
        raise InputError(f"{target} exists already; choose another name")


def own_task(source: str, root: Path | None, input_size: int) -> PreparedTask:
    """One's own images at the size that networks read; InputError where there are none."""
    if source not in TASKS:
        raise InputError(f"unknown data {source!r}; known: {', '.join(TASKS)} (folder: one's own images, with --root)")
    try:
        return prepare(source, TASKS[source].load(TASKS[source].find(root)), input_size)
    except TaskError as error:
        raise InputError(str(error).replace(f"set tasks.{source}.root", "name it with --root")) from None


def some_images(task: PreparedTask, count: int) -> torch.Tensor:
    """A fixed random choice of a task's training images."""
    train, _ = task.part("train")
    chosen = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))[:count].numpy()
    return to_device(train[chosen], "cpu")


def load_checkpoint(path: Path, architecture: Architecture) -> nn.Module:
    """A checkpoint's network; InputError where it does not fit."""
    try:
        return _built(read_checkpoint(path), architecture)[0]
    except WeightsError as error:
        raise InputError(f"{error}; read as {architecture.name}") from None


def own_model(place: str, name: str | None, input_size: int | None, width: float | None) -> OwnModel:
    """The network of a checkpoint, of the architecture ``name`` or of the one that its tensors say.

    ``input_size``, ``width``: of our own architectures, where they are not to be seen in the tensors.

    Raises
    ------
    InputError: a file that cannot be read, an unknown name, tensors of no known network, or of several; each with the way out.
    """
    try:
        checkpoint = read_checkpoint(place)
        if name is not None:
            learn(name)
        architecture = _architecture(checkpoint, place, name, input_size, width)
        network, notes = _built(checkpoint, architecture)
    except (WeightsError, ForeignError) as error:
        raise InputError(str(error)) from None
    return OwnModel(place, network.eval(), architecture, notes)


def _architecture(
    checkpoint: Checkpoint, place: str, name: str | None, input_size: int | None, width: float | None
) -> Architecture:
    found = recognise(checkpoint.state, input_size, [name] if name is not None else None)
    found = [own for own in found if width is None or own.width == width]
    if len(found) == 1:
        return found[0]
    if found:
        sizes = sorted({own.input_size for own in found})
        if len({own.name for own in found}) == 1:
            raise InputError(
                f"{place} is of {found[0].name}, at {_listed(sizes)} pixels alike: say which by --input-size"
            )
        raise InputError(f"{place} fits {_listed(own.name for own in found)}: say which by --architecture")
    if name is None:
        first = ", ".join(list(checkpoint.state)[:3])
        raise InputError(
            f"{place} is of no known architecture (its tensors: {first}, ...); say what makes it by --architecture: "
            "torchvision:NAME, timm:NAME, or package.module:function"
        )
    return _as_named(checkpoint, name, input_size, width)


def _as_named(checkpoint: Checkpoint, name: str, input_size: int | None, width: float | None) -> Architecture:
    """The architecture that was named, though its number of classes is not to be seen in the tensors: a function may have one
    of its own.

    Raises
    ------
    InputError: why the checkpoint is not of it, and of which one it is, if that is known.
    """
    try:
        named = Architecture(name, 2, width or 1.0, input_size or 224)
        network = build(named).eval()
        fitted(checkpoint, network.state_dict())
        with torch.no_grad():
            outputs = network(example_input(named.reads, named.input_size, 1))
        return replace(named, num_classes=outputs.shape[1])
    except WeightsError as error:
        others = recognise(checkpoint.state, input_size)
        better = f"; it fits {others[0].name}" if others else ""
        raise InputError(f"{error}; read as {name}{better}") from None
    except (ValueError, TypeError) as error:
        raise InputError(f"{name} cannot be built: {error}") from None


def _built(checkpoint: Checkpoint, architecture: Architecture) -> tuple[nn.Module, tuple[str, ...]]:
    model = build(architecture)
    found = fitted(checkpoint, model.state_dict())
    model.load_state_dict(found.state)
    return model, found.notes


def logits_of(
    model: nn.Module, task: PreparedTask, preprocessing: Preprocessing, batch_size: int
) -> Tensor | dict[str, Tensor]:
    """What a network says of a task's test images, ``(N, classes)``; by head of a network with several."""
    test, _ = task.part("test")
    return predict(
        model.to(memory_format=torch.channels_last), preprocessing.batches(to_device(test, "cpu"), batch_size)
    )


def _listed(entries: Iterable[object] | Sequence[object]) -> str:
    return " and ".join(map(str, entries))
