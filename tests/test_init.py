"""``mergeline init``: a benchmark in an empty folder, from what a person has."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from flows.cli import app
from mergeline.architectures import Architecture, build

ROOT = Path(__file__).resolve().parents[1]


def images(folder: Path, classes: int, each: int = 12, side: int = 32) -> Path:
    """A folder for each class, whose images are of one brightness each."""
    rng = np.random.default_rng(0)
    for label in range(classes):
        own = folder / f"class{label}"
        own.mkdir(parents=True)
        for number in range(each):
            pixels = rng.integers(0, 60, (side, side, 3)) + 60 * label
            Image.fromarray(pixels.astype(np.uint8)).save(own / f"{number}.png")
    return folder


def init(*words: object) -> int:
    with pytest.raises(SystemExit) as ended:
        app(["init", *map(str, words)])
    return int(ended.value.code or 0)


def params_of(folder: Path) -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load((folder / "params.yaml").read_text())
    return values


def test_folders_of_images_become_tasks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    birds = images(tmp_path / "data" / "My Birds", 3)
    cars = images(tmp_path / "data" / "cars", 2, side=100)
    bench = tmp_path / "bench"
    assert init(bench, "--images", birds, "--images", cars) == 0
    said = capsys.readouterr().out
    assert "my-birds: 3 classes, 36 images of about 32 pixels" in said
    assert f"next: cd {bench} && mergeline run" in said
    params = params_of(bench)
    assert params["tasks"] == {
        "my-birds": {"source": "folder", "root": "../data/My Birds"},
        "cars": {"source": "folder", "root": "../data/cars"},
    }
    assert params["model"]["input_size"] == 64
    assert params["merges"]["task-pairs"]["tasks"] == [["my-birds", "cars"]]
    assert {".git", ".dvc", ".gitignore", "dvc.yaml", "pipelines"} <= {path.name for path in bench.iterdir()}
    assert "mergeline, stages" not in (bench / "dvc.yaml").read_text()
    assert (bench / "pipelines/code.json").is_file()


def test_checkpoints_stand_in_for_trained_models(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    birds = images(tmp_path / "birds", 3)
    for seed in range(2):
        torch.save(build(Architecture("r17", 3, 0.0625, 32), seed).state_dict(), tmp_path / f"{seed}.pth")
    torch.save({"model": build(Architecture("r26", 3, 0.0625, 32), 0).state_dict()}, tmp_path / "deep.pth")
    files = [word for name in ("0.pth", "1.pth", "deep.pth") for word in ("--checkpoint", tmp_path / name)]
    # The tensors of 32 and 64 pixels are the same, so that somebody has to say which.
    assert init(tmp_path / "bench", "--images", birds, *files) == 2
    assert "at 32 and 64 pixels alike" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "bench").exists()
    assert init(tmp_path / "bench", "--images", birds, *files, "--input-size", "32") == 0
    params = params_of(tmp_path / "bench")
    assert params["imports"] == {"birds.r17.s0": "../0.pth", "birds.r17.s1": "../1.pth", "birds.r26.s0": "../deep.pth"}
    assert params["architectures"] == ["r17", "r26"]
    assert params["model"] == {"input_size": 32, "width": 0.0625}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("{full}",), "is not empty (it holds birds"),
        (("{file}",), "is a file; name a new folder"),
        (("{new}", "--images", "{lost}"), "lost"),
        (("{new}", "--images", "{single}"), "a task needs two"),
        (("{new}", "--profile", "demp"), "unknown profile 'demp'"),
        (("{new}", "--checkpoint", "{file}"), "neither safetensors"),
    ],
)
def test_what_cannot_be_is_said_and_nothing_is_left(
    words: tuple[str, ...], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images(tmp_path / "full" / "birds", 2)
    images(tmp_path / "single", 1)
    (tmp_path / "file").write_text("hello")
    before = sorted(tmp_path.rglob("*"))
    places = {name: tmp_path / name for name in ("full", "file", "new", "lost", "single")}
    assert init(*(word.format(**places) for word in words)) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert said in error
    assert sorted(tmp_path.rglob("*")) == before


def test_outside_of_a_benchmark_init_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        app(["status"])
    assert ended.value.code == 2
    assert "make one: mergeline init DIR" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--cron", "boo"), "--cron 'boo' is no schedule"),
        (("--cron", "0 3 * *"), "is no schedule"),
        (("--port", "70000"), "a port is a number from 1 to 65535"),
        (("--port", "{taken}"), "cannot be had"),
    ],
)
def test_a_schedule_that_cannot_be_is_refused_before_a_server_starts(
    words: tuple[str, ...], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(SystemExit) as ended:
            app(["serve", *(word.format(taken=other.getsockname()[1]) for word in words)])
    assert ended.value.code == 2
    assert said in " ".join(capsys.readouterr().err.split())


def test_the_version_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        app(["--version"])
    assert not ended.value.code
    assert capsys.readouterr().out.startswith("mergeline 0.")


# -- from an installed package --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package as a wheel installs it."""
    target = tmp_path_factory.mktemp("wheel")
    build_wheel = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(target)]
    subprocess.run(build_wheel, cwd=ROOT, check=True, capture_output=True)
    with zipfile.ZipFile(next(target.glob("*.whl"))) as wheel:
        wheel.extractall(target / "site")
    return target / "site"


def mergeline(installed: Path, folder: Path, *words: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(installed), "DVC_NO_ANALYTICS": "1"}
    command = [sys.executable, "-P", "-m", "flows.cli", *map(str, words)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_a_benchmark_from_an_installed_package_runs_and_sees_a_new_image(installed: Path, tmp_path: Path) -> None:
    birds, cars = images(tmp_path / "birds", 2), images(tmp_path / "cars", 2)
    made = mergeline(installed, tmp_path, "init", "x", "--images", birds, "--images", cars)
    assert made.returncode == 0, made.stderr
    bench = tmp_path / "x"
    params = params_of(bench)
    params["architectures"], params["model"] = ["r17"], {"input_size": 32, "width": 0.0625}
    params["train"]["epochs"], params["methods"] = 1, {"permute": {}}
    params["report"] = {"method": "permute"}
    params["merges"]["same-task"].pop("controls")
    (bench / "params.yaml").write_text(yaml.safe_dump(params))
    ran = mergeline(installed, bench, "run", "--no-prefect")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert (bench / "reports/index.html").is_file()
    again = mergeline(installed, bench, "run", "--no-prefect")
    assert "nothing to do" in again.stdout
    Image.fromarray(np.full((32, 32, 3), 99, np.uint8)).save(birds / "class0" / "new.png")
    why = mergeline(installed, bench, "status", "--why").stdout
    assert "data of task birds: 1 image added (class0/new.png)" in " ".join(why.split())
    stale = [line.split()[1].rstrip(":") for line in why.splitlines() if line.startswith(("stale", "waits"))]
    assert "train@birds.r17.s0" in stale
    assert "train@cars.r17.s0" not in stale
    assert mergeline(installed, bench, "run", "--no-prefect").returncode == 0
    assert "nothing to do" in mergeline(installed, bench, "run", "--no-prefect").stdout


@pytest.mark.slow
def test_another_version_of_the_code_is_noticed(installed: Path, tmp_path: Path) -> None:
    made = mergeline(installed, tmp_path, "init", "x", "--images", images(tmp_path / "birds", 2))
    assert made.returncode == 0, made.stderr
    note = tmp_path / "x/pipelines/code.json"
    before = note.read_text()
    changed = installed / "mergeline/maps.py"
    text = changed.read_text()
    try:
        changed.write_text(text + "\nCHANGED = 1\n")
        assert mergeline(installed, tmp_path / "x", "plan").returncode == 0
        assert note.read_text() != before
    finally:
        changed.write_text(text)
