"""The tables: functions from the rows of ``results.parquet`` to a header and lines of text and numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mergeline.kinds import Target
from stages.plan.keys import Combination, Narrowed, Pruned, TaskPair
from stages.report.analysis import (
    Deviation,
    PairResult,
    deviations,
    pair_results,
    sample_of,
    simplicity,
    trained_partner,
)
from stages.report.beside import HEADER, beside
from stages.report.between import barriers
from stages.report.compressed import compressed_results
from stages.report.dense import dense_results
from stages.report.diagnosed import groups, layer_lines
from stages.report.figures import FigureData
from stages.report.intervals import Sample, sources_of_run
from stages.report.placed import placement_lines
from stages.report.rows import combination_of, score_of, targets_of
from stages.report.spread import Spread, percent, spread_of

__all__ = ["TABLES", "TableSpec"]

Lines = tuple[list[str], list[list[Any]]]


@dataclass(frozen=True)
class TableSpec:
    """A table: its file name, title, the sentence below it, and what makes it."""

    name: str
    title: str
    caption: str
    make: Callable[[FigureData], Lines]


def _number(value: float | None, digits: int = 2, scale: float = 100.0) -> str:
    return "" if value is None or math.isnan(value) else f"{scale * value:.{digits}f}"


MOST_COLUMNS = 10
"""Methods and settings up to which a table of merges has a column for each; with more, each has lines of its own."""


def _merges_by_line(results: Sequence[PairResult], word: str) -> Lines:
    """A line for each setting of each pair."""
    header = ["tasks", "models", "method and settings", "runs", f"{word} (%)", "sources", "ensemble"]
    lines = [
        [
            r.tasks,
            r.architectures,
            r.method,
            _runs(r.accuracy),
            percent(r.accuracy),
            percent(r.sources),
            percent(r.ensemble),
        ]
        for r in results
    ]
    return header, lines


def _runs(sample: Sample) -> str:
    return f"{sample.n}" if not sample.missing else f"{sample.n}/{sample.planned}"


def _merges(data: FigureData, several: bool) -> Lines:
    results = [r for r in data.all_results if r.same_task != several]
    methods = list(dict.fromkeys(r.method for r in results))
    if len(methods) > MOST_COLUMNS:
        return _merges_by_line(results, data.word)
    deviation = {(d.tasks, d.architectures): d for d in deviations(data.all_results, data.method)}
    scopes = ["joint"] if several and any("joint" in r.per_scope for r in results) else []
    first_of_all = [data.method] if data.method in methods else []  # a narrow screen shows the first columns alone
    others = [name for name in methods if name != data.method]
    header = [
        "tasks", "models", *first_of_all, "sources", "ensemble", "against homogeneous", "runs", *others,
        *(f"{scope}, {data.method}" for scope in scopes),
    ]  # fmt: skip
    if not several:
        header += ["agrees with 1st", "agrees with 2nd", "follows 1st", "follows 2nd"]
    lines = []
    for tasks, pair in dict.fromkeys((r.tasks, r.architectures) for r in results):
        own = {r.method: r for r in results if (r.tasks, r.architectures) == (tasks, pair)}
        first = next(iter(own.values()))
        main = own.get(data.method, first)
        found = deviation.get((tasks, pair))
        line = [
            tasks, pair, *(percent(own[m].accuracy) if m in own else "" for m in first_of_all),
            percent(first.sources), percent(first.ensemble), _against(found) if found else "", _runs(main.accuracy),
            *(percent(own[m].accuracy) if m in own else "" for m in others),
            *(_scope(main.per_scope, scope) for scope in scopes),
        ]  # fmt: skip
        if not several:
            line += [_number(main.agreement.get(key)) for key in ("agree_0", "agree_1", "follow_0", "follow_1")]
        lines.append(line)
    return header, lines


def _against(found: Deviation) -> Spread:
    """``+1.20 [-0.30, +2.70]``: a difference in points with its interval."""
    value, low, high = (100 * number for number in (found.value, found.low, found.high))
    if math.isnan(low):
        return Spread(f"{value:+.2f}", (round(value, 4), None, found.heterogeneous.n, None, None))
    text = f"{value:+.2f} [{low:+.2f}, {high:+.2f}]"
    return Spread(text, (round(value, 4), None, found.heterogeneous.n, round(low, 4), round(high, 4)))


def _per_task(data: FigureData) -> Lines:
    """As depth_heterogeneity Table 3: the mean over tasks, each task, and joint; each ends with its ensemble."""
    header = ["tasks", "models", "method", "mean", "first task", "second task", "joint", "runs"]
    found: dict[Combination, list[PairResult]] = {}
    for result in data.all_results:
        if not result.same_task:
            found.setdefault(result.combination, []).append(result)
    lines = []
    for own, results in found.items():
        names = [own.tasks_label, own.architectures_label]
        lines += [[*names, r.method, *_scopes(own, r.per_scope, r.accuracy), r.accuracy.n] for r in results]
        rows = [row for row in data.rows if row["kind"] == "ensemble" and combination_of(row) == own]
        scopes = {
            scope: sample_of([row for row in rows if row["scope"] == scope])
            for scope in [*own.tasks, "joint"]
            if scope != "joint" or "joint" in results[0].per_scope
        }
        lines.append([*names, "ensemble", *_scopes(own, scopes, results[0].ensemble), results[0].ensemble.n])
    return header, lines


def _scopes(combination: Combination, by_scope: Mapping[str, Sample], mean: Sample) -> list[Spread | str]:
    own = [percent(by_scope[task]) for task in combination.tasks[:2]]
    return [percent(mean), *own, _scope(by_scope, "joint")]


def _scope(by_scope: Mapping[str, Sample], scope: str) -> Spread | str:
    """Empty where there is no such thing: classes and values have no union."""
    return percent(by_scope[scope]) if scope in by_scope else ""


def _edges(data: FigureData) -> Lines:
    by_kind: dict[tuple[str, str], list[Any]] = {}
    for row in data.rows:
        if row["kind"] == "edge" and not row["control"]:
            by_kind.setdefault((row["tasks"], row["architectures"]), []).append(row)
    lines = []
    for (task, architecture), rows in by_kind.items():
        good = [row for row in rows if row["status"] == "ok"]
        calibration = [row["calibration_error"] for row in good if row["calibration_error"] is not None]
        sample = Sample(tuple(score_of(row) for row in good), len(rows))
        lines.append(
            [
                task, architecture, sample.n, percent(sample),
                _number(float(np.mean(calibration)) if calibration else None),
                good[0]["parameters"] if good else "", f"{good[0]['flops'] / 1e6:.1f}" if good else "",
            ]
        )  # fmt: skip
    header = ["task", "model", "seeds", f"{data.word} (%)", "calibration error (%)", "parameters", "multiply-adds (M)"]
    return header, lines


def _controls(data: FigureData) -> Lines:
    header = [
        "tasks",
        "models",
        "control",
        "method",
        "runs",
        f"{data.word} (%)",
        "both trained, same runs (%)",
        "chance (%)",
    ]
    lines = []
    chance = _chance(data)
    names = {"untrained-0": "first side untrained", "untrained-1": "second side untrained",
             "self": "merged with itself", "random": "random permutation"}  # fmt: skip
    for control in dict.fromkeys(row["control"] for row in data.rows if row["kind"] == "merge" and row["control"]):
        for result in pair_results(data.rows, control):
            partner = trained_partner(data.all_results, result, data.method)
            lines.append(
                [
                    result.tasks, result.architectures, names.get(control, control), result.method, result.accuracy.n,
                    percent(result.accuracy), percent(partner) if partner.n else "", _number(chance.get(result.tasks)),
                ]
            )  # fmt: skip
    return header, lines


def _chance(data: FigureData) -> dict[str, float]:
    """Accuracy of always naming the most frequent test class, from the confusion matrices of the edges; R² of the mean value."""
    found: dict[str, float] = {}
    for row in data.rows:
        if row["kind"] == "edge" and row["status"] == "ok" and row.get("confusion"):
            matrix = np.array(row["confusion"], dtype=np.float64)
            size = round(len(matrix) ** 0.5)
            found[row["tasks"]] = float(matrix.reshape(size, size).sum(1).max() / matrix.sum())
        elif row["kind"] == "edge" and targets_of(row) == ["values"]:
            found[row["tasks"]] = 0.0
    for row in data.rows:
        tasks = combination_of(row).tasks
        if len(tasks) > 1 and all(task in found for task in tasks):
            found[row["tasks"]] = float(np.mean([found[task] for task in tasks]))
    return found


def _similarity(data: FigureData) -> Lines:
    single = simplicity(data.rows, data.reference)
    header = ["tasks", "distance", "floor of 1st", "floor of 2nd", "similarity", "images", "dimensions", "encoder",
              f"simplicity ({data.reference})"]  # fmt: skip
    lines = []
    for row in data.similarities:
        pair = str(TaskPair(row["first"], row["second"]))
        if row["distance"] is None:
            lines.append([pair, "missing", "", "", "", "", "", "", ""])
            continue
        both = [single.get(row["first"]), single.get(row["second"])]
        lines.append(
            [
                pair, f"{row['distance']:.1f}", f"{row['floor_first']:.1f}", f"{row['floor_second']:.1f}",
                f"{row['similarity']:.4f}", f"{row['n_first']} + {row['n_second']}", row["dimensions"], row["encoder"],
                _number(float(np.mean(both))) if None not in both else "",  # type: ignore[arg-type]
            ]
        )  # fmt: skip
    return header, lines


def _barriers(data: FigureData) -> Lines:
    header = [
        "tasks",
        "models",
        "method and settings",
        "runs",
        "barrier in accuracy (points)",
        "barrier in loss (nats)",
    ]
    lines = []
    for found in barriers(data.measured.get("curve", ())):
        accuracy, loss = (
            Sample(tuple(own.values()), len(own), tuple(map(sources_of_run, own)))
            for own in (found.accuracy, found.loss)
        )
        names = [found.group.tasks, found.group.architectures, found.group.method]
        lines.append([*names, accuracy.n, percent(accuracy), spread_of(loss)])
    return header, lines


def _diagnosis(data: FigureData) -> Lines:
    header = ["tasks", "models", "method and settings", "layer", "part", "merges", "features (%)", "bound (%)",
              "variance", "variance of sources", "weight", "weight of sources", "bias", "bias of sources",
              "CKA with 1st"]  # fmt: skip
    lines = []
    for group in groups(data.measured.get("diagnosis", ())):
        for line in layer_lines(group.rows):
            names = [group.tasks, group.architectures, group.method, line["layer"], line["part"], len(group.merges)]
            shares = [_number(line[column], 1) for column in ("relative", "bound")]
            sizes = [
                _digits(line[f"{column}{of}"])
                for column in ("variance", "weight", "bias")
                for of in ("", "_of_sources")
            ]
            lines.append([*names, *shares, *sizes, _digits(line["cka"])])
    return header, lines


def _pruned(data: FigureData) -> Lines:
    header = ["task", "model", "method", "sparsity (%)", "normalisation", "runs", f"{data.word} (%)", "not pruned (%)"]
    lines = [
        [
            r.task, r.model, r.method, f"{100 * r.share:g}", r.normalize, _runs(r.accuracy), percent(r.accuracy),
            percent(r.before),
        ]
        for r in compressed_results(data.rows, Pruned.kind)
    ]  # fmt: skip
    return header, lines


def _narrowed(data: FigureData) -> Lines:
    header = ["task", "model", "method", "width (%)", "normalisation", "runs", f"{data.word} (%)", "95 % interval",
              "parameters (%)", "multiply-adds (%)", "full width (%)"]  # fmt: skip
    lines = [
        [
            r.task, r.model, r.method, f"{100 * r.share:g}", r.normalize, _runs(r.accuracy), percent(r.accuracy),
            "" if math.isnan(r.interval.low) else f"[{100 * r.interval.low:.2f}, {100 * r.interval.high:.2f}]",
            _number(r.left["parameters"], 1), _number(r.left["flops"], 1), percent(r.before),
        ]
        for r in compressed_results(data.rows, Narrowed.kind)
    ]  # fmt: skip
    return header, lines


def _digits(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def _placements(data: FigureData) -> Lines:
    header = ["models", "placement", "positions", "mean CKA", "units without a partner"]
    return header, placement_lines(data.blocks, data.rows)


def _pixels(data: FigureData) -> Lines:
    header = [
        "tasks",
        "models",
        "method and settings",
        "task",
        "runs",
        "pixels right (%)",
        "mean IoU (%)",
        "sources",
        "scaled (%)",
    ]
    return header, _dense_lines(
        data, "pixels", lambda scores: [percent(scores[key]) for key in ("accuracy", "mean_iou")]
    )


def _values(data: FigureData) -> Lines:
    header = ["tasks", "models", "method and settings", "task", "runs", "R² (%)", "L1", "sources", "scaled (%)"]
    return header, _dense_lines(data, "values", lambda scores: [percent(scores["r2"]), spread_of(scores["l1"])])


def _dense_lines(
    data: FigureData, target: Target, said: Callable[[Mapping[str, Sample]], list[Spread]]
) -> list[list[Any]]:
    """A line for each setting on each task of a target. ``said``: what is said of its scores."""
    return [
        [
            r.combination.tasks_label, r.combination.architectures_label, r.method, r.task, _runs(r.sources), *said(r.scores),
            percent(r.sources), percent(r.scaled),
        ]
        for r in dense_results(data.rows, target)
    ]  # fmt: skip


TABLES: tuple[TableSpec, ...] = (
    TableSpec("merges_same_task", "Merges on one task",
              "Accuracy in percent, mean ± standard deviation over runs. «Against homogeneous»: difference to the mean of the two "
              "homogeneous merges, with its 95 % interval. «Agrees»: share of test images with the source's "
              "prediction; «follows»: of those on which the sources disagree.", lambda data: _merges(data, False)),
    TableSpec("merges_task_pairs", "Merges of task pairs",
              "Mean of the tasks' accuracies in percent. The first model is the reference: the deeper, of two as deep the wider.",
              lambda data: _merges(data, True)),
    TableSpec("task_pairs_detail", "Each task of the merged pairs", "Accuracy in percent with each task's own head; joint: "
              "over the union of classes and test images.", _per_task),
    TableSpec("beside_papers", "Beside the papers' numbers",
              "Printed results, and the merges here that were made in the same way. Data, sizes and training differ unless the "
              "setting says otherwise, so what compares is the pattern: which method is ahead, and by how much.",
              lambda data: (HEADER, beside(data.papers, data.results))),
    TableSpec("controls", "Controls", "What the same procedure gives where there is nothing, or nothing more, to merge. "
              "Chance: always naming the most frequent test class.", _controls),
    TableSpec("edges", "Edge models", "The trained models that are merged.", _edges),
    TableSpec("similarity", "Similarity of tasks", "Fréchet distance of embeddings; its floor is the distance between two "
              "random halves of one task, at half as many images each. Distances of different encoders do not compare.",
              _similarity),
    TableSpec("barriers", "Barriers between models",
              "How far accuracy falls below, and loss rises above, the straight line between the two models' own, where it is "
              "furthest on the way from one to the other; mean ± standard deviation over runs. 0: no barrier.", _barriers),
    TableSpec("diagnosis", "Layers of merged networks",
              "Means over merges. Features: how much of a layer's output comes from the input, in percent of the source models'; "
              "the bound never rises. Variance: of the units over images; weight, bias: root mean square. CKA: with the same "
              "layer of the first source. Part: merged, or kept by each model (head, stem).", _diagnosis),
    TableSpec("placements", "Placements of blocks",
              "Where the blocks of the shallow model stand among those of the deep one (the first model named), stage by stage, "
              "counted from 1; identity blocks stand everywhere else. Mean CKA: of every deep block with the shallow one in whose "
              "segment it lies. Units without a partner: those inside of the identity blocks, which are the deep model's alone.",
              _placements),
    TableSpec("pixels", "Merges on tasks of pixels",
              "On each task with its own head: the share of test pixels whose class is told right, the intersection over union of "
              "predicted and labelled pixels (mean over classes), that of the task's own source models, and the merge's as a share "
              "of it. Mean ± standard deviation over runs.", _pixels),
    TableSpec("values", "Merges on tasks of values",
              "On each task with its own head: the share of the test pixels' variance that is explained (R², below 0 where their "
              "mean would be nearer), the mean absolute error in deviations of the training pixels (L1: lower is better), R² of "
              "the task's own source models, and the merge's as a share of it. Mean ± standard deviation over runs.", _values),
    TableSpec("pruned", "Pruned networks",
              "Accuracy in percent, mean ± standard deviation over runs, of edge models with a share of their weights set to "
              "zero, without training afterwards, and of the same models before. Normalisation: what set their statistics.",
              _pruned),
    TableSpec("narrowed", "Narrowed networks",
              "Accuracy in percent, mean ± standard deviation over runs and its 95 % interval, of edge models with a "
              "share of the units of every space, without training afterwards, and of the same models before. Parameters and "
              "multiply-adds: in percent of the same models before. Zip joins units that are alike, largest keeps those with the "
              "largest weights, random keeps any.", _narrowed),
)  # fmt: skip
