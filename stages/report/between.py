"""What was measured between the models of merges: barriers by run, and accuracy against a swept setting."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from mergeline.barriers import accuracy_barrier, barrier
from stages.report.diagnosed import Group, groups
from stages.report.rows import Row, key_of, main_scope, method_label, run_of, score_of, source_edges

__all__ = ["SOURCES", "Barriers", "SweepPanel", "barriers", "mean_curve", "sweeps"]


class Barriers(NamedTuple):
    """The barriers of one setting by run (its sources' name), in nats and as shares."""

    group: Group
    loss: dict[str, float]
    accuracy: dict[str, float]


def barriers(rows: Iterable[Row]) -> list[Barriers]:
    """Of every setting that has curves, in the order of the rows."""
    return [_barriers(group) for group in groups(rows)]


def _barriers(group: Group) -> Barriers:
    by_run = _by_run(group)

    def measured(measure: Any, column: str) -> dict[str, float]:
        return {
            run: measure([row[column] for row in own], [row["alpha"] for row in own]) for run, own in by_run.items()
        }

    return Barriers(group, measured(barrier, "loss"), measured(accuracy_barrier, "accuracy"))


def _by_run(group: Group) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in group.rows:
        found.setdefault(str(group.merges[row["cell"]].sources), []).append(row)
    return found


def mean_curve(group: Group, column: str) -> tuple[list[float], Any, Any]:
    """Alphas, and mean and standard deviation over runs there."""
    by_alpha: dict[float, list[float]] = {}
    for row in group.rows:
        by_alpha.setdefault(row["alpha"], []).append(row[column])
    alphas = sorted(by_alpha)
    values = [np.asarray(by_alpha[alpha], dtype=np.float64) for alpha in alphas]
    spread = [own.std(ddof=1) if len(own) > 1 else 0.0 for own in values]
    return alphas, np.array([own.mean() for own in values]), np.array(spread)


class SweepPanel(NamedTuple):
    """Accuracies against the values of one setting; ``title``: tasks, architectures and the other settings.

    ``lines``: by method, and "source models", by value the accuracies of the runs.
    """

    title: str
    setting: str
    lines: dict[str, dict[Any, list[float]]]


SOURCES = "source models"


def sweeps(rows: Sequence[Row]) -> list[SweepPanel]:
    """A panel for each swept setting that has two values at least, all other settings equal."""
    edges = {row["cell"]: score_of(row) for row in rows if row["kind"] == "edge" and row["status"] == "ok"}
    found: dict[tuple[str, str], SweepPanel] = {}
    seen: set[tuple[str, str]] = set()
    for row in rows:
        chosen = row["kind"] == "merge" and row["status"] == "ok" and row["scope"] == main_scope(row)
        if not chosen or row["control"] or row["recipe"] is None or not set(source_edges(row)) <= set(edges):
            continue
        sources = key_of(row).sources
        models = "+".join(dict.fromkeys(edge.architecture for edge in sources.edges))
        for setting, value in sources.edges[0].recipe:
            others = [f"{key}={other}" for key, other in sources.edges[0].recipe if key != setting]
            title = ", ".join([sources.combination.tasks_label, models, *others])
            panel = found.setdefault((title, setting), SweepPanel(title, setting, {SOURCES: {}}))
            panel.lines.setdefault(method_label(row), {}).setdefault(value, []).append(score_of(row))
            if (setting, run_of(row)) not in seen:  # each run's sources once, not with every method
                seen.add((setting, run_of(row)))
                own = float(np.mean([edges[name] for name in source_edges(row)]))
                panel.lines[SOURCES].setdefault(value, []).append(own)
    return [panel for panel in found.values() if len(panel.lines[SOURCES]) > 1]
