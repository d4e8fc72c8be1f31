"""What the files and parameters of a pipeline are now: each file is hashed once, and what DVC remembers is used.

The stamp of a file is taken before it is hashed: one that is rewritten in between is hashed again the next time. A file that
was written a moment ago may be written again without its stamp telling (clocks of file systems tick), so that its hash is not
handed to DVC's state, which other commands trust.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dvc.repo import Repo
from dvc.utils.serialize import load_path
from dvc_data.hashfile.hash import hash_file
from dvc_data.hashfile.meta import Meta

from flows.dvc.stage import IGNORED, PipelineError, Stamp

__all__ = ["Hashes", "stamp_of", "stamps_below"]

SMALL_FILE = 1 << 16
"""Bytes up to which reading a file costs less than looking its hash up."""
TICK = 20_000_000
"""Nanoseconds within which two writes of a file may have the same time of modification (a kernel's tick is 10 ms at most)."""
COARSE_TICK = 2_000_000_000
"""The same for file systems that keep whole seconds."""


def stamp_of(path: str | Path) -> Stamp | None:
    """The file's stamp; None if it is missing."""
    status = _status(path)
    return None if status is None else _stamp(status)


def stamps_below(path: str | Path) -> tuple[tuple[str, tuple[int, ...] | None], ...]:
    """The stamps of a file, or of all files in a folder, by name, with the kernel's times of change, which nobody sets back."""
    names = [str(path)]
    if os.path.isdir(path):  # noqa: PTH112
        names = []
        for folder, inner, files in os.walk(path):
            inner[:] = [name for name in inner if name not in IGNORED]
            names += [os.path.join(folder, name) for name in files if not name.endswith(".pyc")]  # noqa: PTH118
    found = {name: _status(name) for name in sorted(names)}
    return tuple((name, None if now is None else (*_stamp(now), now.st_ctime_ns)) for name, now in found.items())


def _status(path: str | Path) -> os.stat_result | None:
    try:
        return os.stat(path)  # noqa: PTH116
    except OSError:
        return None


def _stamp(status: os.stat_result) -> Stamp:
    return status.st_mtime_ns, status.st_size, status.st_ino


def _info(status: os.stat_result) -> dict[str, Any]:
    """A file's status in the form that DVC's state binds a hash to."""
    return {"ino": status.st_ino, "mtime": status.st_mtime, "size": status.st_size}


def _is_settled(status: os.stat_result) -> bool:
    """Whether another write from now on gives the file another stamp."""
    tick = COARSE_TICK if status.st_mtime_ns % 1_000_000_000 == 0 else TICK
    return not -tick < time.time_ns() - status.st_mtime_ns < tick


class Hashes:
    """Hashes and parameter values of one opened repository."""

    def __init__(self, repo: Repo, root: Path) -> None:
        self._repo = repo
        self._root = root
        self._files: dict[str, tuple[Stamp, Any, Any]] = {}
        self._params: dict[str, tuple[Stamp | None, Any]] = {}
        self._proposed: dict[str, Any] = {}
        self._unsaved: list[tuple[str, Any, dict[str, Any]]] = []

    def look_up(self, relative: Iterable[str]) -> None:
        """Look up the recorded hashes of many files in DVC's state at once."""
        stamps: dict[str, Stamp] = {}
        for name in set(relative):
            path = os.path.join(self._root, name)  # noqa: PTH118
            status = None if path in self._files else _status(path)
            if status is not None and not stat.S_ISDIR(status.st_mode):
                stamps[path] = _stamp(status)
        infos: dict[str, Any] = {}
        for path, meta, info in self._repo.state.get_many(iter(stamps), self._repo.fs, infos) if stamps else ():
            if info is not None and info.name == "md5":
                self._files[path] = (stamps[path], meta, info)

    def of(self, entry: Any) -> tuple[Any, Any] | None:
        """Meta and hash of a dependency or output as it is now; None if it is missing."""
        path = entry.fs_path
        if entry.fs.protocol != "local":
            return entry.get_meta(), entry.get_hash()
        status = _status(path)
        if status is None:
            return None
        if stat.S_ISDIR(status.st_mode):
            meta, info = entry._get_hash_meta()
            return meta, info
        if not stat.S_ISREG(status.st_mode):
            name = os.path.relpath(path, self._root)
            raise PipelineError(f"{name} is no regular file, but a pipe, a socket or a device; take it away")
        stamp = _stamp(status)
        known = self._files.get(path)
        if known is None or known[0] != stamp:
            settled = _is_settled(status)
            meta, info = self._remembered(path, status) if status.st_size > SMALL_FILE else (None, None)
            if info is None or info.name != "md5":
                meta, info = hash_file(path, self._repo.fs, "md5")
                if settled:
                    self._unsaved.append((path, info, _info(status)))
            known = self._files[path] = (stamp, meta, info)
        return known[1], known[2]

    def _remembered(self, path: str, status: os.stat_result) -> tuple[Any, Any]:
        """What DVC's state has for a file that has this status."""
        try:
            now = self._repo.fs.info(path)
        except FileNotFoundError:
            return None, None
        found: tuple[Any, Any] = self._repo.state.get(path, self._repo.fs, {**now, **_info(status)})
        return found

    def remember(self, path: str, info: Any, written: os.stat_result) -> None:
        """Note the hash of a file that was just put in its place; ``written``: its status before it was."""
        self._unsaved.append((path, info, _info(written)))
        self._files[path] = (_stamp(written), Meta(size=written.st_size), info)

    def forget(self, path: Path) -> None:
        """Drop what is remembered of a file's hash, in DVC's state too."""
        self._files.pop(str(path), None)
        self._repo.state.hashes.pop(str(path), None)

    def save(self) -> None:
        """Hand the hashes to DVC's state, each with what the file's status was before it was hashed."""
        with contextlib.suppress(sqlite3.OperationalError):  # a full disk: the files are hashed again
            self._repo.state.save_many(self._unsaved, self._repo.fs)
        self._unsaved.clear()

    def propose(self, path: Path, values: Any) -> None:
        """Let a file of parameters have these values, whatever stands there."""
        self._proposed[str(path)] = values

    def parameters(self, dep: Any) -> dict[str, Any]:
        """The values of a parameter dependency's keys; those that are missing are left out."""
        path = dep.fs_path
        stamp = stamp_of(path)
        cached = self._params.get(path)
        if path in self._proposed:
            cached = (stamp, self._proposed[path])
        elif cached is None or cached[0] != stamp:
            try:
                cached = (stamp, load_path(path, self._repo.fs) if stamp is not None else {})
            except Exception as error:
                raise PipelineError(f"{os.path.relpath(path, self._root)}: {error}") from error
            self._params[path] = cached
        values = {}
        for key in dep.params or list(cached[1]):
            found = cached[1]
            for part in key.split("."):
                if not isinstance(found, dict) or part not in found:
                    break
                found = found[part]
            else:
                values[key] = found
        return values
