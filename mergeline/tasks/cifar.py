"""CIFAR-10 and CIFAR-100: the published archives, in their binary form or in Python's, of which nothing is run."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mergeline.tasks.folders import independent
from mergeline.tasks.task import Adapter, RawTask, TaskError

__all__ = ["CIFAR10", "CIFAR100"]

PIXELS = 3 * 32 * 32
PYTHON = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}
BINARY = {"cifar10": "cifar-10-batches-bin", "cifar100": "cifar-100-binary"}
TRAIN = {"cifar10": [f"data_batch_{number}" for number in range(1, 6)], "cifar100": ["train"]}
TEST = {"cifar10": ["test_batch"], "cifar100": ["test"]}
NAMES = {
    "cifar10": {"py": "batches.meta", "bin": "batches.meta.txt"},
    "cifar100": {"py": "meta", "bin": "fine_label_names.txt"},
}


def _find(name: str, root: Path | None) -> dict[str, Path]:
    """The files of whichever archive is there; the binary one stands first."""
    layout = (
        f"{BINARY[name]}/ or {PYTHON[name]}/, as the archives of the data set's page unpack ({', '.join(TRAIN[name])}, "
        f"{TEST[name][0]}, {NAMES[name]['py']})"
    )
    if root is None:
        raise TaskError(f"task {name!r} needs its folder: set tasks.{name}.root. Expected layout: {layout}")
    for form, folder, ending in (("bin", BINARY[name], ".bin"), ("py", PYTHON[name], "")):
        for place in (root / folder, root):
            if not (place / f"{TEST[name][0]}{ending}").is_file():
                continue
            wanted = [f"{part}{ending}" for part in (*TRAIN[name], *TEST[name])] + [NAMES[name][form]]
            files = {entry: place / entry for entry in wanted}
            for path in files.values():
                if not path.is_file():
                    raise TaskError(f"task {name!r}: {path} is missing. Expected layout below {root}: {layout}")
            return files
    raise TaskError(f"task {name!r}: no {TEST[name][0]} below {root}. Expected layout below {root}: {layout}")


class _OnlyArrays(pickle.Unpickler):
    """Reads what the archives hold, dictionaries of lists and numpy arrays, and refuses to make anything else."""

    ALLOWED = frozenset({("ndarray", "numpy"), ("dtype", "numpy"), ("encode", "_codecs")})

    def find_class(self, module: str, name: str) -> Any:
        if (name, module) in self.ALLOWED or (name == "_reconstruct" and module.endswith("core.multiarray")):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is no part of this data set")


def _unpickled(path: Path) -> dict[bytes, Any]:
    try:
        with path.open("rb") as stream:
            found = _OnlyArrays(stream, encoding="bytes").load()
        if not isinstance(found, dict):
            raise pickle.UnpicklingError("it holds no table")
        return {key if isinstance(key, bytes) else str(key).encode(): value for key, value in found.items()}
    except Exception as error:  # a damaged pickle raises what it likes
        raise TaskError(f"{path} is damaged: {error}. Delete it and fetch it again.") from error


def _python_part(path: Path, labels: bytes) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    found = _unpickled(path)
    try:
        pixels, given = np.asarray(found[b"data"], dtype=np.uint8), np.asarray(found[labels], dtype=np.int64)
        if pixels.shape != (len(given), PIXELS):
            raise ValueError(f"its images are {pixels.shape}, of {len(given)} labels")
    except (KeyError, ValueError, TypeError) as error:
        raise TaskError(f"{path} is damaged: {error}. Delete it and fetch it again.") from error
    return pixels, given


def _binary_part(path: Path, label_bytes: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Rows of one label (of CIFAR-100 two, the coarse one first) and the pixels, channel by channel."""
    data = np.fromfile(path, np.uint8)
    size = label_bytes + PIXELS
    if not len(data) or len(data) % size:
        raise TaskError(
            f"{path} is damaged: {len(data)} bytes are no whole images of {size}. Delete it and fetch it again."
        )
    rows = data.reshape(-1, size)
    return rows[:, label_bytes:], rows[:, label_bytes - 1].astype(np.int64)


def _load(name: str, files: Mapping[str, Path]) -> RawTask:
    binary = any(entry.endswith(".bin") for entry in files)
    ending = ".bin" if binary else ""
    labels = b"labels" if name == "cifar10" else b"fine_labels"
    classes = _classes(files[NAMES[name]["bin" if binary else "py"]], binary, name)

    def read(parts: Sequence[str]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        found = [
            _binary_part(files[part + ending], 1 if name == "cifar10" else 2) if binary
            else _python_part(files[part], labels)
            for part in parts
        ]  # fmt: skip
        return np.concatenate([pixels for pixels, _ in found]), np.concatenate([own for _, own in found])

    (train, train_labels), (test, test_labels) = read(TRAIN[name]), read(TEST[name])
    every = np.concatenate([train_labels, test_labels])
    if every.max() >= len(classes):
        raise TaskError(f"task {name!r}: label {every.max()}, and {len(classes)} classes are named")
    images = np.concatenate([train, test]).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return independent(
        np.ascontiguousarray(images),  # type: ignore[arg-type]
        every,  # type: ignore[arg-type]
        classes=classes,
        licence="research use (CIFAR)",
        source="CIFAR-10" if name == "cifar10" else "CIFAR-100",
        test=np.arange(len(every)) >= len(train),
    )


def _classes(path: Path, binary: bool, name: str) -> tuple[str, ...]:
    if binary:
        return tuple(path.read_text(encoding="utf-8").split())
    key = b"label_names" if name == "cifar10" else b"fine_label_names"
    found = _unpickled(path)
    if key not in found:
        raise TaskError(f"{path} is damaged: it has no {key.decode()}. Delete it and fetch it again.")
    return tuple(entry.decode() if isinstance(entry, bytes) else str(entry) for entry in found[key])


def _adapter(name: str, summary: str) -> Adapter:
    return Adapter(name, summary, partial(_find, name), partial(_load, name), mirror_safe=True)


CIFAR10 = _adapter("cifar10", "CIFAR-10: 60,000 small colour images of ten kinds of things")
CIFAR100 = _adapter("cifar100", "CIFAR-100: 60,000 small colour images of a hundred kinds of things")
