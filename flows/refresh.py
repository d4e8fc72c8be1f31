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
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from stages.formats import yaml12
from stages.formats.files import write_bytes, writing
from stages.plan import paths
from stages.plan.loading import load_params
from stages.plan.params import Params
from stages.report.analysis import Paired, paired_difference
from stages.report.rows import Row, main_scope, score_of, setting_label

__all__ = ["Change", "Comparison", "baseline_rows", "change_lines", "compare", "finish", "refresh", "write_changes"]

REGRESSION = 4
"""Exit code: everything ran, and something got worse."""


@dataclass(frozen=True)
class Change:
    """One setting then and now, in the main metric of its tasks (accuracy, R² of values), as fractions.

    ``factor``: the ratio of what is missing to 1 (the error rate; the variance that is not explained), above 1 is worse.
    """

    tasks: str
    architectures: str
    method: str
    before: float
    now: float
    paired: Paired
    factor: float

    @property
    def label(self) -> str:
        return f"{self.tasks} {self.architectures} {self.method}"


@dataclass(frozen=True)
class Comparison:
    """All that changed between two results tables."""

    regressions: list[Change]
    improvements: list[Change]
    other: list[Change]
    added: list[str]
    removed: list[str]
    unchanged: int
    baseline: str

    @property
    def quiet(self) -> bool:
        """Whether nothing changed at all."""
        return not (self.regressions or self.improvements or self.other or self.added or self.removed)


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
    found, name = baseline_rows(root)
    comparison = (
        compare(found, rows, params, name) if found is not None else compare(rows, rows, params, "none committed")
    )
    write_changes(root, comparison)
    write_history(root, rows, comparison)
    if status:
        return status, comparison
    return REGRESSION if comparison.regressions else 0, comparison


def baseline_rows(root: Path) -> tuple[list[dict[str, Any]] | None, str]:
    """The rows of the last committed results, and the commit; None where none is committed or cached."""
    try:
        text = subprocess.run(
            ["git", "show", "HEAD:./dvc.lock"], cwd=root, capture_output=True, text=True, check=True, timeout=60
        ).stdout
        commit = subprocess.run(
            ["git", "rev-parse", "--short=12", "HEAD"], cwd=root, capture_output=True, text=True, check=True, timeout=60
        ).stdout.strip()
        lock = yaml12.load(text)
        outs = lock["stages"]["collect"]["outs"]
        digest = next(out["md5"] for out in outs if out["path"].endswith("results.parquet"))
    except (subprocess.SubprocessError, OSError, ValueError, KeyError, TypeError, StopIteration):
        return None, "none committed"
    path = _cached(root, digest)
    if path is None:
        return None, f"commit {commit}, whose results are not in the cache"
    return pq.read_table(path).to_pylist(), f"commit {commit}"


def _cached(root: Path, digest: str) -> Path | None:
    from flows.dvc.cache import cache_object

    path = cache_object(root, digest)
    return path if path.is_file() else None


def compare(before: list[Any], now: list[Any], params: Params, baseline: str) -> Comparison:
    """Settings whose score changed, paired over runs that both tables have.

    A regression: the error rate (of values, what is not explained of their variance) grew by ``regression.factor`` at least, and
    the interval of the difference leaves zero out (with a single run: the factor alone).
    """
    old, new = _by_setting(before), _by_setting(now)
    regressions, improvements, other = [], [], []
    unchanged = 0
    for key, values in new.items():
        shared = {run: value for run, value in values.items() if run in old.get(key, {})}
        if not shared:
            continue
        paired = paired_difference(shared, old[key])
        then, at_present = (sum(v[run] for run in shared) / len(shared) for v in (old[key], values))
        if paired.difference == 0 and paired.low in (0, paired.difference):
            unchanged += 1
            continue
        if all(shared[run] == old[key][run] for run in shared):
            unchanged += 1
            continue
        factor = (1 - at_present) / (1 - then) if then < 1 else float("inf") if at_present < 1 else 1.0
        change = Change(*key, then, at_present, paired, factor)
        sure = paired.evident if paired.n > 1 else True
        if sure and factor >= params.regression.factor:
            regressions.append(change)
        elif sure and factor <= 1 / params.regression.factor:
            improvements.append(change)
        else:
            other.append(change)
    cells_before, cells_now = _cells(before), _cells(now)
    return Comparison(
        regressions,
        improvements,
        other,
        sorted(cells_now - cells_before),
        sorted(cells_before - cells_now),
        unchanged,
        baseline,
    )


def _by_setting(rows: list[Row]) -> dict[tuple[str, str, str], dict[str, float]]:
    found: dict[tuple[str, str, str], dict[str, float]] = {}
    for row in rows:
        if row["status"] != "ok" or row["scope"] != main_scope(row) or row["control"]:
            continue
        found.setdefault((row["tasks"], row["architectures"], setting_label(row)), {})[row["seeds"]] = score_of(row)
    return found


def _cells(rows: list[Row]) -> set[str]:
    return {row["cell"] for row in rows if row["status"] == "ok"}


def write_changes(root: Path, comparison: Comparison) -> Path:
    """``reports/changes.md``."""
    path = root / paths.CHANGES
    write_bytes(path, ("\n".join(change_lines(comparison)) + "\n").encode())
    return path


def change_lines(comparison: Comparison) -> Iterator[str]:
    yield "# What changed"
    yield ""
    yield f"Compared with: {comparison.baseline}. Settings without a change: {comparison.unchanged}."
    if comparison.quiet:
        yield ""
        yield "Nothing changed."
    for title, changes in (
        ("Worse", comparison.regressions),
        ("Better", comparison.improvements),
        ("Changed, within noise or below the factor", comparison.other),
    ):
        if changes:
            yield from ("", f"## {title}", "", "| setting | before (%) | now (%) | difference | errors | runs |")
            yield "|---|---|---|---|---|---|"
            for change in sorted(changes, key=lambda c: c.paired.difference):
                interval = ""
                if change.paired.n > 1:
                    interval = f" [{100 * change.paired.low:+.2f}, {100 * change.paired.high:+.2f}]"
                yield (
                    f"| {change.label} | {100 * change.before:.2f} | {100 * change.now:.2f} | "
                    f"{100 * change.paired.difference:+.2f}{interval} | ×{change.factor:.3f} | {change.paired.n} |"
                )
    for title, names in (("New cells", comparison.added), ("Cells that are gone", comparison.removed)):
        if names:
            yield from ("", f"## {title}", "", *(f"- {name}" for name in names[:100]))
            if len(names) > 100:
                yield f"- and {len(names) - 100} more"


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

    settings = {" ".join(key): sum(values.values()) / len(values) for key, values in _by_setting(rows).items()}
    row = {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": _commit(root),
        "machine": f"{platform.node()} {platform.machine()} {os.cpu_count()} cores",
        "baseline": comparison.baseline,
        "cells": len(_cells(rows)),
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
    ended = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=False)
    return ended.stdout.strip()
