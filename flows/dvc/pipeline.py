"""The DVC side: which stages are stale and why, restoring from the cache, and recording what ran.

The only module that uses DVC's inner API (pinned in pyproject.toml, contract-tested in tests/test_pipeline.py). DVC
owns what is cached and whether it is stale: its files, its hashes, its cache and its run cache are read and written as
``dvc repro`` does, so that either can be used at any time. What is done here is the same work with less of it: each file
is hashed once, and lock files are written in batches and atomically.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import yaml

os.environ.setdefault("DVC_NO_ANALYTICS", "1")

from dvc.dependency.param import ParamsDependency
from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc.stage.cache import RunCacheNotFoundError, _get_cache_hash
from dvc.stage.serialize import to_single_stage_lockfile
from dvc.utils.serialize import dumps_yaml, load_path
from dvc_data.hashfile.hash import hash_file
from dvc_data.hashfile.hash_info import HashInfo
from dvc_data.hashfile.meta import Meta

from flows.dvc.locks import backup_path
from stages.errors import InputError
from stages.formats import yaml12

__all__ = [
    "InputsChanged",
    "MissingOutput",
    "Pipeline",
    "PipelineError",
    "PipelineStage",
    "Reason",
    "Snapshot",
]

logging.getLogger("dvc").setLevel(logging.ERROR)


class PipelineError(InputError):
    """The pipeline's files cannot be used; the message names the file and the fix."""


class InputsChanged(PipelineError):
    """A file or parameter that a stage reads changed while it ran; the run is not recorded."""


class MissingOutput(PipelineError):
    """A stage ended well but did not write what it should have."""


@dataclass(frozen=True)
class Reason:
    """Why a stage must run.

    ``kind``: "never run", "command", "parameter", "dependency", "output", "list" (its lists of inputs or outputs),
    "upstream" or "forced". ``subject``: the file, the key or the stage; ``detail``: what is with it.
    """

    kind: str
    subject: str = ""
    detail: str = ""

    def __str__(self) -> str:
        if self.kind == "upstream":
            return f"waits for {self.subject}"
        return " ".join(part for part in (self.kind, self.subject, self.detail) if part)


@dataclass(frozen=True)
class PipelineStage:
    """A DVC stage as the flow sees it. ``address`` is DVC's (``dvc repro ADDRESS``), ``name`` the part to read."""

    address: str
    name: str
    command: str
    folder: Path
    deps: tuple[str, ...]
    outs: tuple[str, ...]
    upstream: tuple[str, ...]
    file: str
    param_files: tuple[str, ...] = ()
    with_gaps: bool = False
    """Whether it runs although something that it needs failed (``meta: {with_gaps: true}`` in dvc.yaml)."""


@dataclass(frozen=True)
class Snapshot:
    """What a stage's inputs were when it started: hashes, and the files' stamps to see whether they changed since."""

    hashes: dict[str, tuple[Any, Any]]
    stamps: dict[str, Stamp | None]
    params: dict[str, dict[str, Any]]


SMALL_FILE = 1 << 16
"""Bytes up to which reading a file costs less than looking its hash up."""
Stamp = tuple[int, int, int]
"""A file's modification time (ns), size and inode."""


def _stamp(path: str) -> Stamp | None:
    try:
        status = os.stat(path)  # noqa: PTH116
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


@dataclass
class _Pending:
    """Lock entries of one file that are recorded but not yet written."""

    entries: dict[str, Any] = field(default_factory=dict)


class Pipeline:
    """The stages of a repository, opened once.

    Raises
    ------
    PipelineError: a ``dvc.yaml``, ``dvc.lock`` or ``params.yaml`` cannot be read; names it and the fix.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        try:
            self.repo = Repo(str(root))
            stages = list(self.repo.index.stages)
            graph = self.repo.index.graph
        except DvcException as error:
            raise PipelineError(_explain(error)) from error
        self._dvc = {stage.addressing: stage for stage in stages}
        self.stages: dict[str, PipelineStage] = {}
        for address in _topological(graph):
            stage = self._dvc[address]
            if not stage.cmd:  # data that `dvc add` or `dvc import` tracks: nothing to run
                continue
            self.stages[address] = PipelineStage(
                address=address,
                name=getattr(stage, "name", None) or address,
                command=_command(stage.cmd),
                folder=Path(stage.wdir),
                deps=tuple(self._relative(d) for d in stage.deps if not isinstance(d, ParamsDependency)),
                outs=tuple(self._relative(o) for o in stage.outs),
                upstream=tuple(sorted(up.addressing for up in graph.successors(stage) if up.cmd)),
                file=self.repo.fs.relpath(stage.path, str(root)),
                param_files=tuple(self._relative(d) for d in stage.deps if isinstance(d, ParamsDependency)),
                with_gaps=bool((stage.meta or {}).get("with_gaps")),
            )
        self._foreseen: dict[str, PipelineStage] = {}
        self._files: dict[str, tuple[Stamp, Any, Any]] = {}
        self._param_files: dict[str, tuple[Stamp | None, Any]] = {}
        self._pending: dict[str, _Pending] = {}
        self._locks: dict[str, Any] = {}
        self._unsaved: list[tuple[str, Any, None]] = []
        for path in {stage.path for stage in stages if stage.cmd}:
            self._locks[path] = _read_lock(Path(path).with_suffix(".lock")).get("stages") or {}

    def _relative(self, entry: Any) -> str:
        return os.path.relpath(entry.fs_path, self.root) if entry.fs.protocol == "local" else str(entry)

    @property
    def downstream(self) -> dict[str, list[str]]:
        """For each stage the stages that read its outputs."""
        found: dict[str, list[str]] = {address: [] for address in self.stages}
        for address, stage in self.stages.items():
            for up in stage.upstream:
                found[up].append(address)
        return found

    # -- what is stale, and why -----------------------------------------------------------------------------------

    def select(self, targets: Sequence[str]) -> set[str]:
        """Addresses of the targets and all they need.

        A target is an address, a stage's name, a group (``train``), or a part of a cell's name with ``*``.

        Raises
        ------
        PipelineError: no stage fits; names the closest.
        """
        if not targets:
            return set(self.stages)
        import difflib
        import fnmatch

        chosen: set[str] = set()
        for target in targets:
            found = {
                address
                for address, stage in self.stages.items()
                if target in (address, stage.name, stage.name.split("@")[0])
                or ("*" in target and fnmatch.fnmatchcase(stage.name, target))
                or target in stage.outs
            }
            if not found:
                names = [stage.name for stage in self.stages.values()]
                close = difflib.get_close_matches(target, names, n=3, cutoff=0.4)
                hint = f"; close: {', '.join(close)}" if close else ""
                raise PipelineError(f"no stage is named {target!r}{hint}. List them: mergeline status --all")
            chosen |= found
        todo = list(chosen)
        while todo:
            for up in self.stages[todo.pop()].upstream:
                if up not in chosen:
                    chosen.add(up)
                    todo.append(up)
        return chosen

    def foresee(self, planned: Iterable[PipelineStage], files: Iterable[str]) -> None:
        """Hold the stages of pipeline files as they will be written, in place of those that stand there now.

        For saying what a run would do; a pipeline that has foreseen stages cannot run. ``planned``: all stages of these
        ``files``; their ``upstream`` is found here.
        """
        coming = {stage.address: stage for stage in planned}
        kept = {a: stage for a, stage in self.stages.items() if stage.file not in set(files) or a in coming}
        self._foreseen = {a: stage for a, stage in coming.items() if a not in kept}
        found = {**kept, **self._foreseen}
        made = {out: address for address, stage in found.items() for out in stage.outs}
        below: dict[str, set[str]] = {}
        for out, address in made.items():
            for parent in Path(out).parents:
                below.setdefault(str(parent), set()).add(address)
        order: TopologicalSorter[str] = TopologicalSorter()
        for address, stage in found.items():
            deps = coming.get(address, stage).deps
            upstream: set[str] = set()
            for dep in deps:
                upstream |= {made[str(place)] for place in (Path(dep), *Path(dep).parents) if str(place) in made}
                upstream |= below.get(dep, set())
            found[address] = replace(stage, deps=deps, upstream=tuple(sorted(upstream)))
            order.add(address, *found[address].upstream)
        self.stages = {address: found[address] for address in order.static_order()}

    def stale(
        self,
        chosen: Iterable[str] | None = None,
        force: bool = False,
        predicted: Mapping[str, str] | None = None,
    ) -> dict[str, list[Reason]]:
        """Stale stages with their reasons, upstream first.

        A stage whose own inputs are unchanged but that reads from a stale stage is listed with an "upstream" reason; it
        runs only if its inputs really come out different. ``predicted`` gives md5 sums that outputs will have, so that
        what they feed is judged at once.
        """
        wanted = set(self.stages) if chosen is None else set(chosen)
        predicted = predicted or {}
        self._hash_many(path for a in wanted for path in (*self.stages[a].deps, *self.stages[a].outs))
        result: dict[str, list[Reason]] = {}
        for address, stage in self.stages.items():
            if address not in wanted:
                continue
            reasons = [Reason("forced")] if force else self.reasons(address, predicted)
            known = {up for up in stage.upstream if set(self.stages[up].outs) <= predicted.keys()}
            reasons += [
                Reason("upstream", self.stages[up].name) for up in stage.upstream if up in result and up not in known
            ]
            if reasons:
                result[address] = reasons
        return result

    def reasons(self, address: str, predicted: Mapping[str, str] | None = None) -> list[Reason]:
        """Why a stage is stale by its own inputs and outputs; empty if it is fresh."""
        predicted = predicted or {}
        if address in self._foreseen:
            return [Reason("never run")]
        stage = self._dvc[address]
        lock = self._lock_entry(stage)
        if lock is None:
            return [Reason("never run")]
        if stage.frozen:
            return []
        reasons = []
        if stage.always_changed:
            reasons.append(Reason("forced", detail="always_changed is set"))
        if lock.get("cmd") != stage.cmd:
            reasons.append(Reason("command", detail="changed"))
        reasons += self._list_reasons(stage, lock)
        for dep in stage.deps:
            if isinstance(dep, ParamsDependency):
                reasons += self._param_reasons(dep)
            else:
                reasons += self._file_reasons("dependency", dep, predicted)
        for out in stage.outs:
            reasons += self._file_reasons("output", out, {})
        return reasons

    def _lock_entry(self, stage: Any) -> Any:
        pending = self._pending.get(stage.path)
        if pending is not None and stage.name in pending.entries:
            return pending.entries[stage.name]
        return self._locks[stage.path].get(stage.name)

    def _list_reasons(self, stage: Any, lock: Any) -> list[Reason]:
        """Inputs that the lock names and the stage no longer does (DVC itself does not see those)."""
        reasons = []
        for kind, entries in (("dependency", stage.deps), ("output", stage.outs)):
            now = {entry.def_path for entry in entries if not isinstance(entry, ParamsDependency)}
            then = {entry["path"] for entry in lock.get("deps" if kind == "dependency" else "outs", [])}
            reasons += [Reason("list", path, f"is no {kind} any more") for path in sorted(then - now)]
        now_keys = {key for dep in stage.deps if isinstance(dep, ParamsDependency) for key in dep.params}
        then_keys = {key for values in lock.get("params", {}).values() for key in values}
        if now_keys:
            reasons += [Reason("list", key, "is no parameter any more") for key in sorted(then_keys - now_keys)]
        return reasons

    def _param_reasons(self, dep: Any) -> list[Reason]:
        recorded = dep.hash_info.value if isinstance(dep.hash_info.value, dict) else {}
        current = self._param_values(dep)
        reasons = []
        for key in dep.params or sorted(set(current) | set(recorded)):
            if key not in current:
                reasons.append(Reason("parameter", key, "is missing"))
            elif key not in recorded:
                reasons.append(Reason("parameter", key, "is new"))
            elif current[key] != recorded[key]:
                reasons.append(Reason("parameter", key, _difference(recorded[key], current[key])))
        return reasons

    def _param_values(self, dep: Any) -> dict[str, Any]:
        path = dep.fs_path
        stamp = _stamp(path)
        cached = self._param_files.get(path)
        if cached is None or cached[0] != stamp:
            try:
                cached = (stamp, load_path(path, self.repo.fs) if stamp is not None else {})
            except Exception as error:
                raise PipelineError(f"{os.path.relpath(path, self.root)}: {error}") from error
            self._param_files[path] = cached
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

    def _file_reasons(self, kind: str, entry: Any, predicted: Mapping[str, str]) -> list[Reason]:
        subject = self._relative(entry)
        if not entry.hash_info:
            return [Reason(kind, subject, "is new")]
        if subject in predicted:
            same = predicted[subject] == entry.hash_info.value
            return [] if same else [Reason(kind, subject, "changed")]
        found = self._hash(entry)
        if found is None:
            return [Reason(kind, subject, "is missing")]
        if found[1] != entry.hash_info:
            return [Reason(kind, subject, "changed")]
        return []

    # -- hashes: each file once ------------------------------------------------------------------------------------

    def _hash_many(self, relative: Iterable[str]) -> None:
        """Look up the recorded hashes of many files in DVC's state at once."""
        paths = []
        for name in set(relative):
            path = os.path.join(self.root, name)  # noqa: PTH118
            stamp = _stamp(path)
            if stamp is not None and path not in self._files and not os.path.isdir(path):  # noqa: PTH112
                paths.append(path)
        infos: dict[str, Any] = {}
        for path, meta, info in self.repo.state.get_many(iter(paths), self.repo.fs, infos) if paths else ():
            stamp = _stamp(path)
            if info is not None and info.name == "md5" and stamp is not None:
                self._files[path] = (stamp, meta, info)

    def _hash(self, entry: Any) -> tuple[Any, Any] | None:
        """Meta and hash of a dependency or output as it is now; None if it is missing."""
        path = entry.fs_path
        if entry.fs.protocol != "local":
            return entry.get_meta(), entry.get_hash()
        stamp = _stamp(path)
        if stamp is None:
            return None
        if os.path.isdir(path):  # noqa: PTH112
            meta, info = entry._get_hash_meta()
            return meta, info
        known = self._files.get(path)
        if known is None or known[0] != stamp:
            meta, info = self.repo.state.get(path, self.repo.fs) if stamp[1] > SMALL_FILE else (None, None)
            if info is None or info.name != "md5":
                meta, info = hash_file(path, self.repo.fs, "md5")
                self._unsaved.append((path, info, None))
            known = self._files[path] = (stamp, meta, info)
        return known[1], known[2]

    # -- running a stage: before, instead, after -------------------------------------------------------------------

    def snapshot(self, address: str) -> Snapshot:
        """The hashes of a stage's inputs as it starts.

        Raises
        ------
        PipelineError: an input is missing.
        """
        stage = self._dvc[address]
        hashes, stamps, params = {}, {}, {}
        for dep in stage.deps:
            if isinstance(dep, ParamsDependency):
                values = self._param_values(dep)
                missing = sorted(set(dep.params) - set(values))
                if missing:
                    raise PipelineError(f"{dep}: the parameter {missing[0]} is missing, and {stage.name} needs it")
                params[dep.fs_path] = values
                continue
            found = self._hash(dep)
            if found is None:
                raise PipelineError(f"{self._relative(dep)} is missing, and {stage.name} needs it")
            hashes[dep.fs_path] = found
            stamps[dep.fs_path] = _stamp(dep.fs_path)
        return Snapshot(hashes, stamps, params)

    def clear_outputs(self, address: str) -> None:
        """Remove a stage's outputs before it runs, as ``dvc repro`` does."""
        for out in self._dvc[address].outs:
            if out.persist:
                out.unprotect()
                continue
            path = Path(out.fs_path)
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def restore(self, address: str, snapshot: Snapshot) -> bool:
        """Put a stage's outputs back from the cache, if these inputs were run before; records them in the lock."""
        stage = self._dvc[address]
        self._fill_inputs(stage, snapshot)
        if not _cachable(stage):
            return False
        lock = self._lock_entry(stage)
        same = lock is not None and _key_of(_without_outs(lock)) == _key_of(
            _without_outs(to_single_stage_lockfile(stage))
        )
        candidates = [lock] if same else []
        try:
            entry = self.repo.stage_cache._load(stage) if self._run_cache_folder(stage) else None
            candidates += [entry] if entry else []
        except (RunCacheNotFoundError, DvcException, OSError):
            pass
        for candidate in candidates:
            if self._checkout(stage, candidate):
                self._pend(stage, to_single_stage_lockfile(stage))
                return True
        return False

    def _run_cache_folder(self, stage: Any) -> bool:
        key = _get_cache_hash(to_single_stage_lockfile(stage), key=True)
        return os.path.isdir(self.repo.stage_cache._get_cache_dir(key))  # noqa: PTH112

    def _checkout(self, stage: Any, entry: Any) -> bool:
        """Outputs of a lock entry from the cache to the workspace; false if the cache lacks one."""
        recorded = {out["path"]: out for out in entry.get("outs", [])}
        outs = [out for out in stage.outs if out.use_cache]
        if any(out.def_path not in recorded or "md5" not in recorded[out.def_path] for out in outs):
            return False
        if len(outs) != len(stage.outs):
            return False
        kept = [(out, out.hash_info, out.meta) for out in outs]
        for out in outs:
            info = recorded[out.def_path]
            out.hash_name = "md5"  # a lock entry without this output would have made it a legacy one
            out.hash_info = HashInfo("md5", info["md5"])
            out.meta = Meta.from_dict({k: v for k, v in info.items() if k in ("size", "nfiles", "isexec")})
            out.obj = None
        if all(self._in_cache(out) for out in outs):
            try:
                for out in outs:
                    self._place(out)
                return True
            except (DvcException, OSError):
                pass
        for out, info, meta in kept:
            out.hash_info, out.meta = info, meta
        return False

    def _in_cache(self, out: Any) -> bool:
        """Whether the cache holds an output, whole (by size; ``mergeline verify`` reads the bytes)."""
        if out.hash_info.isdir:
            return not out.changed_cache()
        status = _stamp(out.cache.oid_to_path(out.hash_info.value))
        return status is not None and (out.meta.size is None or status[1] == out.meta.size)

    def _place(self, out: Any) -> None:
        path = out.fs_path
        found = self._hash(out) if os.path.exists(path) else None  # noqa: PTH110
        if found is not None and found[1] == out.hash_info:
            return
        if out.hash_info.isdir:
            out.checkout(force=True)
            return
        source = Path(out.cache.oid_to_path(out.hash_info.value))
        _copy_atomically(source, Path(path), self.root)
        self._remember(path, out.hash_info)

    def _remember(self, path: str, info: Any) -> None:
        stamp = _stamp(path)
        if stamp is not None:
            self._unsaved.append((path, info, None))
            self._files[path] = (stamp, Meta(size=stamp[1]), info)

    def record(self, address: str, snapshot: Snapshot) -> None:
        """Record a stage that ran: outputs to the cache, an entry in the run cache, and one in the lock (see flush).

        Raises
        ------
        InputsChanged: an input is not what it was when the stage started.
        MissingOutput: an output was not written.
        """
        stage = self._dvc[address]
        self._check_unchanged(stage, snapshot)
        self._fill_inputs(stage, snapshot)
        for out in stage.outs:
            found = self._hash(out) if out.exists else None
            if found is None:
                raise MissingOutput(f"{stage.name} ended well but did not write {self._relative(out)}")
            if out.use_cache and out.hash_info != found[1]:
                out.obj = None
            out.hash_name, (out.meta, out.hash_info) = "md5", found
            if out.metric:
                out.verify_metric()
            if out.use_cache:
                self._add_to_cache(out)
        entry = to_single_stage_lockfile(stage)
        if _cachable(stage):
            self._save_run_cache(entry)
        self._pend(stage, entry)

    def _fill_inputs(self, stage: Any, snapshot: Snapshot) -> None:
        for dep in stage.deps:
            if isinstance(dep, ParamsDependency):
                values: Any = snapshot.params[dep.fs_path]  # DVC keeps the values where a hash would be
                dep.hash_info = HashInfo(dep.PARAM_PARAMS, values)
            else:
                dep.hash_name = "md5"
                dep.meta, dep.hash_info = snapshot.hashes[dep.fs_path]

    def _check_unchanged(self, stage: Any, snapshot: Snapshot) -> None:
        for dep in stage.deps:
            if isinstance(dep, ParamsDependency):
                changed = self._param_values(dep) != snapshot.params[dep.fs_path]
            else:
                changed = os.path.isdir(dep.fs_path) or _stamp(dep.fs_path) != snapshot.stamps[dep.fs_path]  # noqa: PTH112
                if changed:
                    found = self._hash(dep)
                    changed = found is None or found[1] != snapshot.hashes[dep.fs_path][1]
            if changed:
                raise InputsChanged(
                    f"{self._relative(dep)} changed while {stage.name} ran; its result is not recorded. Run again."
                )

    def _add_to_cache(self, out: Any) -> None:
        if out.hash_info.isdir or not out.is_in_repo:
            out.save()
            out.commit()
            return
        target = Path(out.cache.oid_to_path(out.hash_info.value))
        status = _stamp(str(target))
        if status is not None and status[1] == out.meta.size:
            return
        _copy_atomically(Path(out.fs_path), target, self.root)
        target.chmod(0o444)

    def _save_run_cache(self, entry: Any) -> None:
        cache = self.repo.stage_cache
        key, value = _get_cache_hash(_plain(entry), key=True), _get_cache_hash(_plain(entry))
        path = Path(cache._get_cache_path(key, value))
        if not path.exists():
            _write_atomically(path, _fast_yaml(entry))

    # -- for verify and repair ------------------------------------------------------------------------------------

    @property
    def cache_folder(self) -> Path:
        """Where DVC keeps its objects, by md5."""
        return Path(self.repo.cache.local.path)

    def has_object(self, md5: str) -> bool:
        """Whether the cache holds an object of that name."""
        return os.path.exists(self.repo.cache.local.oid_to_path(md5))  # noqa: PTH110

    def recorded_outputs(self) -> Iterator[tuple[str, str, str]]:
        """Stage address, output and md5 of all that the locks record."""
        for address in self.stages:
            stage = self._dvc[address]
            for out in (self._lock_entry(stage) or {}).get("outs", []):
                if "md5" in out:
                    path = os.path.normpath(os.path.join(stage.wdir, out["path"]))  # noqa: PTH118
                    yield address, os.path.relpath(path, self.root), out["md5"]

    def forget(self, path: Path) -> None:
        """Drop what is remembered of a file's hash, in DVC's state too."""
        self._files.pop(str(path), None)
        self.repo.state.hashes.pop(str(path), None)

    def put_in_cache(self, source: Path, md5: str) -> None:
        """Copy a file to the cache as the object of that name."""
        target = Path(self.repo.cache.local.oid_to_path(md5))
        _copy_atomically(source, target, self.root)
        target.chmod(0o444)

    def take_from_cache(self, md5: str, target: Path) -> bool:
        """Copy an object out of the cache, if it is there."""
        source = Path(self.repo.cache.local.oid_to_path(md5))
        if not source.is_file():
            return False
        _copy_atomically(source, target, self.root)
        return True

    # -- lock files -------------------------------------------------------------------------------------------------

    def _pend(self, stage: Any, entry: Any) -> None:
        pending = self._pending.setdefault(stage.path, _Pending())
        pending.entries[stage.name] = _plain(entry)

    @property
    def pending(self) -> int:
        """Recorded lock entries that are not yet written."""
        return sum(len(pending.entries) for pending in self._pending.values())

    def flush(self) -> None:
        """Write the recorded lock entries, each file once, atomically, with a backup of what stood there."""
        self.repo.state.save_many(self._unsaved, self.repo.fs)
        self._unsaved.clear()
        with self.locked():
            for dvcfile_path, pending in self._pending.items():
                if not pending.entries:
                    continue
                path = Path(dvcfile_path).with_suffix(".lock")
                data = _read_lock(path)
                stages = data.setdefault("stages", {})
                for name, entry in pending.entries.items():
                    stages[name] = entry
                if path.exists():
                    backup = backup_path(self.root, path)
                    backup.parent.mkdir(parents=True, exist_ok=True)
                    backup.write_bytes(path.read_bytes())
                _write_atomically(path, dump_lock(data))
                self._locks[dvcfile_path] = stages
                pending.entries.clear()

    def stale_lock_entries(self) -> list[tuple[Path, str]]:
        """Entries of lock files for stages that are no more."""
        names: dict[str, set[str]] = {}
        for stage in self._dvc.values():
            names.setdefault(stage.path, set()).add(getattr(stage, "name", ""))
        return [
            (Path(path), name) for path, entries in self._locks.items() for name in entries if name not in names[path]
        ]

    def drop_lock_entries(self) -> None:
        """Remove lock entries for stages that are no more."""
        with self.locked():
            for path, name in self.stale_lock_entries():
                lock = path.with_suffix(".lock")
                data = _read_lock(lock)
                data.get("stages", {}).pop(name, None)
                _write_atomically(lock, dump_lock(data))
                self._locks[str(path)].pop(name, None)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """DVC's own lock, held only while its files are written, so that `dvc status` can be used beside a run."""
        import time

        deadline = time.monotonic() + 60
        while True:
            try:
                self.repo.lock.lock()
                break
            except DvcException as error:
                if time.monotonic() > deadline:
                    raise PipelineError(f"another DVC process holds {self.root}/.dvc/tmp/lock: {error}") from error
                time.sleep(0.1)
        self.repo._lock_depth += 1  # what DVC does in here (push, fetch) does not lock again
        try:
            yield
        finally:
            self.repo._lock_depth -= 1
            self.repo.lock.unlock()

    def close(self) -> None:
        """Close DVC's databases."""
        self.repo.close()


def cache_object(root: Path, md5: str) -> Path:
    """Where the cache of a benchmark keeps an object of that name (it may not be there)."""
    repo = Repo(str(root))
    try:
        return Path(repo.cache.local.oid_to_path(md5))
    finally:
        repo.close()


# -- small things ----------------------------------------------------------------------------------------------------


def _command(cmd: Any) -> str:
    return cmd if isinstance(cmd, str) else " && ".join(cmd or [])


def _topological(graph: Any) -> list[str]:
    """Addresses, upstream first, in a stable order."""
    import heapq

    waiting = {stage: graph.out_degree(stage) for stage in graph.nodes}
    ready = [(stage.addressing, id(stage), stage) for stage, count in waiting.items() if count == 0]
    heapq.heapify(ready)
    order = []
    while ready:
        _, _, stage = heapq.heappop(ready)
        order.append(stage.addressing)
        for down in graph.predecessors(stage):
            waiting[down] -= 1
            if waiting[down] == 0:
                heapq.heappush(ready, (down.addressing, id(down), down))
    return order


def _difference(then: Any, now: Any) -> str:
    """What changed in a parameter: the keys of a section, or the values."""
    if isinstance(then, dict) and isinstance(now, dict):
        changes = []
        for key in sorted({*then, *now}, key=str):
            if key not in now:
                changes.append(f"{key} removed")
            elif key not in then:
                changes.append(f"{key}: {now[key]} added")
            elif then[key] != now[key]:
                changes.append(f"{key}: {_difference(then[key], now[key])}")
        return ", ".join(changes)
    return f"{then} -> {now}"


def _cachable(stage: Any) -> bool:
    """Whether DVC's run cache takes the stage (as dvc.stage.cache._can_hash, without hashing anything)."""
    deps = [dep for dep in stage.deps if not isinstance(dep, ParamsDependency)]
    if stage.always_changed or not (stage.cmd and stage.deps and stage.outs):
        return False
    if any(dep.protocol != "local" or not dep.def_path for dep in deps):
        return False
    return all(out.protocol == "local" and out.def_path and not out.persist and out.is_in_repo for out in stage.outs)


def _plain(entry: Any) -> Any:
    if isinstance(entry, Mapping):
        return {key: _plain(value) for key, value in entry.items()}
    return [_plain(value) for value in entry] if isinstance(entry, list | tuple) else entry


def _without_outs(entry: Any) -> Any:
    return {key: value for key, value in _plain(entry).items() if key != "outs"}


def _key_of(entry: Any) -> str:
    return _get_cache_hash(entry)


class _FastDumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
    def ignore_aliases(self, data: Any) -> bool:
        return True


def _fast_yaml(data: Any) -> str:
    return yaml.dump(_plain(data), Dumper=_FastDumper, sort_keys=False, allow_unicode=True, width=100_000)


def dump_lock(data: Any) -> str:
    """The text of a lock file as DVC writes it, by the faster of two writers where both agree on what it says."""
    text = _fast_yaml(data)
    return text if not _writers_may_differ(text) else dumps_yaml(data)


def _writers_may_differ(text: str) -> bool:
    """PyYAML and ruamel (DVC's) write the same, but for folded and quoted scalars, nulls and exponents."""
    marks = ('"', "e-", "e+", "? ", ": |", ": >", "null")
    return any(mark in text for mark in marks) or any(len(line) > 78 for line in text.splitlines())


def _read_lock(path: Path) -> dict[str, Any]:
    try:
        data = yaml12.load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        data = None
    except (OSError, ValueError) as error:
        raise PipelineError(f"{path} is damaged ({error}); repair it: mergeline doctor --fix") from error
    if data is not None and not isinstance(data, dict):
        raise PipelineError(f"{path} is damaged (no keys); repair it: mergeline doctor --fix")
    return data or {"schema": "2.0"}


def _write_atomically(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _copy_atomically(source: Path, target: Path, root: Path) -> None:
    """A reflink where the file system has it, else a copy; never a link, which an edit would pass on to the cache."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        shutil.copyfile(source, temporary)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def _explain(error: Exception) -> str:
    """DVC's error with all its causes, and what to do."""
    parts = [str(error)]
    cause = error.__cause__
    while cause is not None:
        text = str(cause).strip()
        if text and text not in parts[-1]:
            parts.append(text)
        cause = cause.__cause__
    text = ": ".join(parts)
    if ".lock" in text:
        text += ". Repair it: mergeline doctor --fix"
    return text
