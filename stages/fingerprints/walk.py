"""Listing files with a ``stat`` each, folder by folder: what a quick look can tell of them."""

from __future__ import annotations

import errno
import marshal
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from mergeline.tasks.listing import leads_back
from mergeline.tasks.task import reads_all

__all__ = ["BESIDE", "Folder", "Stamp", "signature", "stamp_of", "walk"]

Stamp = tuple[int, int, int, int]
"""A file's size, times of modification and of change (ns), and inode. The time of change is the kernel's: nobody sets it back."""

BESIDE = ".."
"""The folder of files that lie outside of the place that is walked, such as the vocabulary of texts."""
NOWHERE = (errno.ENOENT, errno.ELOOP)
"""Errors at links to nothing, or to themselves."""
THREADS = 8
"""Listing waits for the file system: on a network's one most of the time."""


@dataclass(frozen=True)
class Folder:
    """Files that lie together. ``name``: what fingerprints call it; ``key``: what nothing else is remembered under; ``paths``: by
    name, the files; ``stamps``: the same, None for a link to nowhere."""

    name: str
    key: str
    paths: Mapping[str, str]
    stamps: Mapping[str, Stamp | None]


def stamp_of(path: str) -> Stamp | None:
    """A file's stamp; None if there is none."""
    try:
        return _stamp(os.stat(path))  # noqa: PTH116
    except OSError as error:
        if error.errno in NOWHERE:
            return None
        raise


def _stamp(status: os.stat_result) -> Stamp:
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def signature(stamps: Mapping[str, Stamp | None]) -> str:
    """Of names and stamps: the same as long as no file was touched."""
    return blake2b(
        marshal.dumps(sorted(stamps.items()), 2), digest_size=16
    ).hexdigest()  # version 2: equal values, equal bytes


def walk(files: Mapping[str, Path], base: Path | None, unread: Callable[[str], bool] = reads_all) -> Iterator[Folder]:
    """All that lies at and below some places, each folder once; those without files only where they are empty.

    Names are relative to ``base``, so that they are the same wherever a copy lies; what is not below it goes by its key, as all
    does where ``base`` is None. Links are followed. What lies in folders and is ``unread``, by its name, is passed over.
    """
    folders = {key: path for key, path in files.items() if path.is_dir()}
    for key, path in folders.items():
        if not any(other != path and path.is_relative_to(other) for other in folders.values()):
            yield from _below(str(path), _name(key, path, base), unread)
    single: dict[str, dict[str, str]] = {}
    for key, path in files.items():
        if key not in folders and not any(path.is_relative_to(folder) for folder in folders.values()):
            name = PurePosixPath(_name(key, path, base))
            single.setdefault(str(name.parent), {})[name.name] = str(path)
    for folder, paths in single.items():
        stamps = {name: stamp_of(path) for name, path in paths.items()}
        yield Folder(folder, f"files {sorted(paths.values())}", paths, stamps)


def _name(key: str, path: Path, base: Path | None) -> str:
    if base is None:
        return key
    return path.relative_to(base).as_posix() if path.is_relative_to(base) else f"{BESIDE}/{key}"


def _below(top: str, name: str, unread: Callable[[str], bool]) -> Iterator[Folder]:
    with ThreadPoolExecutor(THREADS) as pool:
        level = [_Place(top, name, (os.path.realpath(top),))]
        while level:
            deeper: list[_Place] = []
            for place, (stamps, inner) in zip(level, pool.map(partial(_list, unread), level), strict=True):
                path, own = place.path, place.name
                deeper += [
                    _Place(os.path.join(path, entry), _joined(own, entry), above)  # noqa: PTH118
                    for entry, above in inner.items()
                ]
                if stamps or not inner:
                    yield Folder(own, path, _Inside(path, stamps), stamps)
            level = deeper


def _joined(folder: str, name: str) -> str:
    return name if folder == "." else f"{folder}/{name}"


class _Place(NamedTuple):
    """A folder; ``above``: the real folders that it was reached through, in one of which each folder above it lies."""

    path: str
    name: str
    above: tuple[str, ...]


class _Inside(Mapping[str, str]):
    """The paths of a folder's files, made as they are asked for: there may be a million."""

    def __init__(self, folder: str, names: Mapping[str, object]) -> None:
        self._folder, self._names = folder, names

    def __getitem__(self, name: str) -> str:
        return os.path.join(self._folder, name)  # noqa: PTH118

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _list(unread: Callable[[str], bool], place: _Place) -> tuple[dict[str, Stamp | None], dict[str, tuple[str, ...]]]:
    """The stamps of a folder's files, and of each folder in it the real folders that it is reached through."""
    stamps: dict[str, Stamp | None] = {}
    inner = {}
    with os.scandir(place.path) as entries:
        for entry in entries:
            if unread(entry.name):
                continue
            try:
                status = entry.stat()
            except OSError as error:
                if error.errno not in NOWHERE:
                    raise
                stamps[entry.name] = None
                continue
            if stat.S_ISREG(status.st_mode):
                stamps[entry.name] = _stamp(status)
            elif stat.S_ISDIR(status.st_mode):
                above = place.above
                if entry.is_symlink():
                    above = (*above, os.path.realpath(place.path))
                    if leads_back(entry.path, above):
                        continue
                    above = (*above, os.path.realpath(entry.path))
                inner[entry.name] = above
    return stamps, dict(sorted(inner.items()))
