"""``mergeline prune``: results, locks and notes of cells that the benchmark no longer has."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from flows.dvc.pipeline import Pipeline
from flows.running.workers import stage_arguments
from stages.plan import paths

__all__ = ["Leftover", "leftovers", "remove"]


@dataclass(frozen=True)
class Leftover:
    """A file that no stage of the pipeline makes any more."""

    path: Path
    size: int
    kind: str


def leftovers(pipeline: Pipeline) -> Iterator[Leftover]:
    """Files below artifacts/, logs/ and .mergeline/ that belong to no stage, and lock entries without one."""
    root = pipeline.root
    outs = {root / out for stage in pipeline.stages.values() for out in stage.outs}
    folders = {out for out in outs if out.is_dir()}
    for path in sorted((root / paths.ARTIFACTS).rglob("*")):
        if path.is_file() and path not in outs and not any(folder in path.parents for folder in folders):
            yield Leftover(path, path.stat().st_size, "result of a removed cell")
    names = {stage.name for stage in pipeline.stages.values()}
    logs = {root / paths.log(name) for name in names}
    for path in sorted((root / paths.LOGS).glob("*@*.log")):
        if path not in logs:
            yield Leftover(path, path.stat().st_size, "log")
    runs = {run for stage in pipeline.stages.values() if (run := stage_arguments(stage.command)) is not None}
    notes = {root / paths.progress(name) for name in names} | {root / paths.timing(*run) for run in runs}
    for folder in (paths.TIMINGS, paths.PROGRESS):
        for path in sorted((root / folder).glob("*@*")):
            if path not in notes:
                yield Leftover(path, path.stat().st_size, "note")
    cells = {cell for _, cell in runs}
    for path in sorted((root / paths.CHECKPOINTS).glob("*.pt")):
        if paths.checkpoint_edge(path) not in cells:
            yield Leftover(path, path.stat().st_size, "checkpoint")


def remove(pipeline: Pipeline, found: list[Leftover]) -> int:
    """Delete leftovers and the folders they leave empty; drop lock entries without a stage. Bytes that are free now."""
    freed = 0
    for leftover in found:
        freed += leftover.size
        leftover.path.unlink(missing_ok=True)
        for folder in leftover.path.parents:
            if folder == pipeline.root or any(folder.iterdir()):
                break
            folder.rmdir()
    pipeline.drop_lock_entries()
    return freed
