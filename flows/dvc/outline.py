"""The outline of a pipeline: its stages and lock entries as DVC once read them, so that ``status`` does without.

Reading thousands of stages takes DVC far longer than saying which of them are stale. The outline is kept with the stamps of the
files that it was made of, and holds only while they are the same. What it cannot hold (folders, data that lie elsewhere) is read
by DVC, one stage at a time. A pipeline that was opened in this way can be looked at, and not run.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import dvc
from dvc.dependency.param import ParamsDependency
from dvc_data.hashfile.hash_info import HashInfo
from dvc_data.hashfile.meta import Meta

from flows.dvc.cache import StageCache
from flows.dvc.freshness import pipeline_files
from flows.dvc.hashes import Hashes
from flows.dvc.lock_entries import LockEntries, read_lock
from flows.dvc.opening import open_repo
from flows.dvc.pipeline import Pipeline
from flows.dvc.stage import PipelineStage
from stages.formats import yaml12
from stages.formats.files import write_bytes
from stages.plan import paths

__all__ = ["look_at"]

VERSION = 1


def look_at(root: Path) -> Pipeline:
    """The pipeline, to say what is stale in it; from its outline where that holds.

    Raises
    ------
    PipelineError: as :class:`flows.dvc.pipeline.Pipeline`.
    """
    known = _read(root)
    if known is not None:
        return _Outlined(root, known)
    before = _key(root, ())
    pipeline = Pipeline(root)
    _write(root, pipeline, before)
    return pipeline


def _read(root: Path) -> dict[str, Any] | None:
    try:
        known = json.loads((root / paths.OUTLINE).read_text(encoding="utf-8"))
        return known if known["key"] == _key(root, known["files"]) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write(root: Path, pipeline: Pipeline, before: dict[str, Any]) -> None:
    files = sorted({stage.file for stage in pipeline.stages.values()})
    stages = [_described(root, pipeline, address) for address in pipeline.stages]
    if _key(root, ()) != before:  # a file was written meanwhile
        return
    locks = _locks(root, files)
    known = {"key": _key(root, files), "files": files, "stages": stages, "locks": locks}
    write_bytes(root / paths.OUTLINE, json.dumps(known).encode())


def _locks(root: Path, files: Iterable[str]) -> dict[str, Any]:
    """By lock file its stamp and what stands in it, where JSON has that as it is."""
    found = {}
    for path in (root / name.replace(".yaml", ".lock") for name in files):
        stamp, entries = _stamp(path), read_lock(path)
        with suppress(TypeError):
            if stamp is not None and json.loads(json.dumps(entries)) == entries:
                found[str(path)] = [stamp, entries]
    return found


def _key(root: Path, files: Any) -> dict[str, Any]:
    """What must be the same for an outline to hold: the pipeline's files, and what stages are made of by templates."""
    names = sorted({*files, *pipeline_files(root), str(paths.DVC_CONFIG)})
    templates = (root / paths.PIPELINE_FILE).read_text(encoding="utf-8")
    values: Any = yaml12.load((root / paths.PARAMS).read_text(encoding="utf-8"))
    if set(_references(templates)) <= {"tasks", "key"} and isinstance(values, dict):
        values = list(values.get("tasks") or ())
    return json.loads(
        json.dumps(
            {
                "version": [VERSION, dvc.__version__],
                "files": {name: _stamp(root / name) for name in names},
                "values": values,
            },
            default=str,
        )
    )


def _references(text: str) -> Iterator[str]:
    """What a template's ``${...}`` name."""
    for part in text.split("${")[1:]:
        yield part.split("}")[0].strip()


def _stamp(path: Path) -> list[int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return [status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino]


PLAIN = [field.name for field in fields(PipelineStage)]


def _described(root: Path, pipeline: Pipeline, address: str) -> dict[str, Any]:
    """A stage as JSON has it: what the flow sees of it, and what its entry in the lock is held against."""
    own, stage = pipeline.stages[address], pipeline.dvc_stage(address)
    plain = {name: getattr(own, name) for name in PLAIN} | {"folder": str(own.folder)}
    entries = [entry for entry in (*stage.deps, *stage.outs) if not isinstance(entry, ParamsDependency)]
    whole = stage.frozen or any(
        entry.fs.protocol != "local"
        or os.path.isdir(entry.fs_path)  # noqa: PTH112
        or str(entry.hash_info.value or "").endswith(".dir")
        for entry in entries
    )
    return {
        "plain": plain, "path": stage.path, "wdir": stage.wdir, "cmd": stage.cmd, "by_dvc": whole,
        "always_changed": bool(stage.always_changed),
        "deps": [[d.def_path, d.fs_path] for d in stage.deps if not isinstance(d, ParamsDependency)],
        "outs": [[o.def_path, o.fs_path] for o in stage.outs],
        "params": [[d.def_path, d.fs_path, list(d.params)] for d in stage.deps if isinstance(d, ParamsDependency)],
    }  # fmt: skip


@dataclass(frozen=True)
class _Local:
    protocol: str = "local"


@dataclass
class _File:
    """A dependency or output as :mod:`flows.dvc.staleness` looks at it."""

    def_path: str
    fs_path: str
    hash_info: HashInfo
    fs: _Local = _Local()

    def _get_hash_meta(self) -> tuple[Meta, HashInfo]:
        """Of a folder that was none: its hash is none of a file."""
        return Meta(), HashInfo("md5", "of a folder")


class _Parameters(ParamsDependency):
    """A parameter dependency, made without what DVC's own has beside its keys."""

    def __init__(self, def_path: str, fs_path: str, keys: list[str], values: Mapping[str, Any]) -> None:
        self.def_path, self.fs_path, self.params = def_path, fs_path, keys
        recorded: Any = dict(values)  # DVC keeps the values where a hash would be
        self.hash_info = HashInfo(self.PARAM_PARAMS, recorded)


class _Stage:
    """A stage as it was described, with what its lock entry says."""

    frozen = False

    def __init__(self, known: Mapping[str, Any], lock: Mapping[str, Any] | None) -> None:
        self.path, self.wdir, self.cmd = known["path"], known["wdir"], known["cmd"]
        self.name = known["plain"]["name"]
        self.always_changed = known["always_changed"]
        self._known, self._lock = known, lock or {}

    @cached_property
    def deps(self) -> list[_File | _Parameters]:
        recorded = self._lock.get("params", {})
        read = [
            _Parameters(def_path, fs_path, keys, recorded.get(def_path, {}))
            for def_path, fs_path, keys in self._known["params"]
        ]
        return [*self._files("deps"), *read]

    @cached_property
    def outs(self) -> list[_File]:
        return self._files("outs")

    def _files(self, kind: str) -> list[_File]:
        recorded = {entry["path"]: entry.get("md5") for entry in self._lock.get(kind, [])}
        return [
            _File(def_path, fs_path, HashInfo("md5", recorded[def_path]) if recorded.get(def_path) else HashInfo())
            for def_path, fs_path in self._known[kind]
        ]


class _Outlined(Pipeline):
    """A pipeline from its outline: everything that says what is stale works, nothing that runs."""

    def __init__(self, root: Path, known: Mapping[str, Any]) -> None:
        self.root = root
        self.repo = open_repo(root)
        self.stages = {}
        self._described = {}
        for own in known["stages"]:
            plain = own["plain"]
            lists = {name: tuple(plain[name]) for name in ("deps", "outs", "upstream", "param_files")}
            stage = PipelineStage(**{**plain, **lists, "folder": Path(plain["folder"])})
            self.stages[stage.address] = stage
            self._described[stage.address] = own
        self._dvc = {}
        self._foreseen = {}
        self._hashes = Hashes(self.repo, root)
        locks = known["locks"]

        def read(path: Path) -> dict[str, Any]:
            stamp, entries = locks.get(str(path), (None, None))
            return entries if stamp is not None and stamp == _stamp(path) else read_lock(path)

        self._entries = LockEntries(self.repo, root, [_Stage(own, None) for own in known["stages"]], read)
        self.cache = StageCache(self.repo, self._hashes)

    def dvc_stage(self, address: str) -> Any:
        """As the outline has it, or DVC, where that is not enough."""
        found = self._dvc.get(address)
        if found is None:
            known = self._described[address]
            name = known["plain"]["name"]
            if known["by_dvc"]:
                found = self.repo.stage.load_one(known["path"], name=name)
            else:
                bare = _Stage(known, None)
                found = _Stage(known, self._entries.of(bare))
            self._dvc[address] = found
        return found
