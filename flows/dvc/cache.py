"""DVC's cache and run cache: putting the outputs of a stage there, and bringing them back."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path
from typing import Any

from dvc.dependency.param import ParamsDependency
from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc.stage.cache import _get_cache_hash
from dvc.stage.serialize import to_single_stage_lockfile
from dvc_data.hashfile.hash_info import HashInfo
from dvc_data.hashfile.meta import Meta

from flows.dvc.hashes import Hashes, stamp_of
from flows.dvc.lock_entries import fast_yaml, plain_values
from flows.dvc.opening import open_repo
from flows.dvc.run_cache import entries_in
from stages.formats.files import write_bytes, writing

__all__ = ["StageCache", "cache_object"]


class StageCache:
    """The cache of one opened repository."""

    def __init__(self, repo: Repo, hashes: Hashes) -> None:
        self._repo = repo
        self._hashes = hashes

    @property
    def folder(self) -> Path:
        """Where DVC keeps its objects, by md5."""
        return Path(self._repo.cache.local.path)

    def path_of(self, md5: str) -> Path:
        """Where an object of that name lies, if it is there."""
        return Path(self._repo.cache.local.oid_to_path(md5))

    def put(self, source: Path, md5: str) -> None:
        """Copy a file to the cache as the object of that name."""
        target = self.path_of(md5)
        _copy(source, target)
        target.chmod(0o444)

    def take(self, md5: str, target: Path) -> bool:
        """Copy an object out of the cache, if it is there."""
        source = self.path_of(md5)
        if not source.is_file():
            return False
        _copy(source, target)
        return True

    def restore(self, stage: Any, lock: Any) -> bool:
        """Put a stage's outputs back, if its inputs, which are filled in, were run before; ``lock`` is its entry."""
        if not _cachable(stage):
            return False
        wanted = to_single_stage_lockfile(stage)
        same = lock is not None and _get_cache_hash(_without_outs(lock)) == _get_cache_hash(_without_outs(wanted))
        candidates = [lock] if same else []
        key = _get_cache_hash(wanted, key=True)
        candidates += entries_in(Path(self._repo.stage_cache._get_cache_dir(key)))
        return any(self._checkout(stage, candidate) for candidate in candidates)

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
        status = stamp_of(out.cache.oid_to_path(out.hash_info.value))
        return status is not None and (out.meta.size is None or status[1] == out.meta.size)

    def _place(self, out: Any) -> None:
        path = out.fs_path
        found = self._hashes.of(out) if os.path.exists(path) else None  # noqa: PTH110
        if found is not None and found[1] == out.hash_info:
            return
        if out.hash_info.isdir:
            out.checkout(force=True)
            return
        written = _copy(Path(out.cache.oid_to_path(out.hash_info.value)), Path(path))
        self._hashes.remember(path, out.hash_info, written)

    def save_run(self, stage: Any, entry: Any) -> None:
        """Note in the run cache what a stage made of its inputs."""
        if not _cachable(stage):
            return
        plain = plain_values(entry)
        value = _get_cache_hash(plain)
        key = _get_cache_hash(plain_values(entry), key=True)  # takes its argument apart
        path = Path(self._repo.stage_cache._get_cache_path(key, value))
        if path.exists() and path.stat().st_size:
            return
        try:
            write_bytes(path, fast_yaml(plain).encode())
        except OSError:
            with contextlib.suppress(OSError):
                path.parent.rmdir()  # DVC ends with a traceback at an empty one
            raise

    def add(self, out: Any) -> None:
        """Copy an output, whose hash is filled in, to the cache."""
        if out.hash_info.isdir or not out.is_in_repo:
            out.save()
            out.commit()
            return
        target = Path(out.cache.oid_to_path(out.hash_info.value))
        status = stamp_of(target)
        if status is not None and status[1] == out.meta.size:
            return
        _copy(Path(out.fs_path), target)
        target.chmod(0o444)


def cache_object(root: Path, md5: str) -> Path:
    """Where the cache of a benchmark keeps an object of that name (it may not be there)."""
    repo = open_repo(root)
    try:
        return Path(repo.cache.local.oid_to_path(md5))
    finally:
        repo.close()


def _cachable(stage: Any) -> bool:
    """Whether DVC's run cache takes the stage (as dvc.stage.cache._can_hash, without hashing anything)."""
    deps = [dep for dep in stage.deps if not isinstance(dep, ParamsDependency)]
    if stage.always_changed or not (stage.cmd and stage.deps and stage.outs):
        return False
    if any(dep.protocol != "local" or not dep.def_path for dep in deps):
        return False
    return all(out.protocol == "local" and out.def_path and not out.persist and out.is_in_repo for out in stage.outs)


def _without_outs(entry: Any) -> Any:
    return {key: value for key, value in plain_values(entry).items() if key != "outs"}


def _copy(source: Path, target: Path) -> os.stat_result:
    """A reflink where the file system has it, else a copy; never a link, which an edit would pass on to the cache. Returns the
    copy's status from before it took its place, where others may write to it."""
    with writing(target) as temporary:
        shutil.copyfile(source, temporary)
        return temporary.stat()
