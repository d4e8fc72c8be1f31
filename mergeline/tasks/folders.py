"""Tasks that the user downloads: the papers' data sets in their published layouts.

Every layout is read as it lies on disk once the official archive is unpacked; ``tasks.<name>.root`` says where.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mergeline.tasks.image_files import IMAGE_SUFFIXES, ImageFiles
from mergeline.tasks.task import Adapter, RawTask, TaskError

__all__ = [
    "CUB",
    "DTD",
    "EUROSAT",
    "FASHION",
    "IMAGENET",
    "INFOGRAPH",
    "MNIST",
    "NABIRDS",
    "SVHN",
    "independent",
    "layout_adapter",
    "listed",
    "needs",
]


def needs(root: Path | None, task: str, layout: str, *inside: str) -> dict[str, Path]:
    """The named entries below ``root``; an error that shows the layout where one is missing."""
    if root is None:
        raise TaskError(f"task {task!r} needs its folder: set tasks.{task}.root. Expected layout: {layout}")
    files = {name: root / name for name in inside}
    for path in files.values():
        if not path.exists():
            raise TaskError(f"task {task!r}: {path} is missing. Expected layout below {root}: {layout}")
    return files


def listed(task: str, paths: Sequence[Path]) -> list[Path]:
    """Images that a data set's own lists name.

    Raises
    ------
    TaskError: some are not there; names the first.
    """
    absent = [path for path in paths if not path.is_file()]
    if absent:
        raise TaskError(
            f"task {task!r}: {absent[0]} is missing, with {len(absent) - 1} more of the {len(paths)} images that its lists name: "
            "unpack the archive of the images again"
        )
    return list(paths)


def independent(images: Sequence[NDArray[np.uint8]], labels: Sequence[int], **values: object) -> RawTask:
    """Samples of which each is an origin of its own."""
    return RawTask(
        samples=images,
        labels=np.asarray(labels, dtype=np.int64),
        origins=np.arange(len(images)),
        **values,  # type: ignore[arg-type]
    )


def _two_columns(path: Path) -> dict[str, str]:
    """A text file of lines "<id> <value>"."""
    pairs = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line.strip():
            key, separator, value = line.strip().partition(" ")
            if not separator:
                raise TaskError(f"{path}, line {number}: expected two columns, found {line!r}")
            pairs[key] = value
    return pairs


# -- the idx format: MNIST and Fashion-MNIST -----------------------------------------------------------------------


def read_idx(path: Path) -> NDArray[np.uint8]:
    """An idx file of bytes, gzipped or not.

    Raises
    ------
    TaskError: truncated or not an idx file of bytes.
    """
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        zero, kind, dims = struct.unpack(">HBB", data[:4])
        shape = struct.unpack(f">{dims}I", data[4 : 4 + 4 * dims])
        if zero != 0 or kind != 8:
            raise ValueError("not an idx file of unsigned bytes")
        return np.frombuffer(data, np.uint8, offset=4 + 4 * dims).reshape(shape)
    except (OSError, EOFError, ValueError, struct.error, zlib.error) as error:
        raise TaskError(f"{path} is damaged: {error}. Delete it and fetch it again.") from error


_IDX_PARTS = {
    "train_images": "train-images-idx3-ubyte",
    "train_labels": "train-labels-idx1-ubyte",
    "test_images": "t10k-images-idx3-ubyte",
    "test_labels": "t10k-labels-idx1-ubyte",
}


def _find_idx(task: str, folder: str, defaults: Sequence[Path], fix: str, root: Path | None) -> dict[str, Path]:
    """The four idx files: in the given root, below it in torchvision's folder, or in a default place."""
    places = [root, root / folder / "raw"] if root is not None else list(defaults)
    for place in places:
        files = {
            part: next((p for p in (place / name, place / f"{name}.gz") if p.is_file()), None)
            for part, name in _IDX_PARTS.items()
        }
        if all(files.values()):
            return {part: path for part, path in files.items() if path is not None}
    looked = ", ".join(str(place) for place in places) or "nowhere (no root is set)"
    raise TaskError(f"task {task!r}: the idx files ({', '.join(_IDX_PARTS.values())}) are not in {looked}. {fix}")


def _load_idx(classes: tuple[str, ...], licence: str, files: Mapping[str, Path]) -> RawTask:
    images = np.concatenate([read_idx(files["train_images"]), read_idx(files["test_images"])])
    train_labels, test_labels = read_idx(files["train_labels"]), read_idx(files["test_labels"])
    labels = np.concatenate([train_labels, test_labels]).astype(np.int64)
    test = np.arange(len(labels)) >= len(train_labels)
    return RawTask(
        samples=list(images), labels=labels, origins=np.arange(len(labels)), classes=classes, licence=licence,
        source=files["train_images"].name, test=test,
    )  # fmt: skip


def download_fashion(root: Path) -> None:
    """Fetch Fashion-MNIST into torchvision's layout below ``root`` (needs the network)."""
    from torchvision.datasets import FashionMNIST

    FashionMNIST(str(root), download=True)


# -- class folders ---------------------------------------------------------------------------------------------------


def class_folders(root: Path) -> tuple[tuple[str, ...], list[Path], list[int]]:
    """``root/<class>/**/<image>``: class names in order, image paths, labels."""
    classes = tuple(sorted(entry.name for entry in root.iterdir() if entry.is_dir()))
    paths, labels = [], []
    for label, name in enumerate(classes):
        for path in sorted((root / name).rglob("*")):
            if path.suffix.lower() in IMAGE_SUFFIXES:
                paths.append(path)
                labels.append(label)
    if not paths:
        raise TaskError(f"{root} holds no images in class folders ({root}/<class>/<image>)")
    return classes, paths, labels


def _load_train_test_folders(train: str, test: str, licence: str, files: Mapping[str, Path]) -> RawTask:
    classes, paths, labels = class_folders(files[train])
    test_classes, test_paths, test_labels = class_folders(files[test])
    if classes != test_classes:
        odd = sorted(set(classes) ^ set(test_classes))
        raise TaskError(f"{files[train]} and {files[test]} hold different classes: {', '.join(odd[:5])}")
    mask = np.arange(len(paths) + len(test_paths)) >= len(paths)
    return independent(
        ImageFiles(paths + test_paths), labels + test_labels, classes=classes, licence=licence,
        source=str(files[train].parent.name), test=mask,
    )  # fmt: skip


def _load_eurosat(files: Mapping[str, Path]) -> RawTask:
    classes, paths, labels = class_folders(next(iter(files.values())))
    return independent(ImageFiles(paths), labels, classes=classes, licence="MIT (EuroSAT)", source="EuroSAT 2750")


def _load_dtd(files: Mapping[str, Path]) -> RawTask:
    """Split 1 of DTD: train and val train, test tests (torchvision's ``partition=1``)."""
    classes, paths, labels, test = _read_dtd(files["dtd/images"], files["dtd/labels"])
    return independent(
        ImageFiles(paths), labels, classes=classes, licence="research use", source="DTD r1.0.1", test=test
    )


def _read_dtd(images: Path, lists: Path) -> tuple[tuple[str, ...], list[Path], list[int], NDArray[np.bool_]]:
    names, test = [], []
    for part in ("train1", "val1", "test1"):
        path = lists / f"{part}.txt"
        if not path.is_file():
            raise TaskError(f"task 'dtd': {path} is missing. Expected layout: dtd/labels/{{train,val,test}}1.txt")
        entries = path.read_text(encoding="utf-8").split()
        names += entries
        test += [part == "test1"] * len(entries)
    classes = tuple(sorted({name.split("/")[0] for name in names}))
    index = {name: i for i, name in enumerate(classes)}
    return (
        classes,
        listed("dtd", [images / name for name in names]),
        [index[name.split("/")[0]] for name in names],
        np.array(test),
    )


# -- birds, numbers, infographics ------------------------------------------------------------------------------------


def _bird_lists(files: Mapping[str, Path]) -> tuple[list[str], dict[str, str], dict[str, str], NDArray[np.bool_]]:
    """Image ids in order, their paths, their class numbers, and which are tested on.

    Raises
    ------
    TaskError: a list lacks an image or a class that another names.
    """
    images, labels, training, names = (
        _two_columns(files[name])
        for name in ("images.txt", "image_class_labels.txt", "train_test_split.txt", "classes.txt")
    )
    for table, name in ((labels, "image_class_labels.txt"), (training, "train_test_split.txt")):
        absent = sorted(set(images) - set(table))
        if absent:
            raise TaskError(f"{files[name]} lacks the image {absent[0]!r} of images.txt")
    unknown = sorted({labels[i] for i in images} - set(names))
    if unknown:
        raise TaskError(f"{files['classes.txt']} lacks the class {unknown[0]!r} of image_class_labels.txt")
    ids = sorted(images, key=lambda number: (len(number), number))
    return ids, images, labels, np.array([training[i] == "0" for i in ids])


def _load_cub(files: Mapping[str, Path]) -> RawTask:
    ids, images, labels, test = _bird_lists(files)
    names = _two_columns(files["classes.txt"])
    order = sorted(names, key=int)
    index = {number: i for i, number in enumerate(order)}
    return independent(
        ImageFiles(listed("cub", [files["images"] / images[i] for i in ids])),
        [index[labels[i]] for i in ids],
        classes=tuple(names[number].split(".", 1)[-1] for number in order),
        licence="non-commercial research",
        source="CUB-200-2011",
        test=test,
    )


def _load_nabirds(files: Mapping[str, Path]) -> RawTask:
    """Class ids are not contiguous: the leaf classes that images use, in numeric order."""
    ids, images, labels, test = _bird_lists(files)
    names = _two_columns(files["classes.txt"])
    used = sorted({labels[i] for i in images}, key=int)
    index = {number: i for i, number in enumerate(used)}
    return independent(
        ImageFiles(listed("nabirds", [files["images"] / images[i] for i in ids])),
        [index[labels[i]] for i in ids],
        classes=tuple(names[number] for number in used),
        licence="non-commercial research (NABirds terms)",
        source="NABirds",
        test=test,
    )


def _read_svhn(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images and labels of one part; label 10 is the digit 0."""
    from scipy.io import loadmat

    try:
        part = loadmat(path)
        return np.ascontiguousarray(part["X"].transpose(3, 0, 1, 2)), part["y"].ravel().astype(np.int64) % 10
    except Exception as error:  # scipy raises many kinds
        raise TaskError(f"{path} is damaged: {error}. Delete it and fetch it again.") from error


def _load_svhn(files: Mapping[str, Path]) -> RawTask:
    parts = [_read_svhn(files[name]) for name in ("train_32x32.mat", "test_32x32.mat")]
    images = [images for images, _ in parts]
    labels = [labels for _, labels in parts]
    return independent(
        np.concatenate(images),  # type: ignore[arg-type]
        np.concatenate(labels),  # type: ignore[arg-type]
        classes=tuple("0123456789"),
        licence="non-commercial use",
        source="SVHN cropped digits",
        test=np.arange(sum(map(len, labels))) >= len(labels[0]),
    )


def _load_infograph(files: Mapping[str, Path]) -> RawTask:
    root = files["infograph"].parent
    paths, labels, test = [], [], []
    names: dict[int, str] = {}
    for part in ("train", "test"):
        for entry, label in _two_columns(files[f"infograph_{part}.txt"]).items():
            paths.append(root / entry)
            labels.append(int(label))
            test.append(part == "test")
            names[int(label)] = entry.split("/")[1]
    return independent(
        ImageFiles(listed("infograph", paths)), labels, classes=tuple(names.get(i, f"class {i}") for i in range(max(names) + 1)),
        licence="fair use (DomainNet)", source="DomainNet Infograph, cleaned version", test=np.array(test),
    )  # fmt: skip


_DIGITS = tuple("0123456789")
_CLOTHES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
_FASHION_FIX = (
    "Install it on Debian: apt-get install dataset-fashion-mnist; or set tasks.fashion.root to a folder with "
    "torchvision's FashionMNIST/raw in it; or fetch it: python -c \"from pathlib import Path; "
    "from mergeline.tasks.folders import download_fashion; download_fashion(Path('data'))\" and set the root to data."
)


def layout_adapter(
    name: str, summary: str, layout: str, inside: Sequence[str], load: Callable[[Mapping[str, Path]], RawTask],
    mirror_safe: bool = True,
) -> Adapter:  # fmt: skip
    """A task whose data lie in a folder of the user's, in one layout."""

    def find(root: Path | None) -> dict[str, Path]:
        return needs(root, name, layout, *inside)

    return Adapter(name, summary, find, load, mirror_safe)


FASHION = Adapter(
    "fashion",
    "Fashion-MNIST: 70,000 gray images of clothes (Debian dataset-fashion-mnist, or torchvision's folder)",
    partial(_find_idx, "fashion", "FashionMNIST", [Path("/usr/share/datasets/fashion-mnist")], _FASHION_FIX),
    partial(_load_idx, _CLOTHES, "MIT (Zalando)"),
    mirror_safe=True,
)
MNIST = Adapter(
    "mnist",
    "MNIST: 70,000 gray images of digits (torchvision's MNIST/raw below root)",
    partial(
        _find_idx,
        "mnist",
        "MNIST",
        [],
        "Set tasks.mnist.root to a folder with torchvision's MNIST/raw in it.",
    ),
    partial(_load_idx, _DIGITS, "MNIST terms (CC BY-SA 3.0 as usually stated)"),
)
SVHN = layout_adapter(
    "svhn",
    "Street View House Numbers, cropped",
    "train_32x32.mat, test_32x32.mat",
    ("train_32x32.mat", "test_32x32.mat"),
    _load_svhn,
    mirror_safe=False,
)
EUROSAT = layout_adapter("eurosat", "EuroSAT satellite images", "2750/<class>/<image>.jpg", ("2750",), _load_eurosat)
DTD = layout_adapter(
    "dtd",
    "Describable Textures",
    "dtd/images/<class>/<image>.jpg, dtd/labels/{train,val,test}1.txt",
    ("dtd/images", "dtd/labels"),
    _load_dtd,
)
CUB = layout_adapter(
    "cub",
    "CUB-200-2011 birds",
    "images/<class>/<image>.jpg, images.txt, image_class_labels.txt, train_test_split.txt, classes.txt",
    ("images", "images.txt", "image_class_labels.txt", "train_test_split.txt", "classes.txt"),
    _load_cub,
)
NABIRDS = layout_adapter(
    "nabirds",
    "NABirds",
    "images/<class>/<image>.jpg, images.txt, image_class_labels.txt, train_test_split.txt, classes.txt",
    ("images", "images.txt", "image_class_labels.txt", "train_test_split.txt", "classes.txt"),
    _load_nabirds,
)
INFOGRAPH = layout_adapter(
    "infograph",
    "DomainNet Infograph, cleaned version",
    "infograph/<class>/<image>.jpg, infograph_train.txt, infograph_test.txt",
    ("infograph", "infograph_train.txt", "infograph_test.txt"),
    _load_infograph,
)
IMAGENET = layout_adapter(
    "imagenet",
    "ImageNet-1k, unpacked",
    "train/<wnid>/<image>.JPEG, val/<wnid>/<image>.JPEG",
    ("train", "val"),
    partial(_load_train_test_folders, "train", "val", "ImageNet terms (non-commercial research)"),
)
