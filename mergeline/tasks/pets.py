"""Stanford Dogs and Oxford-IIIT Pets, in their published layouts: ZipIt!'s tasks (Table 2)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mergeline.tasks.folders import independent, layout_adapter, listed, needs
from mergeline.tasks.image_files import ImageFiles
from mergeline.tasks.task import Adapter, RawTask, TaskError

__all__ = ["DOGS", "PETS"]

_DOGS_LAYOUT = (
    "Images/<wnid>-<breed>/<image>.jpg, and train_list.mat and test_list.mat beside it or in lists/ (images.tar and lists.tar "
    "of the data set's page, unpacked)"
)


def _find_dogs(root: Path | None) -> dict[str, Path]:
    files = needs(root, "dogs", _DOGS_LAYOUT, "Images")
    assert root is not None
    inside = "lists/" if (root / "lists").is_dir() else ""
    return files | {
        name: path
        for name in ("train_list.mat", "test_list.mat")
        for path in needs(root, "dogs", _DOGS_LAYOUT, f"{inside}{name}").values()
    }


def _load_dogs(files: Mapping[str, Path]) -> RawTask:
    """The official split; classes are breeds in the order of their labels, which is that of their folders."""
    names: list[str] = []
    test: list[bool] = []
    for part in ("train_list.mat", "test_list.mat"):
        entries = _file_list(files[part])
        names += entries
        test += [part == "test_list.mat"] * len(entries)
    folders = sorted({name.split("/")[0] for name in names})
    index = {name: label for label, name in enumerate(folders)}
    return independent(
        ImageFiles(listed("dogs", [files["Images"] / name for name in names])),
        [index[name.split("/")[0]] for name in names],
        classes=tuple(name.split("-", 1)[-1] for name in folders),
        licence="non-commercial research (ImageNet terms)",
        source="Stanford Dogs",
        test=np.array(test),
    )


def _file_list(path: Path) -> list[str]:
    from scipy.io import loadmat

    try:
        return [str(entry[0]) for entry in loadmat(path)["file_list"].ravel()]
    except Exception as error:  # scipy raises many kinds
        raise TaskError(f"{path} is damaged: {error}. Delete it and fetch it again.") from error


_PETS_LAYOUT = (
    "images/<Breed>_<number>.jpg, annotations/trainval.txt and annotations/test.txt (images.tar.gz and annotations.tar.gz of "
    "the data set's page, unpacked; torchvision's folder is oxford-iiit-pet)"
)


def _load_pets(files: Mapping[str, Path]) -> RawTask:
    """The official split into trainval and test; 37 breeds by their class numbers."""
    names, labels, test = [], [], []
    breeds: dict[int, str] = {}
    for part in ("annotations/trainval.txt", "annotations/test.txt"):
        for number, line in enumerate(files[part].read_text(encoding="utf-8").splitlines(), 1):
            fields = line.split()
            if not fields or line.startswith("#"):
                continue
            if len(fields) < 2 or not fields[1].isdecimal():
                raise TaskError(f"{files[part]}, line {number}: expected an image's name and its class, found {line!r}")
            label = int(fields[1]) - 1
            names.append(fields[0])
            labels.append(label)
            test.append(part == "annotations/test.txt")
            breeds[label] = fields[0].rpartition("_")[0]
    if sorted(breeds) != list(range(len(breeds))):
        raise TaskError(f"{files['annotations/trainval.txt']}: classes are not numbered from 1 to {len(breeds)}")
    return independent(
        ImageFiles(listed("pets", [files["images"] / f"{name}.jpg" for name in names])),
        labels,
        classes=tuple(breeds[label] for label in range(len(breeds))),
        licence="CC BY-SA 4.0 (Oxford-IIIT Pet)",
        source="Oxford-IIIT Pet",
        test=np.array(test),
    )


DOGS = Adapter("dogs", "Stanford Dogs: 120 breeds", _find_dogs, _load_dogs, mirror_safe=True)
PETS = layout_adapter(
    "pets",
    "Oxford-IIIT Pets: 37 breeds of cats and dogs",
    _PETS_LAYOUT,
    ("images", "annotations/trainval.txt", "annotations/test.txt"),
    _load_pets,
)
