"""DVC's run cache read with care: what a full disk or a dead process left there stops no run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flows.dvc.locks import is_whole
from stages.formats import yaml12

__all__ = ["damaged_entries", "empty_folders", "entries_in"]


def entries_in(folder: Path) -> list[dict[str, Any]]:
    """What stages made of the inputs that a folder stands for, the newest first; damaged notes are left out."""
    try:
        files = sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns, reverse=True)
    except OSError:
        return []
    return [entry for path in files if (entry := _read(path)) is not None]


def empty_folders(runs: Path) -> Iterator[Path]:
    """Folders without a note, at which ``dvc repro`` ends with a traceback."""
    for folder in sorted(runs.glob("??/*")):
        if folder.is_dir() and not any(folder.iterdir()):
            yield folder


def damaged_entries(runs: Path) -> Iterator[Path]:
    """Notes that cannot be read."""
    for path in sorted(runs.glob("??/*/*")):
        if path.is_file() and _read(path) is None:
            yield path


def _read(path: Path) -> dict[str, Any] | None:
    try:
        if os.path.getsize(path) == 0:  # noqa: PTH202
            return None
        entry = yaml12.load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return entry if isinstance(entry, dict) and "cmd" in entry and entry.get("outs") and is_whole(entry) else None
