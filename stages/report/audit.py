"""Stage ``audit``: flags numbers that cannot be, or that a reader should know about before trusting a table.

An "error" is impossible (not a number, out of range, other images than planned); a "warning" is unlikely (a merge far
above its ensemble, a model merged with itself that is no longer that model).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow.parquet as pq

from mergeline.metrics import METRICS
from stages.formats.files import write_json
from stages.formats.measurements import MEASURES
from stages.plan import paths
from stages.plan.pipelines import Plan, make_plan
from stages.report.collect import scopes_of
from stages.report.rows import (
    Row,
    combination_of,
    ensemble_of,
    main_metrics,
    main_scope,
    score_column,
    score_of,
    score_word,
    source_edges,
    targets_of,
)

__all__ = ["findings", "run"]

ABOVE_ENSEMBLE = 0.10
"""Accuracy (or R²) by which a merge may beat its ensemble before that is worth a warning."""
SELF_CHANGE = 0.05
"""Accuracy (or R²) by which a model merged with itself may differ from it (its batch statistics are recomputed)."""


def run(context: Any, cell: str) -> None:
    """There is one; ``cell`` is not used."""
    rows = pq.read_table(context.path(paths.RESULTS)).to_pylist()
    measured = {
        measure: set(pq.read_table(context.path(paths.measurements(measure)), columns=["cell"])["cell"].to_pylist())
        for measure in MEASURES
    }
    found = list(findings(rows, make_plan(context.params), measured))
    write_json(
        context.path(paths.AUDIT),
        {
            "rows": len(rows),
            "errors": sum(entry["level"] == "error" for entry in found),
            "warnings": sum(entry["level"] == "warning" for entry in found),
            "findings": found,
        },
    )


def findings(
    rows: Sequence[Row], plan: Plan, measured: Mapping[str, Collection[str]] | None = None
) -> Iterator[dict[str, str]]:
    """Everything that is wrong or odd, errors first. ``measured``: by measure, the cells that have been measured."""
    yield from _said("error", _missing(rows, plan))
    yield from _said("error", _unmeasured(plan, measured or {}))
    yield from _said("error", _impossible(rows))
    yield from _said("error", _image_counts(rows))
    yield from _said("warning", _learnt_nothing(rows))
    yield from _said("warning", _above_ensemble(rows))
    yield from _said("warning", _self_merges(rows))


def _said(level: str, entries: Iterable[tuple[str, str]]) -> Iterator[dict[str, str]]:
    for cell, message in entries:
        yield {"level": level, "cell": cell, "message": message}


def _missing(rows: Sequence[Row], plan: Plan) -> Iterator[tuple[str, str]]:
    have = {(row["cell"], row["scope"]) for row in rows if row["status"] == "ok"}
    cells: list[tuple[str, Iterable[str]]] = [(str(edge), (edge.task,)) for edge in plan.edges]
    cells += [(str(sources), scopes_of(sources, plan.targets)) for sources in plan.ensembles]
    cells += [(str(merge), scopes_of(merge.sources, plan.targets)) for merge in plan.merges]
    cells += [(str(cell), (cell.edge.task,)) for cell in (*plan.pruned, *plan.narrowed)]
    for cell, scopes in cells:
        absent = [scope for scope in scopes if (cell, scope) not in have]
        if absent:
            yield cell, f"was planned and has no number for {', '.join(absent)}"


def _unmeasured(plan: Plan, measured: Mapping[str, Collection[str]]) -> Iterator[tuple[str, str]]:
    for measure, merges in plan.measured.items():
        for merge in merges:
            if str(merge) not in measured.get(measure, ()):
                yield str(merge), f"was planned and has no {measure}"


def _impossible(rows: Sequence[Row]) -> Iterator[tuple[str, str]]:
    for row in rows:
        if row["status"] != "ok":
            continue
        told = set(targets_of(row))
        if row[score_column(row)] is None and len(told) > 1:
            yield row["cell"], f"score on {row['scope']} is missing"
        for key, metric in METRICS.items():
            value = row[key]
            holds = told <= set(metric.targets)
            if value is None and holds and (key in main_metrics(row) or row["scope"] != "joint"):
                yield row["cell"], f"{key} on {row['scope']} is missing"
            elif value is not None and not (
                metric.low <= value <= metric.high and math.isfinite(value)
            ):  # NaN is not between
                yield row["cell"], f"{key} on {row['scope']} is {value}"


def _image_counts(rows: Sequence[Row]) -> Iterator[tuple[str, str]]:
    """All evaluations on a scope must have the same number of test images."""
    counts: dict[tuple[str, str], Counter[int]] = {}
    done = [row for row in rows if row["status"] == "ok"]
    for row in done:
        counts.setdefault(_scored_on(row), Counter())[row["n"]] += 1
    for row in done:
        expected = counts[_scored_on(row)].most_common(1)[0][0]
        if row["n"] != expected:
            yield row["cell"], f"{row['n']} test images on {row['scope']}, most have {expected}"


def _scored_on(row: Row) -> tuple[str, str]:
    """The task, or the tasks together, whose test images a row is scored on."""
    tasks = combination_of(row).tasks
    return row["scope"], "" if row["scope"] in tasks else "+".join(sorted(tasks))


def _scored(row: Row) -> bool:
    return row["status"] == "ok" and row[score_column(row)] is not None


def _said_score(row: Row) -> str:
    return f"{score_word([row])} {100 * score_of(row):.1f} %"


def _learnt_nothing(rows: Sequence[Row]) -> Iterator[tuple[str, str]]:
    """Trained models that are no better than to say the most frequent class, or the mean: what is merged of them says nothing."""
    for row in rows:
        if row["kind"] != "edge" or row["control"] or not _scored(row):
            continue
        if row.get("target") == "values" and score_of(row) <= 0:
            yield row["cell"], f"has learnt nothing: {_said_score(row)}, the mean of all values alone gives 0.0 %"
        if not row.get("confusion"):
            continue
        classes = math.isqrt(len(row["confusion"]))
        images = [sum(row["confusion"][start : start + classes]) for start in range(0, classes**2, classes)]
        guess = max(images) / max(1, sum(images))
        if row["accuracy"] <= guess:
            yield (
                row["cell"],
                f"has learnt nothing: accuracy {100 * row['accuracy']:.1f} %, the most frequent class alone gives "
                f"{100 * guess:.1f} %",
            )


def _above_ensemble(rows: Sequence[Row]) -> Iterator[tuple[str, str]]:
    ensembles = {(r["cell"], r["scope"]): score_of(r) for r in rows if r["kind"] == "ensemble" and _scored(r)}
    for row in rows:
        if row["kind"] != "merge" or not _scored(row) or row["scope"] != main_scope(row):
            continue
        bound = ensembles.get((ensemble_of(row), row["scope"]))
        if bound is not None and score_of(row) > bound + ABOVE_ENSEMBLE:
            yield row["cell"], f"{_said_score(row)} is far above its ensemble's {100 * bound:.1f} %"


def _self_merges(rows: Sequence[Row]) -> Iterator[tuple[str, str]]:
    edges = {row["cell"]: score_of(row) for row in rows if row["kind"] == "edge" and _scored(row)}
    for row in rows:
        if row["control"] == "self" and row["kind"] == "merge" and _scored(row):
            source = edges.get(source_edges(row)[0])
            if source is not None and abs(score_of(row) - source) > SELF_CHANGE:
                yield (
                    row["cell"],
                    (f"a model merged with itself has {100 * score_of(row):.1f} %, alone {100 * source:.1f} %"),
                )
