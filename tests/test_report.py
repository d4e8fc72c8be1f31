"""The report: what its figures draw, what its findings say, what its checks flag, and that it is one file."""

from __future__ import annotations

import base64
import contextlib
import csv
import gzip
import html
import json
import math
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from scipy import stats

from stages.context import Context
from stages.landscape import loss_of
from stages.papers import PAPERS, load, tables
from stages.plan import paths
from stages.report import audit
from stages.report.audit import findings
from stages.report.beside import READERS, beside
from stages.report.between import barriers
from stages.report.between_figures import curves, landscapes, swept
from stages.report.catalogue import ALL_FIGURES
from stages.report.collect import SCHEMA
from stages.report.compression_figures import narrowing, pruning
from stages.report.figures import (
    FigureData,
    confusions,
    controls,
    learning_curves,
    methods_compared,
    same_task_deviation,
    same_task_homogeneous,
    same_task_parity,
    style,
    task_pairs_by_similarity,
    task_pairs_by_simplicity,
)
from stages.report.findings import sentences
from stages.report.intervals import Sample, paired_difference
from stages.report.layer_figures import batch_norms, cka, layer_variance, magnitudes, vanishing
from stages.report.page import breakable
from stages.report.plot import figure_data
from stages.report.rows import method_label, setting_label
from stages.report.spread import percent
from stages.report.tables import TABLES
from tests.small_diagnosis import KEPT
from tests.small_report import LEVELS, MISSING, UNPARTNERED, SmallReport

Row = dict[str, Any]


@pytest.fixture(scope="module")
def data(small_report: SmallReport) -> FigureData:
    return figure_data(small_report.params, small_report.root)


@pytest.fixture(autouse=True)
def _closed_figures() -> Iterator[None]:
    with plt.rc_context(style()):
        yield
    plt.close("all")


def accuracies(rows: list[Row], **wanted: Any) -> list[float]:
    """Accuracy of the rows that are ok and have these values, straight from the table."""
    wanted = {"kind": "merge", "control": "", "status": "ok", **wanted}
    return [row["accuracy"] for row in rows if all(row[key] == value for key, value in wanted.items())]


def merged(rows: list[Row], pair: str, tasks: str = "bars", method: str = "permute") -> list[float]:
    scope = "mean" if "+" in tasks else tasks
    return accuracies(rows, tasks=tasks, architectures=pair, method=method, scope=scope, placement="append")


def appended(data: FigureData) -> FigureData:
    """Without merges by another placement than the usual one."""
    return replace(data, rows=[row for row in data.rows if row["placement"] in (None, "append")])


def drawn(axes: Any) -> dict[str, tuple[float, float]]:
    """The points of the error bars by label."""
    return {
        container.get_label(): tuple(float(value[0]) for value in container.lines[0].get_data())
        for container in axes.containers
    }


PAIRS = ("r29+r17", "r35+r17", "r35+r29")


# -- figures draw the table ----------------------------------------------------------------------------------------


def test_the_table_has_the_format_of_collect(small_report: SmallReport) -> None:
    assert pq.read_schema(small_report.root / paths.RESULTS).equals(SCHEMA)
    assert [row["cell"] for row in small_report.rows if row["status"] == "missing"] == [MISSING]


def test_no_row_counts_images_that_a_task_has_not(small_report: SmallReport) -> None:
    rows = [row for row in small_report.rows if row["images_reset"] is not None and row["status"] == "ok"]
    assert {row["images_reset"] for row in rows if "dots" not in row["tasks"]} == {24}
    assert {row["images_reset"] for row in rows if "dots" in row["tasks"]} == {16}
    assert {row["images_statistics"] for row in rows} == {16, 24, None}


def test_homogeneous_merges_are_drawn_against_the_mean_of_their_sources(data: FigureData) -> None:
    axes = same_task_homogeneous(data).axes[0]
    points = drawn(axes)
    assert set(points) == {"bars r17", "bars r29", "bars r35"}
    edges = {row["cell"]: row["accuracy"] for row in data.rows if row["kind"] == "edge"}
    for name in ("r17", "r29", "r35"):
        runs = [(0, 1), (0, 2), (1, 2)]
        sources = [(edges[f"bars.{name}.s{a}"] + edges[f"bars.{name}.s{b}"]) / 2 for a, b in runs]
        found = merged(data.rows, f"{name}+{name}")
        assert len(found) == 3
        assert points[f"bars {name}"] == pytest.approx((100 * mean(sources), 100 * mean(found)))
    whiskers = axes.containers[0].lines[2][1].get_segments()[0]
    found = merged(data.rows, "r17+r17")
    assert whiskers[:, 1] == pytest.approx([100 * (mean(found) - stdev(found)), 100 * (mean(found) + stdev(found))])


def test_mixed_merges_are_drawn_over_the_span_of_the_homogeneous_ones(data: FigureData) -> None:
    axes = same_task_parity(data).axes[0]
    points = drawn(axes)
    spans = [line for line in axes.lines if line.get_linewidth() == 3]
    assert set(points) == set(PAIRS)
    for span, pair in zip(spans, PAIRS, strict=True):
        y = 100 * mean(merged(data.rows, pair))
        ends = sorted(100 * mean(merged(data.rows, f"{name}+{name}")) for name in pair.split("+"))
        assert list(span.get_xdata()) == pytest.approx(ends)
        assert list(span.get_ydata()) == pytest.approx([y, y])
        assert points[pair] == pytest.approx((mean(ends), y))


def test_deviations_are_drawn_against_size_mismatch_with_their_correlation(data: FigureData) -> None:
    axes = same_task_deviation(data).axes[0]
    x, y = np.concatenate([drawn.lines[0].get_data() for drawn in axes.containers], axis=1)
    mismatch = {row["architectures"]: row["size_mismatch"] for row in data.rows}
    expected = [
        mean(merged(data.rows, pair)) - mean(mean(merged(data.rows, f"{n}+{n}")) for n in pair.split("+"))
        for pair in PAIRS
    ]
    assert list(x) == pytest.approx([mismatch[pair] for pair in PAIRS])
    assert list(y) == pytest.approx([100 * value for value in expected])
    assert axes.get_title() == ""  # three points are no correlation
    for (low, high), value in zip(
        (drawn.lines[2][0].get_segments()[0][:, 1] for drawn in axes.containers), y, strict=True
    ):
        assert low <= value <= high


def homogeneous(rows: Any, name: str, tasks: str) -> list[float]:
    """The merges of two models of one architecture, which are made in one direction."""
    back = "+".join(reversed(tasks.split("+")))
    return merged(rows, f"{name}+{name}", tasks) or merged(rows, f"{name}+{name}", back)


def test_deviations_of_task_pairs_are_drawn_against_similarity(data: FigureData) -> None:
    axes = task_pairs_by_similarity(data).axes[0]
    assert axes.get_title() == "", "a pair's combinations stand at one place: two points are no correlation"
    known = {
        "bars+dots": math.exp(-0.5),
        "dots+bars": math.exp(-0.5),
        "bars+late": math.exp(-1),
        "late+bars": math.exp(-1),
    }
    points: dict[str, list[list[float]]] = {}
    for drawn in axes.containers:
        tasks = drawn.lines[0].get_gid().removeprefix("hover:").split("|")[0]
        points.setdefault(tasks, []).append([float(value) for (value,) in drawn.lines[0].get_data()])
    assert set(points) == set(known)
    for tasks, (x, y) in ((tasks, zip(*own, strict=True)) for tasks, own in points.items()):
        assert list(x) == pytest.approx([known[tasks]] * 3)
        expected = [
            mean(merged(data.rows, pair, tasks)) - mean(mean(homogeneous(data.rows, n, tasks)) for n in pair.split("+"))
            for pair in PAIRS
        ]
        assert sorted(y) == pytest.approx(sorted(100 * value for value in expected))


def test_task_pairs_stand_from_hard_to_simple(data: FigureData) -> None:
    axes = task_pairs_by_simplicity(data).axes[0]
    simple = {
        task: mean(accuracies(data.rows, kind="edge", tasks=task, architectures="r35"))
        for task in ("bars", "dots", "late")
    }
    names = [label.get_text().replace("\n", "") for label in axes.get_xticklabels()]
    expected = [100 * mean(simple[task] for task in re.split(r"\+ ?", name)) for name in names]
    sources = next(line for line in axes.lines if line.get_label().startswith("source models"))
    assert list(sources.get_ydata()) == pytest.approx(expected)
    assert expected == sorted(expected)
    merged_17 = next(line for line in axes.lines if line.get_gid() == "hover:merged r17|merged r17").get_ydata()
    own = [merged(data.rows, "r17+r17", name.replace("+ ", "+")) for name in names]
    assert list(merged_17) == pytest.approx([100 * mean(values) for values in own if values])


def test_bars_of_the_methods_are_their_means_and_every_method_is_in_the_legend(data: FigureData) -> None:
    figure = methods_compared(appended(data))
    axes = figure.axes[0]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["identity", "permute", "ensemble"]
    pairs = [label.get_text() for label in axes.get_xticklabels()]
    bars = {(round(bar.get_x() + bar.get_width() / 2, 3)): bar.get_height() for bar in axes.patches}
    assert len(bars) == 3 * len(pairs)
    for place, pair in enumerate(pairs):
        heights = [height for x, height in sorted(bars.items()) if abs(x - place) < 0.5]
        ensembles = accuracies(data.rows, kind="ensemble", architectures=pair, tasks="bars")
        expected = [mean(merged(data.rows, pair, method=method)) for method in ("identity", "permute")]
        assert heights == pytest.approx([100 * value for value in (*expected, mean(ensembles))])


def test_a_method_that_the_first_pair_lacks_is_still_in_the_legend(data: FigureData) -> None:
    rows = [row for row in appended(data).rows if (row["architectures"], row["method"]) != ("r17+r17", "permute")]
    legend = methods_compared(replace(data, rows=rows)).legends[0]
    assert {text.get_text() for text in legend.get_texts()} == {"identity", "permute", "ensemble"}


def test_with_many_settings_each_has_a_line_and_the_figure_shows_the_first_of_each_kind(data: FigureData) -> None:
    names = [f"{m}.{n}" for m in ("a", "b", "c", "d", "e", "f") for n in ("reset", "none", "repair")]
    rows = [
        {**row, "cell": row["cell"].replace(".permute.reset", f".{name}"), "method": name[0], "normalize": name[2:]}
        for row in data.rows
        for name in names
        if row["cell"].endswith(".permute.reset") and row["tasks"] == "bars" and not row["control"]
    ]
    many = replace(data, rows=[*(row for row in data.rows if row["kind"] != "merge"), *rows])
    shown = [text.get_text() for text in methods_compared(many).legends[0].get_texts()]
    assert shown == ["a", "b", "c", "d", "e", "f", "a repair", "ensemble"] or shown == [
        "a", "a repair", "b", "c", "d", "e", "f", "ensemble",
    ]  # fmt: skip
    header, lines = TABLES[0].make(many)
    assert header[2] == "method and settings"
    settings = [line[2] for line in lines if line[1] == "r17+r17"]
    assert settings == [name.replace(".reset", "").replace(".", " ") for name in names]


def trained(data: FigureData, pair: str) -> list[float]:
    """The runs of a pair that have controls, with both models trained."""
    controlled = {
        row["seeds"].replace("u", "s")
        for row in data.usual
        if row["control"] in ("untrained-0", "untrained-1", "random") and row["architectures"] == pair
    }
    return [
        row["accuracy"]
        for row in data.usual
        if row["kind"] == "merge" and not row["control"] and method_label(row) == "permute" and row["scope"] == row["tasks"]
        and row["architectures"] == pair and row["seeds"] in controlled
    ]  # fmt: skip


def test_controls_stand_beside_the_merge_of_both_trained_models(data: FigureData) -> None:
    axes = controls(data).axes[0]
    assert [text.get_text() for text in axes.get_xticklabels()] == list(PAIRS)
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["both trained", "deep side untrained", "shallow side untrained", "random permutation"]
    for place, pair in enumerate(PAIRS):
        bars = sorted((bar.get_x(), bar.get_height()) for bar in axes.patches if abs(bar.get_x() + 0.09 - place) < 0.5)
        wanted = [
            mean(trained(data, pair)),
            *(
                mean(accuracies(data.rows, control=f"untrained-{side}", method="permute", architectures=pair))
                for side in (0, 1)
            ),
            mean(accuracies(data.rows, control="random", method="random", architectures=pair)),
        ]
        assert [height for _, height in bars] == pytest.approx([100 * value for value in wanted])


def test_controls_of_two_tasks_are_not_mixed(data: FigureData) -> None:
    def other(row: Row) -> Row:
        cell = row["cell"].replace("bars", "dots", 1)
        return row | {
            "cell": cell,
            "tasks": "dots",
            "scope": "dots",
            "accuracy": row["accuracy"] and row["accuracy"] / 2,
        }

    rows = [*data.rows, *(other(row) for row in data.rows if row["tasks"] == "bars" and row["kind"] == "merge")]
    axes = controls(replace(data, rows=rows)).axes[0]
    labels = [text.get_text() for text in axes.get_xticklabels()]
    assert labels == [f"{task}\n{pair}" for task in ("bars", "dots") for pair in PAIRS]
    heights = [bar.get_height() for bar in axes.patches[:6]]
    assert heights[3:] == pytest.approx([height / 2 for height in heights[:3]])


def test_confusions_are_titled_with_the_accuracy_that_they_show(data: FigureData) -> None:
    figure = confusions(data)
    panels = [axes for axes in figure.axes if axes.images]
    assert len(panels) == 6
    rows = {row["cell"]: row for row in data.rows if row["scope"] == "bars"}
    for axes in panels:
        name, said = axes.get_title().split("\n")
        shown = np.asarray(axes.images[0].get_array())
        candidates = [row for row in rows.values() if row["cell"] == name or name == f"merge {row['architectures']}"]
        if name.startswith("merge"):
            candidates = [
                r for r in candidates if r["kind"] == "merge" and r["method"] == "permute" and not r["control"]
            ]
        row = candidates[0]
        matrix = np.array(row["confusion"], dtype=float).reshape(4, 4)
        assert shown == pytest.approx(matrix / matrix.sum(1, keepdims=True))
        assert said == f"{100 * row['accuracy']:.1f} %"


def test_a_learning_curve_is_the_history_of_its_edge(data: FigureData) -> None:
    axes = {a.get_title(): a for a in learning_curves(data).axes}
    for task, panel in axes.items():
        edges = list(dict.fromkeys(row["edge"] for row in data.histories if row["edge"].startswith(f"{task}.")))
        curves = [line for line in panel.lines if len(line.get_xdata())]
        assert len(curves) == len(edges)
        for line, edge in zip(curves, edges, strict=True):
            expected = [(row["epoch"], 100 * row["accuracy"]) for row in data.histories if row["edge"] == edge]
            assert np.column_stack(line.get_data()) == pytest.approx(np.array(expected))


def lines_of(axes: Any) -> dict[str, list[float]]:
    """Values of the lines that are named in the legend."""
    return {line.get_label(): list(line.get_ydata()) for line in axes.lines if not line.get_label().startswith("_")}


def test_features_and_variances_by_layer_are_those_of_the_diagnoses(data: FigureData) -> None:
    figure = vanishing(data)
    assert [axes.get_title() for axes in figure.axes] == [f"bars, {name}+{name}" for name in ("r17", "r29", "r35")]
    for axes in figure.axes:
        for name, kept in KEPT.items():
            assert lines_of(axes)[name] == pytest.approx([kept, kept**2, kept**3, kept**4])
    assert lines_of(layer_variance(data).axes[0])["permute"] == pytest.approx(
        [KEPT["permute"] ** (2 * i) for i in (1, 2, 3, 4)]
    )
    (axes,) = magnitudes(data).axes  # there are no biases
    assert lines_of(axes)["identity"] == pytest.approx([KEPT["identity"] ** (i / 5) for i in (1, 2, 3, 4)])


def test_at_most_eight_methods_have_a_line(data: FigureData) -> None:
    some = [row for row in data.measured["diagnosis"] if row["cell"] == "bars.r17+r17.s0+s1.permute.reset"]
    rows = [
        row | {"cell": row["cell"].replace("permute.reset", f"{method}.{after}")}
        for method in ("permute", "zip", "cca", "weight") for after in ("reset", "none", "repair") for row in some
    ]  # fmt: skip
    many = replace(data, measured={"diagnosis": rows})
    shown = lines_of(vanishing(many).axes[0])
    assert list(shown) == [
        "permute",
        "permute repair",
        "zip",
        "zip repair",
        "cca",
        "cca repair",
        "weight",
        "weight repair",
    ]


def test_batch_norms_are_drawn_before_and_after_and_as_the_sources_have_them(data: FigureData) -> None:
    _, variances = batch_norms(data).axes
    found = lines_of(variances)
    assert found["as merged"] == [2.0, 2.0, 2.0]
    assert found["after reset"] == found["source models"] == pytest.approx([1, 1 / 2, 1 / 3])


def test_similarities_of_layers_are_drawn_for_the_reports_method(data: FigureData) -> None:
    left, right, _ = cka(data).axes
    for axes, diagonal in ((left, KEPT["permute"]), (right, 0.6)):
        matrix = np.asarray(axes.images[0].get_array())
        assert matrix.shape == (4, 4)
        assert matrix.diagonal() == pytest.approx([diagonal] * 4)
        assert matrix[0, 1] == pytest.approx(diagonal / math.e)


def test_the_table_of_layers_and_the_finding_have_the_diagnoses_numbers(
    data: FigureData, small_report: SmallReport
) -> None:
    path = small_report.root / paths.REPORTS / "tables" / "diagnosis.csv"
    lines = list(csv.DictReader(path.read_text().splitlines()))
    assert len(lines) == 6 * 2 * 4
    line = next(line for line in lines if (line["method and settings"], line["layer"]) == ("permute", "fc.weight"))
    assert (line["merges"], line["features (%)"], line["CKA with 1st"]) == ("3", f"{100 * 0.8**4:.1f}", "0.8")
    start = "In the last layer before the classifier, merges by permute keep"
    assert said(data, start) == f"{start} 51 % of the input-induced features of their sources after reset (n = 36)."
    plain = [row | {"cell": row["cell"].replace(".reset", ".none"), "value": 1.0} for row in data.measured["diagnosis"]]
    both = replace(data, measured={"diagnosis": [*data.measured["diagnosis"], *plain]})
    assert said(both, start).endswith("after reset (n = 36), 100 % without normalisation (n = 36).")


def test_a_barrier_is_the_deepest_fall_below_the_line_between_the_models(data: FigureData) -> None:
    by_method = {found.group.method: found for found in barriers(data.measured["curve"])}
    assert list(by_method) == ["identity", "permute"]
    for method, found in by_method.items():
        for run, seeds in (("bars.r17+r17.s0+s1", 1), ("bars.r17+r17.s1+s2", 3)):
            level = LEVELS[method]
            fall = max(0.95 - (level - 0.01 * seeds), 0.975 - level)
            assert found.accuracy[run] == pytest.approx(fall)
            assert found.loss[run] == pytest.approx(2 * fall)
    start = "Between two models (bars, r17+r17) accuracy falls by"
    assert said(data, start).startswith(
        f"{start} 17.7 points at worst with permute, by 52.7 with plain averaging: -35.0 points"
    )


def test_curves_are_drawn_by_method_for_accuracy_and_loss(data: FigureData) -> None:
    accuracy, loss = curves(data).axes
    assert [line.get_ydata()[2] for line in accuracy.lines[:2]] == pytest.approx(
        [100 * (0.45 - 0.02), 100 * (0.8 - 0.02)]
    )
    assert loss.lines[0].get_ydata()[0] == pytest.approx(0.2)


@pytest.mark.parametrize("far", [math.nan, math.inf])
def test_a_landscape_is_drawn_where_its_loss_is_finite(far: float, data: FigureData) -> None:
    rows = [dict(row) for row in data.measured["landscape"]]
    outermost = max(row["u"] for row in rows if row["point"] == "grid")
    for row in rows:
        if row["point"] == "grid" and row["u"] == outermost:
            row["loss"] = far
    figure = landscapes(replace(data, measured={**data.measured, "landscape": rows}))
    figure.canvas.draw()
    low, high = figure.axes[0].collections[0].get_clim()
    assert math.isfinite(low)
    assert math.isfinite(high)
    assert low < high


def test_a_loss_far_out_on_the_plane_may_be_none() -> None:
    labels = torch.tensor([0, 1])
    assert loss_of(torch.zeros(2, 2), labels) == pytest.approx(math.log(2))
    assert math.isnan(loss_of(torch.tensor([[0.0, math.inf], [0.0, 1.0]]), labels))


def test_a_landscape_has_its_networks_where_they_are(data: FigureData) -> None:
    axes, _ = landscapes(data).axes
    places = {line.get_label(): (line.get_xdata()[0], line.get_ydata()[0]) for line in axes.lines}
    assert places == {"merged": (0, 0), "first model": (2, 0), "second model": (1, 2)}


def test_a_swept_setting_has_a_panel_with_its_values_and_touches_no_other_figure(data: FigureData) -> None:
    (axes,) = swept(data).axes
    assert axes.get_title() == "bars, r17, epochs=1"
    assert [text.get_text() for text in axes.get_xticklabels()] == ["0.01", "0.5"]
    lines = {container.get_label(): container.lines[0].get_ydata() for container in axes.containers}
    assert set(lines) == {"permute", "source models"}
    own = [row for row in data.rows if row["recipe"] == "learning_rate=0.5-epochs=1"]
    (merged,) = (row["accuracy"] for row in own if row["kind"] == "merge")
    edges = [row["accuracy"] for row in own if row["kind"] == "edge"]
    assert lines["permute"][1] == pytest.approx(100 * merged)
    assert lines["source models"][1] == pytest.approx(100 * np.mean(edges))
    unswept = [row for row in data.rows if row["recipe"] is None]
    assert sentences(replace(data, rows=unswept)) == sentences(data)
    assert all(result.combination.architectures[0] in ("r17", "r29", "r35") for result in data.results)


def pruned_runs(data: FigureData, method: str, sparsity: float, normalize: str) -> list[float]:
    return accuracies(data.rows, kind="pruned", method=method, sparsity=sparsity, normalize=normalize)


def test_pruned_networks_are_drawn_against_sparsity_beside_the_same_models_before(data: FigureData) -> None:
    figure = pruning(data)
    assert figure is not None
    before = 100 * mean(accuracies(data.rows, kind="edge", tasks="bars", architectures="r17"))
    assert [axes.get_title() for axes in figure.axes] == ["none, bars, r17", "reset, bars, r17"]
    for axes, normalize in zip(figure.axes, ("none", "reset"), strict=True):
        lines = {container.get_label(): container.lines[0] for container in axes.containers}
        assert set(lines) == {"magnitude", "wanda"}
        for method, line in lines.items():
            x, y = line.get_data()
            assert list(x) == [50, 90]
            wanted = [100 * mean(pruned_runs(data, method, sparsity, normalize)) for sparsity in (0.5, 0.9)]
            assert list(y) == pytest.approx(wanted)
        (level,) = (line for line in axes.lines if line.get_linestyle() == "--")
        assert level.get_ydata()[0] == pytest.approx(before)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["not pruned", "magnitude", "wanda"]


def test_the_table_of_pruned_networks_has_every_setting_and_says_what_is_missing(data: FigureData) -> None:
    spec = next(spec for spec in TABLES if spec.name == "pruned")
    _, lines = spec.make(data)
    before = accuracies(data.rows, kind="edge", tasks="bars", architectures="r17")
    assert len(lines) == 8
    for line in lines:
        found = pruned_runs(data, line[2], float(line[3]) / 100, line[4])
        assert line[:2] == ["bars", "r17"]
        assert list(map(str, line[5:])) == [
            "3",
            *(f"{100 * mean(values):.2f} ± {100 * stdev(values):.2f}" for values in (found, before)),
        ]
    gone = "bars.r17.s1.wanda-sparsity=0.9.reset"
    rows = [row | ({"status": "missing", "accuracy": None} if row["cell"] == gone else {}) for row in data.rows]
    _, lines = spec.make(replace(data, rows=rows))
    assert [line[:6] for line in lines if "missing" in str(line[6])] == [["bars", "r17", "wanda", "90", "reset", "2/3"]]


def test_a_finding_says_what_a_normalisation_does_at_the_highest_sparsity(data: FigureData) -> None:
    text = said(data, "At sparsity 0.9, reset changes r17 on bars, pruned by wanda")
    plain, reset = (pruned_runs(data, "wanda", 0.9, normalize) for normalize in ("none", "reset"))
    differences = [a - b for a, b in zip(reset, plain, strict=True)]
    low, high = stats.t.interval(0.95, 2, mean(differences), stdev(differences) / 3**0.5)
    assert f"from {100 * mean(plain):.1f} % to {100 * mean(reset):.1f} %: {100 * mean(differences):+.1f} points" in text
    assert f"95 % interval {100 * low:+.1f} to {100 * high:+.1f}, paired over 3 runs" in text
    assert len([text for text in sentences(data) if "pruned by" in text]) == 2


def test_every_setting_has_a_label_of_its_own(data: FigureData) -> None:
    labels = {(row["kind"], setting_label(row)) for row in data.rows}
    assert {
        ("edge", "edge"),
        ("ensemble", "ensemble"),
        ("merge", "permute"),
        ("pruned", "wanda sparsity=0.9 reset"),
    } < labels
    assert len({label for kind, label in labels if kind == "pruned"}) == 8


SMALLER = ("pruned", "narrowed")


def narrowed_runs(data: FigureData, method: str, width: float, normalize: str) -> list[float]:
    return accuracies(data.rows, kind="narrowed", method=method, width=width, normalize=normalize)


def test_narrowed_networks_are_drawn_against_width_with_intervals(data: FigureData) -> None:
    figure = narrowing(data)
    assert figure is not None
    assert [axes.get_title() for axes in figure.axes] == ["none, bars, r17", "reset, bars, r17"]
    before = 100 * mean(accuracies(data.rows, kind="edge", tasks="bars", architectures="r17"))
    for axes, normalize in zip(figure.axes, ("none", "reset"), strict=True):
        bars = {container.get_label(): container for container in axes.containers}
        assert list(bars) == ["zip", "largest", "random"]
        for method, drawn in bars.items():
            line, _, (whiskers,) = drawn.lines
            assert list(line.get_xdata()) == [25, 50]
            for place, width in enumerate((0.25, 0.5)):
                values = narrowed_runs(data, method, width, normalize)
                assert line.get_ydata()[place] == pytest.approx(100 * mean(values))
                low = whiskers.get_segments()[place][0][1]
                # Student's t with two degrees of freedom
                assert low == pytest.approx(max(0, 100 * (mean(values) - 4.30265 * stdev(values) / 3**0.5)), abs=1e-3)
        (dashed,) = [line for line in axes.lines if line.get_linestyle() == "--"]
        assert dashed.get_ydata()[0] == pytest.approx(before)


def test_the_table_of_narrowed_networks_has_every_setting_and_what_is_left(data: FigureData) -> None:
    header, lines = next(spec for spec in TABLES if spec.name == "narrowed").make(data)
    assert len(lines) == 3 * 2 * 2
    for line in lines:
        found = dict(zip(header, line, strict=True))
        values = narrowed_runs(data, found["method"], float(found["width (%)"]) / 100, found["normalisation"])
        assert str(found["accuracy (%)"]) == f"{100 * mean(values):.2f} ± {100 * stdev(values):.2f}"
        assert found["95 % interval"].startswith(f"[{100 * (mean(values) - 4.30265 * stdev(values) / 3**0.5):.2f}"[:-1])
        assert (found["parameters (%)"], found["multiply-adds (%)"]) == (
            "25.0" if found["width (%)"] == "50" else "6.2", "100.0",
        )  # fmt: skip


def test_zipping_is_compared_with_keeping_units(data: FigureData) -> None:
    text = said(data, "Zipped to 50 % of its units (reset), r17 on bars has")
    joined, random = (narrowed_runs(data, method, 0.5, "reset") for method in ("zip", "random"))
    assert f"{100 * mean(joined):.1f} %, before" in text
    assert f"{100 * (mean(joined) - mean(random)):+.1f} points against random" in text
    assert len([text for text in sentences(data) if text.startswith("Zipped")]) == 4


def test_smaller_networks_are_no_merges_and_no_edges(data: FigureData) -> None:
    others = replace(data, rows=[row for row in data.rows if row["kind"] not in SMALLER])
    assert others.results == data.results
    for spec in TABLES:
        assert spec.name in SMALLER or spec.make(others) == spec.make(data)
    said = sentences(data)
    assert sentences(others) == [text for text in said if "pruned by" not in text and not text.startswith("Zipped")]


def test_nothing_to_draw_is_no_figure_rather_than_an_error(data: FigureData) -> None:
    empty = replace(data, rows=[], histories=[], similarities=[], measured={}, blocks=[])
    assert [spec.draw(empty) for spec in ALL_FIGURES] == [None] * len(ALL_FIGURES)
    missing = [row | {"status": "missing", "accuracy": None, "confusion": None} for row in data.rows]
    assert [spec.draw(replace(data, rows=missing, histories=[], measured={}, blocks=[])) for spec in ALL_FIGURES] == [
        None
    ] * len(ALL_FIGURES)
    assert sentences(empty) == []
    for table in TABLES:
        table.make(replace(data, rows=missing))


# -- tables ---------------------------------------------------------------------------------------------------------


def test_the_tables_numbers_are_those_of_the_rows(data: FigureData, small_report: SmallReport) -> None:
    path = small_report.root / paths.REPORTS / "tables" / "merges_same_task.csv"
    lines = {(line["tasks"], line["models"]): line for line in csv.DictReader(path.read_text().splitlines())}
    for pair in PAIRS:
        found = merged(data.rows, pair)
        line = lines["bars", pair]
        assert float(line["permute mean"]) == pytest.approx(100 * mean(found), abs=1e-3)
        assert float(line["permute deviation"]) == pytest.approx(100 * stdev(found), abs=1e-3)
        assert line["runs"] == line["permute n"] == str(len(found)) == "9"
        assert float(line["permute low"]) < float(line["permute mean"]) < float(line["permute high"])
        shown = f"{100 * mean(found):.2f} ± {100 * stdev(found):.2f}"
        assert shown in path.with_suffix(".md").read_text(encoding="utf-8")


def test_missing_runs_are_said_in_the_tables(data: FigureData, small_report: SmallReport) -> None:
    found = merged(data.rows, "r35+r17", method="identity")
    assert len(found) == 8
    text = small_report.page.read_text()
    assert f"{100 * mean(found):.2f} ± {100 * stdev(found):.2f} (1 missing)" in text
    none = [row | ({"status": "missing", "accuracy": None} if row["method"] == "permute" else {}) for row in data.rows]
    header, lines = next(spec for spec in TABLES if spec.name == "merges_same_task").make(replace(data, rows=none))
    assert {str(line[header.index("permute")]) for line in lines} == {"missing"}
    _, similar = next(spec for spec in TABLES if spec.name == "similarity").make(data)
    assert [line[1] for line in similar if line[0] == "dots+late"] == ["missing"]


def test_the_table_of_placements_counts_the_units_without_a_partner(data: FigureData) -> None:
    header, lines = next(spec for spec in TABLES if spec.name == "placements").make(data)
    assert header[-1] == "units without a partner"
    counts = {(line[0], line[1]): line[-1] for line in lines}
    pair = "bars.r35+r17.s0+s1"
    assert {placement: counts[pair, placement] for placement in ("append", "spread", "sma", "lma")} == {
        "append": str(UNPARTNERED), "spread": str(UNPARTNERED), "sma": "", "lma": str(UNPARTNERED),
    }  # fmt: skip
    assert {row["without_partner"] for row in data.rows if row["kind"] != "merge"} == {None}


def test_a_percent_has_its_deviation_and_its_missing_runs() -> None:
    assert str(percent(Sample((), 2))) == "missing"
    assert str(percent(Sample((0.5,), 1))) == "50.00"
    assert str(percent(Sample((0.5, 0.7), 3))) == "60.00 (50.00, 70.00; 1 missing)"
    assert str(percent(Sample((0.5, 0.6, 0.7), 4))) == "60.00 ± 10.00 (1 missing)"
    assert percent(Sample((0.5, 0.6, 0.7), 4)).numbers == (60.0, 10.0, 3, 35.1586, 84.8414)


# -- findings --------------------------------------------------------------------------------------------------------


def said(data: FigureData, start: str) -> str:
    return next(text for text in sentences(data) if text.startswith(start))


def test_findings_hold_the_numbers_of_the_table(data: FigureData) -> None:
    text = said(data, "Merging two bars models of one architecture")
    runs = {
        method: {
            (row["architectures"], row["seeds"]): row["accuracy"]
            for row in data.usual
            if row["kind"] == "merge" and row["tasks"] == "bars" and row["homogeneous"] and not row["control"]
            and row["method"] == method
        }
        for method in ("permute", "identity")
    }  # fmt: skip
    differences = [runs["permute"][key] - runs["identity"][key] for key in runs["permute"]]
    named = {
        method: {f"bars.{pair}.{seeds}": value for (pair, seeds), value in own.items()} for method, own in runs.items()
    }
    paired = paired_difference(named["permute"], named["identity"])
    interval = paired.low, paired.high
    assert f"permute reaches {100 * mean(runs['permute'].values()):.1f} %" in text
    assert (
        f"plain averaging {100 * mean(runs['identity'].values()):.1f} %: {100 * mean(differences):+.1f} points" in text
    )
    assert f"95 % interval {100 * interval[0]:+.1f} to {100 * interval[1]:+.1f}, paired over 9 runs" in text
    assert "no evidence" not in text


def test_runs_that_only_one_method_has_count_for_neither(data: FigureData) -> None:
    assert "paired over 26 runs" in said(data, "Merging two bars models of different depths")  # 27 less one missing


def test_a_difference_whose_interval_holds_zero_is_no_evidence(data: FigureData) -> None:
    rng = np.random.default_rng(0)
    same = [row | ({"accuracy": 0.6 + rng.normal(0, 0.05)} if row["kind"] == "merge" else {}) for row in data.rows]
    alike = replace(data, rows=[row for row in same if row["status"] == "ok"])
    for start in ("Merging two bars models of one architecture", "Over all task pairs"):
        text = said(alike, start)
        low, high = (float(v) for v in re.search(r"interval ([+-][\d.]+) to ([+-][\d.]+)", text).groups())  # type: ignore[union-attr]
        assert (low <= 0 <= high) == ("no evidence" in text)
    assert not [
        text for text in sentences(alike) if text.startswith("Deviation against size mismatch")
    ]  # of three pairs


def test_two_runs_are_values_and_no_interval(data: FigureData) -> None:
    few = replace(data, rows=[row for row in data.rows if row["kind"] != "merge" or row["seeds"] in ("s0+s1", "s0+s2")])
    text = said(few, "Merging two bars models of one architecture")
    runs = int(re.search(r"(?:n =|over) (\d+)", text)[1])  # type: ignore[index]
    assert ("too few for an interval" in text) == (runs < 3)


def test_deviations_whose_intervals_all_hold_zero_are_no_evidence(data: FigureData) -> None:
    wide = [
        row | ({"accuracy": 0.9 if row["seeds"] in ("s0+s1", "s1+s1", "s0+s0") else 0.5} if row["accuracy"] else {})
        for row in data.rows
    ]
    text = said(replace(data, rows=wide), "On bars, merges of different depths")
    assert text.endswith("every interval holds zero, no evidence of a difference.")


def test_deviations_that_leave_zero_out_are_counted(data: FigureData) -> None:
    lower = [
        row | ({"accuracy": row["accuracy"] - 0.3} if row["accuracy"] and not row["homogeneous"] else {})
        for row in data.rows
    ]
    text = said(replace(data, rows=lower), "On bars, merges of different depths")
    assert "zero out for 3 below and 0 above" in text
    assert "no evidence" not in text


def test_single_runs_are_too_few_for_an_interval(data: FigureData) -> None:
    rows = [row for row in data.rows if row["kind"] == "edge" or row["seeds"] == "s0+s1"]
    assert "too few runs for intervals" in said(replace(data, rows=rows), "On bars, merges of different depths")


def with_widths(data: FigureData) -> FigureData:
    """As if r35 were r17x2, which has the blocks of r17."""
    changed = [
        row | {key: row[key].replace("r35", "r17x2") for key in ("cell", "architectures")}
        | ({"size_mismatch": 0.0} if row["architectures"] == "r35+r17" else {})
        for row in data.rows
    ]  # fmt: skip
    return replace(data, rows=changed)


def test_pairs_of_different_widths_are_called_so(data: FigureData) -> None:
    shown = with_widths(data)
    for difference, runs in (("depths", 9), ("widths", 8), ("depths and widths", 9)):
        assert f"paired over {runs} runs" in said(shown, f"Merging two bars models of different {difference}, permute")
        assert "1 pair," in said(shown, f"On bars, merges of different {difference} differ")
        assert said(shown, f"On task pairs, merges of different {difference} are")
    for side, difference in (("deep", "depths"), ("wide", "widths"), ("narrow", "widths")):
        assert said(shown, f"With the {side} side never trained, merges of different {difference} (permute) keep")
    assert not [text for text in sentences(shown) if text.startswith("Deviation against size mismatch")]


def test_pairs_of_different_widths_have_no_size_mismatch_to_be_drawn_at(data: FigureData) -> None:
    drawn = [text.get_text() for text in same_task_deviation(with_widths(data)).axes[0].texts]
    assert drawn == ["r29+r17"]
    labels = [text.get_text() for text in controls(with_widths(data)).axes[0].get_legend().get_texts()]
    assert labels == ["both trained", "first side untrained", "second side untrained", "random permutation"]


# -- checks ----------------------------------------------------------------------------------------------------------


def planted(report: SmallReport, cell: str, scope: str, **changes: Any) -> list[tuple[str, str, str]]:
    """What the checks say of the table with one changed row, less what they say of it as it is."""
    rows = report.rows
    before = [tuple(entry.values()) for entry in findings(rows, report.plan)]
    row = next(row for row in rows if (row["cell"], row["scope"]) == (cell, scope))
    row |= changes
    after = [tuple(entry.values()) for entry in findings(rows, report.plan)]
    assert [entry for entry in before if entry not in after] == []
    return [entry for entry in after if entry not in before]  # type: ignore[misc]


MERGE = "bars.r35+r17.s0+s1.permute.reset"
MIXED = "bars+dots.r35+r17.s0+s1.permute.reset"


def test_a_planned_cell_without_a_number_is_the_only_fault(small_report: SmallReport) -> None:
    found = json.loads((small_report.root / paths.AUDIT).read_text())
    assert (found["errors"], found["warnings"]) == (1, 0)
    assert found["findings"][0]["cell"] == MISSING
    assert MISSING in small_report.page.read_text()


def test_a_planned_pruned_network_without_a_number_is_an_error(small_report: SmallReport) -> None:
    gone = "bars.r17.s1.wanda-sparsity=0.9.reset"
    rows = [row for row in small_report.rows if row["cell"] not in (gone, MISSING)]
    measured = {measure: set(map(str, merges)) for measure, merges in small_report.plan.measured.items()}
    found = {entry["cell"]: entry["message"] for entry in findings(rows, small_report.plan, measured)}
    assert found == dict.fromkeys((MISSING, gone), "was planned and has no number for bars")


@pytest.mark.parametrize("value", [float("nan"), -0.01, 1.01, None])
def test_an_accuracy_that_cannot_be_is_an_error(small_report: SmallReport, value: float | None) -> None:
    (found,) = planted(small_report, MERGE, "bars", accuracy=value)
    assert found[:2] == ("error", MERGE)
    assert "accuracy on bars" in found[2]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0, None])
def test_a_loss_that_cannot_be_is_an_error(small_report: SmallReport, value: float | None) -> None:
    (found,) = planted(small_report, MIXED, "dots", loss=value)
    assert found[:2] == ("error", MIXED)
    assert "loss on dots" in found[2]


@pytest.mark.parametrize("cell", ["bars.r17.s0", MERGE])
def test_other_test_images_than_all_the_rest_are_an_error(small_report: SmallReport, cell: str) -> None:
    assert planted(small_report, cell, "bars", n=199) == [
        ("error", cell, "199 test images on bars, most have 200")
    ]  # also where it is the very first row


def test_a_model_that_has_learnt_nothing_is_a_warning(small_report: SmallReport) -> None:
    cell = "bars.r17.s0"
    even = {"confusion": [10, 40, 0, 0, 0, 50, 0, 0, 0, 50, 0, 0, 0, 50, 0, 0]}
    for accuracy, warned in ((0.26, False), (0.25, True)):
        found = planted(small_report, cell, "bars", accuracy=accuracy, **even)
        said = "has learnt nothing: accuracy 25.0 %, the most frequent class alone gives 25.0 %"
        assert (("warning", cell, said) in found) == warned


def test_a_merge_far_above_its_ensemble_is_a_warning(small_report: SmallReport) -> None:
    rows = {row["cell"]: row for row in small_report.rows}
    rows["bars.r35+r17.s0+s1"] |= {"accuracy": 0.6}
    for accuracy, warned in ((0.69, False), (0.71, True)):
        rows[MERGE] |= {"accuracy": accuracy}
        found = [entry for entry in findings(list(rows.values()), small_report.plan) if entry["level"] == "warning"]
        assert [entry["cell"] for entry in found if entry["cell"] == MERGE] == [MERGE] * warned
    assert "far above its ensemble's 60.0 %" in found[0]["message"]


def test_a_model_that_a_merge_with_itself_changed_is_a_warning(small_report: SmallReport) -> None:
    cell = "bars.r17+r17.s0+s0.permute.reset"
    (found,) = planted(small_report, cell, "bars", accuracy=0.5)
    assert found[:2] == ("warning", cell)
    assert "merged with itself has 50.0 %" in found[2]


def test_the_stage_counts_what_it_flags(small_report: SmallReport, tmp_path: Path) -> None:
    rows = small_report.rows
    for row in rows:
        if row["cell"] == MERGE:
            row |= {"accuracy": float("nan"), "n": 3}
    (tmp_path / paths.ARTIFACTS).mkdir()
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), tmp_path / paths.RESULTS)
    shutil.copytree(small_report.root / paths.MEASURED, tmp_path / paths.MEASURED)
    with contextlib.chdir(tmp_path):
        audit.run(Context(tmp_path, small_report.params), "")
    found = json.loads((tmp_path / paths.AUDIT).read_text())
    assert (found["rows"], found["errors"]) == (len(rows), 3)
    assert {entry["cell"] for entry in found["findings"]} == {MERGE, MISSING}


# -- the page ----------------------------------------------------------------------------------------------------------


class _Page(HTMLParser):
    """Every address that a page loads from or links to, its ids, and the tags left open."""

    VOID = frozenset({"meta", "link", "br", "wbr", "img", "input", "hr"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.open: list[str] = []
        self.feed(text)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)
        for key, value in attrs:
            if key == "id":
                self.ids.add(value or "")
            elif key == "href" and tag == "a":
                self.links.append(value or "")
            elif key in ("src", "srcset", "href", "xlink:href", "data", "poster", "action"):
                self.loads.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        assert self.open, tag
        assert self.open.pop() == tag


def test_the_page_says_how_models_with_a_recipe_of_their_own_were_trained(small_report: SmallReport) -> None:
    """All of it, not the one setting that params.yaml has; the others are in train and finetune."""
    shown = html.unescape(re.search(r"<pre>(seed: .*?)</pre>", small_report.page.read_text(), re.DOTALL)[1])
    assert yaml.safe_load(shown)["recipes"] == {
        "r29": small_report.params.train.model_dump() | {"learning_rate": 0.0625}
    }


def test_printed_numbers_stand_beside_the_merges_that_were_made_alike(data: FigureData) -> None:
    lines = {(line[1], line[6], line[7]): line for line in beside(data.papers, data.results)}
    line = lines["ResNet35 + ResNet17", "bars", "r35+r17"]
    assert line[0] == "depth_heterogeneity Table 2"
    assert [str(cell) for cell in line[2:6]] == [
        "Acc", "45.71 ± 0.91", str(percent(Sample(tuple(merged(data.rows, "r35+r17")), 9))), "permute"
    ]  # fmt: skip
    assert line[3].numbers == (45.71, 0.91, 16, None, None)
    assert not any("ResNet152" in method for method, *_ in lines)


def test_every_table_of_the_papers_is_read_or_has_no_counterpart(data: FigureData) -> None:
    """A method that is printed in words of its own is known by these; tables of similarities and barriers are not accuracies."""
    every = [name for paper in PAPERS for name in tables(paper)]
    wanted = {name: [READERS[row.source.split(" Table")[0]](row) for row in load(name)] for name in every}
    silent = {name for name, found in wanted.items() if not any(found)}
    assert silent == {
        "depth_heterogeneity_table4", "heterogeneous_merging_table3", "heterogeneous_merging_table4", "mudsc_table4",
    }  # fmt: skip


def test_tables_and_rows_can_be_taken_out_of_the_page(small_report: SmallReport) -> None:
    text = small_report.page.read_text(encoding="utf-8")
    held = dict(re.findall(r'<a download="([^"]+)" href="data:[^;]+;base64,([^"]+)"', text))
    tables = small_report.root / paths.TABLES
    for name in ("merges_same_task.csv", "edges.md"):
        assert base64.b64decode(held[name]) == (tables / name).read_bytes()
    lines = gzip.decompress(base64.b64decode(held["results.csv.gz"])).decode().splitlines()
    rows = pq.read_table(small_report.root / paths.RESULTS)
    assert lines[0].split(",") == rows.column_names
    assert len(list(csv.reader(lines))) == rows.num_rows + 1


def test_a_name_breaks_behind_its_plus_and_nowhere_else() -> None:
    assert str(breakable("digits+<landcover>")) == "digits+<wbr>&lt;landcover&gt;"
    assert str(breakable("r17")) == "r17"


def test_the_page_explains_its_words_and_how_to_repeat_it(small_report: SmallReport) -> None:
    text = small_report.page.read_text(encoding="utf-8")
    words = re.findall(r"<dt>([^<]+)</dt>", text[text.index('id="words"') :])
    assert {"edge model", "run", "joint", "permute", "reset", "r17"} <= set(words)
    assert "mergeline run</pre>" in text


def test_the_page_is_one_file_that_loads_nothing(small_report: SmallReport) -> None:
    text = small_report.page.read_text(encoding="utf-8")
    page = _Page(text)
    assert page.open == []
    assert [address for address in page.loads if not address.startswith(("data:", "#"))] == []
    assert "@import" not in text
    assert [
        address for address in re.findall(r"url\(([^)]*)\)", text) if not address.strip("\"'").startswith("#")
    ] == []
    assert len(text.encode()) < 3_000_000


def test_every_link_of_the_page_leads_somewhere(small_report: SmallReport) -> None:
    page = _Page(small_report.page.read_text(encoding="utf-8"))
    assert page.links
    for link in page.links:
        if link.startswith("#"):
            assert link[1:] in page.ids, link
        elif link not in {paper.link for paper in PAPERS.values()}:  # the page works where it is mailed alone
            assert link.startswith("data:"), link[:80]


def test_every_figure_and_table_is_on_the_page_with_its_files(small_report: SmallReport) -> None:
    page = _Page(small_report.page.read_text(encoding="utf-8"))
    for spec in ALL_FIGURES:
        assert f"figure-{spec.name}" in page.ids
        assert spec.table in page.ids
        for suffix in ("svg", "png"):
            assert (small_report.root / f"reports/figures/{spec.name}.{suffix}").stat().st_size > 1000
    assert {spec.name for spec in TABLES} <= page.ids


def test_what_people_wrote_is_text_and_no_markup(small_report: SmallReport) -> None:
    text = small_report.page.read_text(encoding="utf-8")
    assert "<title>a small &lt;report&gt;</title>" in text
    assert "<report>" not in text


def test_the_same_results_give_the_same_figures_and_tables(small_report: SmallReport, tmp_path: Path) -> None:
    from stages.report import plot

    shutil.copytree(small_report.root / paths.ARTIFACTS, tmp_path / paths.ARTIFACTS)
    with contextlib.chdir(tmp_path):
        plot.run(Context(tmp_path, small_report.params), "")
    made = sorted(p.relative_to(tmp_path) for p in (tmp_path / "reports").rglob("*") if p.is_file())
    assert len(made) == 2 * len(ALL_FIGURES) + 2 * len(TABLES) + 1
    assert [str(p) for p in made if (tmp_path / p).read_bytes() != (small_report.root / p).read_bytes()] == []
