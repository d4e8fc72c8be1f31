"""Figures of what happens inside of merged networks, layer by layer: vanishing_feature Fig. 1 and 2, and CKA."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.ticker import MaxNLocator

from mergeline.readings import BEFORE, MERGED, SOURCE, source_names
from stages.report.diagnosed import Group, by_place, groups, similarity
from stages.report.figures import BLUE, CYCLE, GRAY, MARKERS, ORANGE, FigureData, FigureSpec, first_shown, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["LAYER_FIGURES"]

MOST_PANELS = 3
MOST_LINES = 8


def _groups(data: FigureData) -> list[Group]:
    return groups(data.measured.get("diagnosis", ()))


def _main(data: FigureData) -> Group | None:
    """The first setting that the report's method was diagnosed in."""
    found = _groups(data)
    return next((group for group in found if group.method == data.method), found[0] if found else None)


def _panels(data: FigureData) -> dict[str, list[Group]]:
    """The first settings, each with the methods that are shown of it."""
    found: dict[str, list[Group]] = {}
    for group in _groups(data):
        found.setdefault(group.setting, []).append(group)
    chosen = dict(list(found.items())[:MOST_PANELS])
    names = list(dict.fromkeys(group.method for own in chosen.values() for group in own))
    shown = first_shown(names, MOST_LINES)
    return {setting: [group for group in own if group.method in shown] for setting, own in chosen.items()}


def _styles(panels: dict[str, list[Group]]) -> dict[str, dict[str, Any]]:
    """Colour and marker of each method, the same in all panels."""
    names = dict.fromkeys(group.method for own in panels.values() for group in own)
    return {
        name: {"color": CYCLE[place % len(CYCLE)], "marker": MARKERS[place % len(MARKERS)], "ms": 4, "lw": 1.2}
        for place, name in enumerate(names)
    }


def _draw(axes: Axes, values: dict[int, float], **options: Any) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.plot([place + 1 for place in values], list(values.values()), **options)


def _legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    longest = max(len(label) for label in labels)
    columns = max(1, min(4, int(figure.get_figwidth() / (0.08 * longest + 0.6))))
    figure.legend(handles, labels, ncols=columns, loc="outside upper center")


def _all_in_first(axes: Axes, styles: dict[str, dict[str, Any]]) -> None:
    """Names in the legend what only other panels show."""
    known = set(axes.get_legend_handles_labels()[1])
    for name, style in styles.items():
        if name not in known:
            axes.plot([], [], label=name, **style)


def vanishing(data: FigureData) -> Figure | None:
    """Input-induced features relative to the sources' and their bound, by layer (vanishing_feature Fig. 2 B)."""
    panels = _panels(data)
    if not panels:
        return None
    styles = _styles(panels)
    figure, axes_ = new_figure(max(6.0, 4.2 * len(panels)), 4.2, len(panels), squeeze=False, sharey=True)
    for axes, (setting, own) in zip(axes_[0], panels.items(), strict=True):
        for group in own:
            style = styles[group.method]
            _draw(axes, by_place(group.rows, "relative"), label=group.method, **style)
            _draw(axes, by_place(group.rows, "bound"), color=style["color"], lw=1, ls=":")
        axes.axhline(1, color=GRAY, lw=1, ls="--")
        axes.set(title=setting, xlabel="layer, in forward order")
    _all_in_first(axes_[0][0], styles)
    axes_[0][0].set_ylabel("features, in those of the sources")
    axes_[0][0].set_ylim(bottom=0)
    _legend(figure, axes_[0][0])
    return figure


def _ratios(group: Group, quantity: str) -> dict[int, float]:
    """Of the merged network to its sources' mean; layers of which the sources have nothing are left out."""
    sources = by_place(group.rows, quantity, SOURCE)
    merged = by_place(group.rows, quantity)
    return {place: value / sources[place] for place, value in merged.items() if sources.get(place) and value}


def layer_variance(data: FigureData) -> Figure | None:
    """Variance of every layer's units relative to the sources' (vanishing_feature Def. 4.1)."""
    panels = _panels(data)
    if not panels:
        return None
    styles = _styles(panels)
    figure, axes_ = new_figure(max(6.0, 4.2 * len(panels)), 4.2, len(panels), squeeze=False, sharey=True)
    for axes, (setting, own) in zip(axes_[0], panels.items(), strict=True):
        for group in own:
            _draw(axes, _ratios(group, "variance"), label=group.method, **styles[group.method])
        axes.axhline(1, color=GRAY, lw=1, ls="--")
        axes.set(title=setting, xlabel="layer, in forward order", yscale="log")
    _all_in_first(axes_[0][0], styles)
    axes_[0][0].set_ylabel("variance, in that of the sources")
    _legend(figure, axes_[0][0])
    return figure


def magnitudes(data: FigureData) -> Figure | None:
    """Weights and biases of every layer relative to the sources', in one setting (vanishing_feature Fig. 1 middle)."""
    main = _main(data)
    if main is None:
        return None
    own = [group for group in _groups(data) if group.setting == main.setting]
    shown = first_shown([group.method for group in own], MOST_LINES)
    styles = _styles({main.setting: [group for group in own if group.method in shown]})
    lines = {
        quantity: {group.method: _ratios(group, quantity) for group in own if group.method in shown}
        for quantity in ("weight", "bias")
    }
    panels = {quantity: found for quantity, found in lines.items() if any(found.values())}
    figure, axes_ = new_figure(max(6.0, 4.2 * len(panels)), 4.2, len(panels), squeeze=False)
    for axes, (quantity, found) in zip(axes_[0], panels.items(), strict=True):
        for method, values in found.items():
            _draw(axes, values, label=method, **styles[method])
        axes.axhline(1, color=GRAY, lw=1, ls="--")
        axes.set(title=f"{quantity}, {main.setting}", xlabel="layer, in forward order", yscale="log")
    axes_[0][0].set_ylabel("root mean square, in that of the sources")
    _legend(figure, axes_[0][0])
    return figure


def batch_norms(data: FigureData) -> Figure | None:
    """Batch norms' statistics before and after they are set, and the sources' (vanishing_feature Fig. 2 C)."""
    main = _main(data)
    if main is None or not by_place(main.rows, "running_variance", BEFORE):
        return None
    looks = {
        BEFORE: ("as merged", {"color": ORANGE, "marker": "s"}),
        MERGED: (f"after {next(iter(main.merges.values())).normalize}", {"color": BLUE, "marker": "o"}),
        SOURCE: ("source models", {"color": GRAY, "ls": "--"}),
    }
    figure, axes_ = new_figure(8.4, 4.2, 2)
    names = {"running_mean": "size of running means", "running_variance": "running variance"}
    for axes, (quantity, title) in zip(axes_, names.items(), strict=True):
        for network, (label, look) in looks.items():
            _draw(axes, by_place(main.rows, quantity, network), label=label, ms=4, lw=1.2, **look)
        axes.set(title=title, xlabel="batch norm, in forward order", yscale="log")
    axes_[0].set_ylabel(f"mean over units, {main.method}")
    _legend(figure, axes_[0])
    return figure


def cka(data: FigureData) -> Figure | None:
    """Similarity of all layers: of the merged network with its first source, and of the first two sources."""
    main = _main(data)
    if main is None:
        return None
    first, second = source_names(2)
    panels = [(MERGED, first), (first, second)]
    found = [similarity(main.rows, *pair) for pair in panels]
    if not all(found):
        return None
    figure, axes_ = new_figure(9.0, 4.4, 2)
    for axes, (network, other), values, of in zip(axes_, panels, found, (" network", " source"), strict=True):
        matrix = _matrix(values, found)
        edges = (0.5, len(matrix) + 0.5) * 2
        image = axes.imshow(matrix, cmap="cividis", vmin=0, vmax=1, origin="lower", extent=edges)
        axes.set(xlabel=f"layer of the {other} source", ylabel=f"layer of the {network}{of}")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(visible=False)
    figure.colorbar(image, ax=axes_, label="CKA", shrink=0.85)
    figure.suptitle(f"{main.method}, {main.setting}", fontsize=10)
    return figure


def _matrix(values: dict[tuple[int, int], float], found: Sequence[dict[tuple[int, int], float]]) -> Any:
    """By place; nothing where layers were not compared."""
    size = 1 + max(max(places) for own in found for places in own)
    matrix = np.full((size, size), np.nan)
    for places, value in values.items():
        matrix[places] = value
    return matrix


SOURCE_TABLE = "measured/diagnosis.parquet"
LAYER_FIGURES: tuple[FigureSpec, ...] = (
    FigureSpec("vanishing", "Features that vanish",
               "As vanishing_feature Fig. 2 B: how much of a layer's output comes from the input, in that of the source models. At "
               "1 nothing is lost; a line that falls towards 0 is a network whose deep layers hardly depend on the image. Dotted: "
               "the bound, which never rises. The first settings are shown, the table "
               "has all.", vanishing, "quantity relative and bound", "diagnosis", SOURCE_TABLE),
    FigureSpec("layer_variance", "Variance by layer",
               "Variance of the units over images, in that of the source models, on a logarithmic axis; below 1 it has shrunk "
               "(variance collapse). The first settings are shown, the table has all.",
               layer_variance, "quantity variance", "diagnosis", SOURCE_TABLE),
    FigureSpec("magnitudes", "Magnitude of weights and biases",
               "As vanishing_feature Fig. 1 middle, on logarithmic axes: below 1 averaging has made a layer's entries smaller than "
               "its sources'. Layers of which the sources have no bias are left out.", magnitudes,
               "quantity weight and bias", "diagnosis", SOURCE_TABLE),
    FigureSpec("batch_norms", "Batch norms before and after normalising",
               "As vanishing_feature Fig. 2 C: a norm divides by the deviation that it holds. Where that of the merge is above the "
               "one on real images, features shrink; setting the statistics undoes that.", batch_norms,
               "quantity running_mean and running_variance", "diagnosis", SOURCE_TABLE),
    FigureSpec("cka", "What layers have in common",
               "Linear CKA of every layer with every other, 1 (bright) where they see images alike. On the left a bright diagonal "
               "says that the merge computes what its source does; the right shows how far the sources themselves agree.", cka,
               "quantity cka", "diagnosis", SOURCE_TABLE),
)  # fmt: skip
"""In the order of the report."""
