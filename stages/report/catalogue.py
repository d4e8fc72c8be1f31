"""All figures of the report, in its order."""

from __future__ import annotations

from stages.report.between_figures import BETWEEN_FIGURES
from stages.report.compression_figures import COMPRESSION_FIGURES
from stages.report.example_figures import EXAMPLE_FIGURES
from stages.report.figures import FIGURES, FigureSpec
from stages.report.layer_figures import LAYER_FIGURES
from stages.report.placement_figures import PLACEMENT_FIGURES

__all__ = ["ALL_FIGURES"]

ALL_FIGURES: tuple[FigureSpec, ...] = (
    *FIGURES,
    *BETWEEN_FIGURES,
    *LAYER_FIGURES,
    *PLACEMENT_FIGURES,
    *EXAMPLE_FIGURES,
    *COMPRESSION_FIGURES,
)
