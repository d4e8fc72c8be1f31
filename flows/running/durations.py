"""How long stages take: from their last run, from others of their kind, or a guess."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean

from flows.dvc.stage import PipelineStage
from flows.running.workers import stage_arguments
from stages.plan import paths
from stages.registry import STAGES

__all__ = ["expected_seconds", "read_timings"]


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


def expected_seconds(root: Path, stages: Mapping[str, PipelineStage]) -> dict[str, float]:
    """Expected seconds by address."""
    own: dict[tuple[str, str], float] = {}
    kinds: dict[str, list[float]] = {}
    for entry in read_timings(root):
        name, seconds = str(entry["stage"]), float(entry["seconds"])  # type: ignore[arg-type]
        own[name, str(entry["cell"])] = seconds
        kinds.setdefault(name, []).append(seconds)
    means = {name: fmean(values) for name, values in kinds.items()}
    expected = {}
    for address, stage in stages.items():
        arguments = stage_arguments(stage.command)
        if arguments is None or arguments[0] not in STAGES:
            expected[address] = 1.0
        else:
            expected[address] = own.get(arguments, means.get(arguments[0], STAGES[arguments[0]].seconds))
    return expected
