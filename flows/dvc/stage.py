"""A DVC stage as the flow sees it, why it must run, and what can go wrong with it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.errors import InputError

__all__ = [
    "IGNORED",
    "InputsChanged",
    "MissingOutput",
    "PipelineError",
    "PipelineStage",
    "Reason",
    "Snapshot",
    "Stamp",
    "kind_of",
]

IGNORED = ("__pycache__", ".mypy_cache", ".ruff_cache")
"""Folders that are no part of any dependency, as .dvcignore says."""
Stamp = tuple[int, int, int]
"""A file's modification time (ns), size and inode."""


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
    "upstream", "forced" or "data" (of an input from outside). ``subject``: the file, the key or the stage; ``detail``: what is
    with it.
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

    @property
    def kind(self) -> str:
        """What it is one cell of: ``train`` of ``train@digits.r17.s0``."""
        return kind_of(self.name)


def kind_of(name: str) -> str:
    """The kind in a stage's name."""
    return name.partition("@")[0]


@dataclass(frozen=True)
class Snapshot:
    """What a stage's inputs were when it started: hashes, and the files' stamps to see whether they changed since."""

    hashes: dict[str, tuple[Any, Any]]
    stamps: dict[str, Any]
    params: dict[str, dict[str, Any]]
