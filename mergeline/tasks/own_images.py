"""Image files as people have them: turned, transparent, of a palette, of more than 8 bits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.ExifTags import Base

from mergeline.tasks.image_files import ImageFiles, opened
from mergeline.tasks.listing import counted
from mergeline.tasks.task import TaskError

__all__ = ["OWN_SUFFIXES", "OwnImages"]

OWN_SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".webp", ".avif", ".tif", ".tiff", ".pbm", ".pgm", ".ppm", ".pnm",
)  # fmt: skip

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_90,
}  # fmt: skip
"""What undoes each orientation of EXIF."""
BITS = (8, 10, 12, 14, 16)
"""What cameras and scanners tell, mostly in files of 16 bits."""
DARK = 64
"""Where no value of 16 bits has upper 8 that reach this, the values are of 14 bits or fewer."""


@dataclass
class _Extremes:
    """The lowest and the highest value, and which file has them."""

    count: int = 0
    lowest: float = np.inf
    highest: float = -np.inf
    low: Path = field(default_factory=Path)
    high: Path = field(default_factory=Path)

    def add(self, path: Path, lowest: float, highest: float) -> None:
        if not (np.isfinite(lowest) and np.isfinite(highest)):
            raise TaskError(f"{path} has values that are no numbers or infinite; write it anew without them")
        self.count += 1
        if lowest < self.lowest:
            self.lowest, self.low = lowest, path
        if highest > self.highest:
            self.highest, self.high = highest, path


@dataclass(frozen=True)
class Depth:
    """Which value becomes 255, of whole numbers and of fractions: one rule for all images of a data set, which stay comparable.

    ``notes``: what it is, a sentence each.
    """

    whole: float = 255
    fraction: float = 255
    notes: tuple[str, ...] = ()

    def scaled(self, values: NDArray[Any]) -> NDArray[np.uint8]:
        top = self.fraction if values.dtype.kind == "f" else self.whole
        return np.rint(values.astype(np.float64) * (255 / top)).clip(0, 255).astype(np.uint8)


def _is_cut(image: Image.Image) -> bool:
    """Whether an image, not yet loaded, has 16 bits a channel of which Pillow reads the upper 8."""
    if image.mode[0] in "IF":
        return False
    tiles = [tile[3] for tile in getattr(image, "tile", ())]
    modes = [arguments if isinstance(arguments, str) else arguments and arguments[0] for arguments in tiles]
    return any(isinstance(mode, str) and mode.endswith(("16B", "16L", "16N")) for mode in modes)  # no 16 bits a pixel


def _measured(paths: Sequence[Path]) -> Depth:
    """The rule for all images of more than 8 bits.

    Raises
    ------
    TaskError: values that no rule brings to 0 to 255; names the file that has them.
    """
    whole, fraction, cut = _Extremes(), _Extremes(), _Extremes()
    for path in paths:
        with opened(path) as image:
            if image.mode[0] in "IF":
                values = np.asarray(image)
                (fraction if image.mode == "F" else whole).add(path, float(values.min()), float(values.max()))
            elif _is_cut(image):
                bands = [image.getchannel(band) for band in image.getbands() if band not in "Aa"]
                cut.add(path, 0, max(float(band.getextrema()[1]) for band in bands))  # type: ignore[arg-type]
    if cut.count and cut.highest < DARK:
        raise TaskError(
            f"{cut.high}: the images of 16 bits a channel have no value above {257 * cut.highest:.0f} of 65535, and would be "
            "almost black; bring them to 8 bits a channel"
        )
    notes: list[str] = []
    top = _top_of_whole(whole, notes) if whole.count else 255
    return Depth(top, _top_of_fractions(fraction, notes) if fraction.count else 255, tuple(notes))


def _top_of_whole(found: _Extremes, notes: list[str]) -> float:
    bits = next((bits for bits in BITS if found.highest < 2**bits), None)
    if bits is None or found.lowest < 0:
        raise TaskError(
            f"{found.high if bits is None else found.low} has values that no image has (all such images reach from "
            f"{found.lowest:.0f} to {found.highest:.0f}); images are of whole numbers from 0 to 65535: bring them there"
        )
    notes.append(
        f"images of more than 8 bits ({found.count}) have values up to {found.highest:.0f}: 0 to {2**bits - 1} becomes 0 to 255"
    )
    return float(2**bits - 1)


def _top_of_fractions(found: _Extremes, notes: list[str]) -> float:
    """Of 0 to 1, or 0 to 255; a little more is what resampling leaves. In between it is not to be told which is meant."""
    slack = 0.002
    for top, least in ((1.0, 0.0), (255.0, 16.0)):
        if found.lowest >= -slack * top and least <= found.highest <= (1 + slack) * top:
            notes.append(
                f"images of fractions ({found.count}) have values from {found.lowest:.4g} to {found.highest:.4g}: "
                f"0 to {top:.0f} becomes 0 to 255"
            )
            return top
    raise TaskError(
        f"{found.high if found.lowest >= 0 else found.low} has values that no image has (all such images reach from "
        f"{found.lowest:.4g} to {found.highest:.4g}); images of fractions reach from 0 to 1 or from 0 to 255: bring them there"
    )


class OwnImages(ImageFiles):
    """Image files as gray or RGB of 8 bits.

    They are turned as their EXIF data say and laid on white where they are transparent; those of more than 8 bits are scaled, all
    by one rule. Of several pictures in a file the first is read. ``still``: other files lie on
    the images' pixels, so that one that is to be turned is refused: whether they are to be turned too is not known.
    """

    def __init__(self, paths: Sequence[Path], still: bool = False) -> None:
        super().__init__(paths)
        self.still = still
        self._large: dict[str, None] = {}
        self._several: dict[str, None] = {}
        self._odd: dict[str, None] = {}

    @cached_property
    def depth(self) -> Depth:
        return _measured(self.paths)

    @property
    def notes(self) -> tuple[str, ...]:
        """What there is to say of the images that were read, a sentence each."""
        return tuple(self._told())

    def _told(self) -> Iterator[str]:
        if "depth" in self.__dict__:
            yield from self.depth.notes
        if self._several:
            yield f"files of several pictures ({counted(list(self._several))}): the first is read"
        if self._odd:
            yield f"images whose EXIF data cannot be read ({counted(list(self._odd))}): not turned"
        if self._large:
            yield f"images of more than {Image.MAX_IMAGE_PIXELS} pixels ({counted(list(self._large))})"

    def values(self, image: Image.Image, path: Path) -> NDArray[Any]:
        if image.width * image.height > (Image.MAX_IMAGE_PIXELS or np.inf):
            self._large[str(path)] = None
        if getattr(image, "is_animated", False):
            self._several[str(path)] = None
        deep = image.mode[0] in "IF"
        if deep or _is_cut(image):
            _ = self.depth
        if self.still and self._orientation(image, path) in _TURNS:
            raise TaskError(
                f"{path} is to be turned, as its EXIF data say, and what lies on its pixels may be or not: save it upright, "
                "without them"
            )
        image.load()  # which turns TIFF images by itself
        turn = _TURNS.get(self._orientation(image, path))
        if turn is not None:
            upright: Image.Image = image.transpose(turn)
            upright.info = image.info
            image = upright
        return self.depth.scaled(np.asarray(image)) if deep else np.asarray(_flat(image))

    def _orientation(self, image: Image.Image, path: Path) -> int:
        try:
            return int(image.getexif().get(Base.Orientation, 1))
        except Exception:  # of what cameras and editors write, Pillow's reader raises many kinds
            self._odd[str(path)] = None
            return 1


def _flat(image: Image.Image) -> Image.Image:
    """Gray or RGB, on white where the image is transparent."""
    gray = image.mode in ("1", "L", "LA", "La")
    if not image.has_transparency_data:
        return image if image.mode == "L" else image.convert("L" if gray else "RGB")
    layers = image.convert("LA" if gray else "RGBA")
    ground = Image.new("L" if gray else "RGB", image.size, "white")
    ground.paste(layers.convert(ground.mode), mask=layers.getchannel("A"))
    return ground
