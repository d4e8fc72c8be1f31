"""What diagnoses say, averaged: over runs, and over the tasks that a merge was looked at on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mergeline.readings import MERGED, SOURCE, source_names
from stages.plan.keys import Merge, parse_merge
from stages.report.rows import Row

__all__ = ["Group", "before_last", "by_place", "groups", "layer_lines", "similarity"]


FIRST = source_names(1)[0]


class Group(NamedTuple):
    """The merges of one setting: ``setting`` says tasks and architectures, ``method`` all else; ``merges`` by cell."""

    tasks: str
    architectures: str
    method: str
    merges: Mapping[str, Merge]
    rows: Sequence[Row]

    @property
    def setting(self) -> str:
        return f"{self.tasks}, {self.architectures}"


def groups(rows: Iterable[Row]) -> list[Group]:
    """All settings in the order of the rows, which each have a ``cell``."""
    by_cell: dict[str, list[Row]] = {}
    for row in rows:
        by_cell.setdefault(row["cell"], []).append(row)
    found: dict[tuple[str, str, str], tuple[dict[str, Merge], list[Row]]] = {}
    for cell, own in by_cell.items():
        merge = parse_merge(cell)
        combination = merge.sources.combination
        key = (combination.tasks_label, combination.architectures_label, merge.label(usual="reset"))
        merges, together = found.setdefault(key, ({}, []))
        merges[cell] = merge
        together += own
    return [Group(*key, *own) for key, own in found.items()]


def by_place(rows: Iterable[Row], quantity: str, network: str = MERGED) -> dict[int, float]:
    """By place in forward order, the mean of what is finite; ``network``: "source" for the mean over all source models."""
    found: dict[int, list[float]] = {}
    for row in rows:
        known = row["part"] == SOURCE if network == SOURCE else row["network"] == network
        if row["quantity"] == quantity and known and np.isfinite(row["value"]):
            found.setdefault(row["place"], []).append(row["value"])
    return {place: float(np.mean(found[place])) for place in sorted(found)}


def before_last(group: Group) -> dict[str, float]:
    """By merge, its relative features in the last layer before the classifier; mean over tasks."""
    by_cell: dict[str, list[Row]] = {}
    for row in group.rows:
        if row["quantity"] == "relative":
            by_cell.setdefault(row["cell"], []).append(row)
    found = {cell: list(by_place(rows, "relative").values()) for cell, rows in by_cell.items()}
    return {cell: values[-2] for cell, values in found.items() if len(values) > 1}


def similarity(rows: Iterable[Row], network: str, other: str) -> dict[tuple[int, int], float]:
    """Mean CKA by the places of the layers of two networks."""
    found: dict[tuple[int, int], list[float]] = {}
    for row in rows:
        if row["quantity"] == "cka" and (row["network"], row["other"]) == (network, other):
            found.setdefault((row["place"], row["other_place"]), []).append(row["value"])
    return {places: float(np.mean(values)) for places, values in found.items()}


def layer_lines(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """A line for each layer of merges of one setting, None where there is no number.

    ``relative``, ``bound``; ``variance``, ``weight``, ``bias`` with the sources' mean as ``..._of_sources``; ``cka``: with the same
    layer of the first source. ``part``: that of the layer in the first merge.
    """
    layers = {row["place"]: row for row in reversed(rows) if row["network"] == MERGED and row["quantity"] == "features"}
    columns = {name: by_place(rows, name) for name in ("relative", "bound")}
    for name in ("variance", "weight", "bias"):
        columns |= {name: by_place(rows, name), f"{name}_of_sources": by_place(rows, name, SOURCE)}
    columns["cka"] = {
        place: value for (place, other), value in similarity(rows, MERGED, FIRST).items() if place == other
    }
    return [
        {"layer": layers[place]["layer"], "part": layers[place]["part"]}
        | {name: column.get(place) for name, column in columns.items()}
        for place in sorted(layers)
    ]
