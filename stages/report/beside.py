"""The papers' printed numbers beside those here: each with the merges that were made in the same way, whatever their data.

Which words of a paper's table stand for which method here is knowledge of that paper; a printed number without a counterpart
(another method, a partial merge of another network) has no line.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from stages import papers as reference
from stages.papers import ReferenceRow
from stages.report.analysis import PairResult
from stages.report.intervals import Sample
from stages.report.spread import Spread, percent

__all__ = ["HEADER", "beside"]

HEADER = [
    "paper",
    "setting there",
    "method there",
    "score",
    "there (%)",
    "here (%)",
    "tasks here",
    "models here",
    "method here",
]


@dataclass(frozen=True)
class Wanted:
    """Which merges here a printed number is the counterpart of; what is None may be anything.

    ``scope``: "" for the headline score, "joint" for that over all classes.
    """

    method: str
    several: bool
    homogeneous: bool | None = None
    tasks: tuple[str, ...] | None = None
    architectures: tuple[str, ...] | None = None
    scope: str = ""
    ensemble: bool = False

    def fits(self, result: PairResult) -> bool:
        return (
            result.method == self.method
            and result.same_task != self.several
            and self.homogeneous in (None, result.homogeneous)
            and self.tasks in (None, result.combination.tasks)
            and self.architectures in (None, result.combination.architectures)
        )

    def sample(self, result: PairResult) -> Sample | None:
        if self.ensemble:
            return None if self.scope else result.ensemble
        return result.per_scope.get(self.scope) if self.scope else result.accuracy


def beside(tables: Sequence[str], results: Sequence[PairResult]) -> list[list[Any]]:
    """A line for each printed number of some tables and each setting here that was made in the same way (:data:`HEADER`)."""
    return [line for table in tables for row in reference.load(table) for line in _lines(table, row, results)]


def _lines(table: str, row: ReferenceRow, results: Sequence[PairResult]) -> Iterator[list[Any]]:
    wanted = READERS[table.partition("_table")[0]](row)
    if wanted is None:
        return
    for result in results:
        sample = wanted.sample(result) if wanted.fits(result) else None
        if sample is not None and sample.n:
            here = "ensemble" if wanted.ensemble else wanted.method
            yield [
                row.source, row.method, row.metric, _printed(row), percent(sample), here, result.tasks, result.architectures,
                row.setting,
            ]  # fmt: skip


def _printed(row: ReferenceRow) -> Spread:
    text = f"{row.mean:.2f}" + (f" ± {row.std:.2f}" if row.std is not None else "")
    return Spread(text, (row.mean, row.std, row.n, None, None))


SCOPES = {"Joint": "joint", "Avg": "", "Acc": "joint", "Per-task Avg": ""}
"""Scores of several tasks: among all classes, or the mean over tasks."""
METHODS = {
    "W. Avg": "identity", "Average": "identity", "Weight Average": "identity",
    "Git Re-Basin": "weight", "Rebasin": "weight",
    "Permute": "permute", "A. Align": "permute", "Act. Align": "permute",
    "ZipIt! 20/20": "zip", "Zipit": "zip", "W.Zip": "weight_zip", "Weight Zip": "weight_zip",
    "MuDSC Align": "dual_permute", "MuDSC Zip": "dual_zip",
}  # fmt: skip
"""What ZipIt! and MuDSC call the methods."""
TASKS = {"euosat": "eurosat", "nabird": "nabirds"}
"""Tasks that the depth-heterogeneity paper prints with other letters."""


def _depth_heterogeneity(row: ReferenceRow) -> Wanted | None:
    architectures = tuple(f"r{depth}" for depth in re.findall(r"(?:ResNet|R)(\d+)", row.method))
    if len(architectures) != 2:
        return None
    if row.source.endswith("Table 2"):
        return Wanted("permute", several=False, architectures=architectures)
    if row.metric not in SCOPES:
        return None
    tasks = tuple(TASKS.get(name, name) for name in row.setting.split(", "))
    return Wanted("permute", True, tasks=tasks, architectures=architectures, scope=SCOPES[row.metric])


def _of_two_tasks(row: ReferenceRow) -> Wanted | None:
    """Tables of ZipIt! and MuDSC."""
    if row.metric not in SCOPES:
        return None
    if row.method == "Ensemble":
        return Wanted("identity", True, homogeneous=True, scope=SCOPES[row.metric], ensemble=True)
    if row.method not in METHODS:
        return None
    return Wanted(METHODS[row.method], True, homogeneous=True, scope=SCOPES[row.metric])


HETEROGENEOUS = {
    "Homo Avg": ("identity", True), "Homo Align": ("permute", True), "Homo Zip": ("zip", True),
    "Hetero A. SMA": ("permute placement=sma", False), "Hetero A. LMA": ("permute placement=lma", False),
    "Hetero Z. SMA": ("zip placement=sma", False), "Hetero Z. LMA": ("zip placement=lma", False),
}  # fmt: skip


def _heterogeneous_merging(row: ReferenceRow) -> Wanted | None:
    if row.method not in HETEROGENEOUS or row.metric not in SCOPES:
        return None
    method, homogeneous = HETEROGENEOUS[row.method]
    return Wanted(method, True, homogeneous, scope=SCOPES[row.metric])


MATCHED = {"AM": "permute", "CCA": "cca", "ZipIt!": "zip", "OT-acts": "transport"}
AFTER = {"": " none", "W/o Normalization": " none", "REPAIR": " repair", "RESCALE": " rescale",
         "Bias Cal.": " bias_calibration", "RESET": ""}  # fmt: skip
"""What was done after merging, as labels here have it: ``reset`` is the usual way and not said."""


def _vanishing_feature(row: ReferenceRow) -> Wanted | None:
    """Merges of whole networks; those that keep layers apart keep those of another network."""
    if not row.method.startswith("PFM 0/"):
        return None
    if row.metric == "Direct":
        return Wanted("identity none", several=False, homogeneous=True)
    matched, _, after = row.metric.partition(" ")
    if matched not in MATCHED or after not in AFTER:
        return None
    return Wanted(MATCHED[matched] + AFTER[after], several=False, homogeneous=True)


READERS: dict[str, Callable[[ReferenceRow], Wanted | None]] = {
    "depth_heterogeneity": _depth_heterogeneity,
    "zipit": _of_two_tasks,
    "mudsc": _of_two_tasks,
    "heterogeneous_merging": _heterogeneous_merging,
    "vanishing_feature": _vanishing_feature,
}
