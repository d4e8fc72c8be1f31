"""Image files, read one at a time, so that no more than one is held decoded; what is wrong with one names it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mergeline.tasks.task import TaskError

__all__ = ["IMAGE_SUFFIXES", "ImageFiles", "opened"]

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm")


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """An image file, for a block that reads it.

    Raises
    ------
    TaskError: it is no regular file, no image, damaged, or says that it has so many pixels that it would fill the memory.
    """
    try:
        if path.exists() and not path.is_file():  # opening a pipe would wait for ever
            raise OSError("it is no regular file")
        # Not by its name: Pillow maps TIFF files that it opens itself into memory, and garbles those on their side.
        with path.open("rb") as stream, warnings.catch_warnings():
            # The warning names no file; twice as many pixels are an error of its own.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(stream) as image:
                yield image
    except (TaskError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise TaskError(
            f"{path} says that it has more pixels than an image should, as files do that are made to fill the memory ({error}). "
            "Make it smaller, or take it away."
        ) from error
    except Exception as error:  # on damaged files decoders raise many kinds
        raise TaskError(f"{path} cannot be read as an image: {error}") from error


class ImageFiles(Sequence[NDArray[Any]]):
    """Image files, as RGB unless they are gray."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> NDArray[Any]:  # type: ignore[override]
        path = self.paths[index]
        with opened(path) as image:
            return self.values(image, path)

    def values(self, image: Image.Image, path: Path) -> NDArray[Any]:
        """What is read of an open file."""
        return np.asarray(image if image.mode == "L" else image.convert("RGB"))
