"""Rows of ``results.parquet`` as plain dictionaries, and the parts of the cells that they are of.

What a row's cell says is read from its key (:mod:`stages.plan.keys`), never from a name's text.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

from mergeline.kinds import Target
from mergeline.metrics import MAIN, METRICS
from stages.plan.keys import Combination, Key, parse_edge, parse_key

__all__ = [
    "Row",
    "combination_of",
    "edge_of",
    "ensemble_of",
    "key_of",
    "main_metrics",
    "main_scope",
    "method_label",
    "run_of",
    "score_column",
    "score_of",
    "score_word",
    "setting_label",
    "source_edges",
    "targets_of",
]

Row = Mapping[str, Any]
"""``stages.report.collect`` has the columns."""


def key_of(row: Row) -> Key:
    """The parts of a row's cell."""
    return parse_key(row["kind"], row["cell"])


def combination_of(row: Row) -> Combination:
    """The tasks and architectures that a row's cell has in common with its other runs."""
    return key_of(row).sources.combination


def edge_of(row: Row) -> tuple[str, str]:
    """Task and architecture of a row of ``histories.parquet``."""
    edge = parse_edge(row["edge"])
    return edge.task, edge.architecture


def method_label(row: Row) -> str:
    """A merge's method with where it stops, its weights and so on: what makes two merges comparable."""
    merge = key_of(row).merge
    assert merge is not None, f"{row['cell']} is no merge"
    return merge.label(usual="reset")


def setting_label(row: Row) -> str:
    """What makes cells of one combination comparable: how a merge or a smaller edge was made, else the kind."""
    key = key_of(row)
    if key.merge is not None:
        return method_label(row)
    return key.compressed.label() if key.compressed is not None else str(row["kind"])


def main_scope(row: Row) -> str:
    """The scope of the headline accuracy: the task, or the mean over tasks."""
    own = combination_of(row)
    return own.tasks[0] if own.same_task else "mean"


def score_of(row: Row) -> float:
    """What a row is judged by: its main metric (:data:`mergeline.metrics.MAIN`), of a mean of several the column ``score``.

    Higher is better, and 1 is perfect. Tables from before there were values have no targets, and accuracies.
    """
    return float(row[score_column(row)])


def score_column(row: Row) -> str:
    """The column that has :func:`score_of`."""
    names = main_metrics(row)
    return names[0] if len(names) == 1 else "score"


def main_metrics(row: Row) -> list[str]:
    """The names of the main metrics of what a row is about."""
    return list(dict.fromkeys(MAIN[target] for target in targets_of(row)))


def targets_of(row: Row) -> list[Target]:
    """What is told on the scope of a row; of several tasks together all that is."""
    return cast(list[Target], (row.get("target") or "classes").split(", "))


def score_word(rows: Iterable[Row]) -> str:
    """What the scores of some rows are together: accuracy, R², or "score" where there are both."""
    names = list(dict.fromkeys(name for row in rows for name in main_metrics(row)))
    return METRICS[names[0]].title if len(names) == 1 else "score" if names else "accuracy"


def source_edges(row: Row) -> list[str]:
    """Names of the edges behind a merge, an ensemble or a smaller edge."""
    return [str(edge) for edge in key_of(row).sources.edges]


def run_of(row: Row) -> str:
    """The run that a row belongs to: its sources' name."""
    return str(key_of(row).sources)


def ensemble_of(row: Row) -> str:
    """The cell of the ensemble of a row's sources."""
    return str(key_of(row).sources.unplaced)
