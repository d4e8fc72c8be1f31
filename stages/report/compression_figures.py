"""The figures of pruned and of narrowed networks: accuracy against what is left, by method and normalisation."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from stages.plan.keys import Narrowed, Pruned
from stages.report.compressed import CompressedResult, compressed_results
from stages.report.figures import CYCLE, GRAY, MARKERS, FigureData, FigureSpec, new_figure
from stages.report.intervals import LEAST_RUNS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["COMPRESSION_FIGURES", "narrowing", "pruning"]

MOST_SETTINGS = 4
"""Models of a task that have a row of panels."""
Whiskers = Callable[[CompressedResult], tuple[float, float]]
"""How far down and up from the mean a point's whisker goes, in percent."""


def pruning(data: FigureData) -> Figure | None:
    """Accuracy against sparsity (vanishing_feature Sec. 5.5), with deviations over runs."""
    return _panels(data, Pruned.kind, "sparsity (%)", "not pruned", _deviation)


def narrowing(data: FigureData) -> Figure | None:
    """Accuracy against width, with intervals over runs."""
    return _panels(data, Narrowed.kind, "width (%)", "full width", _interval)


def _deviation(result: CompressedResult) -> tuple[float, float]:
    size = 100 * result.accuracy.std if result.accuracy.n >= LEAST_RUNS else 0.0
    return size, size


def _interval(result: CompressedResult) -> tuple[float, float]:
    """Cut at 100 %, and at 0 where no run is below: an accuracy never is, R² can be."""
    found = result.interval
    if math.isnan(found.low):
        return 0.0, 0.0
    mean = 100 * found.difference
    least = 0.0 if min(result.runs.values()) >= 0 else -math.inf
    return mean - max(least, 100 * found.low), min(100.0, 100 * found.high) - mean


def _panels(data: FigureData, kind: str, share: str, before: str, whiskers: Whiskers) -> Figure | None:
    """A row of panels for each model of a task, a panel for each normalisation, a line for each method."""
    found = [result for result in compressed_results(data.rows, kind) if result.runs]
    settings = list(dict.fromkeys(result.setting for result in found))[:MOST_SETTINGS]
    if not settings:
        return None
    shown = [result for result in found if result.setting in settings]
    normalizations = list(dict.fromkeys(result.normalize for result in shown))
    methods = list(dict.fromkeys(result.method for result in shown))
    width, height = max(6.0, 3.4 * len(normalizations)), 3.2 * len(settings) + 1
    figure, panels = new_figure(
        width, height, len(normalizations), len(settings), squeeze=False, sharex=True, sharey="row"
    )
    for line, setting in zip(panels, settings, strict=True):
        for axes, normalize in zip(line, normalizations, strict=True):
            own = [result for result in shown if (result.setting, result.normalize) == (setting, normalize)]
            if not own:
                axes.set_axis_off()
                continue
            _draw(axes, own, methods, before, whiskers)
            axes.set_title(f"{normalize}, {setting}", fontsize=9.5)
        line[0].set_ylabel(f"{data.word} (%)")
    for axes in panels[-1]:
        axes.set_xlabel(share)
    _legend(figure, panels[0][0], methods)
    return figure


def _draw(
    axes: Axes, results: Sequence[CompressedResult], methods: Sequence[str], before: str, whiskers: Whiskers
) -> None:
    for place, method in enumerate(methods):
        points = sorted((r for r in results if r.method == method), key=lambda result: result.share)
        if points:
            axes.errorbar(
                [100 * point.share for point in points], [100 * point.accuracy.mean for point in points],
                list(zip(*map(whiskers, points), strict=True)), capsize=2, lw=1.2, ms=4,
                color=CYCLE[place % len(CYCLE)], marker=MARKERS[place % len(MARKERS)], label=method,
            )  # fmt: skip
    unchanged = next((result.before for result in results if result.before.n), None)
    if unchanged is not None:
        axes.axhline(100 * unchanged.mean, color=GRAY, lw=1, ls="--", label=before)


def _legend(figure: Figure, axes: Axes, methods: Sequence[str]) -> None:
    """All methods, also those that only other panels show."""
    known = set(axes.get_legend_handles_labels()[1])
    for place, method in enumerate(methods):
        if method not in known:
            axes.plot(
                [], [], color=CYCLE[place % len(CYCLE)], marker=MARKERS[place % len(MARKERS)], ms=4, lw=1.2, label=method
            )  # fmt: skip
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, ncols=min(4, len(labels)), loc="outside upper center")


COMPRESSION_FIGURES: tuple[FigureSpec, ...] = (
    FigureSpec("pruning", "Accuracy of pruned networks",
               "Edge models with a share of the weights of their convolutions and linear layers set to zero, never trained "
               "again; a panel for what was done to the statistics of what is left. Dashed: the same models before. Whiskers are "
               "one standard deviation over runs. The first models are shown, the table has all.", pruning,
               "kind pruned", "pruned"),
    FigureSpec("narrowing", "Accuracy of narrowed networks",
               "Edge models with a share of the units of every space, never trained again: units that are alike joined (zip), the "
               "units with the largest weights kept, or any (random); a panel for what was done to the statistics of what is "
               "left. Dashed: the same models before. Whiskers are 95 % intervals over runs, cut at 0 and 100 %. The first models "
               "are shown, the table has all.", narrowing, "kind narrowed", "narrowed"),
)  # fmt: skip
