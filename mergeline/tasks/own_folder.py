"""One's own images: a folder for each class, split or not, as people have them on disk."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path

import numpy as np

from mergeline.tasks.folders import needs
from mergeline.tasks.listing import Listing, some, told, unread
from mergeline.tasks.own_images import OWN_SUFFIXES, OwnImages
from mergeline.tasks.task import Adapter, RawTask, TaskError

__all__ = ["FOLDER"]

_LAYOUT = "<class>/<image>, or train/<class>/<image> and test/<class>/<image>"
_SPLIT_LAYOUT = "train/<class>/<image>, test/<class>/<image>"
_PARTS = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test", "testing": "test",
}  # fmt: skip
"""What folders of a split are called, in any case, and what is in them."""

# -- which folders hold the classes ----------------------------------------------------------------------------------


def find_folder(root: Path | None) -> dict[str, Path]:
    """The folder of the classes, or those of the parts of a split, each by where it lies below the root.

    Raises
    ------
    TaskError: no such folder, a part of a split without its counterpart, or two folders for one part.
    """
    needs(root, "folder", _LAYOUT, ".")
    assert root is not None
    if not root.is_dir():
        raise TaskError(f"task 'folder': {root} is a file; unpack it, and name the folder. Expected in it: {_LAYOUT}")
    place, entered = root, ""
    while True:
        folders, images = Listing(root, OWN_SUFFIXES).inside(place)
        if parts := _parts(place, folders):
            return {f"{entered}{path.name}": path for path in parts}
        filled = [folder for folder in folders if _holds_images(folder)]
        if images or len(filled) != 1 or not _holds_folders(filled[0]):
            return {entered.rstrip("/") or ".": place}
        place, entered = filled[0], f"{entered}{filled[0].name}/"


def _holds_images(folder: Path) -> bool:
    return next(Listing(folder, OWN_SUFFIXES).below(folder), None) is not None


def _holds_folders(folder: Path) -> bool:
    """Whether there are folders with images in a folder, and no images beside them: it is no class."""
    folders, images = Listing(folder, OWN_SUFFIXES).inside(folder)
    return not images and any(_holds_images(inner) for inner in folders)


def _parts(place: Path, folders: Sequence[Path]) -> list[Path]:
    """The folders of a split, if there is one: two of its names, or one that holds classes and thus is none itself."""
    named = [(folder, _PARTS[folder.name.lower()]) for folder in folders if folder.name.lower() in _PARTS]
    parts = {part for _, part in named}
    for part in sorted(parts):
        twice = [folder.name for folder, own in named if own == part]
        if len(twice) > 1:
            raise TaskError(
                f"task 'folder': {place} holds {' and '.join(twice)}, which both are of a split's part {part!r}; leave one of them"
            )
    if len(parts) < 2 and not any(_holds_folders(folder) for folder, _ in named):
        return []  # there may be a class of trains
    counterpart = "train" if "train" not in parts else "test" if len(parts) < 2 else None
    if counterpart:
        there = named[0][0]
        raise TaskError(
            f"task 'folder': {place / counterpart} is missing. Expected layout below {place}: {_SPLIT_LAYOUT}. Or name {there} "
            "itself (tasks.<name>.root, --images, --root): then a part of it is split off"
        )
    return [folder for folder, _ in named]


# -- reading ---------------------------------------------------------------------------------------------------------

Images = dict[str, list[Path]]
"""A folder's images by class."""


def load_folder(files: Mapping[str, Path]) -> RawTask:
    """List the images; they are read as they are asked for.

    Raises
    ------
    TaskError: no images, one class alone, or a class that a part of the split lacks; names it and the fix.
    """
    key, place = next(iter(files.items()))
    split = len(files) > 1
    root = place if key == "." else place.parents[key.count("/")]
    listing = Listing(root, OWN_SUFFIXES)
    found = {key: _classes(listing, folder) for key, folder in files.items()}
    top = place.parent if split else place
    where = f"{top}/<{' or '.join(path.name for path in files.values())}>/" if split else f"{top}/"
    if not any(found.values()):
        left = f"; it holds {told(listing.left_out)}" if listing.left_out else ""
        raise TaskError(f"{top} holds no images in class folders ({where}<class>/<image>){left}")
    entered = key.rpartition("/")[0] if split else key.removeprefix(".")
    notes = [f"the classes are those in {entered}/, the one folder with images"] if entered else []
    train, test = found, dict[str, Images]()
    if split:
        train, test = _train_and_test(files, found, notes)
        _leave_out_beside(listing, top, files.values())
    if listing.left_out:
        notes.append(f"left out: {told(listing.left_out)}")
    return _raw(train, test, top, notes)


def _classes(listing: Listing, folder: Path) -> Images:
    folders, images = listing.inside(folder)
    for image in images:
        listing.leave_out("images in no class folder", image)
    found = {}
    for inner in folders:
        if paths := sorted(listing.below(inner)):
            found[inner.name] = paths
        else:
            listing.leave_out("folders without images", inner)
    return found


def _leave_out_beside(listing: Listing, top: Path, parts: Collection[Path]) -> None:
    """What lies beside the folders of a split and has images."""
    folders, images = Listing(top, OWN_SUFFIXES).inside(top)
    for folder in folders:
        if folder not in parts and _holds_images(folder):
            listing.leave_out("folders beside the split's", folder)
    for image in images:
        listing.leave_out("images in no class folder", image)


def _train_and_test(
    files: Mapping[str, Path], found: Mapping[str, Images], notes: list[str]
) -> tuple[dict[str, Images], dict[str, Images]]:
    """What is trained on and what is tested on: without a test part the validation part, else that is trained on too."""
    parts = {_PARTS[path.name.lower()]: key for key, path in files.items()}
    tested = "test" if "test" in parts else "val"
    train = {key: found[key] for part, key in parts.items() if part != tested}
    test = {parts[tested]: found[parts[tested]]}
    notes.append(
        f"trained on {' and '.join(files[key].name for key in train)}, tested on {files[parts[tested]].name}, as the folders say"
    )
    for key in (*train, *test):
        if not found[key]:
            raise TaskError(
                f"{files[key]} holds no images in class folders ({files[key]}/<class>/<image>). Put them there, or name "
                f"{files[parts['train']]} itself (tasks.<name>.root, --images, --root): then a part of it is split off"
            )
    have = [set(chain.from_iterable(part.values())) for part in (train, test)]
    if have[0] != have[1]:
        words = [" or ".join(files[key].name for key in part) for part in (train, test)]
        alone = [
            f"{some(sorted(own - other), 5)} {'is' if len(own - other) == 1 else 'are'} in {word} alone"
            for own, other, word in zip(have, reversed(have), words, strict=True)
            if own - other
        ]
        raise TaskError(
            f"{' and '.join(str(files[key]) for key in (*train, *test))} hold different classes: {', '.join(alone)}. Every class "
            "needs images to train on and images to test on: add them, or take its folder away"
        )
    return train, test


def _paths(part: Mapping[str, Images], classes: Sequence[str]) -> Iterator[tuple[Path, int]]:
    for images in part.values():
        for label, name in enumerate(classes):
            yield from ((path, label) for path in images.get(name, ()))


def _raw(train: Mapping[str, Images], test: Mapping[str, Images], top: Path, notes: Sequence[str]) -> RawTask:
    classes = tuple(sorted(set(chain.from_iterable(train.values()))))
    for name in classes:
        if any("\ud800" <= character <= "\udfff" for character in name):  # what names of no UTF-8 are read as
            raise TaskError(f"{top}: the class {name!r} has a name that is no UTF-8; rename its folder")
    if len(classes) < 2:
        raise TaskError(
            f"{top} holds images of one class alone, {classes[0]!r}; a task needs two, a folder of images for each "
            f"({_LAYOUT}). If the classes are folders in {classes[0]}, name that folder"
        )
    pairs = [*_paths(train, classes), *_paths(test, classes)]
    count = sum(len(paths) for images in train.values() for paths in images.values())
    return RawTask(
        OwnImages([path for path, _ in pairs]),
        np.array([label for _, label in pairs], np.int64),
        np.arange(len(pairs)),
        classes,
        "the user's own",
        top.resolve().name,
        np.arange(len(pairs)) >= count if test else None,
        stratified=True,
        notes=tuple(notes),
    )


FOLDER = Adapter(
    "folder", f"one's own images: {_LAYOUT}", find_folder, load_folder, own=True, unread=unread,
)  # fmt: skip
