"""One's own images as people have them: every kind of file, every layout, and what is wrong with them said by name."""

from __future__ import annotations

import os
import shutil
import socket
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from mergeline.tasks import TASKS, RawTask, TaskError, prepare
from mergeline.tasks.listing import unread
from mergeline.tasks.own_images import Depth, OwnImages, _Extremes, _top_of_whole
from mergeline.tasks.task import class_split, parted
from stages.fingerprints.walk import walk

Pixels = NDArray[Any]


def load(root: Path) -> RawTask:
    adapter = TASKS["folder"]
    raw = adapter.load(adapter.find(root))
    assert isinstance(raw, RawTask)
    return raw


def save(path: Path, image: Image.Image | Pixels, **more: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(path, **more)
    return path


def flat(value: float, kind: type = np.uint8, size: tuple[int, int] = (6, 8)) -> Pixels:
    return np.full(size, value, dtype=kind)


def classes(root: Path, *names: str, count: int = 4) -> Path:
    """A folder of gray images for each name."""
    for number, name in enumerate(names or ("cat", "dog")):
        for i in range(count):
            save(root / name / f"{i}.png", flat(10 * number + i))
    return root


def read(path: Path) -> Pixels:
    return OwnImages([path])[0]


def said(raw: RawTask) -> str:
    return "; ".join(raw.said)


# -- kinds of images ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_images_of_16_bits_are_scaled_by_their_range(ending: str, tmp_path: Path) -> None:
    values = np.array([[0, 257, 25700, 65535]], np.uint16)
    assert read(save(tmp_path / f"a.{ending}", values)).tolist() == [[0, 1, 100, 255]]


@pytest.mark.parametrize(("highest", "bits"), [(200, 8), (1000, 10), (4095, 12), (4096, 14), (16384, 16), (65535, 16)])
def test_images_of_fewer_bits_in_files_of_16_are_no_black_ones(highest: int, bits: int, tmp_path: Path) -> None:
    image = OwnImages([save(tmp_path / "a.png", np.array([[0, highest]], np.uint16))])
    assert image[0].tolist() == [[0, round(highest * 255 / (2**bits - 1))]]
    assert image.notes == (
        f"images of more than 8 bits (1) have values up to {highest}: 0 to {2**bits - 1} becomes 0 to 255",
    )


def test_one_rule_holds_for_a_whole_data_set(tmp_path: Path) -> None:
    dark, bright = (save(tmp_path / f"{value}.png", flat(value, np.uint16)) for value in (1000, 60000))
    plain = save(tmp_path / "plain.png", flat(77))
    images = OwnImages([dark, bright, plain])
    assert [image[0, 0] for image in images] == [4, 233, 77]
    assert read(dark)[0, 0] == 249, "a data set of its own"


@pytest.mark.parametrize(
    ("values", "expected"), [([0, 65535], [0, 255]), ([0, 4000], [0, 249]), ([7, 255], [7, 255])]
)  # fmt: skip
def test_images_of_32_bits_are_scaled_by_their_real_range(
    values: list[int], expected: list[int], tmp_path: Path
) -> None:
    assert read(save(tmp_path / "a.tif", np.array([values], np.int32))).tolist() == [expected]


@pytest.mark.parametrize(
    ("values", "expected"),
    [([0.0, 0.5, 1.0], [0, 128, 255]), ([0.0, 100.2, 255.0], [0, 100, 255]), ([-0.001, 0.2, 1.001], [0, 51, 255])],
)
def test_images_of_fractions_reach_to_1_or_to_255(values: list[float], expected: list[int], tmp_path: Path) -> None:
    images = OwnImages([save(tmp_path / "a.tif", np.array([values], np.float32))])
    assert images[0].tolist() == [expected]
    assert "images of fractions (1)" in images.notes[0]


@pytest.mark.parametrize(
    ("values", "kind", "message"),
    [
        ([-1.0, 1.0], np.float32, r"reach from -1 to 1\); images of fractions reach from 0 to 1 or from 0 to 255"),
        ([0.0, 2.0], np.float32, r"reach from 0 to 2\)"),
        ([0.0, 3000.0], np.float32, r"reach from 0 to 3000\)"),
        ([0.0, np.nan], np.float32, "no numbers or infinite"),
        ([0.0, np.inf], np.float32, "no numbers or infinite"),
        ([-5, 100], np.int32, r"reach from -5 to 100\); images are of whole numbers from 0 to 65535"),
        ([0, 65536], np.int32, r"reach from 0 to 65536\)"),
    ],
)
def test_values_that_no_rule_fits_are_refused_with_their_range(
    values: list[float], kind: type, message: str, tmp_path: Path
) -> None:
    fine = save(tmp_path / "fine.tif", np.array([[0, 1]], kind))
    odd = save(tmp_path / "odd.tif", np.array([values], kind))
    with pytest.raises(TaskError, match=rf"^{odd} has values .*{message}"):
        OwnImages([fine, odd])[0]


@given(st.lists(st.integers(0, 65535), min_size=1, max_size=30))
def test_scaling_keeps_order_and_is_never_all_black(values: list[int]) -> None:
    found = _Extremes()
    found.add(Path("a.png"), min(values), max(values))
    scaled = Depth(_top_of_whole(found, [])).scaled(np.array(sorted(values)))
    assert (np.diff(scaled.astype(int)) >= 0).all()
    assert scaled.max() >= min(63, max(values))


def colour_of_16_bits(value: int, side: int = 4) -> bytes:
    """A PNG file of 16 bits a channel, which Pillow reads but does not write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = (b"\0" + struct.pack(">3H", value, value // 2, 0) * side) * side
    header = struct.pack(">IIBBBBB", side, side, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_colour_of_16_bits_is_read_and_dark_one_refused(tmp_path: Path) -> None:
    bright, dark = tmp_path / "bright.png", tmp_path / "dark.png"
    bright.write_bytes(colour_of_16_bits(0xC800))
    dark.write_bytes(colour_of_16_bits(4095))
    assert read(bright)[0, 0].tolist() == [200, 100, 0]
    assert OwnImages([dark, bright])[0][0, 0].tolist() == [15, 7, 0]
    with pytest.raises(TaskError, match=rf"{dark}: .*no value above 3855 of 65535.*bring them to 8 bits"):
        read(dark)


def test_16_bits_a_pixel_are_no_16_bits_a_channel(tmp_path: Path) -> None:
    path = tmp_path / "a.bmp"
    pixels = struct.pack("<2H", 0b00001_000010_00001, 0)
    header = struct.pack("<IiiHHIIiiII", 40, 2, 1, 1, 16, 3, len(pixels), 0, 0, 0, 0)
    masks = struct.pack("<3I", 0xF800, 0x7E0, 0x1F)
    offset = 14 + len(header) + len(masks)
    path.write_bytes(b"BM" + struct.pack("<IHHI", offset + len(pixels), 0, 0, offset) + header + masks + pixels)
    assert read(path)[0].tolist() == [[8, 8, 8], [0, 0, 0]]


@pytest.mark.parametrize("ending", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("turn", range(1, 9))
def test_images_are_turned_as_exif_says(turn: int, ending: str, tmp_path: Path) -> None:
    upright = flat(0, size=(16, 32))
    upright[:8, :16] = 255
    undo = {1: lambda a: a, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud, 5: np.transpose,
            6: lambda a: np.rot90(a, 1), 7: lambda a: np.rot90(a, 2).T, 8: lambda a: np.rot90(a, 3)}[turn]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = turn
    stored = np.ascontiguousarray(undo(upright))
    found = read(save(tmp_path / f"a.{ending}", stored, exif=exif))
    found = found if found.ndim == 2 else found[:, :, 0]
    assert found.shape == upright.shape
    assert np.abs(found.astype(int) - upright).max() < 30


def test_deep_images_are_turned_too(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert read(save(tmp_path / "a.png", flat(65535, np.uint16, (2, 6)), exif=exif)).shape == (6, 2)


def test_exif_that_cannot_be_read_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(image: Image.Image) -> Image.Exif:
        raise SyntaxError("not a TIFF file")

    path = save(tmp_path / "a.png", flat(9))
    monkeypatch.setattr(Image.Image, "getexif", broken)
    images = OwnImages([path])
    assert images[0].shape == (6, 8)
    assert "images whose EXIF data cannot be read (1: " in images.notes[0]


def half_clear(mode: str) -> Image.Image:
    """The left half black and opaque, the right half black and clear."""
    image = Image.new(mode, (4, 2))
    clear = np.zeros((2, 4), np.uint8)
    clear[:, :2] = 255
    image.putalpha(Image.fromarray(clear))
    return image


@pytest.mark.parametrize(("mode", "channels"), [("L", 0), ("RGB", 3)])
def test_transparent_images_lie_on_white(mode: str, channels: int, tmp_path: Path) -> None:
    found = read(save(tmp_path / "a.png", half_clear(mode)))
    assert found.shape == ((2, 4, channels) if channels else (2, 4))
    assert found[0, 0].max() == 0
    assert found[0, 3].min() == 255


def test_half_transparent_pixels_are_mixed_with_white(tmp_path: Path) -> None:
    image = Image.new("RGBA", (2, 2), (0, 100, 200, 128))
    assert read(save(tmp_path / "a.png", image))[0, 0].tolist() == pytest.approx([127, 177, 227], abs=1)


@pytest.mark.parametrize("ending", ["png", "gif"])
def test_the_clear_colour_of_a_palette_is_white(ending: str, tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 255, 0])
    image.putdata([0, 1])
    found = read(save(tmp_path / f"a.{ending}", image, transparency=1))
    assert found[0].tolist() == [[255, 0, 0], [255, 255, 255]]


def test_a_clear_colour_without_a_palette_is_white(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", np.array([[[1, 2, 3], [9, 9, 9]]], np.uint8), transparency=(1, 2, 3))
    assert read(path)[0].tolist() == [[255, 255, 255], [9, 9, 9]]


def test_other_modes_are_gray_or_colour(tmp_path: Path) -> None:
    bits = Image.fromarray(np.array([[0, 255]], np.uint8)).convert("1")
    assert read(save(tmp_path / "bits.png", bits)).tolist() == [[0, 255]]
    assert read(save(tmp_path / "bits.pbm", bits)).tolist() == [[0, 255]]
    ink = read(save(tmp_path / "ink.jpg", Image.new("CMYK", (8, 8), (0, 255, 255, 0))))
    assert ink.shape == (8, 8, 3)
    assert ink[0, 0, 0] > 230 > 60 > ink[0, 0, 1]
    palette = read(save(tmp_path / "palette.png", Image.new("RGB", (4, 4), (9, 8, 7)).quantize(4)))
    assert palette[0, 0].tolist() == [9, 8, 7]


def test_of_several_pictures_in_a_file_the_first_is_read_and_that_is_said(tmp_path: Path) -> None:
    pages = [Image.fromarray(flat(value)) for value in (5, 200)]
    images = OwnImages([save(tmp_path / "a.tif", pages[0], save_all=True, append_images=pages[1:])])
    assert images[0].max() == 5
    assert images.notes == (f"files of several pictures (1: {tmp_path}/a.tif): the first is read",)


# -- what cannot be read ----------------------------------------------------------------------------------------------


def test_a_bomb_names_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(classes(tmp_path) / "cat" / "huge.png", flat(1, size=(30, 30)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 200)
    with pytest.raises(TaskError, match=rf"{path} says that it has more pixels .* Make it smaller, or take it away"):
        prepare("folder", load(tmp_path), 8)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 600)
    assert f"images of more than 600 pixels (1: {path})" in prepare("folder", load(tmp_path), 8).notes


@pytest.mark.parametrize(
    ("ending", "damage"),
    [
        ("png", lambda data: data[: len(data) // 2]),
        ("png", lambda data: data[:60] + b"\xff" * 40 + data[100:]),
        ("jpg", lambda data: data[: len(data) // 2]),
        ("tif", lambda data: data[: len(data) // 2]),
        ("gif", lambda data: data[:20]),
        ("webp", lambda data: data[:40]),
        ("bmp", lambda data: data[:100]),
        ("png", lambda data: b""),
        ("png", lambda data: b"<html>not found</html>"),
    ],
)
def test_a_damaged_image_is_named(ending: str, damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = save(tmp_path / f"a.{ending}", noise)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(TaskError, match=rf"{path} cannot be read as an image: "):
        read(path)


def test_a_pipe_or_a_socket_is_refused_and_never_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    classes(tmp_path)
    monkeypatch.chdir(tmp_path)  # the names of sockets are short
    path = tmp_path / "cat" / "x.png"
    os.mkfifo(path)
    for _ in range(2):
        with pytest.raises(TaskError, match=rf"{path} is no regular file, but a pipe, a socket.*take it away"):
            load(tmp_path)
        with pytest.raises(TaskError, match=rf"{path} cannot be read as an image: it is no regular file"):
            read(path)
        path.unlink()
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind("cat/x.png")
    path.unlink()
    load(tmp_path)


def test_images_are_read_one_at_a_time(tmp_path: Path) -> None:
    for i in range(12):
        save(tmp_path / f"{i % 2}" / f"{i}.png", flat(i, size=(1000, 1000)))
    raw = load(tmp_path)
    tracemalloc.start()
    prepare("folder", raw, 16)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5_000_000, "twelve of them would take 12 MB"


# -- which files are read ---------------------------------------------------------------------------------------------


def clutter(root: Path) -> None:
    """What systems, editors and notebooks leave behind, with images in it."""
    for place in (
        ".hidden/a.png",
        "__MACOSX/cat/._0.png",
        "cat/.ipynb_checkpoints/0.png",
        "cat/@eaDir/0.png",
        "cat/._0.png",
    ):
        save(root / place, flat(200))
    for place in ("cat/Thumbs.db", "desktop.ini", "dog/.DS_Store"):
        (root / place).write_bytes(b"x")


def test_what_is_hidden_is_never_read_and_counted(tmp_path: Path) -> None:
    clean = load(classes(tmp_path / "clean"))
    clutter(classes(tmp_path / "mine"))
    raw = load(tmp_path / "mine")
    assert raw.classes == clean.classes
    assert prepare("folder", raw, 8).hash == prepare("folder", clean, 8).hash
    assert "left out: hidden files and folders (8: .hidden, __MACOSX, cat/._0.png, ...)" in said(raw)
    assert not clean.said


def test_fingerprints_are_of_what_is_read(tmp_path: Path) -> None:
    clutter(classes(tmp_path))
    adapter = TASKS["folder"]
    found = {
        f"{folder.name}/{name}"
        for folder in walk(adapter.find(tmp_path), tmp_path, adapter.unread)
        for name in folder.stamps
    }
    assert found == {f"{name}/{i}.png" for name in ("cat", "dog") for i in range(4)}


@given(st.text(max_size=12), st.sampled_from(["__MACOSX", "Thumbs.db", "desktop.ini", "@eaDir"]), st.randoms())
def test_hidden_names_are_known_in_any_case(name: str, left: str, case: Any) -> None:
    assert unread(f".{name}")
    assert unread("".join(case.choice([letter.upper(), letter.lower()]) for letter in left))
    assert not unread(f"cat{name}")


def test_other_files_are_counted_and_named(tmp_path: Path) -> None:
    classes(tmp_path)
    for name in ("cat/a.txt", "cat/b.heic", "labels.csv", "dog/z.mp4"):
        (tmp_path / name).write_bytes(b"x")
    save(tmp_path / "lost.png", flat(3))
    (tmp_path / "owl" / "inner").mkdir(parents=True)
    (tmp_path / "dog" / "gone.png").symlink_to(tmp_path / "nowhere")
    raw = load(tmp_path)
    assert raw.classes == ("cat", "dog")
    assert len(raw.samples) == 8
    assert "files that are no images (4: cat/a.txt, cat/b.heic, dog/z.mp4, ...)" in said(raw)
    assert "images in no class folder (1: lost.png)" in said(raw)
    assert "folders without images (1: owl)" in said(raw)
    assert "links to nowhere (1: dog/gone.png)" in said(raw)


def test_more_endings_in_any_case_are_images(tmp_path: Path) -> None:
    classes(tmp_path)
    save(tmp_path / "cat" / "x.JPG", flat(1))
    save(tmp_path / "cat" / "y.jfif", flat(1), format="JPEG")
    save(tmp_path / "cat" / "z.Gif", flat(1), format="GIF")
    assert len(load(tmp_path).samples) == 11


def test_links_are_followed_and_circles_are_not(tmp_path: Path) -> None:
    other = classes(tmp_path / "other", "owl")
    root = classes(tmp_path / "mine", "cat")
    (root / "owl").symlink_to(other / "owl")
    (root / "cat" / "linked.png").symlink_to(other / "owl" / "0.png")
    (root / "cat" / "up").symlink_to(root)
    (root / "all").symlink_to(root)
    (root / "cat" / "self").symlink_to(root / "cat" / "self")
    (root / "cat" / "there").symlink_to(other / "twin")
    (other / "twin").mkdir()
    for name in ("back", "again"):  # two folders that lead to each other, in two ways
        (other / "twin" / name).symlink_to(root / "cat")
    raw = load(root)
    assert raw.classes == ("cat", "owl")
    assert np.bincount(raw.labels).tolist() == [5, 4]
    assert "links that lead back to a folder above" in said(raw)
    assert "links to nowhere (1: cat/self)" in said(raw)
    names = {f"{folder.name}/{name}" for folder in walk({".": root}, root) for name in folder.stamps}
    assert {"cat/linked.png", "owl/3.png"} <= names
    assert len(names) == 10, "with the link to itself"


# -- layouts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("train", "test"),
    [("train", "test"), ("Train", "TEST"), ("training", "testing"), ("TRAINING", "val"), ("train", "Valid"),
     ("train", "validation")],
)  # fmt: skip
def test_split_folders_go_by_their_usual_names_in_any_case(train: str, test: str, tmp_path: Path) -> None:
    classes(tmp_path / train, count=3)
    classes(tmp_path / test, count=2)
    raw = load(tmp_path)
    assert raw.test is not None
    assert raw.test.tolist() == [False] * 6 + [True] * 4
    assert raw.labels.tolist() == [0, 0, 0, 1, 1, 1, 0, 0, 1, 1]
    assert f"trained on {train}, tested on {test}, as the folders say" in said(raw)


def test_validation_images_are_trained_on_where_there_are_test_images(tmp_path: Path) -> None:
    for part, names in {"test": ("cat", "dog"), "val": ("cat",), "train": ("cat", "dog")}.items():
        classes(tmp_path / part, *names, count=2)
    raw = load(tmp_path)
    assert raw.test is not None
    assert int(raw.test.sum()) == 4
    assert len(raw.samples) == 10
    assert "trained on train and val, tested on test" in said(raw)


def test_what_lies_beside_a_split_is_said(tmp_path: Path) -> None:
    for part in ("train", "test", "unlabelled"):
        classes(tmp_path / part)
    for place in (tmp_path, tmp_path / "train"):
        save(place / "lost.png", flat(1))
    assert "folders beside the split's (1: unlabelled)" in said(load(tmp_path))
    assert "images in no class folder (2: lost.png, train/lost.png)" in said(load(tmp_path))
    assert set(TASKS["folder"].find(tmp_path)) == {"train", "test"}


def test_two_folders_of_one_part_are_refused(tmp_path: Path) -> None:
    for part in ("train", "Training", "test"):
        classes(tmp_path / part)
    with pytest.raises(TaskError, match=r"holds Training and train, which both .* leave one of them"):
        load(tmp_path)


@pytest.mark.parametrize(("there", "missing"), [("Training", "test"), ("test", "train"), ("valid", "train")])
def test_a_part_alone_says_what_is_missing_and_how_to_do_without(there: str, missing: str, tmp_path: Path) -> None:
    classes(tmp_path / there)
    with pytest.raises(TaskError, match=rf"{tmp_path}/{missing} is missing.*Or name {tmp_path}/{there} itself"):
        load(tmp_path)


def test_a_part_without_classes_says_how_to_do_without(tmp_path: Path) -> None:
    classes(tmp_path / "train")
    save(tmp_path / "test" / "1.png", flat(1))
    with pytest.raises(
        TaskError, match=rf"{tmp_path}/test holds no images in class folders.*name {tmp_path}/train itself"
    ):
        load(tmp_path)


def test_trains_may_be_a_class(tmp_path: Path) -> None:
    assert load(classes(tmp_path, "bus", "car", "train")).classes == ("bus", "car", "train")


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("wrapper", ["birds", "birds/birds"])
def test_a_wrapper_folder_is_entered_and_said(wrapper: str, split: bool, tmp_path: Path) -> None:
    for part in ("train", "test") if split else ("",):
        classes(tmp_path / wrapper / part)
    save(tmp_path / "__MACOSX" / "birds" / "._0.png", flat(1))
    (tmp_path / "annotations").mkdir()
    (tmp_path / "README.txt").write_text("images")
    raw = load(tmp_path)
    assert raw.classes == ("cat", "dog")
    assert raw.source == "birds"
    assert f"the classes are those in {wrapper}/, the one folder with images" in said(raw)
    assert (raw.test is not None) == split


def test_a_root_that_is_a_link_or_a_relative_name_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    classes(tmp_path / "birds" / "birds")
    (tmp_path / "link").symlink_to(tmp_path / "birds")
    monkeypatch.chdir(tmp_path / "birds")
    for root in (Path(), Path("birds"), Path("../link"), tmp_path / "link"):
        assert load(root).classes == ("cat", "dog")


@pytest.mark.parametrize(
    ("prepared", "message"),
    [
        (lambda root: classes(root, "cat"), r"one class alone, 'cat'; a task needs two, a folder of images for each"),
        (
            lambda root: save(root / "0.png", flat(1)),
            r"holds no images in class folders .*images in no class folder \(1: 0\.png\)",
        ),
        (lambda root: (root / "cat").mkdir(), r"holds no images in class folders .*folders without images \(1: cat\)"),
        (lambda root: (root / "a.zip").write_bytes(b""), r"holds no images in class folders .*no images \(1: a\.zip\)"),
    ],
)
def test_a_folder_that_makes_no_task_says_why(prepared: Callable[[Path], Any], message: str, tmp_path: Path) -> None:
    prepared(tmp_path)
    with pytest.raises(TaskError, match=message):
        load(tmp_path)


def test_a_root_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "birds.zip").write_bytes(b"PK")
    with pytest.raises(TaskError, match=r"birds\.zip is a file; unpack it, and name the folder"):
        load(tmp_path / "birds.zip")


def test_a_class_that_a_part_lacks_is_named_with_the_fix(tmp_path: Path) -> None:
    classes(tmp_path / "train", "cat", "dog", "owl")
    classes(tmp_path / "test", "cat", "dog", "eel")
    with pytest.raises(
        TaskError, match=r"owl is in train alone, eel is in test alone.*add them, or take its folder away"
    ):
        load(tmp_path)
    shutil.rmtree(tmp_path / "train" / "owl")
    shutil.rmtree(tmp_path / "test" / "eel")
    assert load(tmp_path).classes == ("cat", "dog")


def test_a_class_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    classes(tmp_path)
    (tmp_path / "dog").rename(tmp_path / os.fsdecode(b"d\xff"))
    with pytest.raises(TaskError, match="name that is no UTF-8; rename its folder"):
        load(tmp_path)


# -- the split that is made ---------------------------------------------------------------------------------------------


def test_every_class_is_in_both_parts(tmp_path: Path) -> None:
    for number, count in enumerate((2, 3, 40)):
        classes(tmp_path, f"class{number}", count=count)
    task = prepare("folder", load(tmp_path), 8)
    assert np.bincount(task.labels[task.test]).tolist() == [1, 1, 10]
    assert np.bincount(task.labels[~task.test]).tolist() == [1, 2, 30]
    assert task.hash == prepare("folder", load(tmp_path), 8).hash


def test_a_class_of_one_image_is_named_with_its_count(tmp_path: Path) -> None:
    classes(tmp_path, "cat", "dog")
    save(tmp_path / "owl" / "0.png", flat(1))
    message = r"task 'mine': class 'owl' has 1 image, and it takes two.*\(tasks\.mine\.classes, or take it away\)"
    with pytest.raises(TaskError, match=message):
        prepare("mine", load(tmp_path), 8)
    with pytest.raises(TaskError, match=message):
        parted("mine", load(tmp_path))
    assert prepare("mine", load(tmp_path), 8, classes=[0, 1]).n_classes == 2


@given(
    counts=st.lists(st.integers(2, 40), min_size=2, max_size=6),
    fraction=st.floats(0.01, 0.99),
    order=st.randoms(use_true_random=False),
)
def test_a_split_by_class_takes_about_the_fraction_of_each(counts: list[int], fraction: float, order: Any) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    order.shuffle(labels)
    names = tuple(map(str, range(len(counts))))
    raw = RawTask([None] * len(labels), labels, np.arange(len(labels)), names, "none", "a test", stratified=True)
    test = class_split("toy", raw, fraction)
    for label, count in enumerate(counts):
        tested = int(test[labels == label].sum())
        assert 1 <= tested < count
        assert abs(tested - count * fraction) <= 1
    some = class_split("toy", raw, fraction, [0])
    assert np.array_equal(some[labels == 0], test[labels == 0])
    assert np.array_equal(test, class_split("toy", raw, fraction))


# -- what is said reaches who asks -----------------------------------------------------------------------------------------


def test_a_prepared_task_says_what_was_found(tmp_path: Path) -> None:
    classes(tmp_path)
    save(tmp_path / "cat" / "deep.png", flat(60000, np.uint16))
    (tmp_path / "cat" / "a.txt").write_text("x")
    notes = prepare("folder", load(tmp_path), 8).notes
    assert notes == (
        "left out: files that are no images (1: cat/a.txt)",
        "images of more than 8 bits (1) have values up to 60000: 0 to 65535 becomes 0 to 255",
    )


def test_images_with_masks_are_not_turned_but_refused(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for i in range(4):
        save(tmp_path / "images" / f"{i}.tif", flat(40000, np.uint16, (4, 4)), **({"exif": exif} if i == 3 else {}))
        save(tmp_path / "masks" / f"{i}.png", np.array([[0, 1]] * 2, np.uint8).repeat(2, 0).repeat(2, 1))
    save(tmp_path / "images" / ".hidden.png", flat(1))
    (tmp_path / "classes.txt").write_text("a\nb\n")
    adapter = TASKS["masks"]
    with pytest.raises(TaskError, match=r"images/3\.tif is to be turned, as its EXIF data say.*save it upright"):
        prepare("masks", adapter.load(adapter.find(tmp_path)), 4)
    save(tmp_path / "images" / "3.tif", flat(65535, np.uint16, (4, 4)))
    task = prepare("masks", adapter.load(adapter.find(tmp_path)), 4)
    assert sorted(task.inputs[:, 0, 0, 0].tolist()) == [156, 156, 156, 255]


def call(*words: object) -> int:
    from flows.cli import app

    with pytest.raises(SystemExit) as ended:
        app([*map(str, words)])
    return int(ended.value.code or 0)


def test_every_command_says_what_was_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    birds = classes(tmp_path / "birds", count=6)
    (birds / "cat" / "a.txt").write_text("x")
    note = "left out: files that are no images (1: cat/a.txt)"
    assert call("init", tmp_path / "bench", "--images", birds) == 0
    assert f"birds: {note}" in capsys.readouterr().out
    monkeypatch.chdir(tmp_path / "bench")
    for command in (["check"], ["run", "--dry"]):
        call(*command)
        assert f"tasks.birds: {note}" in capsys.readouterr().out, command
    from stages.__main__ import run_stage

    run_stage("prepare", "birds")
    assert f"birds: {note}" in capsys.readouterr().out
    for path in sorted((birds / "dog").iterdir())[1:]:
        path.unlink()
    for command in (["check"], ["run", "--dry"], ["run"]):
        assert call(*command) == 2
        assert "tasks.birds: task 'birds': class 'dog' has 1 image" in capsys.readouterr().err, command


def test_init_refuses_a_folder_that_makes_no_task(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    birds = classes(tmp_path / "birds", "cat")
    assert call("init", tmp_path / "bench", "--images", birds) == 2
    assert f"--images {birds}: {birds} holds images of one class alone, 'cat'" in capsys.readouterr().err
    assert not (tmp_path / "bench").exists()
