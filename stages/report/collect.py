"""Stage ``collect``: all evaluations in one tidy table, and the headline numbers.

``results.parquet`` has a row per evaluation and scope (each task, their mean, and the joint accuracy), with all that
made the number. A planned cell without an evaluation is a row with ``status`` "missing", never dropped.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mergeline.architectures import size_mismatch
from mergeline.kinds import Target
from mergeline.metrics import METRICS
from stages.formats.blocks import gathered_blocks
from stages.formats.files import read_json, write_json
from stages.formats.measurements import MEASURES, gathered_measurements
from stages.formats.tables import write_table
from stages.plan import paths
from stages.plan.keys import Compressed, Key, Merge, Sources, TaskPair, parse_key
from stages.plan.methods import resolve
from stages.plan.params import Params
from stages.plan.pipelines import Plan, make_plan
from stages.report.rows import score_of

__all__ = ["SCHEMA", "result_rows", "run", "scopes_of"]

SCHEMA = pa.schema(
    [
        pa.field(
            "cell",
            pa.string(),
            metadata={"about": "name of the merge, its sources (ensemble), the edge, or the pruned or narrowed edge"},
        ),
        pa.field("kind", pa.string(), metadata={"about": "merge, ensemble, edge, pruned or narrowed"}),
        pa.field("control", pa.string(), metadata={"about": "self, random, untrained-0, untrained-1, or empty"}),
        pa.field("status", pa.string(), metadata={"about": "ok or missing"}),
        pa.field("tasks", pa.string()),
        pa.field("architectures", pa.string()),
        pa.field("recipe", pa.string(), metadata={"about": "settings in which the models' training is not as usual"}),
        pa.field("seeds", pa.string()),
        pa.field("topology", pa.string(), metadata={"about": "architecture that all models were expanded to"}),
        pa.field("homogeneous", pa.bool_()),
        pa.field("size_mismatch", pa.float64()),
        pa.field("method", pa.string(), metadata={"about": "of matching, of pruning or of narrowing"}),
        pa.field(
            "sparsity",
            pa.float64(),
            metadata={"about": "share of the prunable weights that pruning set to 0, as planned"},
        ),
        pa.field("width", pa.float64(), metadata={"about": "share of the units that narrowing left, as planned"}),
        pa.field("stop", pa.string()),
        pa.field(
            "preserve", pa.string(), metadata={"about": "layers, or share of the multiply-adds, that each model keeps"}
        ),
        pa.field("weights", pa.string()),
        pa.field("normalize", pa.string()),
        pa.field("placement", pa.string(), metadata={"about": "where the blocks of shallow models stand"}),
        pa.field("scope", pa.string(), metadata={"about": "a task, mean or joint"}),
        pa.field(
            "target", pa.string(), metadata={"about": "what is told: classes, pixels or values; of a mean all that are"}
        ),
        *(pa.field(name, pa.float64(), metadata={"about": metric.summary}) for name, metric in METRICS.items()),
        pa.field(
            "score",
            pa.float64(),
            metadata={"about": "mean of tasks that are judged by different metrics: the mean of accuracies and R²"},
        ),
        pa.field("n", pa.int64(), metadata={"about": "test images (or their pixels, texts)"}),
        pa.field("agree_0", pa.float64(), metadata={"about": "predictions equal to the first source's"}),
        pa.field("agree_1", pa.float64()),
        pa.field("disagree", pa.float64(), metadata={"about": "images on which the first two sources disagree"}),
        pa.field("follow_0", pa.float64(), metadata={"about": "of those, predictions equal to the first source's"}),
        pa.field("follow_1", pa.float64()),
        pa.field("agree_own", pa.float64(), metadata={"about": "several tasks: equal to this task's source"}),
        pa.field("confusion", pa.list_(pa.int32()), metadata={"about": "true class by predicted class, row-major"}),
        pa.field("parameters", pa.int64()),
        pa.field("flops", pa.int64(), metadata={"about": "multiply-adds for one image"}),
        pa.field(
            "without_partner",
            pa.int64(),
            metadata={
                "about": "units of a merge that a source has none for (inside identity blocks), summed over sources"
            },
        ),
        pa.field(
            "images_statistics",
            pa.int64(),
            metadata={"about": "images of each task for the moments; of several tasks the fewest that one of them has"},
        ),
        pa.field("images_reset", pa.int64(), metadata={"about": "the same, for the normalisation"}),
        pa.field("seed", pa.int64(), metadata={"about": "the benchmark's base seed"}),
        pa.field("model", pa.string(), metadata={"about": "sha256 of the evaluated model's file"}),
        pa.field("sources", pa.string(), metadata={"about": "edge=sha256 of each source model's file"}),
        pa.field("data", pa.string(), metadata={"about": "task=sha256 of images, labels and split"}),
    ],
    metadata={"format": "1"},
)


IMAGE_COUNTS = ("images_statistics", "images_reset")
"""Columns of numbers of training images, which are no more than a task has."""


SIMILARITY_SCHEMA = pa.schema(
    [
        ("first", pa.string()),
        ("second", pa.string()),
        ("encoder", pa.string()),
        ("dimensions", pa.int64()),
        ("distance", pa.float64()),
        ("floor_first", pa.float64()),
        ("floor_second", pa.float64()),
        ("n_first", pa.int64()),
        ("n_second", pa.int64()),
        ("tau", pa.float64()),
        ("similarity", pa.float64()),
    ]
)


def run(context: Any, cell: str) -> None:
    """There is one; ``cell`` is not used."""
    plan = make_plan(context.params)
    rows = list(result_rows(context.params, plan, context.root))
    write_table(context.path(paths.RESULTS), pa.Table.from_pylist(rows, schema=SCHEMA))
    write_table(context.path(paths.HISTORIES), _histories(plan, context.root))
    for measure in MEASURES:
        cells = {
            str(merge): context.path(paths.measurement(measure, merge)) for merge in plan.measured.get(measure, ())
        }
        write_table(context.path(paths.measurements(measure)), gathered_measurements(measure, cells))
    pairs = {str(pair): context.path(paths.blocks(pair)) for pair in plan.block_pairs}
    write_table(context.path(paths.similarities_of_blocks()), gathered_blocks(pairs))
    write_table(context.path(paths.SIMILARITIES), _similarities(context.params, context.root))
    write_json(context.path(paths.METRICS), headline(rows))


def result_rows(params: Params, plan: Plan, root: Path) -> Iterator[dict[str, Any]]:
    """The rows of the table, edges first, then ensembles, merges, pruned and narrowed edges, in the order of the plan."""
    for edge in plan.edges:
        yield from _rows(params, plan.targets, root, "edge", Key(Sources((edge,))), {})
    for sources in plan.ensembles:
        yield from _rows(params, plan.targets, root, "ensemble", Key(sources), {"method": "ensemble"})
    for merge in plan.merges:
        yield from _rows(params, plan.targets, root, "merge", Key(merge.sources, merge), _of_merge(params, merge))
    cells: tuple[Compressed, ...] = (*plan.pruned, *plan.narrowed)
    for cell in cells:
        key = Key(Sources((cell.edge,)), compressed=cell)
        yield from _rows(params, plan.targets, root, cell.kind, key, _of_compressed(params, cell))


def _of_merge(params: Params, merge: Merge) -> dict[str, Any]:
    """The columns that only a merge has."""
    needs_moments = resolve(params, merge.method).moments != "none"
    declared = params.normalize.get(merge.normalize.name)
    return {
        "method": str(merge.method),
        "stop": merge.stop,
        "preserve": merge.preserve,
        "weights": merge.weights_label,
        "normalize": str(merge.normalize),
        "placement": merge.sources.placement,
        "images_statistics": params.statistics.images if needs_moments else None,
        "images_reset": None if declared is None else declared.images,
    }


def _of_compressed(params: Params, cell: Compressed) -> dict[str, Any]:
    """The columns that only a pruned or narrowed edge has."""
    declared = params.normalize.get(cell.normalize)
    return {
        "method": cell.method,
        cell.measure: cell.share,
        "normalize": cell.normalize,
        "images_reset": None if declared is None else declared.images,
    }


def scopes_of(sources: Sources, targets: Mapping[str, Target]) -> dict[str, str]:
    """What merges of some sources are scored on, with what is told there: each task; with several, also their mean, and jointly
    where all tell classes.

    ``targets``: by task, what its labels are of.
    """
    own: dict[str, str] = {task: targets[task] for task in sources.tasks}
    if len(own) == 1:
        return own
    told = ", ".join(dict.fromkeys(own.values()))
    return own | {"mean": told} | ({} if "values" in own.values() else {"joint": told})


def _rows(
    params: Params, targets: Mapping[str, Target], root: Path, kind: str, key: Key, more: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    sources, combination = key.sources, key.sources.combination
    common: dict[str, Any] = {
        "cell": str(key), "kind": kind, "control": key.control, "tasks": combination.tasks_label,
        "architectures": combination.architectures_label, "recipe": sources.recipe_label,
        "seeds": sources.seeds_label, "topology": sources.topology,
        "homogeneous": sources.homogeneous, "size_mismatch": _mismatch(sources), "seed": params.seed, **more,
    }  # fmt: skip
    path, scopes = root / paths.evaluation(key), scopes_of(sources, targets)
    if not path.is_file():
        for scope, target in scopes.items():
            yield {**common, "status": "missing", "scope": scope, "target": target}
        return
    values = read_json(path)
    common |= {
        "status": "ok",
        "parameters": values.get("parameters"),
        "flops": values.get("flops"),
        "without_partner": values.get("without_partner"),
        "model": values.get("model"),
        "sources": " ".join(f"{name}={digest}" for name, digest in values["sources"].items()),
        "data": " ".join(f"{name}={digest}" for name, digest in values["data"].items()),
    }
    fewest = min(values["training_images"].values())
    common |= {name: min(common[name], fewest) for name in IMAGE_COUNTS if common.get(name) is not None}
    for task in sources.tasks:
        yield {**common, "scope": task, "target": scopes[task], **values["tasks"][task]}
    if len(sources.tasks) > 1:
        each = [values["tasks"][task] for task in sources.tasks]
        yield {
            **common,
            "scope": "mean",
            "target": scopes["mean"],
            "score": values.get("score"),
            **{
                key: float(np.mean([entry[key] for entry in each]))
                for key in METRICS
                if all(key in entry for entry in each)
            },
            "n": sum(entry["n"] for entry in each),
        }
    if "joint" in scopes:
        yield {
            **common,
            "scope": "joint",
            "target": scopes["joint"],
            "accuracy": values["joint_accuracy"],
            "n": sum(values["tasks"][task]["n"] for task in sources.tasks),
        }


def _histories(plan: Plan, root: Path) -> pa.Table:
    """Every edge's training history: edge, epoch, learning rate, loss and accuracy (or R²) on the (augmented) training set."""
    tables = []
    for edge in plan.edges:
        path = root / paths.edge_history(edge)
        if path.is_file():
            table = pq.read_table(path)
            names = pa.array([str(edge)] * len(table), pa.string())
            tables.append(table.replace_schema_metadata(None).add_column(0, "edge", names))
    return pa.concat_tables(tables) if tables else pa.table({"edge": pa.array([], pa.string())})


def _similarities(params: Params, root: Path) -> pa.Table:
    """A row per pair of tasks; distance and similarity are null where the pair is missing."""
    rows = []
    for first, second in combinations(params.tasks, 2):
        row: dict[str, Any] = {"first": first, "second": second}
        path = root / paths.similarity(TaskPair(first, second))
        if path.is_file():
            values = read_json(path)
            row |= {key: values[key] for key in ("encoder", "distance", "similarity", "tau", "dimensions")}
            row |= {"floor_first": values["floors"][0], "floor_second": values["floors"][1]}
            row |= {"n_first": values["n"][0], "n_second": values["n"][1]}
        rows.append(row)
    return pa.Table.from_pylist(rows, schema=SIMILARITY_SCHEMA)


def _mismatch(sources: Sources) -> float:
    names = [edge.architecture for edge in sources.edges]
    return max(size_mismatch(sources.topology, name) for name in names)


def headline(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean score by tasks, pair of architectures and method: what ``dvc metrics show`` prints."""
    found: dict[str, dict[str, dict[str, list[float]]]] = {}
    for row in rows:
        if row["status"] == "ok" and not row["control"] and row["scope"] in (row["tasks"], "mean"):
            made = parse_key(row["kind"], row["cell"]).made
            label = row["kind"] if made is None else made.label()
            by_pair = found.setdefault(row["tasks"], {}).setdefault(row["architectures"], {})
            by_pair.setdefault(label, []).append(score_of(row))
    return {
        tasks: {
            pair: {label: round(float(np.mean(values)), 6) for label, values in methods.items()}
            for pair, methods in pairs.items()
        }
        for tasks, pairs in found.items()
    }
