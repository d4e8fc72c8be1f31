"""Figures of placements: how alike the blocks of two models of different depth are (heterogeneous_merging Fig. 3)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mergeline.depth import PLACEMENTS
from stages.report.figures import BLUE, ORANGE, PINK, RED, FigureData, FigureSpec, new_figure
from stages.report.placed import Blocks, block_pairs, likeness, segments

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["PLACEMENT_FIGURES"]

MOST_PANELS = 3
STYLES = {"append": (PINK, 6.0), "spread": (BLUE, 4.5), "sma": (ORANGE, 3.0), "lma": (RED, 1.5)}
"""Colour and width of each line: where several lie on each other, all can be seen."""


def _shown(data: FigureData) -> list[Blocks]:
    """The first pair of each setting, of the first settings."""
    found: dict[str, Blocks] = {}
    for pair in block_pairs(data.blocks):
        found.setdefault(pair.cell.rpartition(".")[0], pair)
    return list(found.values())[:MOST_PANELS]


def placements(data: FigureData) -> Figure | None:
    """CKA of the blocks of two models, stage by stage, and where each placement puts those of the shallow one."""
    shown = _shown(data)
    if not shown:
        return None
    figure, axes_ = new_figure(max(6.0, 4.4 * len(shown)), 5.4, len(shown), squeeze=False)
    for axes, pair in zip(axes_[0], shown, strict=True):
        image = _map(axes, pair)
        axes.set(title=pair.cell, xlabel="block of the shallow model", ylabel="block of the deep model")
        for name, (color, width) in STYLES.items():
            if name in PLACEMENTS:
                xs, ys = _path(pair, name)
                axes.plot(xs, ys, color=color, lw=width, label=f"{name} ({likeness(pair, name):.3f})")
        axes.legend(loc="upper left", frameon=True, framealpha=0.9)
    figure.colorbar(image, ax=axes_[0].tolist(), label="CKA", shrink=0.8)
    return figure


def _map(axes: Axes, pair: Blocks) -> object:
    deep, shallow = (sum(matrix.shape[side] for matrix in pair.similarity) for side in range(2))
    whole = np.full((deep, shallow), np.nan)
    row = column = 0
    for matrix in pair.similarity:
        whole[row : row + matrix.shape[0], column : column + matrix.shape[1]] = matrix
        row, column = row + matrix.shape[0], column + matrix.shape[1]
    axes.grid(False)
    axes.set_xticks(range(shallow), [str(at + 1) for at in range(shallow)])
    axes.set_yticks(range(deep), [str(at + 1) for at in range(deep)])
    return axes.imshow(whole, cmap="viridis", vmin=0, vmax=1, origin="lower", aspect="auto")


def _path(pair: Blocks, placement: str) -> tuple[list[float], list[float]]:
    """Through every deep block and the shallow block of its segment; a gap between stages."""
    xs: list[float] = []
    ys: list[float] = []
    row = column = 0
    for matrix, own in zip(pair.similarity, segments(pair, placement), strict=True):
        xs += [*(column + at for at in own), np.nan]
        ys += [*(row + at for at in range(len(own))), np.nan]
        row, column = row + matrix.shape[0], column + matrix.shape[1]
    return xs, ys


PLACEMENT_FIGURES: tuple[FigureSpec, ...] = (
    FigureSpec(
        "placements",
        "Placements of blocks",
        "As heterogeneous_merging Fig. 3: linear CKA of the outputs of the blocks of two models of different depth, the first "
        "run of each setting. A line goes through every block of the deep model and the block of the shallow one that stands "
        "for its segment; in brackets the mean CKA along it, which lma makes as large as it can be.",
        placements,
        "all pairs",
        "placements",
        source="measured/blocks.parquet",
    ),
)
