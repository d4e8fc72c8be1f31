"""The stages as they are run: what each reads and writes, that it repeats exactly, and how it fails."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from PIL import Image
from pydantic import BaseModel
from safetensors.torch import load_file, save_file

from mergeline.architectures import ARCHITECTURES, Architecture, build
from mergeline.diagnostics import (
    batch_norm_statistics,
    cka_map,
    feature_norms,
    layer_variances,
    magnitudes,
    vanishing,
)
from mergeline.evaluation import flops, score
from mergeline.heads import trace_network
from mergeline.images import normalize
from mergeline.maps import without_partner
from mergeline.normalization.reset import batch_norms
from stages.__main__ import main
from stages.context import Context
from stages.formats.maps import read_maps
from stages.formats.measurements import read_measurement
from stages.formats.merged import load_merged
from stages.formats.models import load_edge, save_edge
from stages.formats.moments import MomentFile
from stages.formats.predictions import read_predictions
from stages.formats.tasks import read_task, write_task
from stages.plan import paths
from stages.plan.code import code_names
from stages.plan.keys import (
    Edge,
    parse_edge,
    parse_merge,
    parse_narrowed,
    parse_prediction,
    parse_pruned,
    parse_sources,
)
from stages.plan.loading import load_params, parse_params
from stages.plan.params import Params, Training
from stages.plan.pipelines import StageCell, make_plan
from stages.registry import STAGES
from stages.sources import comparable_batches, training_images
from stages.train import _Checkpoint
from tests.conftest import bench_values
from tests.test_width import widened

pytestmark = pytest.mark.slow  # a whole tiny benchmark is run first

ROOT = Path(__file__).resolve().parent.parent
SCRATCH = ".mergeline"
EDGE = "bars.r17.s0"
GROUP = "bars.r17+r17.s0+s1"
MERGE = f"{GROUP}.permute.reset"
SWEPT = "bars.r17-learning_rate=0.02-initialization=kaiming_normal.s0"
PAIR = "bars+late.r17+r17.s0+s1.permute.reset"
WANDA = f"{EDGE}.wanda-sparsity=0.6.none"
FISHER = f"{EDGE}.fisher-sparsity=0.6.repair"
NARROWED = f"{EDGE}.zip-width=0.5.repair"
KEPT_UNITS = f"{EDGE}.random-width=0.5.none"
LAST = ("collect", "audit")
WIDE = "bars.r17x2+r17.s0+s0"
DEEP_AND_WIDE = "bars.r29+r17x2.s0+s0-placement=lma"
KEPT = "bars+late.r17+r17.s0+s1.permute-stop=layer2.0-preserve=3.repair"
EARLY = "bars+late.r17+r17.s0+s1.permute-stop=layer2.0.reset"

# -- a benchmark that has run ---------------------------------------------------------------------------------------


def draw_images(root: Path) -> None:
    """Two data sets of one's own: bright bars (four classes) and dots (three classes)."""
    rng = np.random.default_rng(0)
    for name, classes in (("bars", 4), ("dots", 3)):
        for label in range(classes):
            folder = root / "data" / name / f"class{label}"
            folder.mkdir(parents=True)
            for number in range(16):
                pixels = rng.integers(0, 60, (32, 32, 3), dtype=np.uint8)
                start = 3 + 7 * label
                pixels[start : start + 4, 4 : 28 if name == "bars" else 12] += np.uint8(150)
                Image.fromarray(pixels).save(folder / f"{number}.png")


def bench_params() -> dict[str, Any]:
    values = bench_values()
    values["merges"]["pairs"] |= {"stops": [None, "layer2.0"], "seeds": [0, 1]}
    values["normalize"] |= {"repair": {"images": 24, "batch_size": 12}, "bias_removal": {}}
    values["merges"]["repaired"] = {
        "tasks": ["bars"],
        "seeds": [0],
        "methods": ["permute"],
        "normalize": ["repair"],
        "preserves": [None, 3],
    }
    values["merges"]["diagnosed"] = {
        "tasks": ["bars"],
        "architectures": ["r17"],
        "methods": ["permute"],
        "measures": ["curve", "landscape", "diagnosis"],
    }
    values["merges"]["placed"] = {"tasks": ["bars"], "seeds": [0], "methods": ["permute"], "placements": ["lma"]}
    values["merges"]["swept"] = {
        "tasks": ["bars"],
        "architectures": ["r17"],
        "methods": ["permute"],
        "sweep": {"learning_rate": [0.02], "initialization": ["kaiming_normal"]},
    }
    values |= {"curve": {"points": 3}, "landscape": {"steps": 2, "images": 8}}
    values["merges"]["kept"] = values["merges"]["pairs"] | {
        "normalize": ["repair"],
        "preserves": [3],
        "stops": ["layer2.0"],
        "measures": ["diagnosis"],
    }
    values["diagnosis"] = {"images": 23, "batch_size": 10}
    for series in values["merges"].values():
        series.setdefault("methods", ["identity", "permute"])
    wide = {"tasks": ["bars"], "seeds": [0], "methods": ["zip"]}
    values["methods"]["zip"] = {}
    values["statistics"] |= {"moments": "full"}
    values["merges"]["widths"] = wide | {"architectures": ["r17", "r17x2"], "measures": ["curve", "diagnosis"]}
    values["merges"]["deep-and-wide"] = wide | {
        "architectures": ["r29", "r17x2"],
        "normalize": ["repair"],
        "placements": ["lma"],
    }
    values["merges"]["transformers"] = {
        "tasks": ["bars"],
        "architectures": ["vit4", "vit6"],
        "seeds": [0],
        "methods": ["permute", "zip"],
        "normalize": ["none", "repair"],
        "placements": ["append", "lma"],
        "measures": ["curve", "diagnosis"],
    }
    values["recipes"] = {"vit6": {"epochs": 1, "learning_rate": 0.0078125}}
    small = {"tasks": ["bars"], "architectures": ["r17"], "seeds": [0], "sparsities": [0.6]}
    values["pruning"] = {
        "plain": small | {"methods": ["wanda"]},
        "repaired": small | {"methods": ["fisher"], "normalize": ["repair"]},
    }
    few = small | {"widths": [0.5]}
    few.pop("sparsities")
    values["narrowing"] = {
        "plain": few | {"methods": ["random", "zip"], "widths": [0.5, 1.0]},
        "reset": few | {"methods": ["zip", "largest"], "normalize": ["reset"]},
        "repaired": few | {"methods": ["zip"], "normalize": ["repair"]},
    }
    values["narrowers"] = {"zip": {"alpha": 1.0, "images": 12, "batch_size": 5}}
    values["pruners"] = {"fisher": {"samples": 8, "images": 12, "batch_size": 5}}
    return values


def write_params(root: Path, values: Mapping[str, Any]) -> None:
    (root / "params.yaml").write_text(yaml.safe_dump(dict(values), sort_keys=False), encoding="utf-8")


def root_stages() -> dict[str, dict[str, Any]]:
    """The root dvc.yaml's stages that run here, as it declares them: ``{name: {deps, params, outs}}``."""
    found = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    return {name: stage.get("do", stage) for name, stage in found.items()}


def declared(stage: str, cell: str) -> StageCell:
    """A stage of the root dvc.yaml as the plan's kind of cell."""
    entry = {
        part: tuple(value.replace("${key}", cell) for value in (*root_stages()[stage].get(part, ()),))
        for part in ("deps", "params", "outs", "metrics")
    }
    return StageCell(stage, stage, cell, "", entry["deps"], entry["params"], (*entry["outs"], *entry["metrics"]))


@dataclass(frozen=True)
class Bench:
    """A benchmark's folder after all of it ran, and the stages that made it."""

    root: Path
    params: Params
    stages: tuple[StageCell, ...]

    def stage(self, name: str, cell: str) -> StageCell:
        return next(stage for stage in self.stages if (stage.stage, stage.cell) == (name, cell))

    def json(self, path: object) -> Any:
        return json.loads((self.root / str(path)).read_text(encoding="utf-8"))


def run(*arguments: str) -> int:
    return main([argument for argument in arguments if argument])


def content(root: Path, names: tuple[str, ...]) -> dict[str, bytes]:
    """The bytes of files, and of all files in folders."""
    found = {}
    for name in names:
        path = root / name
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        found |= {file.relative_to(root).as_posix(): file.read_bytes() for file in files}
    return found


def tree(root: Path) -> set[str]:
    """Every file below ``root`` but scratch state."""
    files = (path.relative_to(root) for path in root.rglob("*") if path.is_file())
    return {file.as_posix() for file in files if file.parts[0] != SCRATCH}


def run_bench(root: Path, values: Mapping[str, Any]) -> Bench:
    """Every stage of a benchmark, run in the order of the data; each must write what it declares and nothing else."""
    draw_images(root)
    write_params(root, values)
    params = load_params(root / "params.yaml")
    # the similarity of tasks needs an encoder's weights, and is tested apart
    todo = [stage for stage in make_plan(params).stages if stage.stage != "similarity"]
    stages = [declared("prepare", task) for task in params.tasks] + todo + [declared(name, "") for name in LAST]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        assert run("code") == 0
        for stage in ordered(stages):
            before = tree(root)
            assert run(stage.stage, stage.cell) == 0, stage
            assert tree(root) - before == set(content(root, stage.outs)), stage
    return Bench(root, params, tuple(stages))


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return run_bench(tmp_path_factory.mktemp("bench"), bench_params())


def reads_and_repeats(bench: Bench, own: StageCell, folder: Path) -> None:
    """A stage, run again by itself, writes the same bytes, and opens nothing but what it declares."""
    with alone(bench, own, folder) as root:
        with listening() as events:
            assert run(own.stage, own.cell) == 0
        assert content(root, own.outs) == content(bench.root, own.outs)
        read, _ = opened(root, events)
    assert {file for file in read if not file.startswith((SCRATCH, "data"))} <= {*own.deps, "params.yaml"}


def ordered(stages: list[StageCell]) -> Iterator[StageCell]:
    """The stages so that each comes after those that make its inputs."""
    made: set[str] = set()
    everything = {out for stage in stages for out in stage.outs}
    left = [stage for stage in stages if stage.stage not in LAST]
    while left:
        ready = [stage for stage in left if set(stage.deps) & everything <= made]
        assert ready
        yield from ready
        made |= {out for stage in ready for out in stage.outs}
        left = [stage for stage in left if stage not in ready]
    yield from (stage for stage in stages if stage.stage in LAST)


@contextmanager
def alone(bench: Bench, stage: StageCell, folder: Path) -> Iterator[Path]:
    """A folder with nothing in it but the parameters and what the stage declares to read."""
    shutil.copy(bench.root / "params.yaml", folder)
    for dep in (*stage.deps, *(["data"] if stage.stage == "prepare" else [])):
        source, target = bench.root / dep, folder / dep
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target)
        elif source.exists():
            shutil.copy(source, target)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder


CELLS = [
    ("prepare", "bars"),
    ("prepare", "late"),
    ("train", EDGE),
    ("train", "bars.vit6.s0"),
    ("finetune", "late.r17.s1"),
    ("untrained", "bars.r29.u0"),
    ("predict", f"{EDGE}.on-late"),
    ("statistics", GROUP),
    ("statistics", "bars.r29+r17.s0+s0"),
    ("blocks", "bars.r29+r17.s0+s0"),
    ("statistics", "bars.r29+r17.s0+s0-placement=lma"),
    ("merge", "bars.r29+r17.s0+s0-placement=lma.permute.reset"),
    ("statistics", WIDE),
    ("match", f"{WIDE}.zip"),
    ("merge", f"{WIDE}.zip.reset"),
    ("evaluate", f"{WIDE}.zip.reset"),
    ("curve", f"{WIDE}.zip.reset"),
    ("diagnosis", f"{WIDE}.zip.reset"),
    ("merge", f"{DEEP_AND_WIDE}.zip.repair"),
    ("match", f"{GROUP}.permute"),
    ("match", f"{GROUP}.identity"),
    ("match", f"{GROUP}.random"),
    ("merge", MERGE),
    ("merge", "bars.r29+r17.s0+u0.permute.reset"),
    ("merge", PAIR),
    ("merge", EARLY),
    ("layers", f"{EDGE}.on-late"),
    ("merge", "bars.r29+r17.s0+s0.permute.repair"),
    ("merge", KEPT),
    ("prune", WANDA),
    ("prune", FISHER),
    ("narrow", NARROWED),
    ("narrow", KEPT_UNITS),
    ("curve", MERGE),
    ("landscape", MERGE),
    ("train", SWEPT),
    ("diagnosis", MERGE),
    ("diagnosis", KEPT),
    ("evaluate", MERGE),
    ("evaluate", KEPT),
    ("evaluate", EARLY),
    ("evaluate-edge", "late.r17.s1"),
    ("evaluate-ensemble", GROUP),
    ("evaluate-ensemble", "bars+late.r17+r17.s0+s1"),
    ("evaluate-pruned", WANDA),
    ("evaluate-pruned", FISHER),
    ("evaluate-narrowed", NARROWED),
    ("evaluate-narrowed", KEPT_UNITS),
    ("collect", ""),
    ("audit", ""),
]
"""One cell or a few of every kind."""
SOME = pytest.mark.parametrize(("name", "cell"), CELLS, ids=[f"{name}-{cell}" for name, cell in CELLS])


def test_every_kind_of_stage_is_among_those_tested(bench: Bench) -> None:
    assert {name for name, _ in CELLS} == {stage.stage for stage in bench.stages}
    left = {"code", "examples", "match-judged", "import", "embed", "similarity", "targets", "plot", "report"}
    assert {name for name, _ in CELLS} == set(STAGES) - left


# -- what a stage reads and writes ------------------------------------------------------------------------------------

_events: list[tuple[str, tuple[Any, ...]]] | None = None


def _listen(event: str, arguments: tuple[Any, ...]) -> None:
    if _events is not None and event in ("open", "os.rename", "os.remove", "os.mkdir"):
        _events.append((event, arguments))


sys.addaudithook(_listen)


@contextmanager
def listening() -> Iterator[list[tuple[str, tuple[Any, ...]]]]:
    """The files that Python opens, renames and removes meanwhile."""
    global _events
    _events = heard = []
    try:
        yield heard
    finally:
        _events = None


def below(root: Path, name: object) -> str | None:
    """A path below ``root``, relative to it; None for others and for file descriptors."""
    if not isinstance(name, str | bytes | os.PathLike):
        return None
    path = Path.cwd() / os.fsdecode(name)
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else None


def opened(root: Path, events: list[tuple[str, tuple[Any, ...]]]) -> tuple[set[str], set[str]]:
    """What was opened for reading, and what was opened for writing or renamed to."""
    read, written = set(), set()
    for event, arguments in events:
        if event == "open":
            name, mode, flags = below(root, arguments[0]), arguments[1] or "", arguments[2] or 0
            writes = set(mode) & set("wax+") or flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            if name is not None:
                (written if writes else read).add(name)
        elif event == "os.rename" and (name := below(root, arguments[1])) is not None:
            written.add(name)
    return read, written


@SOME
def test_a_stage_needs_only_what_it_declares_and_repeats_exactly(
    name: str, cell: str, bench: Bench, tmp_path: Path
) -> None:
    stage = bench.stage(name, cell)
    with alone(bench, stage, tmp_path) as root:
        before = tree(root)
        with listening() as events:
            assert run(name, cell) == 0
        assert tree(root) - before == set(content(root, stage.outs))
        assert content(root, stage.outs) == content(bench.root, stage.outs)
        read, written = opened(root, events)
    inputs = set(content(bench.root, tuple(dep for dep in stage.deps if (bench.root / dep).exists()))) | {"params.yaml"}
    assert {file for file in read if not file.startswith((SCRATCH, "data"))} <= inputs
    assert {file for file in written if not file.startswith(SCRATCH)} <= set(content(bench.root, stage.outs))
    assert "params.yaml" in read


class Watched:
    """Parameters that remember which of them were looked at."""

    def __init__(self, value: BaseModel, path: str, seen: set[str]) -> None:
        self._value, self._path, self._seen = value, path, seen

    def __getattr__(self, name: str) -> Any:
        value, path = getattr(self._value, name), f"{self._path}.{name}".lstrip(".")
        if name == "model_fields_set":  # which keys there are makes the plan; their values are looked at one by one
            return value
        if isinstance(value, BaseModel):
            return Watched(value, path, self._seen)
        if isinstance(value, dict):
            return WatchedDict(value, path, self._seen)
        self._seen.add(self._path if callable(value) else path)
        return value


class WatchedDict(dict[str, Any]):
    def __init__(self, values: dict[str, Any], path: str, seen: set[str]) -> None:
        super().__init__(values)
        self._path, self._seen = path, seen

    def __getitem__(self, key: str) -> Any:
        value, path = super().__getitem__(key), f"{self._path}.{key}"
        if isinstance(value, BaseModel):
            return Watched(value, path, self._seen)
        self._seen.add(path)
        return value

    def get(self, key: str, default: Any = None) -> Any:
        found = self[key] if key in self else default  # noqa: SIM401 (remembers)
        return found

    def items(self) -> Any:
        self._seen.add(self._path)
        return super().items()

    def values(self) -> Any:
        self._seen.add(self._path)
        return super().values()


@pytest.mark.parametrize(
    ("name", "cell"), [pair for pair in CELLS if pair[0] not in LAST], ids=lambda value: value or "one"
)
def test_a_stage_looks_at_no_parameter_that_it_does_not_declare(
    name: str, cell: str, bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[str] = set()
    monkeypatch.setattr("stages.plan.loading.load_params", lambda path: Watched(load_params(path), "", seen))
    stage = bench.stage(name, cell)
    with alone(bench, stage, tmp_path):
        assert run(name, cell) == 0
    used = seen - {"compute.threads"}  # set for every stage
    undeclared = {path for path in used if not any(f"{path}.".startswith(f"{key}.") for key in stage.params)}
    # DVC knows no key that params.yaml does not have; once it has one, the stage declares it and is another
    absent = {f"train.{key}" for key in Training.model_fields} - {f"train.{key}" for key in bench_values()["train"]}
    assert not undeclared - (absent if name == "train" else set())


def test_every_declared_output_was_written(bench: Bench) -> None:
    outs = set(content(bench.root, tuple(out for stage in bench.stages for out in stage.outs)))
    code = {str(paths.code(name)) for name in code_names()}
    assert {file for file in tree(bench.root) if file.startswith("artifacts")} == outs | code


def test_the_code_stage_writes_one_hash_file_a_stage_and_repeats_exactly(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = content(bench.root, ("artifacts/code",))
    assert set(before) == {str(paths.code(name)) for name in code_names()}
    monkeypatch.chdir(bench.root)
    assert run("code") == 0
    assert content(bench.root, ("artifacts/code",)) == before


def test_seconds_are_kept_apart_from_results(bench: Bench) -> None:
    timings = {path.stem for path in (bench.root / SCRATCH / "timings").iterdir()}
    assert timings == {"code", *LAST, *(f"{s.stage}@{s.cell}" for s in bench.stages if s.cell)}
    assert bench.json(f"{SCRATCH}/timings/train@{EDGE}.json")["seconds"] > 0
    assert not list((bench.root / SCRATCH / "tmp").iterdir())


# -- what comes out ---------------------------------------------------------------------------------------------------


def test_prepared_tasks_are_read_back_as_they_were_written(bench: Bench, tmp_path: Path) -> None:
    task = read_task(bench.root / paths.task("late"))
    assert (task.name, task.classes, task.inputs.shape) == ("late", ("class2", "class0"), (32, 32, 32, 3))
    path = tmp_path / "late.npz"
    write_task(path, task)
    assert path.read_bytes() == (bench.root / paths.task("late")).read_bytes()
    again = read_task(path)
    assert np.array_equal(again.inputs, task.inputs)
    assert (again.hash, again.licence, again.source) == (task.hash, task.licence, task.source)


def test_an_edge_learned_its_task_and_says_how(bench: Bench) -> None:
    metrics = bench.json(paths.edge_metrics(parse_edge(EDGE)))
    assert metrics["start"] == "random"
    assert metrics["epochs"] == 2
    assert metrics["data_hash"] == read_task(bench.root / paths.task("bars")).hash
    history = pq.read_table(bench.root / paths.edge_history(parse_edge(EDGE))).to_pylist()
    assert [row["epoch"] for row in history] == [1, 2]
    assert history[1]["loss"] < history[0]["loss"]


def test_seeds_and_tasks_give_different_edges(bench: Bench) -> None:
    edges = ("bars.r17.s0", "bars.r17.s1", "dots.r17.s0", "bars.r17.u0")
    weights = [load_edge(bench.root / paths.edge_model(parse_edge(edge)))[0].conv1.weight for edge in edges]
    assert all(not torch.equal(a, b) for i, a in enumerate(weights) for b in weights[:i])


def test_a_finetuned_edge_starts_from_its_base_with_a_new_head(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = bench_params()
    values["finetune"] |= {"learning_rate": 1e-12}
    stage = bench.stage("finetune", "late.r17.s0")
    with alone(bench, stage, tmp_path) as root:
        write_params(root, values)
        assert run("finetune", "late.r17.s0") == 0
        tuned, _ = load_edge(root / paths.edge_model(parse_edge("late.r17.s0")))
    base, _ = load_edge(bench.root / paths.edge_model(parse_edge("dots.r17.s0")))
    expected = dict(base.named_parameters())
    for name, parameter in tuned.named_parameters():
        if name.startswith("fc."):
            assert parameter.shape != expected[name].shape
        else:
            torch.testing.assert_close(parameter, expected[name], rtol=1e-4, atol=1e-6)
    metrics = bench.json(paths.edge_metrics(parse_edge("late.r17.s0")))
    assert len(metrics["start"]) == 64


def test_a_head_is_new_even_where_the_base_has_as_many_classes(bench: Bench, tmp_path: Path) -> None:
    values = bench_params()
    values["tasks"]["late"] |= {"classes": [2, 0, 1]}
    values["finetune"] |= {"learning_rate": 1e-12}
    shutil.copytree(bench.root / "data", tmp_path / "data")
    stage = bench.stage("finetune", "late.r17.s0")
    with alone(bench, stage, tmp_path) as root:
        write_params(root, values)
        assert run("prepare", "late") == 0
        assert run("finetune", "late.r17.s0") == 0
        tuned, _ = load_edge(root / paths.edge_model(parse_edge("late.r17.s0")))
    base, _ = load_edge(bench.root / paths.edge_model(parse_edge("dots.r17.s0")))
    assert tuned.fc.weight.shape == base.fc.weight.shape
    assert not torch.allclose(tuned.fc.weight, base.fc.weight, atol=1e-3)


def test_an_untrained_network_has_its_initial_weights_and_batch_statistics(bench: Bench) -> None:
    model, architecture = load_edge(bench.root / paths.edge_model(parse_edge("bars.r29.u0")))
    assert architecture == Architecture("r29", 4, 0.0625, 32)
    assert all(float(layer.weight.detach().std()) == 0 for layer in batch_norms(model))
    assert any(float(layer.running_mean.abs().max()) > 1e-3 for layer in batch_norms(model))


def test_predictions_are_the_models_on_the_test_images(bench: Bench) -> None:
    prediction = parse_prediction(f"{EDGE}.on-bars")
    logits = read_predictions(bench.root / paths.prediction(prediction))
    task = read_task(bench.root / paths.task("bars"))
    assert logits.shape == (int(task.test.sum()), 4)
    scores = score(logits, torch.from_numpy(task.part("test")[1]))
    found = bench.json(paths.evaluation(prediction.edge))["tasks"]["bars"]
    assert found["accuracy"] == scores["accuracy"] == bench.json(paths.edge_metrics(prediction.edge))["test_accuracy"]
    assert read_predictions(bench.root / paths.prediction(parse_prediction(f"{EDGE}.on-late"))).shape == (8, 4)


def test_statistics_hold_every_space_of_the_deepest_topology(bench: Bench) -> None:
    moments = MomentFile(bench.root / paths.statistics(parse_sources("bars.r29+r17.s0+s0")))
    assert next(iter(moments)) == "conv1"
    assert len(moments) == 1 + 9 * 2 + 4
    assert all(set(entry.covariances) == {(0, 0), (0, 1), (1, 1)} for entry in moments.values())
    assert moments["layer1"].n == 2 * 24 * 16 * 16  # read by the next block, and by the next stage
    assert moments["layer1"].sizes == (16, 16)
    assert moments.description["images"] == {"bars": 24}
    with pytest.raises(KeyError):
        moments["nowhere"]


def test_statistics_of_two_widths_hold_each_models_own_units(bench: Bench) -> None:
    moments = MomentFile(bench.root / paths.statistics(parse_sources(WIDE)))
    assert moments["conv1"].sizes == (8, 4)
    assert moments["conv1"].covariances[0, 1].shape == (8, 4)


@pytest.mark.parametrize(
    ("cell", "topology"), [(f"{WIDE}.zip.reset", "r17x2"), (f"{DEEP_AND_WIDE}.zip.repair", "r29x2")]
)
def test_a_merge_of_two_widths_has_the_wider_models_channels_and_the_deeper_models_blocks(
    bench: Bench, cell: str, topology: str
) -> None:
    merge = parse_merge(cell)
    network = load_merged(bench.root / paths.merged_model(merge))
    like = build(Architecture(topology, 4, 0.0625, 32))
    assert {name: p.shape for name, p in network.named_parameters()} == {
        name: p.shape for name, p in like.named_parameters()
    }
    found = bench.json(paths.evaluation(merge))
    assert found["parameters"] == sum(p.numel() for p in like.parameters())
    rows = [row for row in pq.read_table(bench.root / paths.RESULTS).to_pylist() if row["cell"] == cell]
    assert [row["topology"] for row in rows] == [topology]
    assert [row["homogeneous"] for row in rows] == [False]


def test_a_method_of_one_width_refuses_two(bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with alone(bench, bench.stage("match", f"{WIDE}.zip"), tmp_path):
        assert run("match", f"{WIDE}.permute") != 0
    assert "widths differ, and permute merges models of one width" in capsys.readouterr().err


def test_no_landscape_is_drawn_between_two_widths(
    bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with alone(bench, bench.stage("diagnosis", f"{WIDE}.zip.reset"), tmp_path):
        assert run("landscape", f"{WIDE}.zip.reset") != 0
    assert "no plane lies through networks of different widths" in capsys.readouterr().err


def test_a_curve_between_two_widths_has_the_models_at_its_ends(bench: Bench) -> None:
    merge = parse_merge(f"{WIDE}.zip.reset")
    rows = read_measurement(bench.root / paths.measurement("curve", merge), "curve")
    for row, key in zip(rows, (merge.edges[0], merge, merge.edges[1]), strict=True):
        assert row["accuracy"] == bench.json(paths.evaluation(key))["tasks"]["bars"]["accuracy"]


def test_a_model_matched_with_itself_is_matched_by_the_identity(bench: Bench) -> None:
    maps, description = read_maps(bench.root / paths.match("bars.r17+r17.s0+s0.permute"))
    moments = MomentFile(bench.root / paths.statistics(parse_sources("bars.r17+r17.s0+s0")))
    assert description["method"] == "permute"
    for name, unit_map in maps[1].items():
        alive = moments[name].variances[0] > 1e-9
        assert (unit_map.index == np.arange(unit_map.size))[alive].all()


def test_a_model_merged_with_itself_is_that_model(bench: Bench) -> None:
    merged = load_merged(bench.root / paths.merged_model(parse_merge("bars.r17+r17.s0+s0.identity.reset")))
    source, _ = load_edge(bench.root / paths.edge_model(parse_edge(EDGE)))
    for (name, parameter), (_, other) in zip(merged.named_parameters(), source.named_parameters(), strict=True):
        assert torch.equal(parameter, other), name


def test_merged_heads_are_scored_on_their_own_tasks_and_jointly(bench: Bench) -> None:
    for cell in (PAIR, EARLY):
        found = bench.json(paths.evaluation(parse_merge(cell)))
        assert list(found["tasks"]) == ["bars", "late"]
        assert found["accuracy"] == pytest.approx(np.mean([entry["accuracy"] for entry in found["tasks"].values()]))
        entries = found["tasks"].values()
        right = sum(entry["accuracy"] * entry["n"] for entry in entries)
        assert 0 <= found["joint_accuracy"] <= right / sum(entry["n"] for entry in entries) + 1e-9
        assert set(found["sources"]) == {"bars.r17.s0", "late.r17.s1"}
        assert all(0 <= entry["agree_own"] <= 1 for entry in found["tasks"].values())
    early, late = (bench.json(paths.evaluation(parse_merge(cell))) for cell in (EARLY, PAIR))
    ensemble = bench.json(paths.evaluation(parse_sources("bars+late.r17+r17.s0+s1")))
    assert late["flops"] < early["flops"] < ensemble["flops"]
    assert late["parameters"] < early["parameters"] < ensemble["parameters"]


def test_the_cost_of_a_merge_of_one_task_is_that_of_one_model(bench: Bench) -> None:
    model, _ = load_edge(bench.root / paths.edge_model(parse_edge(EDGE)))
    assert bench.json(paths.evaluation(parse_merge(MERGE)))["flops"] == flops(model, torch.zeros(1, 3, 32, 32))
    edge, ensemble = bench.json(paths.evaluation(parse_edge(EDGE))), bench.json(paths.evaluation(parse_sources(GROUP)))
    assert ensemble["flops"] == 2 * edge["flops"]


# -- the table of all ---------------------------------------------------------------------------------------------------


def test_an_architecture_is_trained_by_its_recipe_and_that_of_params_yaml(bench: Bench) -> None:
    histories = {name: pq.read_table(bench.root / paths.edge_history(parse_edge(f"bars.{name}.s0"))).to_pylist()
                 for name in ("r17", "vit4", "vit6")}  # fmt: skip
    recipe = ARCHITECTURES["vit4"].recipe
    assert [len(rows) for rows in histories.values()] == [2, 2, 1]
    assert histories["vit4"][0]["learning_rate"] / histories["r17"][0]["learning_rate"] == pytest.approx(
        recipe["learning_rate"] / bench.params.train.learning_rate, rel=0.2
    )
    assert 0 < histories["vit6"][0]["learning_rate"] < 0.0078125


def test_a_curve_goes_from_one_model_over_the_merge_to_the_other(bench: Bench) -> None:
    rows = read_measurement(bench.root / paths.measurement("curve", parse_merge(MERGE)), "curve")
    assert [row["alpha"] for row in rows] == [0, 0.5, 1]
    for row, cell in zip(rows, (EDGE, MERGE, "bars.r17.s1"), strict=True):
        own = bench.json(paths.EVALUATIONS / f"{cell}.json")["tasks"]["bars"]
        assert row["accuracy"] == own["accuracy"]
        assert row["loss"] == pytest.approx(own["loss"], rel=1e-5)


def test_a_landscape_holds_its_three_networks_inside_its_grid(bench: Bench) -> None:
    rows = read_measurement(bench.root / paths.measurement("landscape", parse_merge(MERGE)), "landscape")
    networks, grid = ([row for row in rows if (row["point"] == "grid") == inside] for inside in (False, True))
    assert [row["point"] for row in networks] == ["merged", "first", "second"]
    assert len(grid) == 4
    for axis in ("u", "v"):
        low, high = min(row[axis] for row in grid), max(row[axis] for row in grid)
        assert all(low < row[axis] < high for row in networks)
    assert all(np.isfinite(row["loss"]) and row["loss"] >= 0 and row["scope"] == "bars" for row in rows)


def test_a_swept_model_is_trained_by_its_own_recipe(bench: Bench) -> None:
    edge = parse_edge(SWEPT)
    usual, own = (pq.read_table(bench.root / paths.edge_history(one)).to_pylist() for one in (parse_edge(EDGE), edge))
    assert len(own) == len(usual)
    assert max(row["learning_rate"] for row in own) == pytest.approx(
        0.02 / 0.1 * max(row["learning_rate"] for row in usual)
    )
    start = build(load_edge(bench.root / str(paths.edge_model(edge)))[1], 0, "kaiming_normal").state_dict()
    assert float(start["fc.weight"].std()) == pytest.approx(0.01, rel=0.2)
    assert not start["fc.bias"].any()


def test_a_diagnosis_has_the_librarys_numbers_of_the_networks_that_lie_there(bench: Bench) -> None:
    merge = parse_merge(MERGE)
    rows = read_measurement(bench.root / paths.measurement("diagnosis", merge), "diagnosis")
    network = load_merged(bench.root / paths.merged_model(merge))
    sources = [load_edge(bench.root / paths.edge_model(edge))[0] for edge in merge.edges]
    context = Context(bench.root, bench.params)
    shown = comparable_batches(training_images(context, ["bars"], "diagnosis", 23)["bars"], 10)
    assert [len(batch) for batch in shown] == [8, 8, 7]
    spaces = trace_network(sources[0], 32)
    networks = {"merged": network, "first": sources[0], "second": sources[1]}

    def said(quantity: str, name: str) -> dict[str, float]:
        return {row["layer"]: row["value"] for row in rows if (row["quantity"], row["network"]) == (quantity, name)}

    norms = {name: feature_norms(model, spaces, shown) for name, model in networks.items()}
    for name, model in networks.items():
        assert said("features", name) == pytest.approx(norms[name], rel=1e-5)
        assert said("variance", name) == pytest.approx(layer_variances(model, spaces, shown), rel=1e-5)
        assert said("weight", name) == {layer: size.weight for layer, size in magnitudes(model, spaces).items()}
        found = batch_norm_statistics(model)
        assert said("running_variance", name) == pytest.approx({key: own.variance.mean() for key, own in found.items()})
    expected = vanishing(norms["merged"], [norms["first"], norms["second"]])
    assert said("relative", "merged") == pytest.approx(expected.relative, rel=1e-5)
    assert said("bound", "merged") == pytest.approx(expected.bound, rel=1e-5)
    assert said("running_variance", "before").keys() == said("running_variance", "merged").keys()
    assert said("running_variance", "before") != said("running_variance", "merged")  # reset
    _, _, matrix = cka_map(network, sources[1], spaces, spaces, shown)
    pairs = [row for row in rows if (row["network"], row["other"]) == ("merged", "second")]
    for row in pairs:
        assert row["value"] == pytest.approx(matrix[row["place"], row["other_place"]], rel=1e-4, abs=1e-6)
    assert len(pairs) == matrix.size
    assert {row["part"] for row in rows} == {"merged", "source"}


def test_a_diagnosis_looks_at_each_head_alone_and_at_kept_layers_as_their_models_have_them(bench: Bench) -> None:
    rows = read_measurement(bench.root / paths.measurement("diagnosis", parse_merge(KEPT)), "diagnosis")
    assert {row["scope"] for row in rows} == {"bars", "late"}
    merged = [row for row in rows if row["network"] == "merged"]
    for scope in ("bars", "late"):
        relative = {row["layer"]: row for row in merged if (row["scope"], row["quantity"]) == (scope, "relative")}
        assert list(relative) == sorted(relative, key=lambda layer: relative[layer]["place"])
        assert {row["part"] for row in relative.values()} == {"stem", "merged", "head"}
        assert relative["fc.weight"]["part"] == "head"
        stems = [row["value"] for row in relative.values() if row["part"] == "stem"]
        assert stems == pytest.approx([1.0] * len(stems), rel=1e-4)
        norms = {row["network"]: row["value"] for row in rows
                 if (row["scope"], row["quantity"], row["layer"]) == (scope, "features", "fc.weight")}  # fmt: skip
        own = norms["first" if scope == "bars" else "second"]
        assert relative["fc.weight"]["value"] == pytest.approx(norms["merged"] / own)
    assert not [row for row in merged if row["quantity"] == "cka" and row["part"] == "stem"]


def test_a_pruned_edge_has_exactly_the_zeros_that_were_asked_for(bench: Bench) -> None:
    edge, _ = load_edge(bench.root / paths.edge_model(parse_edge(EDGE)))
    own = {key: value for key, value in edge.state_dict().items() if value.dim() > 1}
    total = sum(value.numel() for value in own.values())
    by_unit = sum(len(value) * round(0.6 * value[0].numel()) for value in own.values())
    for name, zeros in ((WANDA, by_unit), (FISHER, round(0.6 * total))):
        network = load_merged(bench.root / paths.compressed_model(parse_pruned(name)))
        assert type(network) is type(edge)
        weights = {key: network.state_dict()[key] for key in own}
        assert sum(int((value == 0).sum()) for value in weights.values()) == zeros
        if name == WANDA:  # nothing was normalised: what stays is as it was
            assert all(torch.equal(value[value != 0], own[key][value != 0]) for key, value in weights.items())
        found = bench.json(paths.evaluation(parse_pruned(name)))
        unpruned = bench.json(paths.evaluation(parse_edge(EDGE)))
        assert found["sparsity"] == zeros / total
        assert (found["kind"], found["flops"], found["sources"]) == ("pruned", unpruned["flops"], unpruned["sources"])


def test_an_evaluation_of_a_pruned_edge_is_that_of_its_file(bench: Bench) -> None:
    network = load_merged(bench.root / paths.compressed_model(parse_pruned(FISHER)))
    images, labels = read_task(bench.root / paths.task("bars")).part("test")
    with torch.no_grad():
        logits = network(normalize(torch.from_numpy(images)))
    found = bench.json(paths.evaluation(parse_pruned(FISHER)))["tasks"]["bars"]
    wanted = score(logits, torch.from_numpy(labels))
    assert found["accuracy"] == pytest.approx(wanted["accuracy"])
    assert found["loss"] == pytest.approx(wanted["loss"], rel=1e-4)


def test_pruned_rows_have_what_made_them(bench: Bench) -> None:
    rows = {row["cell"]: row for row in pq.read_table(bench.root / paths.RESULTS).to_pylist()}
    wanted = {WANDA: ("wanda", 0.6, "none", None), FISHER: ("fisher", 0.6, "repair", 24)}
    for cell, expected in wanted.items():
        row = rows[cell]
        assert tuple(row[key] for key in ("method", "sparsity", "normalize", "images_reset")) == expected
        assert row["accuracy"] == bench.json(paths.evaluation(parse_pruned(cell)))["accuracy"]
    assert {row["cell"] for row in rows.values() if row["sparsity"] is not None} == set(wanted)
    assert {"wanda sparsity=0.6 none", "fisher sparsity=0.6 repair"} < set(bench.json(paths.METRICS)["bars"]["r17"])


@pytest.mark.parametrize(("name", "share"), [(NARROWED, 0.5), (KEPT_UNITS, 0.5), (f"{EDGE}.zip-width=1.none", 1.0)])
def test_a_narrowed_edge_has_the_units_that_were_asked_for(bench: Bench, name: str, share: float) -> None:
    edge, architecture = load_edge(bench.root / paths.edge_model(parse_edge(EDGE)))
    network = load_merged(bench.root / paths.compressed_model(parse_narrowed(name)))
    before, after = (trace_network(own, architecture.input_size) for own in (edge, network))
    assert {space.name: space.size for space in after.movable} == {
        space.name: max(2, round(share * space.size)) for space in before.movable
    }
    found, whole = (
        bench.json(paths.evaluation(parse(cell))) for parse, cell in ((parse_narrowed, name), (parse_edge, EDGE))
    )
    assert found["parameters"] == sum(weight.numel() for weight in network.parameters())
    assert found["flops"] == flops(network, normalize(torch.zeros(1, 32, 32, 3, dtype=torch.uint8)))
    assert (found["kind"], found["sources"]) == ("narrowed", whole["sources"])
    if share == 1:
        assert all(torch.equal(value, network.state_dict()[key]) for key, value in edge.state_dict().items())
        assert {**found["tasks"]["bars"], "loss": 0} == {**whole["tasks"]["bars"], "loss": 0}
    else:
        assert 0.2 < found["parameters"] / whole["parameters"] < 0.4
        assert 0.2 < found["flops"] / whole["flops"] < 0.4


def test_an_edge_of_copies_loses_nothing_when_it_is_narrowed(bench: Bench, tmp_path: Path) -> None:
    """A network of twice the units, each there twice, is the network that it was made of again."""
    # One that never trained: of few images, units of a trained one may move on one and the same alone, and any two are joined.
    edge, architecture = load_edge(bench.root / paths.edge_model(parse_edge("bars.r17.u0")))
    spaces = trace_network(edge, architecture.input_size)
    doubled = widened(edge, spaces, {space.name: np.tile(np.arange(space.size), 2) for space in spaces.free})
    wide = replace(architecture, name="r17x2")
    for part in ("artifacts/tasks", "params.yaml"):
        copy = shutil.copytree if (bench.root / part).is_dir() else shutil.copyfile
        (tmp_path / part).parent.mkdir(parents=True, exist_ok=True)
        copy(bench.root / part, tmp_path / part)
    planted = parse_edge("bars.r17x2.s0")
    save_edge(tmp_path / paths.edge_model(planted), doubled, wide, "bars", 0)
    name = "bars.r17x2.s0.zip-width=0.5.none"
    with contextlib.chdir(tmp_path):
        assert run("narrow", name) == 0
    again = load_merged(tmp_path / paths.compressed_model(parse_narrowed(name)))
    inputs = normalize(torch.from_numpy(read_task(bench.root / paths.task("bars")).part("test")[0]))
    with torch.no_grad():
        torch.testing.assert_close(again(inputs), edge(inputs), rtol=1e-3, atol=1e-3)
    assert {key: value.shape for key, value in again.state_dict().items()} == {
        key: value.shape for key, value in edge.state_dict().items()
    }


def test_narrowed_rows_have_what_made_them(bench: Bench) -> None:
    rows = {row["cell"]: row for row in pq.read_table(bench.root / paths.RESULTS).to_pylist()}
    wanted = {NARROWED: ("zip", 0.5, "repair", 24, None), KEPT_UNITS: ("random", 0.5, "none", None, None)}
    for cell, expected in wanted.items():
        keys = ("method", "width", "normalize", "images_reset", "sparsity")
        assert tuple(rows[cell][key] for key in keys) == expected
    narrowed = {str(cell) for cell in make_plan(bench.params).narrowed}
    assert {row["cell"] for row in rows.values() if row["width"] is not None} == narrowed


def test_the_table_has_a_row_for_every_evaluation_and_scope(bench: Bench) -> None:
    rows = pq.read_table(bench.root / paths.RESULTS).to_pylist()
    plan = make_plan(bench.params)
    keys = [(row["cell"], row["kind"], row["scope"]) for row in rows]
    assert len(set(keys)) == len(keys)
    expected = {(str(edge), "edge", edge.task) for edge in plan.edges}
    expected |= {(str(cell), cell.kind, cell.edge.task) for cell in (*plan.pruned, *plan.narrowed)}
    for kind, cells in (("ensemble", plan.ensembles), ("merge", plan.merges)):
        for cell in cells:
            tasks = cell.sources.tasks if kind == "merge" else cell.tasks  # type: ignore[union-attr]
            scopes = [*tasks, *(("mean", "joint") if len(tasks) > 1 else ())]
            expected |= {(str(cell), kind, scope) for scope in scopes}
    assert set(keys) == expected
    assert {row["status"] for row in rows} == {"ok"}


def test_units_without_a_partner_are_those_of_the_maps(bench: Bench) -> None:
    rows = {row["cell"]: row["without_partner"] for row in pq.read_table(bench.root / paths.RESULTS).to_pylist()}
    for merge in make_plan(bench.params).merges:
        maps, _ = read_maps(bench.root / paths.match(merge.match))
        assert rows[str(merge)] == sum(without_partner(maps))
        assert (rows[str(merge)] > 0) == ("depths" in merge.sources.difference)
    assert rows[EDGE] is rows[GROUP] is None


def test_a_row_has_what_its_evaluation_says(bench: Bench) -> None:
    rows = {(row["cell"], row["scope"]): row for row in pq.read_table(bench.root / paths.RESULTS).to_pylist()}
    row, found = rows[PAIR, "late"], bench.json(paths.evaluation(parse_merge(PAIR)))
    assert row["accuracy"] == found["tasks"]["late"]["accuracy"]
    assert row["model"] == found["model"]
    assert (row["method"], row["normalize"], row["tasks"], row["stop"]) == ("permute", "reset", "bars+late", None)
    assert (row["images_statistics"], row["images_reset"], row["seed"]) == (24, 24, 0)
    assert rows[EARLY, "joint"]["stop"] == "layer2.0"
    assert rows[PAIR, "mean"]["accuracy"] == pytest.approx(found["accuracy"])
    assert rows[PAIR, "joint"]["accuracy"] == found["joint_accuracy"]
    assert rows[f"{GROUP}.identity.reset", "bars"]["images_statistics"] is None
    controls = {row["control"] for row in rows.values()}
    assert controls == {"", "self", "random", "untrained-0", "untrained-1"}
    uneven = rows["bars.r29+r17.s0+s0.permute.reset", "bars"]
    assert uneven["size_mismatch"] == pytest.approx((1 / 2 + 1 / 2 + 1 / 3 + 1 / 2) / 4)


def test_the_headline_leaves_controls_out(bench: Bench) -> None:
    metrics = bench.json(paths.METRICS)
    assert set(metrics["bars"]["r17+r17"]) == {"ensemble", "identity reset", "permute reset"}
    merge = bench.json(paths.evaluation(parse_merge(MERGE)))
    assert metrics["bars"]["r17+r17"]["permute reset"] == pytest.approx(merge["accuracy"], abs=1e-6)


def test_a_missing_evaluation_is_a_row_that_says_so(bench: Bench, tmp_path: Path) -> None:
    stage = bench.stage("collect", "")
    with alone(bench, stage, tmp_path) as root:
        (root / paths.evaluation(parse_merge(PAIR))).unlink()
        (root / paths.evaluation(parse_edge("bars.r17.s1"))).unlink()
        assert run("collect") == 0
        rows = pq.read_table(root / paths.RESULTS).to_pylist()
    missing = {(row["cell"], row["scope"]): row for row in rows if row["status"] != "ok"}
    assert {row["status"] for row in missing.values()} == {"missing"}
    assert set(missing) == {(PAIR, scope) for scope in ("bars", "late", "mean", "joint")} | {("bars.r17.s1", "bars")}
    assert all(row["accuracy"] is None for row in missing.values())
    assert len(rows) == pq.read_metadata(bench.root / paths.RESULTS).num_rows


def test_the_checks_flag_a_missing_number_and_nothing_else(bench: Bench, tmp_path: Path) -> None:
    found = bench.json(paths.AUDIT)
    assert found["errors"] == 0
    assert found["rows"] == pq.read_metadata(bench.root / paths.RESULTS).num_rows
    table = pq.read_table(bench.root / paths.RESULTS)
    with alone(bench, bench.stage("audit", ""), tmp_path) as root:
        pq.write_table(table.filter([cell != MERGE for cell in table["cell"].to_pylist()]), root / paths.RESULTS)
        assert run("audit") == 0
        errors = [
            entry for entry in json.loads((root / paths.AUDIT).read_text())["findings"] if entry["level"] == "error"
        ]
    assert [(entry["cell"], entry["message"]) for entry in errors] == [
        (MERGE, "was planned and has no number for bars")
    ]


# -- interruptions ------------------------------------------------------------------------------------------------------


def interrupted(command: str, target: str, broken: Callable[..., None]) -> None:
    """Run a stage in which ``target`` is interrupted."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(target, broken)
        with pytest.raises(KeyboardInterrupt):
            run(*command.split(" "))


def interrupted_after_first_epoch(command: str) -> None:
    real = _Checkpoint.save

    def save(self: _Checkpoint, state: Any) -> None:
        real(self, state)
        raise KeyboardInterrupt

    interrupted(command, "stages.train._Checkpoint.save", save)


def checkpoints(root: Path) -> list[Path]:
    return sorted((root / SCRATCH / "checkpoints").glob("*"))


@pytest.mark.parametrize(("name", "cell"), [("train", EDGE), ("train", "bars.r29.s0")])
def test_a_resumed_training_gives_the_bytes_of_an_uninterrupted_one(
    name: str, cell: str, bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = bench.stage(name, cell)
    with alone(bench, stage, tmp_path) as root:
        interrupted_after_first_epoch(f"{name} {cell}")
        assert not any((root / out).exists() for out in stage.outs)
        (checkpoint,) = checkpoints(root)
        epochs: list[int] = []
        real = _Checkpoint.save
        monkeypatch.setattr(_Checkpoint, "save", lambda self, state: (epochs.append(state.epoch), real(self, state)))
        assert run(name, cell) == 0
        assert epochs == [2]
        assert content(root, stage.outs) == content(bench.root, stage.outs)
        assert not checkpoint.exists()


def test_a_changed_recipe_never_resumes(bench: Bench, tmp_path: Path) -> None:
    stage = bench.stage("train", EDGE)
    changed = bench_params()
    changed["train"] |= {"learning_rate": 0.05}
    with alone(bench, stage, tmp_path) as root:
        write_params(root, changed)
        assert run("train", EDGE) == 0
        expected = content(root, stage.outs)
        write_params(root, bench_params())
        interrupted_after_first_epoch(f"train {EDGE}")
        assert len(checkpoints(root)) == 1
        write_params(root, changed)
        assert run("train", EDGE) == 0
        assert content(root, stage.outs) == expected


def test_a_damaged_checkpoint_costs_time_and_nothing_else(bench: Bench, tmp_path: Path) -> None:
    stage = bench.stage("train", EDGE)
    with alone(bench, stage, tmp_path) as root:
        interrupted_after_first_epoch(f"train {EDGE}")
        (checkpoint,) = checkpoints(root)
        checkpoint.write_bytes(checkpoint.read_bytes()[:200])
        assert run("train", EDGE) == 0
        assert content(root, stage.outs) == content(bench.root, stage.outs)


def half_written(path: object) -> None:
    """What a writer leaves when it is interrupted."""
    if isinstance(path, str | os.PathLike):
        with Path(path).open("wb") as stream:
            stream.write(b"half of a fi")
    else:
        path.write(b"half of a fi")  # type: ignore[attr-defined]
    raise KeyboardInterrupt


WRITERS: dict[str, tuple[str, str, Callable[..., None]]] = {
    "task": ("prepare bars", "stages.formats.tasks.np.savez", lambda stream, **arrays: half_written(stream)),
    "model": (f"train {EDGE}", "stages.formats.models.save_file", lambda tensors, path, **more: half_written(path)),
    "predictions": (
        f"predict {EDGE}.on-bars",
        "stages.formats.predictions.np.savez",
        lambda s, **arrays: half_written(s),
    ),
    "maps": (
        f"match {GROUP}.permute",
        "stages.formats.tables.pq.write_table",
        lambda table, path, **more: half_written(path),
    ),
    "moments": (
        f"statistics {GROUP}",
        "stages.formats.moments.pq.ParquetWriter",
        lambda path, *more, **m: half_written(path),
    ),
    "scores": (
        f"evaluate {MERGE}",
        "stages.formats.files.Path.write_bytes",
        lambda path, text, **more: half_written(path),
    ),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_an_interrupted_write_leaves_no_part_of_a_file_and_keeps_the_old_one(
    kind: str, bench: Bench, tmp_path: Path
) -> None:
    command, target, broken = WRITERS[kind]
    stage = bench.stage(*command.split(" "))
    with alone(bench, stage, tmp_path) as root:
        before = tree(root)
        interrupted(command, target, broken)
        assert not tree(root) - before - set(stage.outs[1:])
        assert not (root / stage.outs[0]).exists()
        assert not list((root / SCRATCH / "tmp").iterdir())
        assert run(*command.split(" ")) == 0
        interrupted(command, target, broken)
        assert content(root, stage.outs[:1]) == content(bench.root, stage.outs[:1])


# -- failures -----------------------------------------------------------------------------------------------------------

DAMAGED = [
    ("train", EDGE, "artifacts/tasks/bars.npz"),
    ("finetune", "late.r17.s0", "artifacts/edges/dots.r17.s0/model.safetensors"),
    ("predict", f"{EDGE}.on-bars", f"artifacts/edges/{EDGE}/model.safetensors"),
    ("match", f"{GROUP}.permute", f"artifacts/statistics/{GROUP}.parquet"),
    ("merge", MERGE, f"artifacts/matches/{GROUP}.permute.parquet"),
    ("evaluate", MERGE, f"artifacts/merged/{MERGE}/model.safetensors"),
    ("evaluate-edge", EDGE, f"artifacts/predictions/{EDGE}.on-bars.npz"),
    ("collect", "", f"artifacts/evaluations/{MERGE}.json"),
]


@pytest.mark.parametrize(
    ("name", "cell", "file", "damage"),
    [
        pytest.param(*entry, damage, id=f"{entry[0]}-{damage}")
        for entry in DAMAGED
        for damage in ("truncated", "empty", "other", "missing")
        if (entry[0], damage) != ("collect", "missing")  # a row of the table: see above
    ],
)
def test_a_damaged_input_is_named_with_what_to_do(
    name: str, cell: str, file: str, damage: str, bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stage = bench.stage(name, cell)
    with alone(bench, stage, tmp_path) as root:
        path = root / file
        whole = path.read_bytes()
        path.write_bytes({"truncated": whole[: len(whole) // 2], "empty": b""}.get(damage, b"<html>not found</html>"))
        if damage == "missing":
            path.unlink()
        assert run(name, cell) == 1
        assert not any((root / out).exists() for out in stage.outs)
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith(f"error: {path} is {'missing' if damage == 'missing' else 'damaged'}")
    assert "mergeline run" in error


def test_a_file_of_another_format_says_so(bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stage = bench.stage("predict", f"{EDGE}.on-bars")
    with alone(bench, stage, tmp_path) as root:
        path = root / paths.edge_model(parse_edge(EDGE))
        save_file(load_file(path), path, metadata={"mergeline": json.dumps({"format": 99})})
        assert run("predict", f"{EDGE}.on-bars") == 1
    assert f"{path} has format 99, this version reads format 1" in capsys.readouterr().err


def test_a_match_of_other_models_is_refused(bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stage = bench.stage("merge", MERGE)
    with alone(bench, stage, tmp_path) as root:
        shutil.copy(bench.root / paths.edge_model(parse_edge("bars.r17.u0")), root / paths.edge_model(parse_edge(EDGE)))
        assert run("merge", MERGE) == 1
    assert f"artifacts/matches/{GROUP}.permute.parquet was made from other models" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("prepare", "nosuch"), "error: unknown task 'nosuch'; there are: bars, dots, late"),
        (("train", "nosuch.r17.s0"), "error: unknown task 'nosuch'"),
        (("train", "bars.r18.s0"), "error: unknown architecture 'r18'; there are: r17"),
        (("train", "bars.r17"), "error: 'bars.r17' is not a cell"),
        (("train", "bars.r17.s00"), "error: 'bars.r17.s00' is written 'bars.r17.s0'"),
        (("train", GROUP), f"error: '{GROUP}' is not one edge model"),
        (("statistics", f"{GROUP}.permute"), "names more than the sources"),
        (("match", f"{GROUP}.permut"), "error: unknown method 'permut'; there are: identity, permute"),
        (("match", f"{GROUP}.permute-alpha=1"), "alpha"),
        (("merge", f"{GROUP}.permute.rest"), "error: unknown normalisation 'rest'; there are: none, reset"),
        (("import", EDGE), f"error: unknown import '{EDGE}'; there are: none"),
        (("train",), "python -m stages train: needs a cell, task.architecture.s0"),
    ],
)
def test_a_name_that_is_not_there_is_bad_input(
    arguments: tuple[str, ...], message: str, bench: Bench, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(bench.root)
    before = tree(bench.root)
    assert run(*arguments) == 2
    assert message in capsys.readouterr().err
    assert tree(bench.root) == before


def test_an_edge_without_a_base_cannot_be_finetuned(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(bench.root)
    assert run("finetune", EDGE) == 1
    assert "is not finetuned: tasks.bars.pretrain is not set" in capsys.readouterr().err


def test_bad_parameters_stop_a_stage_before_it_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_params(tmp_path, bench_values(seeds=[]))
    assert run("code") == 2
    assert "error: params.yaml: seeds: " in capsys.readouterr().err
    assert tree(tmp_path) == {"params.yaml"}


def test_a_folder_without_parameters_is_no_benchmark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("code") == 1
    assert f"{tmp_path} holds no params.yaml" in capsys.readouterr().err


def test_missing_data_are_bad_input_with_the_layout(
    bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with alone(bench, bench.stage("prepare", "bars"), tmp_path) as root:
        shutil.rmtree(root / "data")
        assert run("prepare", "bars") == 2
    assert "Expected layout" in capsys.readouterr().err


def test_an_unknown_stage_lists_the_stages(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["tarin", EDGE])
    assert caught.value.code == 2
    assert "train" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), 74),
        (OSError(errno.EIO, "Input/output error"), 75),
        (MemoryError(), 75),
        (torch.OutOfMemoryError("CUDA out of memory"), 75),
        (RuntimeError("a mistake"), 1),
    ],
)
def test_the_exit_status_says_whether_to_try_again(
    error: Exception, status: int, bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(context: Any, cell: str) -> None:
        raise error

    monkeypatch.chdir(bench.root)
    monkeypatch.setattr("stages.predict.run", fail)
    assert run("predict", f"{EDGE}.on-bars") == status
    assert "Traceback" in capsys.readouterr().err


# -- checkpoints of others ------------------------------------------------------------------------------------------------


def importing(bench: Bench, folder: Path, file: str, write: Callable[[Path], None] | None) -> None:
    """A folder in which the edge is imported from ``file``."""
    (folder / "artifacts" / "tasks").mkdir(parents=True)
    shutil.copy(bench.root / paths.task("bars"), folder / paths.task("bars"))
    write_params(folder, bench_params() | {"imports": {EDGE: file}})
    (folder / file).parent.mkdir(parents=True, exist_ok=True)
    if write is not None:
        write(folder / file)


def own_state(bench: Bench) -> dict[str, torch.Tensor]:
    return load_file(bench.root / paths.edge_model(parse_edge(EDGE)))


@pytest.mark.parametrize("file", ["mine/model.pth", "mine/model.pt", "model.safetensors"])
def test_a_checkpoint_stands_in_for_a_trained_edge(
    file: str, bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write: Callable[..., Any] = save_file if file.endswith("safetensors") else torch.save
    importing(bench, tmp_path, file, lambda path: write(own_state(bench), path))
    monkeypatch.chdir(tmp_path)
    assert run("import", EDGE) == 0
    planned = next(
        stage for stage in make_plan(load_params(tmp_path / "params.yaml")).stages if stage.stage == "import"
    )
    assert tree(tmp_path) == {"params.yaml", file, str(paths.task("bars")), *planned.outs}
    edge = parse_edge(EDGE)
    model = (tmp_path / paths.edge_model(edge)).read_bytes()
    assert model == (bench.root / paths.edge_model(edge)).read_bytes()
    metrics = json.loads((tmp_path / paths.edge_metrics(edge)).read_text())
    assert metrics["epochs"] == 0
    assert metrics["test_accuracy"] == bench.json(paths.edge_metrics(edge))["test_accuracy"]


def without(state: dict[str, torch.Tensor], *names: str) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in state.items() if name not in names}


BAD_CHECKPOINTS: dict[str, tuple[Callable[[dict[str, torch.Tensor], Path], Any] | None, str]] = {
    "missing": (None, "is missing (imports.bars.r17.s0)"),
    "no checkpoint": (lambda state, path: path.write_text("hello"), "(imports.bars.r17.s0)"),
    "a list": (lambda state, path: torch.save([1, 2], path), "holds no state dict but a list"),
    "a tensor missing": (lambda state, path: torch.save(without(state, "fc.bias"), path), "fc.bias is missing"),
    "a tensor too many": (lambda state, path: torch.save(state | {"x": torch.ones(1)}, path), "x is unknown"),
    "another shape": (
        lambda state, path: torch.save(state | {"fc.bias": torch.ones(7)}, path),
        "fc.bias has shape (7,), expected (4,)",
    ),
    "another network": (
        lambda state, path: torch.save(build(Architecture("r29", 4, 0.0625, 32)).state_dict(), path),
        "layer1.1.conv1.weight is unknown",
    ),
    "many faults": (lambda state, path: torch.save({"x": torch.ones(1)}, path), "; and "),
    "code inside": (lambda state, path: torch.save({"x": Edge("a", "r17", 0)}, path), "holds an object of stages.plan.keys.Edge"),
    "not tensors": (lambda state, path: torch.save(state | {"fc.bias": 3}, path), "fc.bias is missing"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD_CHECKPOINTS)
def test_a_checkpoint_that_does_not_fit_says_why(
    kind: str, bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write, message = BAD_CHECKPOINTS[kind]
    state = own_state(bench)
    importing(bench, tmp_path, "mine/model.pth", None if write is None else lambda path: write(state, path))
    monkeypatch.chdir(tmp_path)
    assert run("import", EDGE) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {tmp_path}/mine/model.pth")
    assert message in error
    assert len(error) < 600
    assert not (tmp_path / "artifacts" / "edges").exists()


def test_the_small_benchmark_of_the_tests_is_valid() -> None:
    assert parse_params(bench_params()).merges["pairs"].stops == [None, "layer2.0"]
