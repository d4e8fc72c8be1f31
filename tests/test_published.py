"""Data sets in their published layouts that ZipIt! and MuDSC merge on: small copies with the same names and forms."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from mergeline.tasks import TASKS, RawTask, TaskError, prepare


def load(name: str, root: Path) -> RawTask:
    raw = TASKS[name].load(TASKS[name].find(root))
    assert isinstance(raw, RawTask)
    return raw


def picture(path: Path, level: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 30), (level, level, level)).save(path)


def levels(raw: RawTask) -> list[int]:
    return [int(np.median(sample)) for sample in raw.samples]


# -- dogs and pets ---------------------------------------------------------------------------------------------------


def write_dogs(root: Path, lists: str = "") -> list[str]:
    names = [
        f"n0208{breed}-{name}/n0208{breed}_{i}.jpg"
        for breed, name in ((6, "Pekinese"), (5, "Chihuahua"))
        for i in range(3)
    ]
    for number, name in enumerate(names):
        picture(root / "Images" / name, 20 * number)
    (root / lists).mkdir(exist_ok=True)
    for part, own in (("train", names[0:2] + names[3:5]), ("test", [names[2], names[5]])):
        cells = np.empty((len(own), 1), dtype=object)
        cells[:, 0] = own
        savemat(root / lists / f"{part}_list.mat", {"file_list": cells, "labels": np.zeros((len(own), 1))})
    return names


@pytest.mark.parametrize("lists", ["", "lists"])
def test_dogs_have_the_official_split_and_breeds_in_the_order_of_their_folders(tmp_path: Path, lists: str) -> None:
    write_dogs(tmp_path, lists)
    raw = load("dogs", tmp_path)
    assert raw.classes == ("Chihuahua", "Pekinese")
    assert raw.labels.tolist() == [1, 1, 0, 0, 1, 0]
    assert raw.test is not None
    assert raw.test.tolist() == [False] * 4 + [True] * 2
    assert levels(raw) == [0, 20, 60, 80, 40, 100]
    assert prepare("dogs", raw, 32).inputs.shape == (6, 32, 32, 3)


def write_pets(root: Path) -> None:
    (root / "annotations").mkdir(parents=True)
    breeds = {"Abyssinian": 1, "american_bulldog": 2}
    for part, numbers in (("trainval", (1, 2)), ("test", (3,))):
        lines = [f"{breed}_{number} {label} 1 1" for breed, label in breeds.items() for number in numbers]
        (root / "annotations" / f"{part}.txt").write_text("\n".join(lines) + "\n")
        for breed, label in breeds.items():
            for number in numbers:
                picture(root / "images" / f"{breed}_{number}.jpg", 50 * label + number * 10)
    (root / "annotations" / "list.txt").write_text("#Image CLASS-ID SPECIES BREED ID\n")


def test_pets_are_classes_by_their_numbers(tmp_path: Path) -> None:
    write_pets(tmp_path)
    raw = load("pets", tmp_path)
    assert raw.classes == ("Abyssinian", "american_bulldog")
    assert raw.labels.tolist() == [0, 0, 1, 1, 0, 1]
    assert raw.test is not None
    assert raw.test.tolist() == [False] * 4 + [True] * 2
    assert levels(raw) == [60, 70, 110, 120, 80, 130]


def test_a_list_of_pets_that_is_none_is_named(tmp_path: Path) -> None:
    write_pets(tmp_path)
    (tmp_path / "annotations" / "test.txt").write_text("Abyssinian_3\n")
    with pytest.raises(TaskError, match=r"test\.txt, line 1: expected an image's name and its class"):
        load("pets", tmp_path)


# -- CIFAR -----------------------------------------------------------------------------------------------------------

PARTS = {"cifar10": [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"], "cifar100": ["train", "test"]}
FINE = {"cifar10": ["airplane", "automobile", "bird"], "cifar100": ["apple", "aquarium_fish", "baby"]}


def rows(name: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Four images in each part: red, then green, then blue planes."""
    rng = np.random.default_rng(0)
    found = {part: (rng.integers(0, 256, (4, 3072), dtype=np.uint8), rng.integers(0, 3, 4)) for part in PARTS[name]}
    for pixels, _ in found.values():
        pixels[0, :1024], pixels[0, 1024:2048], pixels[0, 2048:] = 10, 20, 30
    return found


def write_cifar(root: Path, name: str, binary: bool) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    folders = {("cifar10", True): "cifar-10-batches-bin", ("cifar10", False): "cifar-10-batches-py",
               ("cifar100", True): "cifar-100-binary", ("cifar100", False): "cifar-100-python"}  # fmt: skip
    folder = root / folders[name, binary]
    folder.mkdir()
    found = rows(name)
    for part, (pixels, labels) in found.items():
        if binary:
            columns = [labels[:, None].astype(np.uint8), pixels]
            if name == "cifar100":
                columns.insert(0, np.full((4, 1), 7, np.uint8))  # the coarse label
            (folder / f"{part}.bin").write_bytes(np.concatenate(columns, axis=1).tobytes())
        else:
            key = b"labels" if name == "cifar10" else b"fine_labels"
            (folder / part).write_bytes(pickle.dumps({b"data": pixels, key: labels.tolist()}, protocol=2))
    if binary:
        own = "batches.meta.txt" if name == "cifar10" else "fine_label_names.txt"
        (folder / own).write_text("\n".join(FINE[name]) + "\n\n")
    else:
        own, key = ("batches.meta", b"label_names") if name == "cifar10" else ("meta", b"fine_label_names")
        (folder / own).write_bytes(pickle.dumps({key: [entry.encode() for entry in FINE[name]]}, protocol=2))
    return found


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_is_read_from_either_archive(tmp_path: Path, name: str, binary: bool) -> None:
    found = write_cifar(tmp_path, name, binary)
    raw = load(name, tmp_path)
    assert raw.classes == tuple(FINE[name])
    assert raw.labels.tolist() == np.concatenate([labels for _, labels in found.values()]).tolist()
    assert raw.test is not None
    assert raw.test.tolist() == [False] * (len(raw.labels) - 4) + [True] * 4
    assert raw.samples[0].shape == (32, 32, 3)
    assert raw.samples[0][5, 7].tolist() == [10, 20, 30]
    inside = next(path for path in tmp_path.iterdir())
    assert load(name, inside).labels.tolist() == raw.labels.tolist(), "the root may be the archive's folder itself"


def test_a_pickle_that_asks_for_more_than_arrays_is_refused_and_not_run(tmp_path: Path) -> None:
    write_cifar(tmp_path, "cifar10", binary=False)
    path = tmp_path / "cifar-10-batches-py" / "data_batch_3"
    path.write_bytes(b"cos\nsystem\n(S'touch " + str(tmp_path / "touched").encode() + b"'\ntR.")
    with pytest.raises(TaskError, match=r"data_batch_3 is damaged: it asks for (os|posix)\.system"):
        load("cifar10", tmp_path)
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize("binary", [True, False])
def test_a_truncated_part_of_cifar_is_named(tmp_path: Path, binary: bool) -> None:
    write_cifar(tmp_path, "cifar100", binary)
    path = next(tmp_path.rglob("train*"))
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(TaskError, match=f"{re.escape(str(path))} is damaged"):
        load("cifar100", tmp_path)


# -- what is missing -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "imagenet",
        "dtd",
        "svhn",
        "mnist",
        "eurosat",
        "cub",
        "nabirds",
        "infograph",
        "dogs",
        "pets",
        "cifar10",
        "cifar100",
    ],
)
def test_every_published_data_set_says_where_to_put_which_files(tmp_path: Path, name: str) -> None:
    with pytest.raises(TaskError, match=rf"tasks\.{name}\.root|no root is set"):
        TASKS[name].find(None)
    with pytest.raises(TaskError, match=r"(?i)layout|root"):
        TASKS[name].find(tmp_path)


def test_images_that_the_lists_name_and_nobody_has_are_counted(tmp_path: Path) -> None:
    write_pets(tmp_path)
    for number in (1, 2):
        (tmp_path / "images" / f"Abyssinian_{number}.jpg").unlink()
    with pytest.raises(TaskError, match=r"Abyssinian_1\.jpg is missing, with 1 more of the 6 images"):
        load("pets", tmp_path)
