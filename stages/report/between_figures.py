"""Figures of what lies between the models of merges: curves, landscapes, and sweeps of how the models were trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from stages.report.between import SOURCES, mean_curve, sweeps
from stages.report.diagnosed import Group, groups
from stages.report.figures import CYCLE, GRAY, MARKERS, FigureData, FigureSpec, first_shown, new_figure
from stages.report.intervals import LEAST_RUNS
from stages.report.rows import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["BETWEEN_FIGURES"]

MOST_PANELS = 4
MOST_LINES = 8
MOST_LANDSCAPES = 4


def _style(index: int) -> dict[str, Any]:
    return {"color": CYCLE[index % len(CYCLE)], "marker": MARKERS[index % len(MARKERS)], "ms": 4, "lw": 1.2}


def curves(data: FigureData) -> Figure | None:
    """Accuracy and loss on the line between two models, a column for each setting, a line for each method."""
    panels: dict[str, list[Group]] = {}
    for group in groups(data.measured.get("curve", ())):
        panels.setdefault(group.setting, []).append(group)
    panels = dict(list(panels.items())[:MOST_PANELS])
    if not panels:
        return None
    names = first_shown(list(dict.fromkeys(group.method for own in panels.values() for group in own)), MOST_LINES)
    figure, axes_ = new_figure(
        max(6.0, 3.6 * len(panels)), 6.0, len(panels), 2, squeeze=False, sharex=True, sharey="row"
    )
    for column, (setting, own) in enumerate(panels.items()):
        for group in own:
            if group.method in names:
                style = _style(names.index(group.method))
                _curve(axes_[0][column], group, "accuracy", 100, style)
                _curve(axes_[1][column], group, "loss", 1, style)
        axes_[0][column].set_title(setting)
        axes_[1][column].set(xlabel="share of the second model", yscale="log")
    axes_[0][0].set_ylabel("accuracy (%)")
    axes_[1][0].set_ylabel("loss (nats)")
    handles = [axes_[0][0].plot([], [], label=name, **_style(index))[0] for index, name in enumerate(names)]
    figure.legend(handles=handles, ncols=max(1, min(4, len(names))), loc="outside upper center")
    return figure


def _curve(axes: Axes, group: Group, column: str, scale: float, style: dict[str, Any]) -> None:
    alphas, mean, spread = mean_curve(group, column)
    axes.plot(alphas, scale * mean, **style)
    if column == "accuracy":
        axes.fill_between(
            alphas, scale * (mean - spread), scale * (mean + spread), color=style["color"], alpha=0.12, lw=0
        )


def landscapes(data: FigureData) -> Figure | None:
    """Losses on the plane through a merged network and its two models: a line for each merge, a column for each task."""
    by_cell: dict[str, list[Row]] = {}
    for row in data.measured.get("landscape", ()):
        by_cell.setdefault(row["cell"], []).append(row)
    if not by_cell:
        return None
    first: dict[tuple[str, str], tuple[str, list[Row]]] = {}
    for group in groups([row for own in by_cell.values() for row in own]):
        cell = next(iter(group.merges))
        first.setdefault((group.setting, group.method), (cell, by_cell[cell]))
    shown = list(first.items())[:MOST_LANDSCAPES]
    scopes = [list(dict.fromkeys(row["scope"] for row in rows)) for _, (_, rows) in shown]
    columns = max(len(own) + (len(own) > 1) for own in scopes)
    figure, axes_ = new_figure(max(5.4, 4.2 * columns), 3.7 * len(shown), columns, len(shown), squeeze=False)
    for line, ((setting, method), (_, rows)), own in zip(axes_, shown, scopes, strict=True):
        parts = [own, *([scope] for scope in own)] if len(own) > 1 else [own]
        for axes, part in zip(line, parts, strict=False):
            _landscape(figure, axes, rows, part)
            axes.set_title(
                f"{setting}: {method}" + (f"\n{'mean' if len(part) > 1 else part[0]}" if len(own) > 1 else "")
            )
        for axes in line[len(parts) :]:
            axes.set_visible(False)
    return figure


def _landscape(figure: Figure, axes: Axes, rows: Sequence[Row], scopes: Sequence[str]) -> None:
    points: dict[tuple[str, float, float], list[float]] = {}
    for row in rows:
        if row["scope"] in scopes:
            points.setdefault((row["point"], row["u"], row["v"]), []).append(row["loss"])
    grid = {(u, v): float(np.mean(losses)) for (point, u, v), losses in points.items() if point == "grid"}
    u, v = sorted({place[0] for place in grid}), sorted({place[1] for place in grid})
    values = np.array([[grid[x, y] for x in u] for y in v])
    drawn = axes.contourf(u, v, np.log10(np.maximum(values, 1e-6)), levels=24, cmap="cividis")
    bar = figure.colorbar(drawn, ax=axes)
    bar.set_label("log₁₀ of the loss (nats)")
    for index, name in enumerate(("merged", "first", "second")):
        places = [(x, y) for point, x, y in points if point == name]
        axes.plot(
            *places[0], MARKERS[index], color=("#ffffff", CYCLE[1], CYCLE[5])[index], mec="black", ms=9,
            label={"merged": "merged", "first": "first model", "second": "second model"}[name], clip_on=False,
        )  # fmt: skip
    axes.grid(visible=False)
    axes.set(xlabel="distance in parameter space", ylabel="distance")
    axes.legend(fontsize=7.5, frameon=True, loc="best")


def swept(data: FigureData) -> Figure | None:
    """Accuracy of merges and of their models against a setting of the models' training (vanishing_feature Fig. 6 and 9)."""
    panels = sweeps(data.rows)[:MOST_PANELS]
    if not panels:
        return None
    methods = first_shown(
        list(dict.fromkeys(name for panel in panels for name in panel.lines if name != SOURCES)), MOST_LINES
    )
    figure, axes_ = new_figure(max(6.0, 3.6 * len(panels)), 4.2, len(panels), squeeze=False, sharey=True)
    for axes, panel in zip(axes_[0], panels, strict=True):
        values = list(panel.lines[SOURCES])
        numbers = all(isinstance(value, int | float) for value in values)
        values = sorted(values) if numbers else values
        for index, name in enumerate([*methods, SOURCES]):
            own = panel.lines.get(name, {})
            places = [place for place, value in enumerate(values) if value in own]
            means = [100 * float(np.mean(own[values[place]])) for place in places]
            spread = [
                100 * float(np.std(own[values[place]], ddof=1)) if len(own[values[place]]) >= LEAST_RUNS else 0
                for place in places
            ]
            style = {"color": GRAY, "ls": "--"} if name == SOURCES else _style(index)
            axes.errorbar(places, means, spread, capsize=2, label=name, **style)
        axes.set_xticks(range(len(values)), [str(value).replace("_", "\n") for value in values])
        axes.set_title(panel.title, fontsize=9)
        axes.set_xlabel(panel.setting.replace("_", " "))
    axes_[0][0].set_ylabel(f"{data.word} (%)")
    handles, labels = axes_[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, ncols=max(1, min(4, len(labels))), loc="outside upper center")
    return figure


BETWEEN_FIGURES: tuple[FigureSpec, ...] = (
    FigureSpec("curves", "On the way from one model to the other",
               "Each model's own accuracy and loss are at the ends. A valley between them is the barrier; alignment and "
               "normalisation fill it. Means over runs; bands are one standard deviation.", curves, "all", "barriers",
               "measured/curve.parquet"),
    FigureSpec("landscapes", "Losses around a merge",
               "As mudsc Fig. 3: the plane through the merged network and its two models in parameter space, of the first run. "
               "Batch norms, where there are any, are reset at every point. A merged network in the basin of neither model "
               "stands where it is dark by itself.", landscapes, "all", "merges_same_task", "measured/landscape.parquet"),
    FigureSpec("swept", "How the models were trained",
               "As vanishing_feature Fig. 6 and 9: merges of models that were trained alike, against one setting of their "
               "training. Whiskers are one standard deviation over runs.", swept, "kind merge, column recipe",
               "merges_same_task"),
)  # fmt: skip
