"""The figure of pruned networks: accuracy against sparsity, by method and normalisation (vanishing_feature Sec. 5.5)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from stages.report.figures import CYCLE, GRAY, MARKERS, FigureData, FigureSpec, new_figure
from stages.report.pruned import PrunedResult, pruned_results

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["PRUNING_FIGURES", "pruning"]

MOST_SETTINGS = 3
"""Models of a task that have a row of panels."""


def pruning(data: FigureData) -> Figure | None:
    """A row of panels for each model of a task, a panel for each normalisation, a line for each method."""
    found = [result for result in pruned_results(data.rows) if result.runs]
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
            _draw(axes, own, methods)
            axes.set_title(f"{normalize}, {setting}", fontsize=9.5)
        line[0].set_ylabel("accuracy (%)")
    for axes in panels[-1]:
        axes.set_xlabel("sparsity (%)")
    _legend(figure, panels[0][0], methods)
    return figure


def _draw(axes: Axes, results: Sequence[PrunedResult], methods: Sequence[str]) -> None:
    for place, method in enumerate(methods):
        points = sorted((r for r in results if r.method == method), key=lambda result: result.sparsity)
        if points:
            axes.errorbar(
                [100 * point.sparsity for point in points], [100 * point.accuracy.mean for point in points],
                [100 * point.accuracy.std if point.accuracy.n > 1 else 0 for point in points], capsize=2, lw=1.2, ms=4,
                color=CYCLE[place % len(CYCLE)], marker=MARKERS[place % len(MARKERS)], label=method,
            )  # fmt: skip
    before = next((result.unpruned for result in results if result.unpruned.n), None)
    if before is not None:
        axes.axhline(100 * before.mean, color=GRAY, lw=1, ls="--", label="not pruned")


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


PRUNING_FIGURES: tuple[FigureSpec, ...] = (
    FigureSpec("pruning", "Accuracy of pruned networks",
               "Edge models with a share of the weights of their convolutions and linear layers set to zero, never trained "
               "again; a panel for what was done to the statistics of what is left. Dashed: the same models before. Whiskers are "
               "one standard deviation over runs. The first models are shown, the table has all.", pruning,
               "kind pruned", "pruned"),
)  # fmt: skip
