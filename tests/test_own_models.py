"""``mergeline merge`` and ``diagnose``: one's own checkpoints, with a normalisation and kept layers of one's choice."""

from __future__ import annotations

import csv
import importlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from flows.cli import app
from mergeline.architectures import ARCHITECTURES, Architecture, build
from mergeline.diagnostics import magnitudes
from mergeline.evaluation import flops
from mergeline.foreign import ForeignError
from mergeline.heads import trace_network
from mergeline.preserving import PreserveFirst
from mergeline.recognising import recognise
from stages.exported import EXPORTS
from stages.formats.measurements import read_measurement
from stages.formats.merged import load_merged, save_merged
from stages.formats.models import read_model, save_edge
from stages.merge_files import Data

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
    assert (said["merge"]["method"], said["merge"]["normalize"], said["file"]) == ("permute", "repair", out.name)
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
        (("--normalize", "reset"), "no batch norms to reset; choose repair, or none"),
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


# -- people's own forms ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two folders of images of three and of two classes, and checkpoints of torchvision's networks in several forms."""
    torchvision = pytest.importorskip("torchvision")
    root = tmp_path_factory.mktemp("theirs")
    rng = np.random.default_rng(0)
    for name, count in (("birds", 3), ("cars", 2)):
        for label in range(count):
            folder = root / name / f"{name}{label}"
            folder.mkdir(parents=True)
            for number in range(12):
                pixels = rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    for seed, (name, count) in enumerate((("a", 3), ("b", 3), ("c", 2))):
        torch.manual_seed(seed)
        state = torchvision.models.mobilenet_v2(num_classes=count).state_dict()
        torch.save(state, root / f"{name}.pth")
    wrapped = {f"model.{key}": tensor.half() if tensor.is_floating_point() else tensor for key, tensor in state.items()}
    torch.save({"state_dict": wrapped, "epoch": 1}, root / "c.ckpt")
    return root


def run_merge(theirs: Path, monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.chdir(theirs)
    try:
        app(["merge", *words, "--images", "8", "--input-size", "32"])
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def loaded_as_the_card_says(card: Path, monkeypatch: pytest.MonkeyPatch) -> torch.nn.Module:
    """The network that the Python block of a card gives, beside the file."""
    monkeypatch.chdir(card.parent)
    block = card.read_text().partition("```python\n")[2].partition("```")[0]
    values: dict[str, object] = {}
    exec(block, values)
    model = values["model"]
    assert isinstance(model, torch.nn.Module)
    return model.eval()


@pytest.mark.parametrize("ending", [".safetensors", ".pth"])
def test_a_merge_is_found_out_from_the_tensors_and_loads_as_its_card_says(
    ending: str, theirs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / f"merged{ending}"
    assert (
        run_merge(theirs, monkeypatch, "a.pth", "b.pth", "--data", "folder", "--root", "birds", "--out", str(out)) == 0
    )
    said = capsys.readouterr().out
    assert "a.pth: torchvision:mobilenet_v2, 3 classes, 32 pixels" in said
    card = json.loads(out.with_suffix(".json").read_text())
    assert [row["kind"] for row in card["scores"]] == ["source", "source", "ensemble", "merged"]
    assert card["plain_class"]
    assert out.stat().st_mode & 0o777 == out.with_suffix(".md").stat().st_mode & 0o777
    model = loaded_as_the_card_says(out.with_suffix(".md"), monkeypatch)
    assert type(model).__name__ == "MobileNetV2"
    with pytest.raises(SystemExit):
        app(["show", str(out)])
    shown = capsys.readouterr().out
    assert card["command"] in shown
    assert not shown.startswith("---")
    assert run_merge(theirs, monkeypatch, *card["command"].split()[2:-4]) == 2  # nothing is written over
    assert "exists already" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("several", [False, True])
def test_an_exported_network_runs_as_its_card_says(
    several: bool, theirs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxscript")
    places = [tmp_path / "m.onnx", tmp_path / "m.pt2"]
    second = (
        ("c.pth", "--data", "folder", "--root", "birds", "--root", "cars")
        if several
        else ("b.pth", "--data", "folder", "--root", "birds")
    )
    words = ("a.pth", *second, "--out", str(tmp_path / "m.safetensors"))
    exports = [word for place in places for word in ("--export", str(place))]
    assert run_merge(theirs, monkeypatch, *words, *exports) == 0
    card = json.loads((tmp_path / "m.json").read_text())
    assert [own["file"] for own in card["exports"]] == ["m.onnx", "m.pt2"]
    blocks = re.findall(r"which needs no class:\n\n```python\n(.*?)```", (tmp_path / "m.md").read_text(), re.DOTALL)
    images = torch.randn(5, 3, 32, 32)
    if several:
        own = load_merged(tmp_path / "m.safetensors").eval()
    else:
        own = loaded_as_the_card_says(tmp_path / "m.md", monkeypatch)
    monkeypatch.chdir(tmp_path)
    for block in blocks:
        values: dict[str, object] = {"images": images}
        exec(block, values)
        found = values["outputs"]
        heads = found.values() if isinstance(found, dict) else found if isinstance(found, list) else [found]
        wanted = own(images)
        for one, other in zip(heads, wanted.values() if several else [wanted], strict=True):
            assert torch.as_tensor(one).detach().numpy() == pytest.approx(other.detach().numpy(), abs=1e-4)


def test_a_failing_export_leaves_nothing(
    theirs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> list[torch.Tensor]:
        raise RuntimeError("an operation that has no such form\nand more")

    monkeypatch.setitem(EXPORTS, ".onnx", broken)
    words = ("a.pth", "b.pth", "--data", "folder", "--root", "birds", "--out", str(tmp_path / "m.pth"))
    monkeypatch.setitem(EXPORTS, ".pt2", lambda network, place, batch, names: (place.touch(), [network(batch)])[1])
    assert (
        run_merge(
            theirs, monkeypatch, *words, "--export", str(tmp_path / "m.pt2"), "--export", str(tmp_path / "m.onnx")
        )
        == 2
    )
    assert "RuntimeError: an operation that has no such form" in " ".join(capsys.readouterr().err.split())
    assert list(tmp_path.iterdir()) == []


def test_models_of_two_tasks_keep_their_classifiers(
    theirs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "both.safetensors"
    words = ("a.pth", "c.ckpt", "--data", "folder", "--root", "birds", "--root", "cars", "--out", str(out))
    assert run_merge(theirs, monkeypatch, *words, "--dry") == 0
    said = capsys.readouterr().out
    assert "each model keeps its classifier" in said
    assert "made float32 of float16" in said
    assert list(tmp_path.iterdir()) == []
    assert run_merge(theirs, monkeypatch, *words) == 0
    model = loaded_as_the_card_says(out.with_suffix(".md"), monkeypatch)
    with torch.no_grad():
        logits = model(torch.zeros(2, 3, 32, 32))
    assert {head: tuple(own.shape) for head, own in logits.items()} == {"birds": (2, 3), "cars": (2, 2)}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("a.pth", "c.pth", "--data", "folder", "--root", "birds"), "c.pth tells 2 classes apart, and birds has 3"),
        (
            ("a.pth", "b.pth", "--data", "folder", "--root", "birds", "-a", "torchvision:resnet18"),
            "it fits torchvision:mobilenet_v2",
        ),
        (
            ("a.pth", "b.pth", "--data", "folder", "--root", "birds", "-a", "torchvision:resnet8"),
            "did you mean resnet18",
        ),
        (("a.pth", "b.pth", "--data", "folder", "--root", "birds", "-a", "resnet21"), "did you mean resnet20?"),
        (("a.pth", "b.pth", "--data", "folder", "--root", "birds", "-a", "nowhere.models:make"), "cannot be imported"),
        (("a.pth", "b.pth", "--data", "folder", "--root", "lost"), "lost"),
        (("a.pth", "b.pth", "--data", "folder", "--root", "birds", "--method", "permut"), "unknown method 'permut'"),
        (("a.pth", "b.pth", "--data", "folder", "--root", "birds", "--weight", "0.5"), "1 --weight for 2 checkpoints"),
        (("a.pth", "b.pth", "--data", "folder", "--root", "birds", "--weight", "nan", "--weight", "1"), "be finite"),
        (("a.pth", "b.pth", "--data", "folder", "--root", "birds", "--std", "0.5,0.5,0"), "larger than 0"),
        (("a.pth", "b.pth", "--data", "folder", "--root", "birds", "--mean", "0.5 0.5 0.5"), "commas between them"),
        (("a.pth", "b.pth", "--data", "folder", "--root", "birds", "--mean", "1,2"), "one for all channels, or three"),
        (("a.pth", "b.pth", "--data", "folder", "--root", "birds", "--mean", "inf"), "not finite numbers"),
        (("a.pth", "b.pth", "--data", "folder", "--root", "birds", "--stop", "7", "--dry"), "lie between 0 and 1"),
        (("a.pth", "b.pth", "--data", "folder", "--root", "birds", "--preserve", "99", "--dry"), "can be preserved"),
        (
            ("a.pth", "b.pth", "--data", "folder", "--root", "birds", "--root", "cars", "--root", "cars"),
            "3 --data for 2 checkpoints",
        ),
        (
            ("a.pth", "c.pth", "--data", "folder", "--root", "birds", "--root", "cars", "--out", "x.pth"),
            "goes into a .safetensors file",
        ),
        (("a.pth", "b.pth", "--data", "folder", "--root", "birds", "--out", "x.txt"), "ends in .safetensors, .pth"),
        (("a.pth", "b.pth", "--data", "folder", "--root", "birds", "--export", "x.tflite"), "ends in .onnx, .pt2"),
        (("a.pth", "b.pth", "--data", "folder"), "name it with --root"),
        (
            ("a.pth", "b.pth", "--data", "folder", "--root", "birds", "--out", "a.pth/x.pth"),
            "is no folder that you may write to",
        ),
    ],
)
def test_what_cannot_be_merged_is_said_before_any_work(
    words: tuple[str, ...], said: str, theirs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(theirs.rglob("*"))
    out = () if "--out" in words else ("--out", "x.safetensors")
    assert run_merge(theirs, monkeypatch, *words, *out) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert said in error
    assert "Traceback" not in error
    assert sorted(theirs.rglob("*")) == before


def test_the_same_network_twice_is_warned_of(
    theirs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("a.pth", "a.pth", "--data", "folder", "--root", "birds", "--out", str(tmp_path / "x.pth"))
    assert run_merge(theirs, monkeypatch, *words, "--dry") == 0
    assert "are the same network" in " ".join(capsys.readouterr().err.split())


def test_a_source_that_knows_nothing_of_the_images_is_doubted(
    theirs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """These networks never trained."""
    out = tmp_path / "x.safetensors"
    assert (
        run_merge(theirs, monkeypatch, "a.pth", "b.pth", "--data", "folder", "--root", "birds", "--out", str(out)) == 0
    )
    assert "classes in another order than birds0, birds1, birds2?" in " ".join(capsys.readouterr().err.split())
    assert json.loads(out.with_suffix(".json").read_text())["warnings"]


def test_networks_that_count_their_layers_with_tensors_are_known_too() -> None:
    torchvision = pytest.importorskip("torchvision")
    state = torchvision.models.regnet_x_400mf(num_classes=3).state_dict()
    assert [(own.name, own.num_classes) for own in recognise(state, 32, ["torchvision:regnet_x_400mf"])] == [
        ("torchvision:regnet_x_400mf", 3)
    ]


def test_a_function_may_have_a_number_of_classes_of_its_own(
    theirs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "fixed_networks.py").write_text(
        "from torch import nn\n"
        "def three():\n"
        "    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3)]\n"
        "    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), *head)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    made = importlib.import_module("fixed_networks").three
    for seed in range(2):
        torch.save(made().state_dict(), tmp_path / f"{seed}.pth")
    files = [str(tmp_path / f"{seed}.pth") for seed in range(2)]
    given = ("-a", "fixed_networks:three", "--data", "folder", "--out", str(tmp_path / "m.pth"))
    assert run_merge(theirs, monkeypatch, *files, *given, "--root", "cars") == 2
    assert "tells 3 classes apart, and cars has 2" in " ".join(capsys.readouterr().err.split())
    assert run_merge(theirs, monkeypatch, *files, *given, "--root", "birds") == 0


@pytest.mark.parametrize("name", ["my.birds v2", "birds"])
def test_heads_are_called_by_names_that_networks_may_have(name: str) -> None:
    data = [Data("folder", Path("a") / name), Data("folder", Path("b") / name)]
    assert {own.label for own in data} == {re.sub(r"[. ]", "-", name)}


def test_a_function_of_ones_own_makes_the_network(
    theirs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "my_networks.py").write_text(
        "from torch import nn\n"
        "def small(num_classes):\n"
        "    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, num_classes)]\n"
        "    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), *head)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    made = importlib.import_module("my_networks").small
    for seed in range(2):
        torch.manual_seed(seed)
        torch.save(made(3).state_dict(), tmp_path / f"{seed}.pth")
    out = tmp_path / "merged.safetensors"
    files = [str(tmp_path / f"{seed}.pth") for seed in range(2)]
    given = ("-a", "my_networks:small", "--data", "folder", "--root", "birds", "--out", str(out))
    assert run_merge(theirs, monkeypatch, *files, *given) == 0
    assert json.loads(out.with_suffix(".json").read_text())["merge"]["normalize"] == "repair"
    ARCHITECTURES.pop("my_networks:small")
    with pytest.raises(ForeignError, match="none is called because a file names it"):
        load_merged(out)


def test_what_is_left_out_of_the_images_is_said(own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    note = own / "data" / "class0" / "note.txt"
    note.write_text("no image")
    assert call(own, "vgg11", tmp_path / "merged.safetensors", "--dry") == 0
    note.unlink()
    assert "left out: files that are no images (1: class0/note.txt)" in capsys.readouterr().out
