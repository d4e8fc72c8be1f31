"""Stage ``plot``: every figure (SVG and PNG) and every table (CSV and Markdown), from the tables of collect alone."""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import pyarrow.parquet as pq

from stages.formats.measurements import MEASURES
from stages.plan import paths
from stages.plan.params import Params
from stages.report.analysis import deviations, pair_results
from stages.report.catalogue import ALL_FIGURES
from stages.report.figures import FigureData, style
from stages.report.hover import with_hover
from stages.report.rows import key_of, method_label
from stages.report.spread import columns_for_programs
from stages.report.tables import TABLES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["figure_data", "run"]


def figure_data(params: Params, root: Path) -> FigureData:
    """The rows that figures and tables are made of, with the report's choices."""
    rows = pq.read_table(root / paths.RESULTS).to_pylist()
    labels = list(dict.fromkeys(result.method for result in pair_results(rows)))
    method = params.report.method or next(
        (label for label in labels if label != "identity"), labels[0] if labels else ""
    )
    if method not in labels:  # a grid's cells are named after their method
        named = {method_label(row): merge.method.name for row in rows if (merge := key_of(row).merge) is not None}
        method = next((label for label in labels if named[label] == method), method)
    return FigureData(
        rows=rows,
        histories=pq.read_table(root / paths.HISTORIES).to_pylist(),
        similarities=pq.read_table(root / paths.SIMILARITIES).to_pylist(),
        measured={measure: pq.read_table(root / paths.measurements(measure)).to_pylist() for measure in MEASURES},
        blocks=pq.read_table(root / paths.similarities_of_blocks()).to_pylist(),
        method=method,
        reference=params.report.simplicity_reference or params.architectures[-1],
        papers=params.report.papers,
    )


def run(context: Any, cell: str) -> None:
    """There is one; ``cell`` is not used."""
    data = figure_data(context.params, context.root)
    figures = context.path(paths.FIGURES)
    tables = context.path(paths.TABLES)
    for folder in (figures, tables):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    with mpl.rc_context(style()):
        for spec in ALL_FIGURES:
            figure = spec.draw(data)
            if figure is not None:
                _save(figure, figures / spec.name)
    for table in TABLES:
        header, lines = table.make(data)
        if lines:
            (tables / f"{table.name}.csv").write_text(_csv(*columns_for_programs(header, lines)), encoding="utf-8")
            (tables / f"{table.name}.md").write_text(_markdown(table.title, header, lines), encoding="utf-8")
    points = [
        {"size_mismatch": d.size_mismatch, "deviation": d.value, "tasks": d.tasks, "architectures": d.architectures}
        for d in deviations(data.results, data.method)
    ]
    text = _csv(["size_mismatch", "deviation", "tasks", "architectures"], [list(point.values()) for point in points])
    (tables / "plot_deviation.csv").write_text(text, encoding="utf-8")


def _save(figure: Figure, stem: Path) -> None:
    import matplotlib.pyplot as plt

    drawing = io.StringIO()
    figure.savefig(drawing, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    stem.with_suffix(".svg").write_text(with_hover(drawing.getvalue()), encoding="utf-8")
    figure.savefig(stem.with_suffix(".png"), metadata={"Software": None})
    plt.close(figure)


def _csv(header: Sequence[str], lines: Sequence[Sequence[Any]]) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(["" if value is None else value for value in line] for line in lines)
    return stream.getvalue()


def _markdown(title: str, header: Sequence[str], lines: Sequence[Sequence[Any]]) -> str:
    rows = ["| " + " | ".join("" if v is None else str(v) for v in line) + " |" for line in [header, *lines]]
    return f"# {title}\n\n{rows[0]}\n|{'---|' * len(header)}\n" + "\n".join(rows[1:]) + "\n"
