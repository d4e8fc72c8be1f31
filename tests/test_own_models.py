"""``mergeline merge``: one's own checkpoints, with a normalisation and kept layers of one's choice."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from flows.cli import app
from mergeline.architectures import Architecture, build
from mergeline.evaluation import flops
from mergeline.preserving import PreserveFirst
from stages.formats.merged import load_merged

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


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ((), "no batch norms to reset; choose repair, or none"),
        (("--normalize", "repare"), "unknown normalisation 'repare'; known: none, reset, repair"),
        (("--normalize", "repair", "--normalize-option", "layers=2"), "--normalize-option"),
        (("--normalize", "repair", "--preserve", "12"), "the network has 9"),
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
