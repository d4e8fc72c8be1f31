"""The DVC side: which stages are stale and why, restoring from the cache, and recording what ran.

This room alone uses DVC's inner API (pinned in pyproject.toml, contract-tested in tests/pipeline). DVC owns what is
cached and whether it is stale: its files, its hashes, its cache and its run cache are read and written as ``dvc repro``
does, so that either can be used at any time. What is done here is the same work with less of it: each file is hashed
once, and lock files are written in batches and atomically.
"""

from __future__ import annotations

import difflib
import fnmatch
import heapq
import logging
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

os.environ.setdefault("DVC_NO_ANALYTICS", "1")

from dvc.dependency.param import ParamsDependency
from dvc.exceptions import DvcException
from dvc.stage.serialize import to_single_stage_lockfile
from dvc_data.hashfile.hash_info import HashInfo

from flows.dvc.cache import StageCache
from flows.dvc.hashes import Hashes, stamps_below
from flows.dvc.lock_entries import LockEntries
from flows.dvc.opening import open_repo
from flows.dvc.stage import InputsChanged, MissingOutput, PipelineError, PipelineStage, Reason, Snapshot
from flows.dvc.staleness import stage_reasons

__all__ = ["Pipeline"]

logging.getLogger("dvc").setLevel(logging.ERROR)


class Pipeline:
    """The stages of a repository, opened once.

    Raises
    ------
    PipelineError: a ``dvc.yaml``, ``dvc.lock`` or ``params.yaml`` cannot be read; names it and the fix.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        try:
            self.repo = open_repo(root)
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
        self._hashes = Hashes(self.repo, root)
        self._entries = LockEntries(self.repo, root, stages)
        self.cache = StageCache(self.repo, self._hashes)

    def dvc_stage(self, address: str) -> Any:
        """DVC's own stage."""
        return self._dvc[address]

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
        chosen: set[str] = set()
        for target in targets:
            found = {
                address
                for address, stage in self.stages.items()
                if target in (address, stage.name, stage.kind)
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

    def propose(self, path: Path, values: Any) -> None:
        """Let a file of parameters have other values than those that stand there, for saying what they would make stale."""
        self._hashes.propose(path, values)

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
        self._hashes.look_up(path for a in wanted for path in (*self.stages[a].deps, *self.stages[a].outs))
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
        if address in self._foreseen:
            return [Reason("never run")]
        stage = self.dvc_stage(address)
        return stage_reasons(stage, self._entries.of(stage), self._hashes, self._relative, predicted or {})

    def recorded_dependency(self, address: str, path: str) -> str | None:
        """The md5 that a stage's lock entry has for a file that it reads; None if it has none."""
        if address in self._foreseen:
            return None
        stage = self.dvc_stage(address)
        for dep in (self._entries.of(stage) or {}).get("deps", []):
            if os.path.normpath(os.path.join(stage.wdir, dep["path"])) == str(self.root / path):  # noqa: PTH118
                md5: str | None = dep.get("md5")
                return md5
        return None

    def restorable(self, address: str, reasons: Sequence[Reason]) -> bool:
        """Whether a stage is stale for its missing outputs alone, and the cache has them: it will read nothing."""
        if any(reason.kind not in ("output", "upstream") for reason in reasons):
            return False
        outs = (self._entries.of(self.dvc_stage(address)) or {}).get("outs", [])
        return bool(outs) and all("md5" in out and self.cache.path_of(out["md5"]).is_file() for out in outs)

    # -- running a stage: before, instead, after -------------------------------------------------------------------

    def snapshot(self, address: str) -> Snapshot:
        """The hashes of a stage's inputs as it starts.

        Raises
        ------
        PipelineError: an input is missing.
        """
        stage = self.dvc_stage(address)
        hashes, stamps, params = {}, {}, {}
        for dep in stage.deps:
            if isinstance(dep, ParamsDependency):
                values = self._hashes.parameters(dep)
                missing = sorted(set(dep.params) - set(values))
                if missing:
                    raise PipelineError(f"{dep}: the parameter {missing[0]} is missing, and {stage.name} needs it")
                params[dep.fs_path] = values
                continue
            stamps[dep.fs_path] = stamps_below(dep.fs_path)  # first: what is written after this is seen at the end
            found = self._hashes.of(dep)
            if found is None:
                raise PipelineError(f"{self._relative(dep)} is missing, and {stage.name} needs it")
            hashes[dep.fs_path] = found
        return Snapshot(hashes, stamps, params)

    def clear_outputs(self, address: str) -> None:
        """Remove a stage's outputs before it runs, as ``dvc repro`` does."""
        for out in self.dvc_stage(address).outs:
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
        stage = self.dvc_stage(address)
        self._fill_inputs(stage, snapshot)
        restored = self.cache.restore(stage, self._entries.of(stage))
        if restored:
            self._entries.record(stage, to_single_stage_lockfile(stage))
        return restored

    def record(self, address: str, snapshot: Snapshot) -> None:
        """Record a stage that ran: outputs to the cache, an entry in the run cache, and one in the lock (see flush).

        Raises
        ------
        InputsChanged: an input is not what it was when the stage started.
        MissingOutput: an output was not written.
        """
        stage = self.dvc_stage(address)
        self._check_unchanged(stage, snapshot)
        self._fill_inputs(stage, snapshot)
        for out in stage.outs:
            found = self._hashes.of(out) if out.exists else None
            if found is None:
                raise MissingOutput(f"{stage.name} ended well but did not write {self._relative(out)}")
            if out.use_cache and out.hash_info != found[1]:
                out.obj = None
            out.hash_name, (out.meta, out.hash_info) = "md5", found
            if out.metric:
                out.verify_metric()
            if out.use_cache:
                self.cache.add(out)
        entry = to_single_stage_lockfile(stage)
        self.cache.save_run(stage, entry)
        self._entries.record(stage, entry)

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
                changed = self._hashes.parameters(dep) != snapshot.params[dep.fs_path]
            else:
                # Written to, and as it was again: the stage may have read what stood there in between.
                changed = stamps_below(dep.fs_path) != snapshot.stamps[dep.fs_path]
                if not changed and os.path.isdir(dep.fs_path):  # noqa: PTH112
                    found = self._hashes.of(dep)  # what lies behind links in it has no stamp
                    changed = found is None or found[1] != snapshot.hashes[dep.fs_path][1]
            if changed:
                raise InputsChanged(
                    f"{self._relative(dep)} changed while {stage.name} ran; its result is not recorded. Run again."
                )

    @property
    def pending(self) -> int:
        """Recorded lock entries that are not yet written."""
        return self._entries.pending

    def flush(self) -> None:
        """Write what is recorded: hashes to DVC's state, entries to the lock files."""
        self._hashes.save()
        self._entries.flush()

    # -- for verify, repair and prune ------------------------------------------------------------------------------

    def recorded_outputs(self) -> Iterator[tuple[str, str, str]]:
        """Stage address, output and md5 of all that the locks record."""
        for address in self.stages:
            stage = self.dvc_stage(address)
            for out in (self._entries.of(stage) or {}).get("outs", []):
                if "md5" in out:
                    path = os.path.normpath(os.path.join(stage.wdir, out["path"]))  # noqa: PTH118
                    yield address, os.path.relpath(path, self.root), out["md5"]

    def cached_outputs(self) -> Iterator[tuple[str, str, str]]:
        """The same for outputs that belong in the cache, and that the stages still have."""
        kept = {
            (address, self._relative(out))
            for address in self.stages
            for out in self.dvc_stage(address).outs
            if out.use_cache and out.is_in_repo
        }
        for address, output, md5 in self.recorded_outputs():
            if (address, output) in kept:
                yield address, output, md5

    def forget(self, path: Path) -> None:
        """Drop what is remembered of a file's hash, in DVC's state too."""
        self._hashes.forget(path)

    def stale_lock_entries(self) -> list[tuple[Path, str]]:
        """Entries of lock files for stages that are no more."""
        return self._entries.without_stage()

    def drop_lock_entries(self) -> None:
        """Remove lock entries for stages that are no more."""
        self._entries.drop_without_stage()

    def locked(self) -> AbstractContextManager[None]:
        """DVC's own lock, held only while its files are written."""
        return self._entries.locked()

    def close(self) -> None:
        """Close DVC's databases."""
        self.repo.close()


def _command(cmd: Any) -> str:
    return cmd if isinstance(cmd, str) else " && ".join(cmd or [])


def _topological(graph: Any) -> list[str]:
    """Addresses, upstream first, in a stable order."""
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
    if "not a git repository" in text:
        text += ". Make it one: git init; or use it without git: dvc config core.no_scm true"
    if ".lock" in text:
        text += ". Repair it: mergeline doctor --fix"
    return text
