"""Leaving pipelines/ as it was where a command refuses bad input: nothing is planned half."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

from stages.errors import InputError
from stages.formats.files import write_bytes
from stages.plan import paths

__all__ = ["restored_if_refused", "writes_nothing_if_refused"]

Given = TypeVar("Given")


def writes_nothing_if_refused(function: Callable[..., Given]) -> Callable[..., Given]:
    """For functions of a benchmark's root that plan files and then may refuse (unless they are told ``write=False``)."""

    @wraps(function)
    def wrapped(root: Path, *args: Any, **kwargs: Any) -> Given:
        if not kwargs.get("write", True):
            return function(root, *args, **kwargs)
        with restored_if_refused(root):
            return function(root, *args, **kwargs)

    return wrapped


@contextmanager
def restored_if_refused(root: Path) -> Iterator[None]:
    """A block that plans files; where it ends with an ``InputError``, they are put back as they were. Lock files are not planned:
    what was mended of them stays."""
    before = {path: _Kept(path) for path in _planned(root)}
    try:
        yield
    except InputError:
        for path in _planned(root):
            if path not in before:
                path.unlink(missing_ok=True)
                for folder in path.parents:
                    if folder == root or any(folder.iterdir()):
                        break
                    folder.rmdir()
        for kept in before.values():
            kept.put_back()
        raise


def _planned(root: Path) -> list[Path]:
    found = [path for path in (root / paths.PIPELINES).rglob("*") if path.is_file() and path.name != paths.LOCK_FILE]
    return [*found, *(path for path in [root / paths.PLANNED] if path.is_file())]


class _Kept:
    """A file's content, and its status by which it is known to be the same."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._status = path.stat()
        self._data = path.read_bytes()

    def put_back(self) -> None:
        with suppress(OSError):
            now = self._path.stat()
            if (now.st_mtime_ns, now.st_ino) == (self._status.st_mtime_ns, self._status.st_ino):
                return
        write_bytes(self._path, self._data)
        os.utime(self._path, ns=(self._status.st_atime_ns, self._status.st_mtime_ns))
