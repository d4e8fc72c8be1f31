"""What the files and parameters of a pipeline are now: each file is hashed once, and what DVC remembers is used.

The stamp of a file is taken before it is hashed: one that is rewritten in between is hashed again the next time.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dvc.repo import Repo
from dvc.utils.serialize import load_path
from dvc_data.hashfile.hash import hash_file
from dvc_data.hashfile.meta import Meta

from flows.dvc.stage import PipelineError, Stamp

__all__ = ["Hashes", "stamp_of"]

SMALL_FILE = 1 << 16
"""Bytes up to which reading a file costs less than looking its hash up."""


def stamp_of(path: str | Path) -> Stamp | None:
    """The file's stamp; None if it is missing."""
    status = _status(path)
    return None if status is None else _stamp(status)


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
        stamp = _stamp(status)
        known = self._files.get(path)
        if known is None or known[0] != stamp:
            meta, info = self._repo.state.get(path, self._repo.fs) if status.st_size > SMALL_FILE else (None, None)
            if info is None or info.name != "md5":
                meta, info = hash_file(path, self._repo.fs, "md5")
                self._unsaved.append((path, info, _info(status)))
            known = self._files[path] = (stamp, meta, info)
        return known[1], known[2]

    def remember(self, path: str, info: Any) -> None:
        """Note the hash of a file that was just put in its place."""
        status = _status(path)
        if status is not None:
            self._unsaved.append((path, info, _info(status)))
            self._files[path] = (_stamp(status), Meta(size=status.st_size), info)

    def forget(self, path: Path) -> None:
        """Drop what is remembered of a file's hash, in DVC's state too."""
        self._files.pop(str(path), None)
        self._repo.state.hashes.pop(str(path), None)

    def save(self) -> None:
        """Hand the hashes to DVC's state, each with what the file's status was before it was hashed."""
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
