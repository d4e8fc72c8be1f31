"""The scheduled refresh: run the benchmark unattended, compare with the committed results, say what changed.

The baseline is ``results.parquet`` as the last commit's ``dvc.lock`` has it, read from DVC's cache: committing a lock
accepts its numbers.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from flows.comparison import Comparison, NoResults, change_lines, compare, finished_cells, rows_at, scores_by_setting
from stages.formats.files import write_bytes, writing
from stages.git import git_says
from stages.plan import paths
from stages.plan.loading import load_params

__all__ = ["REGRESSION", "finish", "refresh", "write_changes"]

REGRESSION = 4
"""Exit code: everything ran, and something got worse."""


def refresh(root: Path, jobs: int = 0) -> tuple[int, Comparison | None]:
    """Run what is stale in a process of its own, then compare: exit code and comparison.

    0: done and nothing got worse; 1: a stage failed; 2: bad input; 3: another run is busy; 4: something got worse.
    """
    ended = subprocess.run(
        [sys.executable, "-m", "flows.cli", "run", "--no-prefect", "--quiet", "--jobs", str(jobs)],
        cwd=root,
        check=False,
    )
    if ended.returncode not in (0, 1):
        return ended.returncode, None
    return finish(root, ended.returncode)


def finish(root: Path, status: int) -> tuple[int, Comparison | None]:
    """Compare the results after a run, write the changes and a row of history; exit code and comparison."""
    results = root / paths.RESULTS
    if not results.is_file():
        return status or 1, None
    params = load_params(root / paths.PARAMS)
    rows = pq.read_table(results).to_pylist()
    try:
        before, name = rows_at(root, "HEAD")
    except NoResults as error:
        before, name = rows, str(error)
    comparison = compare(before, rows, params, name)
    write_changes(root, comparison)
    write_history(root, rows, comparison)
    if status:
        return status, comparison
    return REGRESSION if comparison.regressions else 0, comparison


def write_changes(root: Path, comparison: Comparison) -> Path:
    """``reports/changes.md``."""
    path = root / paths.CHANGES
    write_bytes(path, ("\n".join(change_lines(comparison)) + "\n").encode())
    return path


HISTORY = pa.schema(
    [
        ("time", pa.string()),
        ("commit", pa.string()),
        ("machine", pa.string()),
        ("baseline", pa.string()),
        ("cells", pa.int64()),
        ("mean_accuracy", pa.float64()),
        ("regressions", pa.int64()),
        ("improvements", pa.int64()),
        ("seconds", pa.float64()),
        ("accuracies", pa.string()),
    ]
)


def write_history(root: Path, rows: list[Any], comparison: Comparison) -> Path:
    """Add a row to ``reports/history.parquet``: one per refresh, with machine, commit and every setting's score."""
    from flows.running.durations import read_timings

    settings = {" ".join(key): sum(values.values()) / len(values) for key, values in scores_by_setting(rows).items()}
    row = {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": _commit(root),
        "machine": f"{platform.node()} {platform.machine()} {os.cpu_count()} cores",
        "baseline": comparison.baseline,
        "cells": len(finished_cells(rows)),
        "mean_accuracy": sum(settings.values()) / len(settings) if settings else None,
        "regressions": len(comparison.regressions),
        "improvements": len(comparison.improvements),
        "seconds": sum(float(str(entry["seconds"])) for entry in read_timings(root)),
        "accuracies": json.dumps(settings, sort_keys=True),
    }
    path = root / paths.REFRESHES
    table = pa.Table.from_pylist([row], schema=HISTORY)
    if path.is_file():
        table = pa.concat_tables([pq.read_table(path, schema=HISTORY), table])
    with writing(path) as temporary:
        pq.write_table(table, temporary)
    return path


def _commit(root: Path) -> str:
    return (git_says(root, "rev-parse", "HEAD") or "").strip()
