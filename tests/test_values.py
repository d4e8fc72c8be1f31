"""Tasks of values: maps and their readers, scores against literal references, what is refused, and every stage on a small set."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from flows.cli import app
from flows.comparison import compare
from mergeline.architectures import Architecture, build
from mergeline.evaluation import (
    agreement,
    confusion,
    ensemble_logits,
    joint_accuracy,
    labelled,
    pixel_logits,
    score,
    target_of,
)
from mergeline.heads import trace_network
from mergeline.interpolation import interpolate
from mergeline.kinds import UNLABELLED
from mergeline.maps import Permutation
from mergeline.matching.judge import TrainingAccuracy
from mergeline.metrics import MAIN, METRICS, SCALED, main_metric
from mergeline.metrics.tally import tally_of
from mergeline.tasks import TASKS, TaskError, prepare
from mergeline.tasks.task import RawValues, Scale
from mergeline.training import Recipe, train
from stages.context import Context
from stages.formats.tasks import read_task, write_task
from stages.plan.keys import Edge, Sources
from stages.plan.loading import ParamsError, parse_params
from stages.report import page as report
from stages.report import plot
from stages.report.collect import scopes_of
from stages.report.dense import dense_results
from stages.report.example_figures import examples
from stages.report.rows import score_of, score_word
from stages.report.tables import TABLES
from tests.conftest import bench_values
from tests.small_report import ROOT
from tests.test_dense import own_masks
from tests.test_stages import Bench, reads_and_repeats, run_bench

TINY = Architecture("r17-seg", 1, 1 / 16, 32)


def raw_values(count: int = 12, size: int = 20, **changes: Any) -> RawValues:
    rng = np.random.default_rng(0)
    maps = [rng.normal(3, 2, (size, size + 4)) for _ in range(count)]
    images = [rng.integers(0, 255, (size, size + 4, 3)).astype(np.uint8) for _ in maps]
    values = {"samples": images, "labels": maps, "origins": np.arange(count), "classes": ("height",), **changes}
    return RawValues(**values, licence="none", source="a test")


# -- data -----------------------------------------------------------------------------------------------------------------


def test_values_are_told_in_deviations_of_the_training_part() -> None:
    task = prepare("toy", raw_values(), 20)
    assert (task.labels.shape, task.labels.dtype, task.target, task.n_classes) == (
        (12, 20, 20),
        np.float32,
        "values",
        1,
    )
    train = task.labels[~task.test]
    assert (train.mean(), train.std()) == (pytest.approx(0, abs=1e-5), pytest.approx(1, rel=1e-5))
    assert task.scale is not None
    own = np.stack([labels[:, 2:22] for labels in raw_values().labels])
    assert np.allclose(task.labels * task.scale.deviation + task.scale.mean, own, atol=1e-4)


def test_a_data_sets_own_scale_is_kept_and_comes_back_from_its_file(tmp_path: Path) -> None:
    maps = raw_values().labels
    maps[0][:, 3] = np.nan
    task = prepare("toy", raw_values(labels=maps, scale=Scale(1.0, 4.0)), 20)
    assert task.labels[0, 0, 5] == pytest.approx((maps[0][0, 7] - 1) / 4, rel=1e-5)
    assert np.isnan(task.labels[0, :, 1]).all()
    write_task(tmp_path / "toy.npz", task)
    again = read_task(tmp_path / "toy.npz")
    assert (again.scale, again.target, again.hash) == (Scale(1.0, 4.0), "values", task.hash)


def test_images_without_a_value_are_left_out() -> None:
    maps = raw_values().labels
    maps[5][:] = np.nan
    assert len(prepare("toy", raw_values(labels=maps), 20).labels) == 11


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": [np.zeros((3, 3))] * 12}, r"image 0 is \(20, 24\) pixels, its map of values \(3, 3\)"),
        ({"labels": [np.full((20, 24), np.inf)] * 12}, r"map of image 0 has infinite values"),
        ({"labels": [np.full((20, 24), 2.0)] * 12}, r"values of the training part are all the same"),
        ({"labels": []}, r"12 images, 0 labels and 12 origin ids"),
    ],
)
def test_maps_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(TaskError, match=message):
        prepare("toy", raw_values(**changes), 16)


def test_values_have_no_classes_to_choose_from() -> None:
    with pytest.raises(TaskError, match=r"no classes to choose from; leave out tasks.toy.classes"):
        prepare("toy", raw_values(), 16, classes=[0])


@pytest.mark.parametrize("name", ["elevation", "nightlights"])
def test_maps_of_the_globe_say_how_they_are_fetched(name: str, tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=rf"task '{name}' needs its folder.*make globe.*set tasks.{name}.root"):
        TASKS[name].find(None)
    (tmp_path / "example/img").mkdir(parents=True)
    for image in ("earth-topology.png", "earth-night.jpg"):
        (tmp_path / "example/img" / image).write_bytes(b"no image")
    with pytest.raises(TaskError, match=r"is damaged or another version.*make globe"):
        TASKS[name].find(tmp_path)


GLOBE = Path(__file__).resolve().parent.parent / "data" / "three-globe"


@pytest.mark.skipif(not GLOBE.is_dir(), reason="make globe fetches it")
@pytest.mark.parametrize("name", ["elevation", "nightlights"])
def test_maps_of_the_globe_lie_on_the_windows_of_land_cover(name: str) -> None:
    cover = prepare("covermap", TASKS["covermap"].load(TASKS["covermap"].find(None)), 32)
    task = prepare(name, TASKS[name].load(TASKS[name].find(GLOBE)), 32)
    assert np.array_equal(task.inputs, cover.inputs)
    assert np.array_equal(task.test, cover.test)
    train = task.labels[~task.test]
    assert (abs(train.mean()), train.std()) == (pytest.approx(0, abs=0.01), pytest.approx(1, abs=0.01))
    if name == "elevation":  # the sea is as low as anything
        assert task.labels[cover.labels == 0].mean() < -1 < 0.3 < task.labels[cover.labels > 0].mean()


# -- scores ---------------------------------------------------------------------------------------------------------------


@given(st.integers(0, 2**31), st.integers(2, 40))
def test_l1_and_r2_are_those_of_numpy(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    true, told = rng.normal(size=count), rng.normal(size=count)
    found = score(torch.from_numpy(told)[:, None], torch.from_numpy(true))
    assert found["l1"] == pytest.approx(np.mean(np.abs(told - true)))
    assert found["r2"] == pytest.approx(1 - np.sum((told - true) ** 2) / np.sum((true - np.mean(true)) ** 2))
    assert found.keys() == {"l1", "r2", "n"}


def test_golden_values_of_l1_and_r2() -> None:
    true = torch.tensor([[1.0, 2.0], [3.0, float("nan")]])
    told = torch.tensor([[1.0], [1.0], [4.0], [9.0]])  # errors 0, -1, 1; labels' mean 2, squares 2
    assert score(told, true) == {"l1": pytest.approx(2 / 3), "r2": pytest.approx(0.0), "n": 3}
    assert score(true.flatten()[:, None], true)["r2"] == 1.0


def test_metrics_hold_for_their_own_labels_alone() -> None:
    whole = score(torch.randn(4, 3), torch.tensor([0, 1, 2, 0]))
    assert not {"l1", "r2"} & whole.keys()
    assert {name: METRICS[name].better for name in ("l1", "r2")} == {"l1": "lower", "r2": "higher"}
    assert (METRICS["l1"].targets, METRICS["r2"].targets) == (("values",), ("values",))


@pytest.mark.parametrize("target", MAIN)
def test_main_metrics_can_be_averaged_and_hold_for_their_target(target: Any) -> None:
    metric = main_metric(target)
    assert (metric.better, metric.high) == ("higher", 1)
    assert target in metric.targets
    assert target == "classes" or target in METRICS[SCALED[target]].targets


@pytest.mark.parametrize("target", ["pixels", "values"])
def test_a_tally_of_batches_is_the_main_metric(target: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(60, 1 if target == "values" else 3, generator=generator)
    if target == "values":
        labels = torch.randn(60, generator=generator)
        labels[::7] = float("nan")
    else:
        labels = torch.randint(0, 3, (60,), generator=generator)
        labels[::7] = UNLABELLED
    found = tally_of(target)
    for chosen in torch.arange(60).split(13):
        found.add(logits[chosen], labels[chosen])
    expected = main_metric(target).measure(*labelled(logits, labels), 0)
    assert found.value == pytest.approx(expected)


def test_what_holds_for_classes_alone_refuses_values() -> None:
    values, labels = torch.randn(6, 1), torch.randn(6)
    assert target_of(labels) == "values"
    with pytest.raises(ValueError, match="a joint accuracy is that of classes"):
        joint_accuracy([[values, values]], [labels])
    with pytest.raises(ValueError, match="a confusion is that of classes"):
        confusion(values, labels)
    with pytest.raises(ValueError, match="an agreement is that of classes"):
        agreement(values, [values, values], "values")
    with pytest.raises(ValueError, match="3 outputs for each value; a network of values has one"):
        score(torch.randn(6, 3), labels)
    model = build(TINY, 0).eval()
    spaces = trace_network(model, 32)
    with pytest.raises(ValueError, match="a curve has the loss and the accuracy of classes"):
        interpolate(
            [model, model], spaces, [{}, {}], [0, 1], [torch.zeros(2, 3, 32, 32)], torch.zeros(2, 32, 32), "none"
        )


def test_an_ensemble_of_values_is_their_mean() -> None:
    assert ensemble_logits([torch.tensor([[1.0]]), torch.tensor([[4.0]])], "values").tolist() == [[2.5]]


# -- networks ---------------------------------------------------------------------------------------------------------------


def test_a_network_learns_values_from_labelled_pixels_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(48, 4, 4, generator=generator).repeat_interleave(8, 1).repeat_interleave(8, 2)
    images = (values[..., None] * 250).to(torch.uint8)
    labels = (values - 0.5) / 0.29
    labels[:, :4] = float("nan")
    model = build(TINY, 0)
    history = train(model, images, labels, Recipe(8, 8, learning_rate=0.05, shift=0), generator, readout=pixel_logits)
    assert history[-1].accuracy > 0.5  # R²
    assert history[-1].loss < history[0].loss < 3


def test_a_judge_of_merges_reads_r2() -> None:
    model = build(TINY, 0).eval()
    batch = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        told = model(batch)[:, 0]
    told[:, :16] = float("nan")
    spaces = trace_network(model, 32)
    judge = TrainingAccuracy(
        {"0": model, "1": model}, spaces, {"0": [(batch, told)]}, same_outputs=True, readouts={"0": pixel_logits}
    )
    identity = {space.name: Permutation.identity(space.size) for space in spaces.free}
    found = judge([identity, identity])
    assert found < 1  # its batch norms are set anew
    assert found == judge([identity, identity])


# -- parameters -------------------------------------------------------------------------------------------------------------


def values_of(**changes: Any) -> dict[str, Any]:
    tasks = {"elevation": {"root": "globe"}, "covermap": {}}
    return bench_values(architectures=["r17-seg"], tasks=tasks, **changes)


def test_tasks_of_values_and_of_classes_of_pixels_stand_in_one_benchmark() -> None:
    parse_params(
        values_of(
            merges={"pairs": {"tasks": [["covermap", "elevation"]], "runs": "neighbours", "measures": ["examples"]}}
        )
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"merges": {"s": {"tasks": ["elevation"], "measures": ["curve"]}}},
         r"merges.s.measures\[0\]: a curve shows the loss of classes, and elevation tells values"),
        ({"merges": {"s": {"tasks": ["elevation"], "measures": ["landscape"]}}}, r"a landscape shows the loss of classes"),
        ({"tasks": {"elevation": {"root": "globe", "classes": [0, 1]}}, "merges": {"s": {"tasks": ["elevation"]}}},
         r"tasks.elevation.classes: elevation tells values, which have no classes"),
        ({"targets": {"kind": "text"}, "merges": {"s": {"tasks": ["elevation"]}}}, r"targets.kind: text has a place for each"),
        ({"merges": {"s": {"tasks": ["elevation"]}}, "pruning": {"p": {"tasks": ["elevation"], "methods": ["fisher"],
          "sparsities": [0.5]}}}, r"fisher reads a label of each image"),
    ],
)  # fmt: skip
def test_what_values_cannot_have_is_an_error_before_any_work(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ParamsError, match=message):
        parse_params(values_of() | changes)


# -- every stage -------------------------------------------------------------------------------------------------------------


def own_heights(root: Path) -> None:
    """The images of some masks, each pixel with a depth that its brightness nearly is."""
    own_masks(root)
    (root / "depth").mkdir()
    for path in sorted((root / "images").glob("*.png")):
        gray = np.asarray(Image.open(path).convert("L")).astype(np.float32)
        gray[:2] = np.nan
        np.save(root / "depth" / f"{path.stem}.npy", gray / 100)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    root = tmp_path_factory.mktemp("values")
    own_heights(root / "data" / "masks")
    values = bench_values(
        architectures=["r17-seg"],
        tasks={
            "all": {"source": "masks", "root": "data/masks"},
            "heights": {"source": "nyuv2", "root": "data/masks"},
            "again": {"source": "nyuv2", "root": "data/masks", "test_fraction": 0.4, "pretrain": "all"},
        },
        train={"epochs": 3, "batch_size": 8, "learning_rate": 0.05},
        statistics={"images": 12, "batch_size": 6, "moments": "full"},
        merges={
            "same": {"tasks": ["heights", "again"], "normalize": ["none"], "controls": ["self"], "measures": ["examples"]},
            "pairs": {
                "tasks": [["all", "heights"]], "stops": ["layer4.0"], "runs": "neighbours", "measures": ["examples"],
                "methods": ["permute"],
            },
        },
        methods={"identity": {}, "permute": {}},
    )  # fmt: skip
    return run_bench(root, values)


@pytest.fixture(scope="module")
def rows(bench: Bench) -> list[dict[str, Any]]:
    return pq.read_table(bench.root / "artifacts/results.parquet").to_pylist()


@pytest.mark.slow
def test_values_are_scored_by_every_stage(bench: Bench, rows: list[dict[str, Any]]) -> None:
    good = [row for row in rows if row["status"] == "ok"]
    assert {row["kind"] for row in good} == {"edge", "ensemble", "merge"}
    assert "again.r17-seg.s0" in {
        row["cell"] for row in good
    }  # finetuned from a network of classes, with a head of its own
    assert {row["target"] for row in good} == {"pixels", "values", "pixels, values"}
    for row in good:
        told = row["target"]
        assert (row["accuracy"] is None, row["mean_iou"] is None, row["loss"] is None) == (told != "pixels",) * 3
        assert (row["r2"] is None, row["l1"] is None) == (told != "values",) * 2
        assert (row["score"] is None) == (told != "pixels, values")
        assert row["scope"] != "joint"
        assert told == "pixels" or row["confusion"] is None
        assert score_of(row) <= 1
    assert score_word(good) == "score"
    edge = bench.json("artifacts/evaluations/heights.r17-seg.s0.json")["tasks"]["heights"]
    assert edge["n"] == 6 * 30 * 32  # a quarter of the images, without their first lines
    trained = bench.json("artifacts/edges/heights.r17-seg.s0/metrics.json")["test_r2"]
    assert edge["r2"] == pytest.approx(trained, rel=1e-4)  # norms are folded for evaluation
    audit = bench.json("artifacts/audit.json")
    assert audit["errors"] == 0, audit["findings"]


@pytest.mark.slow
def test_the_mean_of_classes_and_values_is_that_of_their_main_metrics(rows: list[dict[str, Any]]) -> None:
    by_cell = {(row["cell"], row["scope"]): row for row in rows}
    means = [row for row in rows if row["scope"] == "mean" and row["status"] == "ok"]
    assert means
    for row in means:
        own = by_cell[row["cell"], "all"]["accuracy"], by_cell[row["cell"], "heights"]["r2"]
        assert score_of(row) == row["score"] == pytest.approx(np.mean(own))


@pytest.mark.slow
def test_a_network_of_values_merged_with_itself_is_itself(bench: Bench) -> None:
    edge = bench.json("artifacts/evaluations/heights.r17-seg.s0.json")["tasks"]["heights"]
    merged = bench.json("artifacts/evaluations/heights.r17-seg+r17-seg.s0+s0.permute.none.json")["tasks"]["heights"]
    assert merged["r2"] == pytest.approx(edge["r2"], abs=1e-4)
    assert "agree_0" not in merged


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["prepare", "train", "predict", "examples", "evaluate", "evaluate-ensemble"])
def test_a_stage_of_values_reads_what_it_declares_and_repeats_exactly(stage: str, bench: Bench, tmp_path: Path) -> None:
    own = next(cell for cell in bench.stages if cell.stage == stage and "heights" in cell.cell)
    reads_and_repeats(bench, own, tmp_path)


@pytest.mark.slow
def test_merges_of_values_are_told_in_shares_of_their_sources(rows: list[dict[str, Any]]) -> None:
    edges = {row["cell"]: row["r2"] for row in rows if row["kind"] == "edge"}
    found = dense_results(rows, "values")
    assert {result.task for result in found} == {"heights", "again"}
    pair = next(result for result in found if not result.combination.same_task)
    wanted = ("merge", "heights", "all+heights", "s0+s1")
    merged = next(row["r2"] for row in rows if (row["kind"], row["scope"], row["tasks"], row["seeds"]) == wanted)
    assert pair.sources.values[0] == edges["heights.r17-seg.s1"]
    assert pair.scaled.values[:1] == (
        (pytest.approx(merged / pair.sources.values[0]),) if pair.sources.values[0] > 0 else ()
    )
    assert {result.task for result in dense_results(rows)} == {"all"}


@pytest.mark.slow
def test_the_report_says_what_tasks_are_judged_by(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(bench.root)
    shutil.copytree(ROOT / "reports" / "templates", bench.root / "reports" / "templates")
    for stage in (plot, report):
        stage.run(Context(bench.root, bench.params), "")
    page = (bench.root / "reports/index.html").read_text(encoding="utf-8")
    assert "heights by R²" in page
    assert next(spec for spec in TABLES if spec.name == "values").title in page
    table = (bench.root / "reports/tables/merges_task_pairs.csv").read_text(encoding="utf-8")
    assert "joint" not in table


@pytest.mark.slow
def test_examples_show_maps_of_values(bench: Bench) -> None:
    table = pq.read_table(bench.root / "artifacts/measured/examples.parquet").to_pylist()
    for row in table:
        numbers = row["scope"] != "all" and row["picture"] != "input"
        assert (row["values"] is None, row["numbers"] is not None) == (numbers, numbers)
    target = next(row for row in table if row["scope"] == "heights" and row["picture"] == "target")
    assert np.isnan(np.array(target["numbers"]).reshape(32, 32)[:2]).all()
    assert target["classes"] == ["depth in m"]

    class Data:
        measured = {"examples": table}  # noqa: RUF012
        method = "permute"

    figure = examples(Data())  # type: ignore[arg-type]
    assert figure is not None


# -- one's own checkpoints ----------------------------------------------------------------------------------------------------


def test_ones_own_networks_of_values_are_merged_and_told_in_r2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    depths(tmp_path / "data", 24)
    given = [
        "--data",
        "nyuv2",
        "--root",
        str(tmp_path / "data"),
        "--input-size",
        "32",
        "--width",
        "0.0625",
        "--images",
        "16",
    ]
    for seed in range(2):
        torch.save(build(TINY, seed).state_dict(), tmp_path / f"{seed}.pth")

    def call(architecture: str) -> int:
        files = [str(tmp_path / f"{seed}.pth") for seed in range(2)]
        with pytest.raises(SystemExit) as ended:
            app(["merge", *files, "-a", architecture, *given, "--out", str(tmp_path / "merged.safetensors")])
        return int(ended.value.code or 0)

    assert call("r17") == 2
    assert "read as r17; it fits r17-seg" in " ".join(capsys.readouterr().err.split())
    assert call("r17-seg") == 0
    assert capsys.readouterr().out.count("r2") == 1
    card = json.loads((tmp_path / "merged.json").read_text())
    assert [row["kind"] for row in card["scores"]] == ["source", "source", "ensemble", "merged"]
    assert all(row["score"]["nyuv2"] <= 1 for row in card["scores"])


# -- regressions --------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_refresh_compares_r2(bench: Bench, rows: list[dict[str, Any]]) -> None:
    worse = [row | ({"r2": row["r2"] - 0.5} if row["r2"] is not None and row["kind"] == "edge" else {}) for row in rows]
    found = compare(rows, worse, bench.params, "before")
    assert [change.tasks for change in found.regressions] == ["heights", "again"]
    assert found.regressions[0].paired.difference == pytest.approx(-0.5)
    assert not found.improvements
    back = compare(worse, rows, bench.params, "before")
    assert [change.tasks for change in back.improvements] == ["heights", "again"]


def test_tables_from_before_there_were_values_have_accuracies() -> None:
    assert score_of({"accuracy": 0.5}) == 0.5
    assert score_of({"accuracy": 0.5, "target": None, "r2": None}) == 0.5
    assert score_of({"target": "values", "r2": -2.0, "accuracy": None}) == -2


def test_a_joint_accuracy_is_of_classes_alone() -> None:
    pair = Sources((Edge("a", "r17-seg", 0), Edge("b", "r17-seg", 1)))
    assert scopes_of(pair, {"a": "pixels", "b": "pixels"}) == {
        "a": "pixels",
        "b": "pixels",
        "mean": "pixels",
        "joint": "pixels",
    }
    assert scopes_of(pair, {"a": "pixels", "b": "values"}) == {"a": "pixels", "b": "values", "mean": "pixels, values"}


# -- published layouts --------------------------------------------------------------------------------------------------------


def depths(root: Path, count: int = 6) -> None:
    rng = np.random.default_rng(0)
    (root / "images").mkdir(parents=True)
    (root / "depth").mkdir()
    for number in range(count):
        Image.fromarray(rng.integers(0, 255, (24, 30, 3)).astype(np.uint8)).save(root / "images" / f"{number}.jpg")
        depth = rng.integers(500, 9000, (24, 30)).astype(np.uint16)
        depth[:4] = 0
        if number % 2:
            Image.fromarray(depth).save(root / "depth" / f"{number}.png")
        else:
            np.save(root / "depth" / f"{number}.npy", depth.astype(np.float32) / 1000)
    (root / "test.txt").write_text("4\n5\n", encoding="utf-8")


def test_nyuv2_is_read_in_metres_with_its_split(tmp_path: Path) -> None:
    depths(tmp_path)
    task = prepare("nyuv2", TASKS["nyuv2"].load(TASKS["nyuv2"].find(tmp_path)), 24)
    assert task.test.tolist() == [False] * 4 + [True] * 2
    assert np.isnan(task.labels[:, :4]).all()
    assert task.scale is not None
    expected = np.asarray(Image.open(tmp_path / "depth" / "1.png")).astype(float)[8, 3 + 7] / 1000
    assert task.labels[1, 8, 7] * task.scale.deviation + task.scale.mean == pytest.approx(expected, rel=1e-4)
    assert 4 < task.scale.mean < 6


def test_faults_of_nyuv2_name_the_file_and_the_fix(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"set tasks.nyuv2.root. Expected layout: images/<name>"):
        TASKS["nyuv2"].find(None)
    with pytest.raises(TaskError, match=r"images is missing. Expected layout"):
        TASKS["nyuv2"].find(tmp_path)
    depths(tmp_path)
    load = lambda: prepare("nyuv2", TASKS["nyuv2"].load(TASKS["nyuv2"].find(tmp_path)), 24)  # noqa: E731
    (tmp_path / "test.txt").write_text("4\n9\n", encoding="utf-8")
    with pytest.raises(TaskError, match=r"test.txt names 9, which is no image"):
        load()
    (tmp_path / "test.txt").unlink()
    np.save(tmp_path / "depth" / "2.npy", np.zeros((24, 30, 3)))
    with pytest.raises(TaskError, match=r"2.npy is an array \(24, 30, 3\) of float64; a map is"):
        load()
    (tmp_path / "depth" / "2.npy").write_bytes(b"no array")
    with pytest.raises(TaskError, match=r"2.npy cannot be read as an array"):
        load()
    (tmp_path / "depth" / "2.npy").unlink()
    with pytest.raises(TaskError, match=r"depth/2.png \(or .npy\) is missing: every image needs its depth"):
        load()
    Image.fromarray(np.zeros((24, 30), np.uint8)).save(tmp_path / "depth" / "2.png")
    with pytest.raises(TaskError, match=r"2.png is an image of mode L; a map is a gray image of 16 bits"):
        load()


def taskonomy(root: Path, domain: str) -> None:
    rng = np.random.default_rng(0)
    for building in ("allensville", "beechwood", "benevolence", "coffeen"):
        for folder in ("rgb", domain):
            (root / building / folder).mkdir(parents=True)
        for view in range(2):
            name = f"point_7_view_{view}_domain_"
            Image.fromarray(rng.integers(0, 255, (16, 16, 3)).astype(np.uint8)).save(
                root / building / "rgb" / f"{name}rgb.png"
            )
            values = rng.integers(512, 5120, (16, 16)).astype(np.uint16)
            values[0] = 65535
            Image.fromarray(values).save(root / building / domain / f"{name}{domain}.png")


@pytest.mark.parametrize(("name", "domain"), [("depth", "depth_euclidean"), ("keypoints", "keypoints2d")])
def test_taskonomy_is_read_and_split_by_building(name: str, domain: str, tmp_path: Path) -> None:
    taskonomy(tmp_path, domain)
    adapter = TASKS[f"taskonomy-{name}"]
    task = prepare("t", adapter.load(adapter.find(tmp_path)), 16)
    assert len(task.test) == 8
    assert task.test.sum() == 2
    assert all(len(set(pair)) == 1 for pair in task.test.reshape(4, 2).tolist())
    assert np.isnan(task.labels[:, 0]).all() == (domain == "depth_euclidean")
    assert task.scale is not None
    if domain == "depth_euclidean":  # of log(1 + metres), from 1 to 10 m
        raw = np.asarray(Image.open(tmp_path / "allensville" / domain / f"point_7_view_0_domain_{domain}.png"))
        told = task.labels[0, 5, 5] * task.scale.deviation + task.scale.mean
        assert told == pytest.approx(np.log1p(raw[5, 5] / 512), rel=1e-4)


def test_faults_of_taskonomy_name_the_file_and_the_fix(tmp_path: Path) -> None:
    adapter = TASKS["taskonomy-depth"]
    with pytest.raises(TaskError, match=r"set tasks.taskonomy-depth.root"):
        adapter.find(None)
    with pytest.raises(TaskError, match=r"holds 0 buildings with a folder rgb; it takes two"):
        adapter.find(tmp_path)
    taskonomy(tmp_path, "depth_euclidean")
    gone = tmp_path / "beechwood/depth_euclidean/point_7_view_1_domain_depth_euclidean.png"
    gone.unlink()
    with pytest.raises(TaskError, match=rf"{gone} is missing: every image needs its map"):
        adapter.load(adapter.find(tmp_path))
