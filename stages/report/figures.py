"""The figures: functions from rows of ``results.parquet`` to matplotlib figures.

Colours are Okabe and Ito's, told apart by every kind of eye; each series has a marker of its own too.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from cycler import cycler

from stages.plan.keys import Combination
from stages.report.analysis import (
    LEAST_POINTS,
    Deviation,
    PairResult,
    deviations,
    pair_results,
    simplicity,
    spearman,
    trained_partner,
)
from stages.report.hover import mark, mark_bars
from stages.report.intervals import LEAST_RUNS, Sample
from stages.report.rows import (
    Row,
    combination_of,
    edge_of,
    main_scope,
    method_label,
    score_of,
    score_word,
    source_edges,
)
from stages.report.spread import percent

mpl.use("Agg")

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["FIGURES", "SIDES", "FigureData", "FigureSpec", "first_shown", "new_figure", "style"]

BLUE, ORANGE, GREEN, PINK, SKY, RED, GRAY = (
    "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#7f7f7f",
)  # fmt: skip
CYCLE = [BLUE, ORANGE, GREEN, PINK, SKY, RED, "#882255", GRAY]
MARKERS = "osD^vPX*"
SIDES = {"depths": ("deep", "shallow"), "widths": ("wide", "narrow"), "depths and widths": ("deep", "shallow")}
"""By what the models of a pair differ in, what the first and the second are called."""
INK = "#4a4a4a"


@dataclass(frozen=True)
class FigureData:
    """What the figures are made of."""

    rows: Sequence[Row]
    histories: Sequence[Row]
    similarities: Sequence[Row]
    measured: Mapping[str, Sequence[Row]]
    """By measure, the rows of its table (:data:`stages.formats.measurements.MEASURES`)."""
    method: str
    reference: str
    papers: Sequence[str] = ()
    """Tables of papers that the merges stand beside."""
    blocks: Sequence[Row] = ()
    """How alike the blocks of two edges of different depth are (:mod:`stages.formats.blocks`), by ``cell``."""

    @cached_property
    def usual(self) -> list[Row]:
        """The rows of models that were trained as usual, and of their merges: without those of sweeps."""
        return [row for row in self.rows if row["recipe"] is None]

    @cached_property
    def word(self) -> str:
        """What the benchmark's tasks are judged by: accuracy, R², or "score" where some are by one and some by the other."""
        return score_word(self.rows)

    @cached_property
    def results(self) -> list[PairResult]:
        """Those of the usual rows."""
        return pair_results(self.usual)

    @cached_property
    def all_results(self) -> list[PairResult]:
        """Those of all rows: each point of a sweep is a setting of its own."""
        return pair_results(self.rows)


@dataclass(frozen=True)
class FigureSpec:
    """A figure: its file name, title, the sentence below it, what makes it, which rows it shows, and the table of the
    report that has them in numbers."""

    name: str
    title: str
    caption: str
    draw: Callable[[FigureData], Figure | None]
    rows: str
    table: str
    source: str = "results.parquet"


def style() -> Any:
    """Settings for all figures; text stays text in SVG, and the same data give the same bytes."""
    return {
        "figure.figsize": (6.0, 4.2), "figure.constrained_layout.use": True, "figure.dpi": 100, "savefig.dpi": 150,
        "font.size": 10, "font.family": "sans-serif", "axes.spines.top": False, "axes.spines.right": False,
        "axes.edgecolor": INK, "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK, "text.color": INK,
        "axes.titlesize": 11, "axes.titlecolor": INK, "legend.frameon": False, "legend.fontsize": 8.5,
        "axes.grid": True, "grid.alpha": 0.25, "grid.linewidth": 0.6, "svg.fonttype": "none",
        "svg.hashsalt": "mergeline", "axes.prop_cycle": cycler(color=CYCLE), "lines.markersize": 6,
    }  # fmt: skip


def new_figure(width: float = 6.0, height: float = 4.2, columns: int = 1, rows: int = 1, **options: Any) -> Any:
    import matplotlib.pyplot as plt

    return plt.subplots(rows, columns, figsize=(width, height), **options)


def _percent(values: Any) -> Any:
    return 100 * np.asarray(values, dtype=np.float64)


def _error(sample: Sample) -> float:
    return 0.0 if sample.n < LEAST_RUNS else 100 * sample.std


def _two_values(axes: Axes, x: float, sample: Sample) -> None:
    """Of two runs both values, in place of a deviation that says nothing."""
    if 1 < sample.n < LEAST_RUNS:
        axes.plot([x] * sample.n, _percent(sample.values), ".", color=INK, ms=3, zorder=3)


def _said(name: str, sample: Sample) -> str:
    return f"{name}: {percent(sample)} % (n = {sample.n})"


def _same_task(data: FigureData) -> list[PairResult]:
    return [r for r in data.results if r.same_task and r.method == data.method and r.accuracy.n]


def _task_pairs(data: FigureData) -> list[PairResult]:
    return [r for r in data.results if not r.same_task and r.method == data.method and r.accuracy.n]


# -- same task: depth_heterogeneity Fig. 1 ---------------------------------------------------------------------------


def same_task_homogeneous(data: FigureData) -> Figure | None:
    """Homogeneous merges against the accuracy of the models they were made from (Fig. 1 left)."""
    chosen = [r for r in _same_task(data) if r.homogeneous]
    if not chosen:
        return None
    figure, axes = new_figure()
    for index, result in enumerate(chosen):
        name = f"{result.tasks} {result.combination.architectures[0]}"
        drawn = axes.errorbar(
            100 * result.sources.mean, 100 * result.accuracy.mean, _error(result.accuracy), _error(result.sources),
            fmt=MARKERS[index % len(MARKERS)], capsize=3, label=name,
        )  # fmt: skip
        mark_bars(drawn, name, f"{_said(name, result.accuracy)}, sources {percent(result.sources)} %")
        _two_values(axes, 100 * result.sources.mean, result.accuracy)
    axes.set(xlabel=f"{data.word} of the source models (%)", ylabel=f"{data.word} of their merge, {data.method} (%)")
    axes.legend()
    return figure


def same_task_parity(data: FigureData) -> Figure | None:
    """Heterogeneous merges against the range of the two homogeneous ones (Fig. 1 middle)."""
    found = [d for d in deviations(data.results, data.method) if d.same_task]
    several = len({d.tasks for d in found}) > 1
    return _parity(found, lambda d: f"{d.tasks} {d.architectures}" if several else d.architectures) if found else None


def _parity(found: Sequence[Deviation], label: Callable[[Deviation], str]) -> Figure:
    figure, axes = new_figure()
    for index, deviation in enumerate(found):
        y = 100 * deviation.heterogeneous.mean
        colour = CYCLE[index % len(CYCLE)]
        span = [100 * deviation.worst, 100 * deviation.best]
        (line,) = axes.plot(span, [y, y], color=colour, lw=3, solid_capstyle="round")
        drawn = axes.errorbar(
            sum(span) / 2, y, _error(deviation.heterogeneous), fmt=MARKERS[index % len(MARKERS)], color=colour, capsize=3,
            label=label(deviation),
        )  # fmt: skip
        mark(line, label(deviation), _said_of(deviation))
        mark_bars(drawn, label(deviation), _said_of(deviation))
        _two_values(axes, sum(span) / 2, deviation.heterogeneous)
    _diagonal(axes)
    axes.set(xlabel="homogeneous merges, worst to best of the two architectures (%)", ylabel="heterogeneous merge (%)")
    axes.legend(fontsize=7.5 if len(found) > 6 else 8.5, ncols=2 if len(found) > 6 else 1)
    return figure


def _said_of(deviation: Deviation) -> str:
    name = _said(f"{deviation.tasks} {deviation.architectures}", deviation.heterogeneous)
    return f"{name}, homogeneous {100 * deviation.worst:.2f} and {100 * deviation.best:.2f} %"


def _diagonal(axes: Axes) -> None:
    low = min(axes.get_xlim()[0], axes.get_ylim()[0])
    high = max(axes.get_xlim()[1], axes.get_ylim()[1])
    axes.plot([low, high], [low, high], color=GRAY, lw=1, ls="--", zorder=0)
    axes.set_xlim(low, high)
    axes.set_ylim(low, high)


def same_task_deviation(data: FigureData) -> Figure | None:
    """Heterogeneous minus mean homogeneous accuracy against size mismatch, of pairs that differ in depth alone (Fig. 1 right)."""
    found = [d for d in deviations(data.results, data.method) if d.same_task and d.difference == "depths"]
    return _deviation(found, [d.size_mismatch for d in found], "size mismatch of the pair") if found else None


def _deviation(found: Sequence[Deviation], x: Sequence[float], label: str) -> Figure:
    figure, axes = new_figure()
    tasks = list(dict.fromkeys(d.tasks for d in found))
    for deviation, place in zip(found, x, strict=True):
        index = tasks.index(deviation.tasks)
        y = 100 * deviation.value
        known = not np.isnan(deviation.low)
        bars = [[y - 100 * deviation.low], [100 * deviation.high - y]] if known else None
        drawn = axes.errorbar(
            [place], [y], bars, fmt=MARKERS[index % len(MARKERS)], capsize=2, lw=1, color=CYCLE[index % len(CYCLE)],
        )  # fmt: skip
        interval = (
            f" [{100 * deviation.low:+.2f}, {100 * deviation.high:+.2f}]" if known else ", too few runs for an interval"
        )
        mark_bars(drawn, deviation.tasks, f"{deviation.tasks} {deviation.architectures}: {y:+.2f} points{interval}")
    for index, task in enumerate(tasks):
        axes.plot([], [], MARKERS[index % len(MARKERS)], color=CYCLE[index % len(CYCLE)], label=task)
    _follow_points(axes, [100 * d.value for d in found])
    if len(found) <= 6:
        for value, deviation in zip(x, found, strict=True):
            axes.annotate(
                deviation.architectures, (value, 100 * deviation.value), xytext=(6, 4), textcoords="offset points",
                fontsize=8,
            )  # fmt: skip
    axes.axhline(0, color=GRAY, lw=1, ls="--")
    by_place: dict[float, list[float]] = {}
    for place, deviation in zip(x, found, strict=True):
        by_place.setdefault(place, []).append(deviation.value)
    # Combinations of one pair of tasks, or of architectures, stand at one place: they are one point of a correlation.
    found_correlation = spearman(list(by_place), [float(np.mean(values)) for values in by_place.values()])
    if np.isfinite(found_correlation.rho) and found_correlation.n >= LEAST_POINTS:
        axes.set_title(
            f"Spearman {found_correlation.rho:+.2f}, p = {found_correlation.p_value:.2f}, n = {found_correlation.n}",
            fontsize=9,
        )
    axes.set(xlabel=label, ylabel="heterogeneous − mean homogeneous (points)")
    if len(tasks) > 1:
        axes.legend(fontsize=7.5)
    return figure


def _follow_points(axes: Axes, values: Sequence[float]) -> None:
    """An axis that shows the points well, whatever the width of their intervals, which may run out of the picture."""
    low, high = min(0.0, *values), max(0.0, *values)
    room = max(0.25 * (high - low), 0.5)
    axes.set_ylim(low - room, high + room)


# -- several tasks: depth_heterogeneity Fig. 2 and 3 -----------------------------------------------------------------


def _pair_simplicity(data: FigureData) -> dict[str, float]:
    single = simplicity(data.rows, data.reference)
    pairs = {r.tasks: r.combination.tasks for r in _task_pairs(data)}
    return {
        pair: float(np.mean([single[task] for task in tasks]))
        for pair, tasks in pairs.items()
        if all(task in single for task in tasks)
    }


def task_pairs_by_simplicity(data: FigureData) -> Figure | None:
    """Original and homogeneously merged accuracy, task pairs from hard to simple (Fig. 2)."""
    order = _pair_simplicity(data)
    chosen = [r for r in _task_pairs(data) if r.homogeneous and r.tasks in order]
    if not chosen:
        return None
    names = sorted({r.tasks for r in chosen}, key=lambda name: (order[name], name))
    figure, axes = new_figure(7.0, 4.4)
    axes.plot(
        range(len(names)), _percent([order[name] for name in names]), color=GRAY, marker="_", ms=14,
        label=f"source models ({data.reference})",
    )  # fmt: skip
    architectures = list(dict.fromkeys(r.combination.architectures for r in chosen))
    for index, pair in enumerate(architectures):
        by_task = {r.tasks: r for r in chosen if r.combination.architectures == pair}
        x = [i for i, name in enumerate(names) if name in by_task]
        places = np.array(x) + 0.12 * (index - (len(architectures) - 1) / 2)
        (line,) = axes.plot(
            places, _percent([by_task[names[i]].accuracy.mean for i in x]), "-", lw=1, color=CYCLE[index % len(CYCLE)]
        )
        mark(line, f"merged {pair[0]}", f"merged {pair[0]}")
        for place, sample in zip(places, (by_task[names[i]].accuracy for i in x), strict=True):
            drawn = axes.errorbar(
                [place], [100 * sample.mean], [_error(sample)], fmt=MARKERS[index % len(MARKERS)], capsize=3, lw=1,
                color=CYCLE[index % len(CYCLE)],
            )  # fmt: skip
            mark_bars(drawn, f"merged {pair[0]}", _said(f"{names[round(place)]} {pair[0]}", sample))
            _two_values(axes, place, sample)
        axes.plot(
            [],
            [],
            MARKERS[index % len(MARKERS)] + "-",
            lw=1,
            color=CYCLE[index % len(CYCLE)],
            label=f"merged {pair[0]}",
        )
    axes.set_xticks(range(len(names)), [name.replace("+", "\n+ ") for name in names], fontsize=8)
    axes.set(ylabel=f"{data.word}, mean of the tasks (%)", xlabel="task pair, the hardest first")
    axes.legend()
    return figure


def task_pairs_parity(data: FigureData) -> Figure | None:
    """Heterogeneous against homogeneous merges of task pairs (Fig. 3 left)."""
    found = [d for d in deviations(data.results, data.method) if not d.same_task]
    if not found:
        return None
    figure, axes = new_figure(6.0, 4.6)
    tasks = list(dict.fromkeys(d.tasks for d in found))
    for deviation in found:
        index = tasks.index(deviation.tasks)
        y = 100 * deviation.heterogeneous.mean
        colour = CYCLE[index % len(CYCLE)]
        (line,) = axes.plot([100 * deviation.worst, 100 * deviation.best], [y, y], color=colour, lw=2.5, alpha=0.8)
        (point,) = axes.plot(
            50 * (deviation.worst + deviation.best), y, MARKERS[index % len(MARKERS)], color=colour, ms=5
        )
        for artist in (line, point):
            mark(artist, deviation.tasks, _said_of(deviation))
    for index, task in enumerate(tasks):
        axes.plot([], [], MARKERS[index % len(MARKERS)], color=CYCLE[index % len(CYCLE)], label=task)
    _diagonal(axes)
    axes.set(xlabel="homogeneous merges, worst to best of the two architectures (%)", ylabel="heterogeneous merge (%)")
    axes.legend()
    return figure


def task_pairs_by_pair_simplicity(data: FigureData) -> Figure | None:
    """Deviation against simplicity of the task pair (Fig. 3 middle)."""
    order = _pair_simplicity(data)
    found = [d for d in deviations(data.results, data.method) if d.tasks in order]
    return _deviation(found, [order[d.tasks] for d in found], "simplicity of the task pair") if found else None


def task_pairs_by_similarity(data: FigureData) -> Figure | None:
    """Deviation against similarity of the tasks (Fig. 3 right)."""
    known = {
        frozenset((row["first"], row["second"])): row["similarity"]
        for row in data.similarities
        if row["similarity"] is not None
    }
    found = [d for d in deviations(data.results, data.method) if frozenset(d.combination.tasks) in known]
    x = [known[frozenset(d.combination.tasks)] for d in found]
    return _deviation(found, x, "similarity of the two tasks") if found else None


# -- methods, controls, training, confusion --------------------------------------------------------------------------


def methods_compared(data: FigureData) -> Figure | None:
    """Every method beside the ensemble, for each pair of architectures on one task."""
    chosen = [r for r in data.results if r.same_task and r.accuracy.n]
    if not chosen:
        return None
    pairs = list(dict.fromkeys((r.tasks, r.architectures) for r in chosen))[:16]
    methods = first_shown(list(dict.fromkeys(r.method for r in chosen)), 7 if len(pairs) > 4 else 11)
    figure, axes = new_figure(max(6.0, 0.9 * len(pairs) + 2), 4.2)
    width = 0.8 / (len(methods) + 1)
    for index, method in enumerate([*methods, "ensemble"]):
        label: str | None = method
        for place, pair in enumerate(pairs):
            results = [r for r in chosen if (r.tasks, r.architectures) == pair]
            result = next((r for r in results if r.method == method), results[0] if method == "ensemble" else None)
            if result is None:
                continue
            sample = result.ensemble if method == "ensemble" else result.accuracy
            x = place + (index - len(methods) / 2) * width
            colour = GRAY if method == "ensemble" else CYCLE[index % (len(CYCLE) - 1)]
            (bar,) = axes.bar(
                x, 100 * sample.mean, width * 0.92, yerr=_error(sample) or None, color=colour,
                hatch="//" if index >= len(CYCLE) - 1 and method != "ensemble" else None, edgecolor="white",
                error_kw={"lw": 0.8, "ecolor": INK}, label=label,
            )  # fmt: skip
            mark(bar, method, _said(f"{pair[0]} {pair[1]}, {method}", sample))
            _two_values(axes, x, sample)
            label = None
    axes.set_xticks(range(len(pairs)), _pair_labels(pairs), fontsize=8, rotation=30 if len(pairs) > 7 else 0)
    axes.set(ylabel=f"{data.word} (%)")
    longest = max(len(name) for name in [*methods, "ensemble"])
    columns = max(1, min(4, int(figure.get_figwidth() / (0.08 * longest + 0.6))))
    figure.legend(ncols=columns, loc="outside upper center")
    return figure


def first_shown(methods: Sequence[str], most: int) -> list[str]:
    """Methods as they are first, then repaired ones, then those with other settings; in the order of the benchmark."""
    ranked = sorted(methods, key=lambda name: 0 if " " not in name else 1 if name.split(" ")[1:] == ["repair"] else 2)
    shown = set(ranked[:most])
    return [name for name in methods if name in shown]


def _pair_labels(pairs: Sequence[tuple[str, str]]) -> list[str]:
    """Architectures, below their task where there are several tasks."""
    several = len({task for task, _ in pairs}) > 1
    return [f"{task}\n{architectures}" if several else architectures for task, architectures in pairs]


def controls(data: FigureData) -> Figure | None:
    """What is left when one side was never trained, or units are shuffled: heterogeneous merges and their controls."""
    names = ("", "untrained-0", "untrained-1", "random")
    found = {
        (control, result.combination): result
        for control in names[1:]
        for result in pair_results(data.rows, control)
        if result.same_task and result.method == ("random" if control == "random" else data.method)
    }
    partners = {
        (control, combination): trained_partner(data.results, result, data.method)
        for (control, combination), result in found.items()
    }
    shown = list(dict.fromkeys(own for (_, own), partner in partners.items() if partner.n and own.difference))
    if not shown:
        return None
    called = _control_names({combination.difference for combination in shown})
    figure, axes = new_figure(max(6.0, 1.4 * len(shown) + 2), 4.2)
    for index, control in enumerate(names):
        label: str | None = called[control]
        for place, combination in enumerate(shown):
            sample = (
                found[control, combination].accuracy if (control, combination) in found
                else _all_partners(partners, combination) if not control else None
            )  # fmt: skip
            if sample is None or not sample.n:
                continue
            (bar,) = axes.bar(place + (index - 1.5) * 0.2, 100 * sample.mean, 0.18, color=CYCLE[index], label=label)
            mark(bar, called[control], _said(f"{combination.tasks_label} {combination.architectures_label}", sample))
            label = None
    pairs = [(combination.tasks_label, combination.architectures_label) for combination in shown]
    axes.set_xticks(range(len(pairs)), _pair_labels(pairs))
    axes.set(ylabel=f"{data.word}, {data.method} (%)")
    axes.legend(ncols=2, loc="upper center", bbox_to_anchor=(0.5, 1.2))
    return figure


def _all_partners(partners: Mapping[tuple[str, Combination], Sample], combination: Combination) -> Sample:
    """What stands beside a pair's controls: the same runs with both models trained."""
    found = {
        models: value
        for (_, own), sample in partners.items()
        if own == combination
        for models, value in zip(sample.models, sample.values, strict=True)
    }
    return Sample(tuple(found.values()), len(found), tuple(found))


def _control_names(differences: Collection[str]) -> dict[str, str]:
    """What the controls are called, by what the models of the pairs differ in."""
    called = {SIDES[difference] for difference in differences}
    first, second = called.pop() if len(called) == 1 else ("first", "second")
    return {"": "both trained", "untrained-0": f"{first} side untrained", "untrained-1": f"{second} side untrained",
            "random": "random permutation"}  # fmt: skip


def learning_curves(data: FigureData) -> Figure | None:
    """Training accuracy of every edge model by epoch."""
    curves: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for row in data.histories:
        task, _ = edge_of(row)
        curves.setdefault(task, {}).setdefault(row["edge"], []).append((row["epoch"], row["accuracy"]))
    if not curves:
        return None
    count = len(curves)
    figure, panels = new_figure(min(3.2 * count + 0.6, 12), 3.4, columns=count, sharey=True, squeeze=False)
    architectures = list(dict.fromkeys(edge_of(row)[1] for row in data.histories))
    architecture = {row["edge"]: edge_of(row)[1] for row in data.histories}
    for axes, (task, edges) in zip(panels[0], curves.items(), strict=True):
        for edge, points in edges.items():
            index = architectures.index(architecture[edge])
            x, y = zip(*points, strict=True)
            axes.plot(x, _percent(y), color=CYCLE[index % len(CYCLE)], lw=1.2, alpha=0.85)
        axes.set(title=task, xlabel="epoch")
        axes.xaxis.set_major_locator(mpl.ticker.MaxNLocator(integer=True))
    panels[0][0].set_ylabel(f"training {data.word} (%)")
    for index, name in enumerate(architectures):
        panels[0][0].plot([], [], color=CYCLE[index % len(CYCLE)], label=name)
    panels[0][0].legend()
    return figure


def confusions(data: FigureData) -> Figure | None:
    """Confusion of the two sources and of their merge, for one homogeneous and one heterogeneous pair."""
    by_cell = {(r["cell"], r["scope"]): r for r in data.rows if r["status"] == "ok" and r.get("confusion")}
    shown = []
    for homogeneous in (True, False):
        for row in data.rows:
            if (row["kind"], row["control"], row["status"], row["homogeneous"]) != ("merge", "", "ok", homogeneous):
                continue
            if not combination_of(row).same_task or method_label(row) != data.method or not row.get("confusion"):
                continue
            sources = source_edges(row)
            panels = [by_cell.get((name, row["tasks"])) for name in sources]
            if all(panel is not None for panel in panels):
                shown.append([*zip(sources, panels, strict=True), (f"merge {row['architectures']}", row)])
                break
    if not shown:
        return None
    columns = max(len(entries) for entries in shown)
    figure, panels_ = new_figure(3.0 * columns, 3.1 * len(shown), columns=columns, rows=len(shown), squeeze=False)
    for line, entries in zip(panels_, shown, strict=True):
        for axes in line[len(entries) :]:
            axes.set_visible(False)
        for axes, (title, shown_row) in zip(line, entries, strict=False):
            assert shown_row is not None
            flat = np.array(shown_row["confusion"], dtype=np.float64)
            size = round(len(flat) ** 0.5)
            matrix = flat.reshape(size, size)
            axes.imshow(matrix / matrix.sum(1, keepdims=True).clip(min=1), cmap="cividis", vmin=0, vmax=1)
            axes.set_title(f"{title}\n{100 * shown_row['accuracy']:.1f} %", fontsize=8.5)
            axes.grid(visible=False)
            axes.set_xticks([])
            axes.set_yticks([])
        line[0].set_ylabel("true class")
    for axes in panels_[-1]:
        axes.set_xlabel("predicted class")
    return figure


# -- layers kept apart: vanishing_feature Sec. 5.4 ---------------------------------------------------------------------


def kept_layers(data: FigureData) -> Figure | None:
    """Accuracy against multiply-adds, a line for each method and normalisation, a panel for each setting."""
    found: dict[str, dict[str, dict[int, list[float]]]] = {}
    kept: set[tuple[str, str]] = set()
    for row in data.rows:
        if row["kind"] != "merge" or row["status"] != "ok" or row["control"] or row["stop"]:
            continue
        if row["scope"] != main_scope(row):
            continue
        setting, series = f"{row['tasks']}, {row['architectures']}", f"{row['method']}, {row['normalize']}"
        found.setdefault(setting, {}).setdefault(series, {}).setdefault(row["flops"], []).append(score_of(row))
        if row["preserve"]:
            kept.add((setting, series))
    panels = {setting: [name for name in lines if (setting, name) in kept] for setting, lines in found.items()}
    panels = {setting: names for setting, names in panels.items() if names}
    if not panels:
        return None
    figure, axes_ = new_figure(max(6.4, 5.2 * len(panels)), 5.6, len(panels), squeeze=False, sharey=True)
    for axes, (setting, names) in zip(axes_[0], panels.items(), strict=True):
        least = min(cost for lines in found[setting].values() for cost in lines)
        for index, name in enumerate(names):
            points = sorted(found[setting][name].items())
            values = [_percent(accuracies) for _, accuracies in points]
            axes.errorbar(
                [cost / least for cost, _ in points], [v.mean() for v in values],
                [v.std(ddof=1) if len(v) >= LEAST_RUNS else 0 for v in values], label=name, capsize=2, linewidth=1.2,
                marker=MARKERS[index % len(MARKERS)], linestyle="-" if index < len(CYCLE) else "--",
            )  # fmt: skip
        axes.set_title(setting)
        axes.set_xlabel("multiply-adds, in those of one model")
        axes.legend(fontsize=7, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.13))
    axes_[0][0].set_ylabel(f"{data.word} (%)")
    return figure


FIGURES: tuple[FigureSpec, ...] = (
    FigureSpec("same_task_methods", "Methods on one task", "Mean over runs; whiskers are one standard deviation, dots two runs.",
               methods_compared, "kind merge or ensemble, one task, control empty", "merges_same_task"),
    FigureSpec("same_task_homogeneous", "Homogeneous merges against their sources",
               "As depth_heterogeneity Fig. 1 left: what merging costs where both models are of one architecture.",
               same_task_homogeneous, "kind merge, one task, homogeneous", "merges_same_task"),
    FigureSpec("same_task_parity", "Heterogeneous against homogeneous merges",
               "As depth_heterogeneity Fig. 1 middle: a span from the worse to the better of the two homogeneous merges; on "
               "the diagonal a mixed pair does as well as they do.", same_task_parity, "kind merge, one task",
               "merges_same_task"),
    FigureSpec("same_task_deviation", "Deviation against size mismatch",
               "As depth_heterogeneity Fig. 1 right: pairs that differ in depth alone; bars are 95 % "
               "intervals, which may run out of the picture.",
               same_task_deviation, "kind merge, one task", "merges_same_task"),
    FigureSpec("kept_layers", "First layers kept apart",
               "As vanishing_feature Table 1: each model keeps its first layers, what they give is averaged once; on the left "
               "nothing is kept. Whiskers are one standard deviation over runs.", kept_layers,
               "kind merge, control empty, stop empty", "merges_same_task"),
    FigureSpec("controls", "What one side alone is worth",
               "The same merges with one side replaced by a network that never trained, and with shuffled units: means over the "
               "runs that have controls.",
               controls, "kind merge, one task, control not empty", "controls"),
    FigureSpec("task_pairs_simplicity", "Task pairs by simplicity", "As depth_heterogeneity Fig. 2.",
               task_pairs_by_simplicity, "kind merge, several tasks, homogeneous, scope mean", "merges_task_pairs"),
    FigureSpec("task_pairs_parity", "Heterogeneous against homogeneous merges of task pairs",
               "As depth_heterogeneity Fig. 3 left.", task_pairs_parity, "kind merge, several tasks, scope mean",
               "merges_task_pairs"),
    FigureSpec("task_pairs_deviation_simplicity", "Deviation against simplicity", "As depth_heterogeneity Fig. 3 middle; bars are "
               "95 % intervals, which may run out of the picture.",
               task_pairs_by_pair_simplicity, "kind merge, several tasks, scope mean", "merges_task_pairs"),
    FigureSpec("task_pairs_deviation_similarity", "Deviation against similarity", "As depth_heterogeneity Fig. 3 right; bars are "
               "95 % intervals, which may run out of the picture.",
               task_pairs_by_similarity, "kind merge, several tasks, scope mean", "merges_task_pairs"),
    FigureSpec("learning_curves", "Learning curves", "Training accuracy of every edge model, on augmented images.",
               learning_curves, "all", "edges", "histories.parquet"),
    FigureSpec("confusion", "Confusion of merged models and their sources", "Rows sum to one; bright is often.",
               confusions, "kind edge and merge, one task, column confusion", "edges"),
)  # fmt: skip
"""All figures in the order of the report."""
