"""The flow ``refresh``, as schedules and work pools run it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.states import Cancelled, Completed, Failed

from flows.comparison import change_lines
from flows.mirror.access import refuse_other_folder
from flows.mirror.mirror import follow_command
from flows.refresh import REGRESSION, finish
from flows.workspace import find_root
from stages.errors import InputError

__all__ = ["refresh"]


@flow(name="refresh", persist_result=False, retries=0)
def refresh(folder: str | None = None, jobs: int = 0, profile: str | None = None) -> Any:
    """Run what is stale, compare with the committed results, say what changed.

    Parameters
    ----------
    folder: the benchmark; by default the one that the working directory is in. Where ``MERGELINE_ROOT`` names one, as
        ``mergeline serve`` does, no other is accepted: a flow run may be posted by who should not choose what runs.
    jobs: stages at a time; 0: as many as there are cores for.
    profile: a profile to run in place of params.yaml as it stands.
    """
    try:
        root = find_root(Path(folder) if folder else None)
        refuse_other_folder(root)
    except InputError as error:
        return Failed(message=str(error))
    command = [sys.executable, "-m", "flows.cli", "run", "--no-prefect", "--events", "--jobs", str(jobs)]
    if profile:
        command += ["--profile", profile]
    state, status = follow_command(command, root)
    if status == 3:
        return Cancelled(message="another run of this benchmark is busy; the next schedule tries again")
    if status == 2:
        return Failed(message="bad input; see logs/refresh.log")
    code, comparison = finish(root, status)
    if comparison is not None:
        text = "\n".join(change_lines(comparison))
        create_markdown_artifact(text, key="changes", description="What this refresh changed")
    if code == REGRESSION and comparison is not None:
        worse = ", ".join(change.label for change in comparison.regressions[:5])
        return Failed(name="Regression", message=f"{len(comparison.regressions)} settings got worse: {worse}")
    return state if code else Completed(message="no regression")
