"""Knowing at once that nothing is stale.

Where nothing was found stale, the stamps (times, size, inode) of every file that took part are noted. While all of
them are the same, nothing can be stale, and DVC need not be opened. Any difference at all leads to the full check.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.dvc.stage import IGNORED
from stages.formats.files import write_bytes
from stages.plan import paths

if TYPE_CHECKING:
    from flows.dvc.pipeline import Pipeline

__all__ = ["is_fresh", "note_fresh", "pipeline_files", "stamps"]

VERSION = 2


def is_fresh(root: Path) -> int | None:
    """The number of stages that are all fresh, or None if that must be found out."""
    try:
        note = json.loads((root / paths.FRESH).read_text(encoding="utf-8"))
        if note["version"] != VERSION or note["files"] != _stamps(root, note["files"]):
            return None
        if note["folders"] != _listings(root, note["folders"]) or note["pipelines"] != pipeline_files(root):
            return None
        return int(note["stages"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def stamps(root: Path, pipeline: Pipeline) -> dict[str, Any]:
    """The stamps of all files of a pipeline. To be taken before its files are checked: what is edited in between is
    then seen the next time."""
    files: set[str] = {str(paths.DVC_CONFIG), str(paths.PARAMS)}
    folders: set[str] = set()
    for stage in pipeline.stages.values():
        files |= {stage.file, stage.file.removesuffix(".yaml") + ".lock", *stage.param_files}
        for name in (*stage.deps, *stage.outs):
            (folders if (root / name).is_dir() else files).add(name)
    return {
        "version": VERSION,
        "stages": len(pipeline.stages),
        "files": _stamps(root, files),
        "folders": _listings(root, folders),
        "pipelines": pipeline_files(root),
    }


def note_fresh(root: Path, found: dict[str, Any]) -> None:
    """Note the stamps of a pipeline in which nothing is stale."""
    write_bytes(root / paths.FRESH, json.dumps(found).encode())


def _stamps(root: Path, names: Iterable[str]) -> dict[str, list[int] | None]:
    return {name: _stamp(os.path.join(root, name)) for name in names}  # noqa: PTH118


def _stamp(path: str) -> list[int] | None:
    try:
        status = os.stat(path)  # noqa: PTH116
    except OSError:
        return None
    return [status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino]


def _listings(root: Path, names: Iterable[str]) -> dict[str, dict[str, list[int] | None]]:
    """Stamps of every file below some folders (compiled Python left out, as .dvcignore does)."""
    listings = {}
    for name in names:
        found: dict[str, list[int] | None] = {}
        for folder, inner, files in os.walk(root / name):
            inner[:] = [entry for entry in inner if entry not in IGNORED]
            for file in files:
                path = os.path.join(folder, file)  # noqa: PTH118
                found[os.path.relpath(path, root)] = _stamp(path)
        listings[name] = found
    return listings


def pipeline_files(root: Path) -> list[str]:
    """Every dvc.yaml and .dvc file below pipelines/ and at the top, so that a new one is seen."""
    found = [str(path.relative_to(root)) for path in (root / paths.PIPELINES).rglob(paths.PIPELINE_FILE)]
    return sorted(
        [*found, *(path.name for path in root.glob("*.dvc")), *(path.name for path in root.glob(paths.PIPELINE_FILE))]
    )
