"""Where fingerprints lie, relative to a benchmark's root. Apart from :mod:`stages.plan.paths`, which the code of every stage
depends on: the few that read these files are named here alone."""

from __future__ import annotations

from pathlib import PurePosixPath

from stages.plan import paths

__all__ = ["ENCODER", "INPUTS", "NOTES", "TEXT_ENCODER", "task"]

INPUTS = paths.PIPELINES / "inputs"
"""Kept in git beside the pipelines: a clone without the data knows which data its results are of."""
ENCODER = INPUTS / "encoders" / "similarity.json"
TEXT_ENCODER = INPUTS / "encoders" / "targets.json"
NOTES = paths.SCRATCH / "inputs.db"


def task(name: str) -> PurePosixPath:
    """The fingerprint of a task's data."""
    return INPUTS / "tasks" / f"{name}.json"
