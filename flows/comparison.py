"""Two tables of results against each other: what got worse, what better, what came and went.

Results of a commit are ``results.parquet`` as its ``dvc.lock`` has it, read from DVC's cache.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from stages.errors import InputError
from stages.formats import yaml12
from stages.git import git_says
from stages.plan import paths
from stages.plan.params import Params
from stages.report.intervals import Paired, Sample, paired_difference
from stages.report.rows import Row, main_scope, run_of, score_of, setting_label

__all__ = [
    "Change",
    "Comparison",
    "NoResults",
    "change_lines",
    "compare",
    "finished_cells",
    "parameters_at",
    "parameters_now",
    "rows_at",
    "scores_by_setting",
    "side_by_side",
]


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


class NoResults(InputError):
    """A commit has no results to compare with; the message says why, and the way out."""


def rows_at(root: Path, revision: str) -> tuple[list[dict[str, Any]], str]:
    """The rows of the results of a commit, and what they are called.

    Raises
    ------
    NoResults: there is no such commit, its dvc.lock names no results, or the cache does not have them.
    """
    commit = git_says(root, "rev-parse", "--verify", "--quiet", "--short=12", f"{revision}^{{commit}}")
    if commit is None:
        raise NoResults(f"none committed: git knows no commit {revision}")
    name = f"commit {commit.strip()}"
    try:
        outs = yaml12.load(git_says(root, "show", f"{revision}:./{paths.LOCK_FILE}") or "")["stages"]["collect"]["outs"]
        digest = next(out["md5"] for out in outs if out["path"].endswith(Path(paths.RESULTS).name))
    except (ValueError, KeyError, TypeError, StopIteration):
        raise NoResults(f"none committed: the dvc.lock of {name} names no results") from None
    from flows.dvc.cache import cache_object

    path = cache_object(root, digest)
    if not path.is_file():
        raise NoResults(
            f"none at hand: the results of {name} are not in the cache; bring them there: git checkout it in another clone, and "
            "mergeline run --pull"
        )
    return pq.read_table(path).to_pylist(), name


def parameters_at(root: Path, revision: str) -> dict[str, Any]:
    """The values of a commit's params.yaml, by their dotted keys; empty where it has none that can be read."""
    text = git_says(root, "show", f"{revision}:./{paths.PARAMS}")
    try:
        return _flat(yaml12.load(text)) if text is not None else {}
    except ValueError:
        return {}


def parameters_now(root: Path) -> dict[str, Any]:
    """The values of params.yaml as it is."""
    return _flat(yaml12.load((root / paths.PARAMS).read_text(encoding="utf-8")))


def _flat(values: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(values, Mapping) or not values:
        return {prefix: values}
    return {
        name: value
        for key, own in values.items()
        for name, value in _flat(own, f"{prefix}.{key}" if prefix else str(key)).items()
    }


def compare(before: list[Any], now: list[Any], params: Params, baseline: str) -> Comparison:
    """Settings whose score changed, paired over runs that both tables have.

    A regression: the error rate (of values, what is not explained of their variance) grew by ``regression.factor`` at least, and
    the interval of the difference leaves zero out (with too few runs for one: all of them got worse).
    """
    old, new = scores_by_setting(before), scores_by_setting(now)
    regressions, improvements, other = [], [], []
    unchanged = 0
    for key, values in new.items():
        shared = {run: value for run, value in values.items() if run in old.get(key, {})}
        if not shared:
            continue
        paired = paired_difference(shared, old[key])
        then, at_present = (sum(v[run] for run in shared) / len(shared) for v in (old[key], values))
        if all(shared[run] == old[key][run] for run in shared):
            unchanged += 1
            continue
        factor = (1 - at_present) / (1 - then) if then < 1 else float("inf") if at_present < 1 else 1.0
        change = Change(*key, then, at_present, paired, factor)
        sure = _sure(paired, [shared[run] - old[key][run] for run in shared])
        if sure and factor >= params.regression.factor:
            regressions.append(change)
        elif sure and factor <= 1 / params.regression.factor:
            improvements.append(change)
        else:
            other.append(change)
    cells_before, cells_now = finished_cells(before), finished_cells(now)
    return Comparison(
        regressions,
        improvements,
        other,
        sorted(cells_now - cells_before),
        sorted(cells_before - cells_now),
        unchanged,
        baseline,
    )


def _sure(paired: Paired, differences: Sequence[float]) -> bool:
    """Whether a change has one direction: by its interval, and where there are too few runs for one, in all of them."""
    if math.isnan(paired.low):
        return all(d > 0 for d in differences) or all(d < 0 for d in differences)
    return paired.evident


def scores_by_setting(rows: list[Row]) -> dict[tuple[str, str, str], dict[str, float]]:
    """By tasks, architectures and setting the headline score of every run; without controls."""
    found: dict[tuple[str, str, str], dict[str, float]] = {}
    for row in rows:
        if row["status"] != "ok" or row["scope"] != main_scope(row) or row["control"]:
            continue
        found.setdefault((row["tasks"], row["architectures"], setting_label(row)), {})[run_of(row)] = score_of(row)
    return found


def finished_cells(rows: list[Row]) -> set[str]:
    """The cells that have numbers."""
    return {row["cell"] for row in rows if row["status"] == "ok"}


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
                yield (
                    f"| {change.label} | {100 * change.before:.2f} | {100 * change.now:.2f} | "
                    f"{_difference(change.paired)} | ×{change.factor:.3f} | {change.paired.n} |"
                )
    for title, names in (("New cells", comparison.added), ("Cells that are gone", comparison.removed)):
        if names:
            yield from ("", f"## {title}", "", *(f"- {name}" for name in names[:100]))
            if len(names) > 100:
                yield f"- and {len(names) - 100} more"


def side_by_side(before: list[Any], now: list[Any]) -> tuple[list[str], list[list[str]]]:
    """A header and a line for each setting of either table: both means over the runs of each, and their difference.

    The difference is that of the runs that both have, with its 95 % interval where they are enough for one.
    """
    old, new = scores_by_setting(before), scores_by_setting(now)
    lines = []
    for key in [*old, *(key for key in new if key not in old)]:
        values = [found.get(key, {}) for found in (old, new)]
        paired = paired_difference(values[1], values[0])
        said = [f"{100 * Sample(tuple(v.values()), len(v)).mean:.2f}" if v else "" for v in values]
        lines.append([*key, *said, _difference(paired) if paired.n else "", str(paired.n or "")])
    return ["tasks", "models", "setting", "first (%)", "second (%)", "difference", "runs of both"], lines


def _difference(paired: Paired) -> str:
    text = f"{100 * paired.difference:+.2f}"
    return text if math.isnan(paired.low) else f"{text} [{100 * paired.low:+.2f}, {100 * paired.high:+.2f}]"
