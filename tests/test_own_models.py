"""``mergeline merge`` and ``diagnose``: one's own checkpoints, with a normalisation and kept layers of one's choice."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from flows.cli import app
from mergeline.architectures import Architecture, build
from mergeline.diagnostics import magnitudes
from mergeline.evaluation import flops
from mergeline.heads import trace_network
from mergeline.preserving import PreserveFirst
from stages.formats.measurements import read_measurement
from stages.formats.merged import load_merged, save_merged
from stages.formats.models import read_model, save_edge

WIDTH = 0.0625


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images of two classes, and checkpoints of two plain and two batch-norm networks."""
    root = tmp_path_factory.mktemp("own")
    rng = np.random.default_rng(0)
    for label in range(2):
        folder = root / "data" / f"class{label}"
        folder.mkdir(parents=True)
        for number in range(12):
            pixels = rng.integers(0, 80, (32, 32, 3), dtype=np.uint8)
            pixels[4 + 14 * label : 12 + 14 * label] += np.uint8(150)
            Image.fromarray(pixels).save(folder / f"{number}.png")
    for name in ("vgg11", "vgg11-bn"):
        for seed in range(2):
            model = build(Architecture(name, 2, WIDTH, 32), seed=seed)
            torch.save(model.state_dict(), root / f"{name}.{seed}.pth")
    return root


def call(own: Path, name: str, out: Path, *more: str) -> int:
    files = [str(own / f"{name}.{seed}.pth") for seed in range(2)]
    given = ["-a", name, "--data", "folder", "--root", str(own / "data"), "--out", str(out)]
    try:
        app(["merge", *files, *given, "--input-size", "32", "--width", str(WIDTH), "--images", "16", *more])
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def test_plain_networks_are_repaired_and_keep_layers(
    own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "merged.safetensors"
    assert call(own, "vgg11", out, "--normalize", "repair", "--preserve", "3", "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["method"], said["normalize"], said["out"]) == ("permute", "repair", str(out))
    found = load_merged(out)
    assert isinstance(found, PreserveFirst)
    source = build(Architecture("vgg11", 2, WIDTH, 32), seed=0)
    assert torch.equal(found.state_dict()["stems.0.features.0.weight"], source.state_dict()["features.0.weight"])
    example = torch.randn(1, 3, 32, 32)
    assert flops(source, example) < flops(found, example) < 2 * flops(source, example)


def test_options_of_the_normalisation_are_taken(own: Path, tmp_path: Path) -> None:
    out = tmp_path / "merged.safetensors"
    more = ("--normalize", "bias_removal", "--normalize-option", "layers=2", "--method", "identity")
    assert call(own, "vgg11", out, *more) == 0
    state = load_merged(out).state_dict()
    removed = [name for name, tensor in state.items() if name.endswith("bias") and not tensor.any()]
    assert {"classifier.bias"} <= set(removed)
    assert call(own, "vgg11-bn", tmp_path / "other.safetensors") == 0  # reset, as usual


def merged_and_diagnosed(own: Path, folder: Path, architectures: dict[str, str], *more: str) -> Path:
    """The file that ``mergeline merge`` makes of checkpoints, and that ``diagnose`` then looks into. ``architectures``: by file."""
    files = [str(own / name) for name in architectures]
    given = ["--data", "folder", "--root", str(own / "data"), "--images", "16"]
    given += [word for name in architectures.values() for word in ("-a", name)]
    merged = folder / "merged.safetensors"
    size = ["--input-size", "32", "--width", str(WIDTH), "--normalize", "repair", "--out", str(merged)]
    for command in (["merge", *files, *given, *size, *more], ["diagnose", str(merged), *files, *given]):
        with pytest.raises(SystemExit) as ended:
            app(command)
        assert not ended.value.code
    return merged


def saved(own: Path, architecture: str) -> str:
    """The name of one more checkpoint."""
    name = f"{architecture}.2.pth"
    torch.save(build(Architecture(architecture, 2, WIDTH, 32), seed=2).state_dict(), own / name)
    return name


def test_networks_of_different_depth_are_placed_and_diagnosed_where_they_stand(
    own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pair = {saved(own, "vgg16"): "vgg16", "vgg11.0.pth": "vgg11"}
    merged = merged_and_diagnosed(own, tmp_path, pair, "--depth", "spread")
    assert "features.0.weight" in capsys.readouterr().out
    _, description = read_model(merged)
    assert description["placements"] == [None, [[0, None], [0, None], [0, 1, None], [0, 1, None], [0, 1, None]]]


@pytest.mark.parametrize("preserve", [[], ["--preserve", "2"]])
def test_networks_of_different_width_are_merged_and_diagnosed(
    preserve: list[str], own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pair = {"vgg11.0.pth": "vgg11", saved(own, "vgg16x2"): "vgg16x2"}
    merged = merged_and_diagnosed(own, tmp_path, pair, "--method", "zip", *preserve)
    assert "features.0.weight" in capsys.readouterr().out
    _, description = read_model(merged)
    assert description["heads"][0]["name"] == "vgg16x2"
    assert isinstance(load_merged(merged), PreserveFirst) == bool(preserve)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ((), "no batch norms to reset; choose repair, or none"),
        (("--normalize", "repare"), "unknown normalisation 'repare'; known: none, reset, repair"),
        (("--normalize", "repair", "--normalize-option", "layers=2"), "--normalize-option"),
        (("--normalize", "repair", "--preserve", "12"), "the network has 9"),
        (("--normalize", "repair", "--depth", "best"), "unknown depth 'best'; known: append, spread, sma, lma"),
        (("--normalize", "repair", "--preserve", "some"), "neither a number of layers nor a share"),
    ],
)
def test_what_does_not_fit_is_one_line_and_nothing_is_written(
    own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: tuple[str, ...], words: str
) -> None:
    out = tmp_path / "merged.safetensors"
    assert call(own, "vgg11", out, *more) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert words in said
    assert "Traceback" not in said
    assert not out.exists()


# -- mergeline diagnose -----------------------------------------------------------------------------------------------


def diagnose(own: Path, merged: Path, *more: str, sources: tuple[str, ...] = ("vgg11.0.pth", "vgg11.1.pth")) -> int:
    files = [str(own / name) for name in sources]
    try:
        app(["diagnose", str(merged), *files, "--data", "folder", "--root", str(own / "data"), "--images", "13", *more])
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def test_a_merged_file_is_looked_into_and_all_numbers_are_written(
    own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    merged = tmp_path / "merged.safetensors"
    assert call(own, "vgg11", merged, "--normalize", "none") == 0
    capsys.readouterr()
    tables = [tmp_path / f"layers{ending}" for ending in (".csv", ".json", ".parquet")]
    for table in tables:
        assert diagnose(own, merged, "--out", str(table)) == 0
    said = capsys.readouterr().out
    assert all(word in said for word in ("features.0.weight", "classifier.weight", str(tables[0])))
    read = read_measurement(tables[2], "diagnosis")
    assert json.loads(tables[1].read_text()) == read
    with tables[0].open(newline="") as stream:
        lines = list(csv.DictReader(stream))
    assert [float(line["value"]) for line in lines] == [row["value"] for row in read]
    quantities = {row["quantity"] for row in read}
    assert quantities == {
        "features",
        "relative",
        "bound",
        "variance",
        "weight",
        "bias",
        "cka",
    }  # there are no batch norms
    network = load_merged(merged)
    weights = {row["layer"]: row["value"] for row in read if (row["quantity"], row["network"]) == ("weight", "merged")}
    assert weights == {name: size.weight for name, size in magnitudes(network, trace_network(network, 32)).items()}


def test_a_network_merged_with_itself_has_lost_nothing(
    own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    merged, twice = tmp_path / "merged.safetensors", ("vgg11-bn.0.pth", "vgg11-bn.0.pth")
    model = build(Architecture("vgg11-bn", 2, WIDTH, 32), seed=0)
    save_merged(merged, model, {"folder": Architecture("vgg11-bn", 2, WIDTH, 32)}, None, False)
    assert diagnose(own, merged, "--json", sources=twice) == 0
    lines = json.loads(capsys.readouterr().out)
    assert len(lines) == 9
    for line in lines:
        assert line["relative"] == pytest.approx(1, rel=1e-4)
        assert line["cka"] == pytest.approx(1, rel=1e-4)
        assert line["weight"] == pytest.approx(line["weight_of_sources"])


@pytest.mark.parametrize(
    ("sources", "more", "words"),
    [
        (("vgg11.0.pth",), (), "two at least"),
        (("vgg11.0.pth", "lost.pth"), (), "lost.pth is missing"),
        (("vgg11.0.pth", "vgg11-bn.1.pth"), (), "vgg11-bn.1.pth does not fit"),
        (("vgg11.0.pth", "vgg11.1.pth"), ("-a", "vgg12"), "unknown architecture 'vgg12'"),
        (("vgg11.0.pth", "vgg11.1.pth"), ("-a", "resnet20"), "vgg11.0.pth does not fit"),
        (("vgg11.0.pth", "vgg11.1.pth"), ("--out", "layers.txt"), "a table ends in .csv, .json, .parquet"),
        (("vgg11.0.pth", "vgg11.1.pth"), ("--data", "birds"), "unknown data 'birds'"),
        (("vgg11.0.pth", "vgg11.1.pth"), ("--root", "nowhere"), "nowhere"),
    ],
)
def test_what_cannot_be_diagnosed_is_one_line(
    own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    sources: tuple[str, ...], more: tuple[str, ...], words: str,
) -> None:  # fmt: skip
    merged = tmp_path / "merged.safetensors"
    architecture = Architecture("vgg11", 2, WIDTH, 32)
    save_merged(merged, build(architecture, seed=0), {"folder": architecture}, None, False)
    assert diagnose(own, merged, *more, sources=sources) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert words in said
    assert "Traceback" not in said


def test_a_file_that_is_no_merged_network_is_not_diagnosed(
    own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    architecture = Architecture("vgg11", 2, WIDTH, 32)
    save_edge(tmp_path / "edge.safetensors", build(architecture), architecture, "folder", 0)
    for path, words in (
        (own / "vgg11.0.pth", "no merged network of mergeline's"),
        (tmp_path / "edge.safetensors", "one of kind 'edge'"),
        (tmp_path / "lost.safetensors", "is missing; name a network that mergeline merge wrote"),
    ):
        assert diagnose(own, path) == 2
        assert words in " ".join(capsys.readouterr().err.split())
