"""How long stages take, and a run of them: from their last run, from others of their kind, or a guess; scaled by their work."""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import fmean

from flows.dvc.stage import PipelineStage
from flows.running.workers import stage_arguments
from stages.formats.files import write_json
from stages.plan import paths
from stages.plan.params import Params
from stages.plan.work import kind_of_work, work
from stages.registry import STAGES

__all__ = ["elapsed_seconds", "expected_seconds", "note_work", "read_timings"]

OVERHEAD = 0.05
"""Seconds of a stage that are not its own: its hashes, its lock, the next one's start."""


def read_timings(root: Path) -> list[dict[str, object]]:
    """What every stage's last run took, as the stages note it beside their results."""
    folder = root / paths.TIMINGS
    entries = []
    for path in sorted(folder.glob("*.json")) if folder.is_dir() else []:
        try:
            entries.append(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError):
            continue
    return entries


def note_work(root: Path, params: Params, stages: Iterable[PipelineStage], files: Mapping[str, int]) -> None:
    """Note how much work stages were that ran: their times say nothing of other settings otherwise."""
    noted = _noted_work(root)
    for stage in stages:
        arguments = stage_arguments(stage.command)
        if arguments is not None:
            noted["@".join(arguments)] = work(params, *arguments, files)
    write_json(root / paths.WORK, noted)


def _noted_work(root: Path) -> dict[str, float]:
    try:
        found = json.loads((root / paths.WORK).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def expected_seconds(
    root: Path, params: Params, stages: Mapping[str, PipelineStage], files: Mapping[str, int]
) -> dict[str, float]:
    """Expected seconds by address. ``files``: how many the data of a task are, where that is known."""
    noted = _noted_work(root)
    own: dict[tuple[str, str], float] = {}
    paces: dict[str, list[float]] = {}
    for entry in read_timings(root):
        name, cell, seconds = str(entry["stage"]), str(entry["cell"]), float(entry["seconds"])  # type: ignore[arg-type]
        pace = seconds / noted.get(f"{name}@{cell}", work(params, name, cell, files))
        own[name, cell] = pace
        for kind in {name, kind_of_work(name, cell)}:
            paces.setdefault(kind, []).append(pace)
    means = {kind: fmean(values) for kind, values in paces.items()}
    expected = {}
    for address, stage in stages.items():
        arguments = stage_arguments(stage.command)
        if arguments is None or arguments[0] not in STAGES:
            expected[address] = 1.0
            continue
        name = arguments[0]
        usual = means.get(kind_of_work(*arguments), means.get(name, STAGES[name].seconds))
        expected[address] = own.get(arguments, usual) * work(params, *arguments, files)
    return expected


def elapsed_seconds(
    stages: Mapping[str, PipelineStage], chosen: Iterable[str], expected: Mapping[str, float], jobs: int
) -> float:
    """Expected seconds of a run of the ``chosen`` stages (upstream first), ``jobs`` at a time, those with the longest chain behind
    them first."""
    order = list(chosen)
    wanted = set(order)
    behind: dict[str, float] = dict.fromkeys(order, 0.0)
    below: dict[str, list[str]] = {address: [] for address in order}
    waiting = {address: sum(up in wanted for up in stages[address].upstream) for address in order}
    for address in reversed(order):
        behind[address] += expected[address] + OVERHEAD
        for up in stages[address].upstream:
            if up in wanted:
                below[up].append(address)
                behind[up] = max(behind[up], behind[address])
    ready = [(-behind[address], address) for address in order if not waiting[address]]
    heapq.heapify(ready)
    running: list[tuple[float, str]] = []
    now = 0.0
    while ready or running:
        while ready and len(running) < max(1, jobs):
            address = heapq.heappop(ready)[1]
            heapq.heappush(running, (now + expected[address] + OVERHEAD, address))
        now, ended = heapq.heappop(running)
        for address in below[ended]:
            waiting[address] -= 1
            if not waiting[address]:
                heapq.heappush(ready, (-behind[address], address))
    return now
