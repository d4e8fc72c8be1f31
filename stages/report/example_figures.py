"""Figures of what merged networks tell of single images: input, target, each source, and the merge."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mergeline.kinds import UNLABELLED
from mergeline.readings import MERGED
from stages.formats.measurements import INPUT, TARGET
from stages.plan.keys import parse_merge
from stages.report.figures import FigureData, FigureSpec, new_figure
from stages.report.rows import Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["EXAMPLE_FIGURES"]

MOST_IMAGES = 2
"""Of each task."""
COLOURS = 20


def _shown(data: FigureData) -> list[Row]:
    """The rows of the first merge by the report's method, or of the first merge."""
    rows = data.measured.get("examples", ())
    cells = list(dict.fromkeys(row["cell"] for row in rows))
    chosen = next((cell for cell in cells if parse_merge(cell).method.name == data.method), cells[0] if cells else None)
    return [row for row in rows if row["cell"] == chosen and row["image"] < MOST_IMAGES]


def examples(data: FigureData) -> Figure | None:
    """A line of pictures for each image: what it is, what is right, and what the networks tell."""
    rows = _shown(data)
    if not rows:
        return None
    lines: dict[tuple[str, int], dict[str, Row]] = {}
    for row in rows:
        lines.setdefault((row["scope"], row["image"]), {})[row["picture"]] = row
    sources = list(dict.fromkeys(name for own in lines.values() for name in own if name not in (INPUT, TARGET, MERGED)))
    columns = [INPUT, TARGET, *sources, MERGED]
    figure, axes_ = new_figure(
        1.7 * len(columns) + 1.6, 1.8 * len(lines) + 0.6, len(columns), len(lines), squeeze=False
    )
    figure.suptitle(rows[0]["cell"])
    for line, ((scope, _), own) in zip(axes_, lines.items(), strict=True):
        limits = _limits(own)
        for axes, name in zip(line, columns, strict=True):
            axes.set_axis_off()
            if name in own:
                axes.imshow(_picture(own[name], name == INPUT, limits), interpolation="nearest")
                axes.set_title(f"{scope}: {name}" if name == INPUT else name, fontsize="small")
        _legend(line[-1], own, limits)
    return figure


def _limits(own: dict[str, Row]) -> tuple[float, float] | None:
    """The least and the largest value of the target, between which all pictures of a line are coloured; None of classes."""
    if (numbers := own[TARGET].get("numbers")) is None:
        return None
    known = np.array(numbers, np.float64)
    known = known[~np.isnan(known)]
    return (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)


def _legend(axes: Any, own: dict[str, Row], limits: tuple[float, float] | None) -> None:
    """The classes that the line's pictures have, with their colours, or some values."""
    from matplotlib.patches import Patch

    classes: Sequence[str] = own[TARGET]["classes"]
    if limits is not None:
        steps = np.linspace(limits[1], limits[0], 3)
        patches = [Patch(color=_shades(np.array([v]), limits)[0], label=f"{classes[0]} {v:+.1f}") for v in steps]
        axes.legend(handles=patches, loc="center left", bbox_to_anchor=(1.02, 0.5), fontsize="xx-small", frameon=False)
        return
    told = {value for name, row in own.items() if name != INPUT for value in row["values"] if value != UNLABELLED}
    patches = [Patch(color=_colours(np.array([value]))[0], label=classes[value]) for value in sorted(told)]
    axes.legend(handles=patches, loc="center left", bbox_to_anchor=(1.02, 0.5), fontsize="xx-small", frameon=False)


def _picture(row: Row, image: bool, limits: tuple[float, float] | None) -> NDArray[Any]:
    if limits is not None and not image:
        return _shades(np.array(row["numbers"], np.float64).reshape(row["size"], row["size"]), limits)
    values = np.array(row["values"]).reshape(row["size"], row["size"], -1)
    if image:
        return np.repeat(values, 3, axis=2).astype(np.uint8) if values.shape[2] == 1 else values.astype(np.uint8)
    return _colours(values[:, :, 0])


def _colours(classes: NDArray[Any]) -> NDArray[np.float64]:
    """A colour for each class; white where a pixel has no label."""
    import matplotlib

    found = matplotlib.colormaps["tab20"](np.asarray(classes) % COLOURS)[..., :3]
    found[np.asarray(classes) == UNLABELLED] = 1.0
    return np.asarray(found, dtype=np.float64)


def _shades(values: NDArray[Any], limits: tuple[float, float]) -> NDArray[np.float64]:
    """Dark to bright between two values; white where a pixel has none."""
    import matplotlib

    low, high = limits
    shares = (np.nan_to_num(values) - low) / max(high - low, 1e-9)
    found = np.asarray(matplotlib.colormaps["viridis"](shares.clip(0, 1))[..., :3], dtype=np.float64)
    found[np.isnan(values)] = 1.0
    return found


EXAMPLE_FIGURES: tuple[FigureSpec, ...] = (
    FigureSpec("examples", "Examples",
               "Some test images, the class or value of each pixel as it is labelled, as each source tells it, and as the merged "
               "network does; values in deviations of the training pixels, dark to bright over the target's. The first merge by "
               "the report's method is shown.", examples,
               "the first images of that merge", "pixels", "measured/examples.parquet"),
)  # fmt: skip
"""In the order of the report."""
