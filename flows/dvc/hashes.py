"""What the files and parameters of a pipeline are now: each file is hashed once, and what DVC remembers is used.

The stamp of a file is taken before it is hashed: one that is rewritten in between is hashed again the next time.
"""

from __future__ import annotations

import os
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
    try:
        status = os.stat(path)  # noqa: PTH116
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


class Hashes:
    """Hashes and parameter values of one opened repository."""

    def __init__(self, repo: Repo, root: Path) -> None:
        self._repo = repo
        self._root = root
        self._files: dict[str, tuple[Stamp, Any, Any]] = {}
        self._params: dict[str, tuple[Stamp | None, Any]] = {}
        self._unsaved: list[tuple[str, Any, dict[str, Any]]] = []

    def look_up(self, relative: Iterable[str]) -> None:
        """Look up the recorded hashes of many files in DVC's state at once."""
        paths = []
        for name in set(relative):
            path = os.path.join(self._root, name)  # noqa: PTH118
            if stamp_of(path) is not None and path not in self._files and not os.path.isdir(path):  # noqa: PTH112
                paths.append(path)
        infos: dict[str, Any] = {}
        before = {path: stamp_of(path) for path in paths}
        for path, meta, info in self._repo.state.get_many(iter(paths), self._repo.fs, infos) if paths else ():
            stamp = before[path]
            if info is not None and info.name == "md5" and stamp is not None:
                self._files[path] = (stamp, meta, info)

    def of(self, entry: Any) -> tuple[Any, Any] | None:
        """Meta and hash of a dependency or output as it is now; None if it is missing."""
        path = entry.fs_path
        if entry.fs.protocol != "local":
            return entry.get_meta(), entry.get_hash()
        stamp = stamp_of(path)
        if stamp is None:
            return None
        if os.path.isdir(path):  # noqa: PTH112
            meta, info = entry._get_hash_meta()
            return meta, info
        known = self._files.get(path)
        if known is None or known[0] != stamp:
            meta, info = self._repo.state.get(path, self._repo.fs) if stamp[1] > SMALL_FILE else (None, None)
            if info is None or info.name != "md5":
                seen = _seen(path)
                meta, info = hash_file(path, self._repo.fs, "md5")
                self._unsaved.append((path, info, seen))
            known = self._files[path] = (stamp, meta, info)
        return known[1], known[2]

    def remember(self, path: str, info: Any) -> None:
        """Note the hash of a file that was just put in its place."""
        stamp = stamp_of(path)
        if stamp is not None:
            self._unsaved.append((path, info, _seen(path)))
            self._files[path] = (stamp, Meta(size=stamp[1]), info)

    def forget(self, path: Path) -> None:
        """Drop what is remembered of a file's hash, in DVC's state too."""
        self._files.pop(str(path), None)
        self._repo.state.hashes.pop(str(path), None)

    def save(self) -> None:
        """Hand the hashes to DVC's state, each with what the file's status was before it was hashed."""
        self._repo.state.save_many(self._unsaved, self._repo.fs)
        self._unsaved.clear()

    def parameters(self, dep: Any) -> dict[str, Any]:
        """The values of a parameter dependency's keys; those that are missing are left out."""
        path = dep.fs_path
        stamp = stamp_of(path)
        cached = self._params.get(path)
        if cached is None or cached[0] != stamp:
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


def _seen(path: str) -> dict[str, Any]:
    """A file's status in the form that DVC's state binds a hash to."""
    status = os.stat(path)  # noqa: PTH116
    return {"ino": status.st_ino, "mtime": status.st_mtime, "size": status.st_size}
