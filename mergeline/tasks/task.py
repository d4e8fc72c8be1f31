"""What a task is: labelled images or texts with a fixed split that keeps related ones together."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mergeline.kinds import UNLABELLED, Kind, Target
from mergeline.tokens import TokenError, tokenize

__all__ = [
    "Adapter",
    "PreparedTask",
    "RawData",
    "RawMasks",
    "RawTask",
    "RawTexts",
    "RawValues",
    "Scale",
    "TaskError",
    "check_file",
    "class_split",
    "content_hash",
    "origin_split",
    "parted",
    "prepare",
    "reads_all",
]


class TaskError(ValueError):
    """A task's data are missing, damaged or not what the parameters say; the message names the fix."""


class Scale(NamedTuple):
    """What values are told in: ``(value - mean) / deviation``, both in the value's own units."""

    mean: float
    deviation: float


@dataclass(frozen=True)
class RawData(ABC):
    """A data set as its adapter reads it: :class:`RawTask` (images), :class:`RawTexts`, :class:`RawMasks` or :class:`RawValues`.

    ``samples``, ``labels``: indexable, as many of each. ``origins``: what must not be split between training and test (one id a
    sample where samples are independent). ``test``: the official split, or None. ``stratified``: where there is none, each class
    has samples in both parts; else parts are drawn from all. ``notes``: what there is to say of the data, a sentence each.
    """

    samples: Sequence[Any]
    labels: Sequence[Any] | NDArray[np.int64]
    origins: NDArray[np.int64]
    classes: tuple[str, ...]
    licence: str
    source: str
    test: NDArray[np.bool_] | None = None
    stratified: bool = False
    notes: tuple[str, ...] = ()

    kind: ClassVar[Kind]
    labelled: ClassVar[str]
    """What has a label, in a word."""

    @property
    def said(self) -> tuple[str, ...]:
        """:attr:`notes`, and what was found out by reading samples."""
        return (*self.notes, *getattr(self.samples, "notes", ()))

    @abstractmethod
    def inputs(self, chosen: Sequence[int], size: int) -> NDArray[Any]:
        """Some of the samples as :attr:`PreparedTask.inputs`."""

    def groups(self, name: str, classes: Sequence[int] | None) -> NDArray[np.int64]:
        """For each sample the class whose share a limited choice keeps, -1 for one that is of none of ``classes``.

        Raises
        ------
        TaskError: labels that are no class.
        """
        labels = np.asarray(self.labels, dtype=np.int64)
        _check_range(f"task {name!r}: labels reach", labels, 0, self)
        return _renumbered(len(self.classes), classes)[labels]

    def targets(self, name: str, chosen: Sequence[int], size: int, classes: Sequence[int] | None) -> NDArray[Any]:
        """The chosen samples' labels as :attr:`PreparedTask.labels`, values in their own units."""
        return self.groups(name, classes)[list(chosen)]

    def scaled(
        self, name: str, labels: NDArray[Any], test: NDArray[np.bool_], classes: tuple[str, ...]
    ) -> tuple[NDArray[Any], Scale | None]:
        """Labels as networks tell them, and what their values were scaled by. ``test``: which are of the test part.

        Raises
        ------
        TaskError: a part has no label of a class, or values that are all the same.
        """
        for part, mask in (("training", ~test), ("test", test)):
            missing = sorted(set(range(len(classes))) - set(np.unique(labels[mask]).tolist()))
            if missing:
                raise TaskError(
                    f"task {name!r}: the {part} part has no {self.labelled} of class {classes[missing[0]]!r}"
                )
        return labels, None


class RawTask(RawData):
    """Samples are images, each ``(H, W)`` or ``(H, W, 3)`` uint8, of any size; labels ``(N,)``."""

    kind = "images"
    labelled = "image"

    def inputs(self, chosen: Sequence[int], size: int) -> NDArray[Any]:
        return resize_all((self.samples[i] for i in chosen), size)


class RawTexts(RawData):
    """Samples are texts; labels ``(N,)``."""

    kind = "texts"
    labelled = "text"

    def inputs(self, chosen: Sequence[int], size: int) -> NDArray[Any]:
        try:
            return tokenize([self.samples[i] for i in chosen], size)
        except TokenError as error:
            raise TaskError(str(error)) from error


class RawMasks(RawTask):
    """Samples are images, labels are masks: each ``(H, W)`` of its image's size, whole numbers, and
    :data:`mergeline.kinds.UNLABELLED` where a pixel counts for nothing."""

    labelled = "pixel"

    def groups(self, name: str, classes: Sequence[int] | None) -> NDArray[np.int64]:
        """All in one: an image has many classes."""
        return np.zeros(len(self.samples), np.int64)

    def targets(self, name: str, chosen: Sequence[int], size: int, classes: Sequence[int] | None) -> NDArray[Any]:
        """The pixels of other ``classes`` than these are unlabelled.

        Raises
        ------
        TaskError: a mask of another size than its image, or with values that are no class; names the image's place.
        """
        renumber = np.append(_renumbered(len(self.classes), classes), UNLABELLED).astype(np.int16)  # -1 finds the last
        found = []
        for place in chosen:
            mask = _of_image(name, self, place, "mask")
            _check_range(f"task {name!r}: the mask of image {place} has values", mask, UNLABELLED, self)
            found.append(renumber[_resize_mask(mask, size).astype(np.int64)])
        return np.stack(found)


@dataclass(frozen=True)
class RawValues(RawTask):
    """Samples are images, labels are maps of a value: each ``(H, W)`` of its image's size, floating numbers in the value's own
    units, and NaN where there is none. ``classes``: what the value is called, alone.

    ``scale``: a data set's fixed scale; by default that of the training part.
    """

    scale: Scale | None = None
    labelled = "value"

    def groups(self, name: str, classes: Sequence[int] | None) -> NDArray[np.int64]:
        """All in one."""
        return np.zeros(len(self.samples), np.int64)

    def targets(self, name: str, chosen: Sequence[int], size: int, classes: Sequence[int] | None) -> NDArray[Any]:
        """Raises
        ------
        TaskError: a map of another size than its image, or with an infinite value; names the image's place.
        """
        found = []
        for place in chosen:
            values = _of_image(name, self, place, "map of values").astype(np.float32)
            if np.isinf(values).any():
                raise TaskError(f"task {name!r}: the map of image {place} has infinite values; NaN stands for none")
            found.append(_resize_mask(values, size))
        return np.stack(found)

    def scaled(
        self, name: str, labels: NDArray[Any], test: NDArray[np.bool_], classes: tuple[str, ...]
    ) -> tuple[NDArray[Any], Scale | None]:
        for part, mask in (("training", ~test), ("test", test)):
            known = labels[mask][~np.isnan(labels[mask])]
            if not len(known) or known.min() == known.max():
                raise TaskError(
                    f"task {name!r}: the values of the {part} part are all the same" if len(known)
                    else f"task {name!r}: the {part} part has no {self.labelled}"
                )  # fmt: skip
        train = labels[~test].astype(np.float64)
        scale = self.scale or Scale(float(np.nanmean(train)), float(np.nanstd(train)))
        return ((labels - scale.mean) / scale.deviation).astype(np.float32), scale


@dataclass(frozen=True)
class PreparedTask:
    """Samples as networks of one input size take them, with their split.

    ``inputs``: images ``(N, S, S, 1 or 3)`` uint8 (gray images keep one channel; the network is fed three), or texts as token
    numbers ``(N, S)`` int32, filled up with 0. ``labels``: ``(N,)`` int64, or of every pixel ``(N, S, S)`` int16; values of
    pixels float32, scaled by ``scale``, NaN for none. ``classes``: their names; that of the value alone. ``test``: ``(N,)`` bool.
    ``hash``: sha256 of inputs, labels and split. ``notes``: what there is to say of how they were read.
    """

    name: str
    inputs: NDArray[Any]
    labels: NDArray[Any]
    test: NDArray[np.bool_]
    classes: tuple[str, ...]
    licence: str
    source: str
    hash: str = field(default="")
    scale: Scale | None = None
    notes: tuple[str, ...] = ()

    @property
    def n_classes(self) -> int:
        """How many numbers a network tells of a sample or pixel: one for each class, or the value."""
        return len(self.classes)

    @property
    def n_train(self) -> int:
        return len(self.test) - self.n_test

    @property
    def n_test(self) -> int:
        return int(self.test.sum())

    @property
    def target(self) -> Target:
        """What the labels are of."""
        if self.labels.dtype.kind == "f":
            return "values"
        return "classes" if self.labels.ndim == 1 else "pixels"

    def part(self, name: str) -> tuple[NDArray[Any], NDArray[Any]]:
        """Inputs and labels of the "train" or "test" part."""
        mask = {"train": ~self.test, "test": self.test}[name]
        return self.inputs[mask], self.labels[mask]


def reads_all(name: str) -> bool:
    """:attr:`Adapter.unread` of most data: no file is passed over."""
    return False


@dataclass(frozen=True)
class Adapter:
    """How to find and read one data set.

    ``find(root)`` names the files, cheaply, or raises :class:`TaskError` with the fix; ``load(files)`` reads them.
    ``root``: a folder of the user's, or None for the adapter's own place.
    """

    name: str
    summary: str
    find: Callable[[Path | None], dict[str, Path]]
    load: Callable[[Mapping[str, Path]], RawData]
    mirror_safe: bool = False
    """Whether an image's mirror image still belongs to its class."""
    options: Mapping[str, Any] = field(default_factory=dict)
    kind: Kind = "images"
    target: Target = "classes"
    own: bool = False
    """Whether the data are the user's own and ``load`` only lists files: what is wrong with them is known before any work."""
    unread: Callable[[str], bool] = reads_all
    """Whether a file or folder below those that were found is never read, by its name."""


def check_file(path: Path, sha256: str | None, fix: str) -> Path:
    """``path``, if it is there and has the content it should have.

    Raises
    ------
    TaskError: missing or different; names the file and ``fix``.
    """
    if not path.is_file():
        raise TaskError(f"{path} is missing. {fix}")
    if sha256 is not None:
        with path.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
        if found != sha256:
            raise TaskError(
                f"{path} is damaged or another version: sha256 is {found[:16]}…, expected {sha256[:16]}…. {fix}"
            )
    return path


def origin_split(origins: NDArray[np.int64], fraction: float, seed: int = 0) -> NDArray[np.bool_]:
    """A fixed test mask of whole origins, about ``fraction`` of them."""
    unique = np.unique(origins)
    chosen = np.random.default_rng(seed).permutation(len(unique))[: max(1, round(len(unique) * fraction))]
    return np.isin(origins, unique[chosen])


def class_split(name: str, raw: RawData, fraction: float, classes: Sequence[int] | None = None) -> NDArray[np.bool_]:
    """A fixed test mask of about ``fraction`` of each class's origins, at least one, and at least one left to train on.

    A class's part does not depend on the others. An origin of several classes is one of its first sample's.

    Raises
    ------
    TaskError: one of ``classes`` (all by default) has fewer than two origins; names it.
    """
    labels = np.asarray(raw.labels, dtype=np.int64)
    unique, first = np.unique(raw.origins, return_index=True)
    test = []
    for label, word in enumerate(raw.classes):
        own = unique[labels[first] == label]
        if len(own) < 2:
            if classes is None or label in classes:
                raise TaskError(
                    f"task {name!r}: class {word!r} has {len(own)} {raw.labelled}, and it takes two, one to train on and one to "
                    f"test on: add some, or leave the class out (tasks.{name}.classes, or take it away)"
                )
            continue
        count = min(max(1, round(len(own) * fraction)), len(own) - 1)
        test.append(own[np.random.default_rng(0).permutation(len(own))[:count]])
    return np.isin(raw.origins, np.concatenate(test))


def content_hash(inputs: NDArray[Any], labels: NDArray[Any], test: NDArray[np.bool_]) -> str:
    """sha256 over shapes and bytes of inputs, labels and split."""
    digest = hashlib.sha256()
    for array in (inputs, labels, test):
        digest.update(f"{array.shape}{array.dtype.str}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def parted(
    name: str,
    raw: RawData,
    *,
    classes: Sequence[int] | None = None,
    test_fraction: float = 0.25,
    n_classes: int | None = None,
) -> NDArray[np.bool_]:
    """Which samples are tested on, of a data set that is checked without reading them: see :func:`prepare`."""
    _check_counts(name, raw, n_classes)
    if classes is not None:
        _check_classes(name, raw, classes)
    if raw.test is not None:
        return np.asarray(raw.test, dtype=bool)
    if raw.stratified:
        return class_split(name, raw, test_fraction, classes)
    return origin_split(raw.origins, test_fraction)


def prepare(
    name: str,
    raw: RawData,
    size: int,
    *,
    classes: Sequence[int] | None = None,
    test_fraction: float = 0.25,
    max_train: int | None = None,
    max_test: int | None = None,
    n_classes: int | None = None,
) -> PreparedTask:
    """Check a data set, choose its classes and samples, and bring every one to ``size`` x ``size`` pixels or ``size`` tokens.

    Parameters
    ----------
    classes: indices of the classes to keep, renumbered in this order; all by default.
    test_fraction: share of the origins in the test part, where there is no official split.
    max_train, max_test: keep at most so many samples of a part (a fixed random choice, class shares kept).
    n_classes: the number of classes that the user expects.

    Raises
    ------
    TaskError: labels out of range, a wrong number of classes, no sample in a part, values that are all the same; names the task
        and the numbers.
    """
    test = parted(name, raw, classes=classes, test_fraction=test_fraction, n_classes=n_classes)
    names = raw.classes if classes is None else tuple(raw.classes[c] for c in classes)
    groups = raw.groups(name, classes)
    chosen = np.sort(
        np.concatenate(
            [
                _stratified(np.flatnonzero((groups >= 0) & part), groups, limit)
                for part, limit in ((~test, max_train), (test, max_test))
            ]
        )
    )
    labels = raw.targets(name, chosen.tolist(), size, classes)
    known = ~np.isnan(labels) if labels.dtype.kind == "f" else labels != UNLABELLED
    told = known.reshape(len(labels), -1).any(axis=1)  # an image without a label teaches nothing
    chosen, labels = chosen[told], labels[told]
    test = test[chosen]
    labels, scale = raw.scaled(name, labels, test, names)
    inputs = raw.inputs(chosen.tolist(), size)
    digest = content_hash(inputs, labels, test)
    return PreparedTask(name, inputs, labels, test, names, raw.licence, raw.source, digest, scale, raw.said)


def _check_counts(name: str, raw: RawData, n_classes: int | None) -> None:
    count, labels = len(raw.samples), len(raw.labels)
    if not count == labels == len(raw.origins):
        raise TaskError(f"task {name!r}: {count} {raw.kind}, {labels} labels and {len(raw.origins)} origin ids")
    if count == 0:
        raise TaskError(f"task {name!r}: {raw.source} holds no {raw.kind}")
    if n_classes is not None and n_classes != len(raw.classes):
        raise TaskError(
            f"task {name!r}: {raw.source} has {len(raw.classes)} classes, params.yaml says n_classes: {n_classes} "
            f"(tasks.{name}.n_classes)"
        )


def _check_range(what: str, labels: NDArray[np.integer], lowest: int, raw: RawData) -> None:
    if labels.min() < lowest or labels.max() >= len(raw.classes):
        raise TaskError(
            f"{what} from {labels.min()} to {labels.max()}, but {raw.source} names {len(raw.classes)} classes "
            f"(0 to {len(raw.classes) - 1})"
        )


def _check_classes(name: str, raw: RawData, classes: Sequence[int]) -> None:
    if isinstance(raw, RawValues):
        raise TaskError(
            f"task {name!r}: tells values, which have no classes to choose from; leave out tasks.{name}.classes"
        )
    wrong = [c for c in classes if not 0 <= c < len(raw.classes)]
    if wrong or len(set(classes)) != len(classes) or not classes:
        raise TaskError(
            f"task {name!r}: classes {list(classes)} must be different numbers from 0 to {len(raw.classes) - 1} "
            f"(tasks.{name}.classes)"
        )


def _renumbered(count: int, classes: Sequence[int] | None) -> NDArray[np.int64]:
    """For each of ``count`` classes its place among ``classes``; -1 for all others."""
    kept = range(count) if classes is None else classes
    renumber = np.full(count, UNLABELLED, dtype=np.int64)
    renumber[list(kept)] = np.arange(len(kept))
    return renumber


def _stratified(indices: NDArray[np.int64], labels: NDArray[np.int64], limit: int | None) -> NDArray[np.int64]:
    """At most ``limit`` of ``indices``, a fixed random choice that keeps the classes' shares."""
    if limit is None or len(indices) <= limit:
        return indices
    rng = np.random.default_rng(0)
    shuffled = rng.permutation(indices)
    rank = np.empty(len(shuffled))
    for label in np.unique(labels[shuffled]):
        own = np.flatnonzero(labels[shuffled] == label)
        rank[own] = (np.arange(len(own)) + 0.5) / len(own)
    return shuffled[np.argsort(rank, kind="stable")[:limit]]


def resize_all(images: Iterable[NDArray[np.uint8]], size: int) -> NDArray[np.uint8]:
    """All images at ``size`` x ``size``, one after the other: ``(N, size, size, C)``, C = 1 only if every image is gray."""
    resized = [_resize(image, size) for image in images]
    if any(image.ndim == 3 for image in resized):
        resized = [image if image.ndim == 3 else np.repeat(image[:, :, None], 3, axis=2) for image in resized]
        return np.stack(resized)
    return np.stack(resized)[:, :, :, None]


def _resize(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Centre crop to a square, then bilinear with antialiasing."""
    if image.ndim == 3 and image.shape[2] == 1:
        image = image[:, :, 0]
    height, width = image.shape[:2]
    if height == width == size:
        return image
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = Image.fromarray(image[top : top + side, left : left + side])
    return np.asarray(square.resize((size, size), Image.Resampling.BILINEAR))


def _of_image(name: str, raw: RawData, place: int, what: str) -> NDArray[Any]:
    """The labels of an image's pixels; TaskError where they are of another size."""
    labels, image = np.asarray(raw.labels[place]), raw.samples[place]
    if labels.shape != image.shape[:2]:
        raise TaskError(f"task {name!r}: image {place} is {image.shape[:2]} pixels, its {what} {labels.shape}")
    return labels


def _resize_mask(mask: NDArray[Any], size: int) -> NDArray[Any]:
    """As :func:`_resize` does with its image, each pixel with the label that lies nearest: nothing is mixed across an edge."""
    height, width = mask.shape
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    nearest = ((np.arange(size) + 0.5) * side / size).astype(np.int64)
    return mask[np.ix_(top + nearest, left + nearest)]
