"""Tasks of pixels: masks and their readers, scores against literal references, segmenters, and every stage on a small set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mergeline.api import merge
from mergeline.architectures import SEGMENTERS, Architecture, build
from mergeline.depth.expansion import expand_to
from mergeline.evaluation import confusion, labelled, pixel_logits, score
from mergeline.heads import trace_network
from mergeline.kinds import UNLABELLED
from mergeline.maps import Permutation
from mergeline.matching.judge import TrainingAccuracy
from mergeline.metrics import METRICS
from mergeline.metrics.mean_iou import mean_iou
from mergeline.tasks import TASKS, TaskError, prepare
from mergeline.tasks.task import RawMasks
from mergeline.training import Recipe, train
from stages.plan.loading import ParamsError, parse_params
from stages.report.dense import dense_results
from stages.report.example_figures import examples
from stages.report.rows import method_label
from tests.conftest import bench_values
from tests.planted import permuted
from tests.test_stages import Bench, reads_and_repeats, run_bench

TINY = Architecture("r17-seg", 3, 1 / 16, 32)


def raw_masks(count: int = 12, size: int = 20, **changes: Any) -> RawMasks:
    rng = np.random.default_rng(0)
    masks = [rng.integers(0, 3, (size, size + 4)) for _ in range(count)]
    images = [np.repeat(mask[:, :, None] * 80, 3, axis=2).astype(np.uint8) for mask in masks]
    values = {"samples": images, "labels": masks, "origins": np.arange(count), "classes": ("a", "b", "c"), **changes}
    return RawMasks(**values, licence="none", source="a test")


# -- data -----------------------------------------------------------------------------------------------------------------


def test_masks_lie_on_their_images() -> None:
    task = prepare("toy", raw_masks(), 20, test_fraction=0.25)
    assert (task.labels.shape, task.labels.dtype, task.target) == ((12, 20, 20), np.int16, "pixels")
    assert np.array_equal(task.inputs[..., 0] // 80, task.labels)


@pytest.mark.parametrize("size", [10, 16, 32])
def test_masks_are_brought_to_size_with_their_images(size: int) -> None:
    halves = [np.repeat([[0] * 16 + [1] * 16], 32, axis=0) for _ in range(8)]
    images = [np.where(mask, 250, 5).astype(np.uint8) for mask in halves]
    raw = RawMasks(images, halves, np.arange(8), ("left", "right"), "none", "a test")
    task = prepare("toy", raw, size)
    inner = [column for column in range(size) if abs(column + 0.5 - size / 2) > 1]
    assert np.array_equal((task.inputs[0, :, inner, 0] > 127), task.labels[0][:, inner].T == 1)


def test_pixels_of_other_classes_are_unlabelled_and_images_without_a_label_left_out() -> None:
    masks = [np.full((8, 8), 2), *(np.array([[0, 1, 2, UNLABELLED] * 2] * 8) for _ in range(8))]
    images = [np.zeros((8, 8), np.uint8) for _ in masks]
    task = prepare("toy", raw_masks(9, samples=images, labels=masks), 8, classes=[1, 0])
    assert (task.classes, len(task.labels)) == (("b", "a"), 8)
    assert task.labels[0, 0].tolist() == [1, 0, UNLABELLED, UNLABELLED] * 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": [np.zeros((3, 3), int)] * 12}, r"image 0 is \(20, 24\) pixels, its mask \(3, 3\)"),
        (
            {"labels": [np.full((20, 24), 7)] * 12},
            r"mask of image 0 has values from 7 to 7, but a test names 3 classes",
        ),
        ({"labels": [np.zeros((20, 24), int)] * 12}, r"the training part has no pixel of class 'b'"),
        ({"labels": []}, r"12 images, 0 labels and 12 origin ids"),
    ],
)
def test_masks_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(TaskError, match=message):
        prepare("toy", raw_masks(**changes), 16)


def test_windows_of_land_cover_have_the_class_of_each_pixel_and_share_their_water() -> None:
    cover, water = (prepare(name, TASKS[name].load(TASKS[name].find(None)), 32) for name in ("covermap", "watermap"))
    assert cover.classes[0] == "water"
    assert len(cover.classes) == 17
    assert np.array_equal(cover.inputs, water.inputs)
    assert np.array_equal(cover.labels == 0, water.labels == 1)
    assert np.array_equal(cover.test, water.test)
    assert len(cover.inputs) > 2000


def voc(root: Path) -> None:
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    for number in range(6):
        values = np.full((24, 30), [0, 12][number % 2], np.uint8)
        values[:, :4] = 15
        values[0] = 255
        mask = Image.fromarray(values, mode="P")
        mask.putpalette([channel for value in range(256) for channel in (value, value // 2, 255 - value)])
        mask.save(root / "SegmentationClass" / f"{number}.png")
        Image.fromarray(np.full((24, 30, 3), 40 * number, np.uint8)).save(root / "JPEGImages" / f"{number}.jpg")
    (root / "ImageSets/Segmentation/train.txt").write_text("0\n1\n2\n", encoding="utf-8")
    (root / "ImageSets/Segmentation/val.txt").write_text("3\n4\n5\n", encoding="utf-8")


def test_pascal_voc_is_read(tmp_path: Path) -> None:
    voc(tmp_path)
    raw = TASKS["voc"].load(TASKS["voc"].find(tmp_path))
    task = prepare("voc", raw, 24, classes=[0, 12, 15])
    assert task.test.tolist() == [False] * 3 + [True] * 3
    assert task.classes == ("background", "dog", "person")
    assert (task.labels[:, 0] == UNLABELLED).all()  # 255: counts for nothing
    assert set(np.unique(task.labels[1, 1:])) == {1, 2}


def own_masks(root: Path, count: int = 24) -> None:
    rng = np.random.default_rng(1)
    (root / "images").mkdir(parents=True)
    (root / "masks").mkdir()
    for number in range(count):
        mask = np.zeros((32, 32), np.uint8)
        row, column = rng.integers(0, 16, 2)
        mask[row : row + 14, column : column + 14] = 1 + number % 2
        noise = rng.integers(0, 40, (32, 32, 3))
        Image.fromarray((mask[:, :, None] * 100 + noise).astype(np.uint8)).save(root / "images" / f"{number}.png")
        Image.fromarray(mask).save(root / "masks" / f"{number}.png")
    (root / "classes.txt").write_text("ground\nsquare\ntile\n", encoding="utf-8")


def test_ones_own_masks_are_read_and_a_missing_or_coloured_one_is_named(tmp_path: Path) -> None:
    own_masks(tmp_path)
    load = lambda: prepare("mine", TASKS["masks"].load(TASKS["masks"].find(tmp_path)), 32)  # noqa: E731
    assert load().classes == ("ground", "square", "tile")
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(tmp_path / "masks" / "3.png")
    with pytest.raises(TaskError, match=r"3.png is an image of mode RGB; masks are gray or palette images"):
        load()
    (tmp_path / "masks" / "3.png").unlink()
    with pytest.raises(TaskError, match=r"3.png is missing: every image needs its mask"):
        load()


# -- scores ---------------------------------------------------------------------------------------------------------------


@given(st.integers(0, 2**31), st.integers(2, 5))
def test_mean_iou_is_that_of_sets_of_pixels(seed: int, classes: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (30,), generator=generator)
    logits = torch.randn(30, classes, generator=generator)
    told = logits.argmax(1)
    expected = []
    for kind in range(classes):
        one = {place for place in range(30) if labels[place] == kind}
        two = {place for place in range(30) if told[place] == kind}
        if one | two:
            expected.append(len(one & two) / len(one | two))
    assert mean_iou(logits, labels) == pytest.approx(np.mean(expected))


def test_pixels_are_scored_like_images_and_unlabelled_ones_count_for_nothing() -> None:
    outputs = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(0, 3, (4, 5, 5), generator=torch.Generator().manual_seed(1))
    labels[:, 0] = UNLABELLED
    found = score(pixel_logits(outputs), labels)
    kept = labels != UNLABELLED
    right = outputs.argmax(1)[kept] == labels[kept]
    assert (found["n"], found["accuracy"]) == (80, pytest.approx(float(right.double().mean())))
    loss = torch.nn.functional.cross_entropy(outputs.double(), labels, ignore_index=UNLABELLED)
    assert found["loss"] == pytest.approx(float(loss))
    assert int(confusion(pixel_logits(outputs), labels).sum()) == 80


def test_metrics_say_what_they_hold_for() -> None:
    logits, labels = torch.randn(6, 3), torch.tensor([0, 1, 2, 0, 1, 2])
    assert "mean_iou" not in score(logits, labels)
    assert "mean_iou" in score(logits, labels.view(2, 1, 3))
    assert {name: METRICS[name].better for name in ("accuracy", "loss", "mean_iou")} == {
        "accuracy": "higher", "loss": "lower", "mean_iou": "higher"
    }  # fmt: skip


def test_decisions_and_labels_must_be_as_many() -> None:
    with pytest.raises(ValueError, match="6 decisions were made where there are 4 labels"):
        labelled(torch.zeros(6, 2), torch.zeros(4))


# -- networks ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [32, 64])
@pytest.mark.parametrize("name", [*SEGMENTERS, "r20"])
def test_segmenters_tell_every_pixel_and_are_traced(name: str, size: int) -> None:
    model = build(Architecture(f"{name}-seg", 5, 1 / 16, size), 0).eval()
    assert model(torch.zeros(2, 3, size, size)).shape == (2, 5, size, size)
    assert {"near.0", "far.0", "decoder.0"} <= {space.name for space in trace_network(model, size).free}


def test_a_shallow_segmenter_stands_in_a_deep_one() -> None:
    model = build(TINY, 0).eval()
    deep, topology = expand_to(model, TINY, "r26-seg")
    batch = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert topology.name == "r26-seg"
    assert torch.equal(deep(batch), model(batch))


def test_a_segmenter_whose_units_stand_in_another_order_is_merged_back() -> None:
    model = build(TINY, 0).eval()
    batch = torch.randn(24, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    other = permuted(model, trace_network(model, 32))
    found = merge([model, other], [batch], "permute", "none")
    torch.testing.assert_close(found.model(batch), model(batch), rtol=1e-4, atol=1e-4)


def test_a_segmenter_learns_from_labelled_pixels_alone() -> None:
    model = build(TINY, 0)
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 2, (32, 4, 4), generator=generator).repeat_interleave(8, 1).repeat_interleave(8, 2)
    images = (labels[..., None] * 200).to(torch.uint8)
    labels[:, :4] = UNLABELLED
    history = train(model, images, labels, Recipe(6, 8, learning_rate=0.1, shift=0), generator, readout=pixel_logits)
    assert history[-1].accuracy > 0.9
    assert history[-1].loss < history[0].loss


def test_what_reads_a_label_of_each_image_is_refused_before_any_work() -> None:
    values = bench_values(
        architectures=["r17-seg"],
        tasks={"mine": {"source": "masks", "root": "data/masks"}},
        merges={"same": {"tasks": ["mine"]}},
        pruning={"p": {"tasks": ["mine"], "methods": ["fisher"], "sparsities": [0.5]}},
    )
    with pytest.raises(ParamsError, match=r"pruning.p.methods\[0\]: fisher reads a label of each image"):
        parse_params(values)
    tasks = {"mine": {"source": "folder", "root": "data"}}
    with pytest.raises(
        ParamsError, match="r17-seg is for images with pixels, and the samples of mine are images with classes"
    ):
        parse_params({**values, "tasks": tasks, "pruning": {}})


def test_a_judge_of_merges_counts_pixels() -> None:
    model = build(TINY, 0).eval()
    batch = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        told = model(batch).argmax(1)
    told[:, :16] = UNLABELLED
    spaces = trace_network(model, 32)
    judge = TrainingAccuracy(
        {"0": model, "1": model}, spaces, {"0": [(batch, told)]}, same_outputs=True, readouts={"0": pixel_logits}
    )
    identity = {space.name: Permutation.identity(space.size) for space in spaces.free}
    assert judge([identity, identity]) > 0.5  # its batch norms are set anew


# -- every stage -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    root = tmp_path_factory.mktemp("dense")
    own_masks(root / "data" / "masks")
    values = bench_values(
        architectures=["r17-seg"],
        tasks={
            "all": {"source": "masks", "root": "data/masks"},
            "squares": {"source": "masks", "root": "data/masks", "classes": [1, 0]},
        },
        train={"epochs": 2, "batch_size": 8},
        statistics={"images": 12, "batch_size": 6, "moments": "full"},
        merges={
            "same": {"tasks": ["all"], "normalize": ["none"], "controls": ["self"], "measures": ["curve", "examples"]},
            "pairs": {
                "tasks": [["all", "squares"]], "stops": [None, "layer4.0"], "runs": "neighbours", "measures": ["examples"],
                "methods": ["permute"],
            },
        },
        methods={"identity": {}, "permute": {}, "zip": {}},
        curve={"points": 3},
    )  # fmt: skip
    return run_bench(root, values)


@pytest.mark.slow
def test_pixels_are_scored_by_every_stage(bench: Bench) -> None:
    table = pq.read_table(bench.root / "artifacts/results.parquet").to_pylist()
    rows = [row for row in table if row["status"] == "ok"]
    assert {row["kind"] for row in rows} == {"edge", "ensemble", "merge"}
    for row in rows:
        assert 0 <= row["accuracy"] <= 1
        assert (row["mean_iou"] is None) == (row["scope"] == "joint")
    test = {row["scope"]: row["n"] for row in rows if row["kind"] == "edge"}
    assert test["all"] == 6 * 32 * 32  # a quarter of the images, pixel by pixel
    assert test["squares"] < test["all"]


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["train", "predict", "curve", "examples", "evaluate"])
def test_a_stage_reads_what_it_declares_and_repeats_exactly(stage: str, bench: Bench, tmp_path: Path) -> None:
    own = next(cell for cell in bench.stages if cell.stage == stage)
    reads_and_repeats(bench, own, tmp_path)


@pytest.mark.slow
def test_merges_are_told_in_shares_of_their_own_tasks_source(bench: Bench) -> None:
    rows = pq.read_table(bench.root / "artifacts/results.parquet").to_pylist()
    edges = {(row["cell"], row["scope"]): row["mean_iou"] for row in rows if row["kind"] == "edge"}
    found = [result for result in dense_results(rows) if result.combination.tasks == ("all", "squares")]
    assert {result.task for result in found} == {"all", "squares"}
    for result in found:
        merged = next(
            row["mean_iou"]
            for row in rows
            if row["kind"] == "merge"
            and row["scope"] == result.task
            and row["cell"].startswith("all+squares.r17-seg+r17-seg.s0+s1")
            and method_label(row) == result.method
        )
        source = edges[{"all": "all.r17-seg.s0", "squares": "squares.r17-seg.s1"}[result.task], result.task]
        assert merged / source == pytest.approx(result.scaled.values[0])


@pytest.mark.slow
def test_a_segmenter_merged_with_itself_is_itself(bench: Bench) -> None:
    edge = bench.json("artifacts/evaluations/all.r17-seg.s0.json")["tasks"]["all"]
    merged = bench.json("artifacts/evaluations/all.r17-seg+r17-seg.s0+s0.permute.none.json")["tasks"]["all"]
    assert merged["loss"] == pytest.approx(edge["loss"], rel=1e-4)
    assert merged["mean_iou"] == pytest.approx(edge["mean_iou"], abs=1e-3)


@pytest.mark.slow
def test_examples_show_the_image_the_target_each_source_and_the_merge(bench: Bench) -> None:
    table = pq.read_table(bench.root / "artifacts/measured/examples.parquet").to_pylist()
    same = [row for row in table if row["cell"].startswith("all.")]
    assert {row["picture"] for row in same} == {"input", "target", "first", "second", "merged"}
    several = [row for row in table if row["cell"].startswith("all+squares") and row["scope"] == "squares"]
    assert {row["picture"] for row in several} == {"input", "target", "second", "merged"}
    assert {len(row["values"]) for row in same if row["picture"] != "input"} == {32 * 32}

    class Data:
        measured = {"examples": table}  # noqa: RUF012
        method = "permute"

    figure = examples(Data())  # type: ignore[arg-type]
    assert figure is not None
    assert len(figure.axes) == 2 * 5  # two images, and a column for each picture
