"""A small benchmark that looks finished: made-up evaluations of every planned cell, read by the real stages.

Nothing is trained: numbers are drawn around a level for each kind of merge, so that their order is known.
"""

from __future__ import annotations

import contextlib
import shutil
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mergeline.architectures import stage_blocks
from stages.context import Context
from stages.formats.blocks import write_similarity
from stages.formats.files import write_json
from stages.formats.measurements import write_measurement
from stages.plan import paths
from stages.plan.keys import Merge, Sources, TaskPair
from stages.plan.loading import parse_params
from stages.plan.params import Params
from stages.plan.pipelines import Plan, make_plan
from stages.report import audit, collect, plot
from stages.report import page as report
from tests.conftest import bench_values
from tests.small_diagnosis import diagnosis

ROOT = Path(__file__).resolve().parent.parent
IMAGES = {"bars": 200, "dots": 150, "late": 120}
TRAINING = {"bars": 800, "dots": 16, "late": 480}
"""Training images: of one task fewer than statistics and normalisations are asked for."""
CLASSES = {"bars": 4, "dots": 3, "late": 2}
LEVELS = {"edge": 0.95, "ensemble": 0.97, "identity": 0.45, "permute": 0.8, "random": 0.3}
UNPARTNERED = 24
"""Units without a partner of every merge of different depths."""
MISSING = "bars.r35+r17.s0+s1.identity.reset"
"""The one planned cell without an evaluation."""


@dataclass(frozen=True)
class SmallReport:
    """The benchmark's root folder, its parameters and its plan."""

    root: Path
    params: Params
    plan: Plan

    @property
    def page(self) -> Path:
        return self.root / paths.REPORTS / "index.html"

    @property
    def rows(self) -> list[dict[str, Any]]:
        return pq.read_table(self.root / paths.RESULTS).to_pylist()


def small_params() -> Params:
    values = bench_values()
    values["architectures"] = ["r17", "r29", "r35"]
    values["seeds"] = [0, 1, 2]
    values["recipes"] = {"r29": {"learning_rate": 0.0625}}
    values["merges"] = {
        "same": {"tasks": ["bars"], "controls": ["self", "random", "untrained"], "measures": ["diagnosis"]},
        "pairs": {"tasks": [["bars", "dots"], ["bars", "late"]], "both_directions": True, "runs": "neighbours"},
        "kept": {"tasks": [["dots", "late"]], "architectures": ["r17"], "methods": ["permute"], "preserves": [2, 4],
                 "seeds": [0, 1]},
        "placed": {"tasks": ["bars"], "architectures": ["r17", "r35"], "methods": ["permute"], "placements": ["spread", "lma"],
                   "seeds": [0, 1]},
        "between": {"tasks": ["bars"], "architectures": ["r17"], "measures": ["curve"]},
        "around": {"tasks": ["bars"], "architectures": ["r17"], "methods": ["permute"], "measures": ["landscape"]},
        "swept": {"tasks": ["bars"], "architectures": ["r17"], "methods": ["permute"], "seeds": [0, 1],
                  "sweep": {"learning_rate": [0.01, 0.5], "epochs": [1]}},
    }  # fmt: skip
    values["pruning"] = {
        "both": {"tasks": ["bars"], "architectures": ["r17"], "methods": ["magnitude", "wanda"], "sparsities": [0.5, 0.9],
                 "normalize": ["none", "reset"]},
    }  # fmt: skip
    values["narrowing"] = {
        "widths": {"tasks": ["bars"], "architectures": ["r17"], "methods": ["zip", "largest", "random"], "widths": [0.25, 0.5],
                   "normalize": ["none", "reset"]},
    }  # fmt: skip
    values["report"] = {"title": "a small <report>", "method": "permute", "simplicity_reference": "r35"}
    params = parse_params(values)
    # Examples are of pixels, which a benchmark of classes has none of; the report shows them whatever they are of.
    around = params.merges["around"].model_copy(update={"measures": ["landscape", "examples"]})
    return params.model_copy(update={"merges": params.merges | {"around": around}})


def make_report(root: Path) -> SmallReport:
    """Write the evaluations, then run collect, check, plot and report in ``root``."""
    params = small_params()
    plan = make_plan(params)
    _write_evaluations(root, params, plan)
    _write_measurements(root, plan)
    _write_similarities(root, params)
    shutil.copytree(ROOT / "reports" / "templates", root / "reports" / "templates")
    context = Context(root, params)
    with contextlib.chdir(root):
        for stage in (collect, audit, plot, report):
            stage.run(context, "")
    return SmallReport(root, params, plan)


def _write_evaluations(root: Path, params: Params, plan: Plan) -> None:
    rng = np.random.default_rng(0)
    with contextlib.chdir(root):
        for edge in plan.edges:
            level = LEVELS["edge"] if edge.trained else 1 / CLASSES[edge.task]
            write_json(root / paths.evaluation(edge), _evaluation(Sources((edge,)), level, rng))
            if edge.trained:
                _write_history(root / paths.edge_history(edge), params.train.epochs, rng)
        for group in plan.ensembles:
            write_json(root / paths.evaluation(group), _evaluation(group, LEVELS["ensemble"], rng))
        for merge in plan.merges:
            level = LEVELS[merge.method.name] - 0.02 * len(set(merge.sources.tasks)) + 0.01 * merge.sources.homogeneous
            level = LEVELS["edge"] if merge.sources.control == "self" else level
            level = 0.2 if merge.sources.control.startswith("untrained") else level
            if str(merge) != MISSING:
                found = _evaluation(merge.sources, level, rng, merged=True)
                found["without_partner"] = 0 if merge.sources.homogeneous else UNPARTNERED
                found["flops"] += 10**5 * int(merge.preserve or 0)
                write_json(root / paths.evaluation(merge), found)
        for cell in plan.pruned:
            level = LEVELS["edge"] - (0.4 if cell.normalize == "none" else 0.1) * cell.share
            write_json(root / paths.evaluation(cell), _evaluation(Sources((cell.edge,)), level, rng))
        for narrow in plan.narrowed:
            level = LEVELS["edge"] - {"zip": 0.1, "largest": 0.3, "random": 0.5}[narrow.method] * (1 - narrow.share)
            found = _evaluation(Sources((narrow.edge,)), level, rng)
            found["parameters"] = round(found["parameters"] * narrow.share**2)
            write_json(root / paths.evaluation(narrow), found)


def _write_measurements(root: Path, plan: Plan) -> None:
    makers = {"diagnosis": diagnosis, "curve": _curve, "landscape": _landscape, "examples": _examples}
    rng = np.random.default_rng(1)
    with contextlib.chdir(root):
        for pair in plan.block_pairs:
            counts = [stage_blocks(edge.architecture) for edge in pair.edges]
            likeness = [rng.uniform(0, 1, shape) for shape in zip(*counts, strict=True) if shape[0] != shape[1]]
            write_similarity(root / paths.blocks(pair), likeness, {})
        for measure, merges in plan.measured.items():
            for merge in merges:
                write_measurement(root / paths.measurement(measure, merge), measure, makers[measure](merge), {})


def _curve(merge: Merge) -> list[dict[str, Any]]:
    """A valley whose floor is the method's level, on a line from 0.9 to 1, less 0.01 for each seed."""
    level = LEVELS[merge.method.name]
    own = 0.01 * sum(edge.seed for edge in merge.edges)
    accuracies = {0.0: 0.9, 0.25: 0.9, 0.5: level - own, 0.75: level, 1.0: 1.0}
    return [{"alpha": alpha, "loss": 2 - 2 * value, "accuracy": value} for alpha, value in accuracies.items()]


def _landscape(merge: Merge) -> list[dict[str, Any]]:
    """A bowl around the merged network."""
    places = {"merged": [(0.0, 0.0)], "first": [(2.0, 0.0)], "second": [(1.0, 2.0)]}
    places["grid"] = [(u, v) for v in (-1.0, 0.5, 2.5) for u in (-1.0, 1.0, 3.0)]
    return [
        {"point": point, "u": u, "v": v, "scope": task, "loss": 0.1 + u * u + v * v}
        for point, own in places.items() for u, v in own for task in merge.sources.tasks
    ]  # fmt: skip


def _examples(merge: Merge) -> list[dict[str, Any]]:
    """Two images of 4 x 4 pixels of two classes, of which each network has some wrong."""
    classes = [0, 0, 1, 1] * 4
    wrong = {"first": 2, "second": 3, "merged": 6}
    told = {
        "target": classes,
        **{name: [1 - c for c in classes[:count]] + classes[count:] for name, count in wrong.items()},
    }
    pictures = {"input": [40 * value for pixel in classes for value in (pixel, 2, 5)], **told}
    return [
        {"scope": task, "image": image, "picture": name, "size": 4, "values": values,
         "classes": ["ground", "square"] if name == "target" else None}
        for task in merge.sources.tasks for image in range(2) for name, values in pictures.items()
    ]  # fmt: skip


def _evaluation(group: Sources, level: float, rng: np.random.Generator, merged: bool = False) -> dict[str, Any]:
    tasks = {}
    for task in group.tasks:
        right = int(rng.binomial(IMAGES[task], min(level + rng.normal(0, 0.01), 0.99)))
        tasks[task] = {
            "accuracy": right / IMAGES[task], "loss": float(rng.uniform(0.1, 2)),
            "calibration_error": float(rng.uniform(0, 0.2)), "n": IMAGES[task], "mean_iou": right / IMAGES[task] / 2,
            "l1": float(rng.uniform(0.1, 2)), "r2": right / IMAGES[task] / 3,
            "confusion": _confusion(task, right),
        }  # fmt: skip
        if merged and group.same_task:
            tasks[task] |= {"agree_0": 0.9, "agree_1": 0.8, "disagree": 0.1, "follow_0": 0.5, "follow_1": 0.4}
        elif merged:
            tasks[task]["agree_own"] = 0.85
    values: dict[str, Any] = {
        "tasks": tasks, "parameters": 1000 * len(group.edges), "flops": 10**6 * len(group.edges),
        "model": f"{int(rng.integers(1 << 32)):064x}",
        "sources": {str(edge): "0" * 64 for edge in group.edges}, "data": dict.fromkeys(group.tasks, "1" * 64),
        "training_images": {task: TRAINING[task] for task in group.tasks},
    }  # fmt: skip
    if len(group.tasks) > 1:
        values["joint_accuracy"] = 0.6 * float(np.mean([entry["accuracy"] for entry in tasks.values()]))
    return values


def _confusion(task: str, right: int) -> list[int]:
    """As many right as said, spread over the classes; every error is the next class."""
    classes, images = CLASSES[task], IMAGES[task]
    matrix = np.zeros((classes, classes), dtype=int)
    for image in range(images):
        matrix[image % classes, (image + (image >= right)) % classes] += 1
    return matrix.ravel().tolist()


def _write_history(path: Path, epochs: int, rng: np.random.Generator) -> None:
    columns = {
        "epoch": list(range(1, epochs + 1)),
        "learning_rate": [0.1] * epochs,
        "loss": rng.uniform(0.1, 2, epochs).tolist(),
        "accuracy": np.sort(rng.uniform(0.3, 1, epochs)).tolist(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)


def _write_similarities(root: Path, params: Params) -> None:
    with contextlib.chdir(root):
        for index, (first, second) in enumerate(combinations(params.tasks, 2)):
            if (first, second) == ("dots", "late"):
                continue  # no merge needs it: it is said to be missing
            distance = 500.0 * (index + 1)
            values = {
                "tasks": [first, second], "encoder": "efficientnet-lite0", "weights": "2" * 64, "dimensions": 320,
                "n": [100, 90], "distance": distance, "floors": [40.0, 50.0], "tau": 1000.0,
                "similarity": float(np.exp(-distance / 1000)),
            }  # fmt: skip
            write_json(root / paths.similarity(TaskPair(first, second)), values)
