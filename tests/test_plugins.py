"""An installed package adds to the registries by entry points: what it brings is listed, planned, run and hashed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

ENTRIES = {
    "mergeline.methods": "turn = small_plugin.entries:TURN",
    "mergeline.normalizations": "louder = small_plugin.entries:LOUDER",
    "mergeline.placements": "last = small_plugin.entries:LAST",
    "mergeline.architectures": "line = small_plugin.entries:LINE",
    "mergeline.tasks": "stripes = small_plugin.entries:STRIPES",
}
CODE = """
from dataclasses import dataclass

import numpy as np

from mergeline.architectures import Design
from mergeline.depth import Placer
from mergeline.maps import Permutation
from mergeline.matching.problem import Matcher, Matching
from mergeline.normalization import Normalizer
from mergeline.tasks import Adapter, RawTask

STEP = 1


@dataclass(frozen=True)
class Options:
    factor: float = 1.0


def _turn(problem, options):
    def maps(step):
        return {s.name: Permutation(np.roll(np.arange(s.size), step)) for s in problem.spaces.free}

    return Matching((maps(0), *[maps(STEP)] * (problem.n_models - 1)))


def _louder(finished, options):
    for parameter in finished.network.parameters():
        parameter.data.mul_(options.factor)


def _make(num_classes, width, input_size):
    from torch import nn

    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, num_classes)
    )


def _load(files):
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    images = rng.integers(0, 60, (60, 32, 32, 3)).astype(np.uint8)
    for image, label in zip(images, labels):
        image[8 * label : 8 * label + 6] += 150
    return RawTask(images, labels.astype(np.int64), np.arange(60), ("a", "b", "c"), "none", "made")


TURN = Matcher("turn", "turns every space", "none", Options, _turn)
LOUDER = Normalizer("louder", "scales everything", Options, _louder)
LAST = Placer("last", "a test", Options, lambda depths, options: ())
LINE = Design("line", _make)
STRIPES = Adapter("stripes", "stripes, made", lambda root: {}, _load)
"""
PARAMS = """
seed: 0
compute: {device: cpu, threads: 1}
model: {input_size: 32, width: 1.0}
architectures: [line]
seeds: [0, 1]
tasks: {stripes: {}}
train: {epochs: 1, batch_size: 10}
finetune: {}
statistics: {images: 20, batch_size: 10}
methods: {identity: {}, turn: {options: {factor: 2.0}}}
normalize: {reset: {images: 20, batch_size: 10}, louder: {images: 20, batch_size: 10, factor: 1.5}}
merges: {same: {tasks: [stripes], normalize: [louder]}}
evaluate: {batch_size: 20}
similarity: {tau: 1000.0}
targets: {}
imports: {}
report: {}
"""


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    """A folder with an installed package, as pip leaves one."""
    site = tmp_path / "site"
    (site / "small_plugin").mkdir(parents=True)
    (site / "small_plugin" / "__init__.py").write_text("")
    (site / "small_plugin" / "entries.py").write_text(CODE)
    info = site / "small_plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: small-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("".join(f"[{group}]\n{entry}\n" for group, entry in ENTRIES.items()))
    return site


def run(site: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(site)))}
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def hashes(site: Path, folder: Path) -> dict[str, dict[str, str]]:
    assert run(site, folder, "-m", "stages", "code").returncode == 0
    return {path.stem: json.loads(path.read_text()) for path in (folder / "artifacts" / "code").glob("*.json")}


@pytest.mark.slow
def test_a_package_adds_a_method_a_normalisation_an_architecture_and_a_task(plugin: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bench"
    folder.mkdir()
    (folder / "params.yaml").write_text(PARAMS)
    for stage, cell in (
        ("prepare", "stripes"), ("train", "stripes.line.s0"), ("train", "stripes.line.s1"),
        ("match", "stripes.line+line.s0+s1.turn"), ("merge", "stripes.line+line.s0+s1.turn.louder"),
        ("predict", "stripes.line.s0.on-stripes"), ("predict", "stripes.line.s1.on-stripes"),
        ("evaluate", "stripes.line+line.s0+s1.turn.louder"),
    ):  # fmt: skip
        ended = run(plugin, folder, "-m", "stages", stage, cell)
        assert ended.returncode == 0, (stage, ended.stderr)
    assert list((folder / "artifacts" / "evaluations").glob("*turn.louder.json"))


@pytest.mark.slow
def test_an_edit_of_a_packages_method_makes_its_matches_stale_and_no_others(plugin: Path, tmp_path: Path) -> None:
    info = plugin / "small_plugin-1.0.dist-info" / "entry_points.txt"
    info.write_text(f"[mergeline.methods]\n{ENTRIES['mergeline.methods']}\n")
    (tmp_path / "params.yaml").write_text((ROOT / "profiles" / "tiny.yaml").read_text(encoding="utf-8"))
    entries = plugin / "small_plugin" / "entries.py"
    before = hashes(plugin, tmp_path)
    entries.write_text(CODE.replace("STEP = 1", "STEP = 1  # a remark"))
    assert hashes(plugin, tmp_path) == before
    entries.write_text(CODE.replace("STEP = 1", "STEP = 2"))
    after = hashes(plugin, tmp_path)
    assert {name for name in before if before[name] != after[name]} == {"match-turn"}


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("raise RuntimeError('no driver')", "cannot be loaded: RuntimeError: no driver"),
        ("TURN = 3", "is a int, not a Matcher"),
        ("from mergeline.matching.permute import PERMUTE as TURN", "calls itself 'permute'"),
    ],
    ids=["broken", "another kind", "another name"],
)
def test_a_broken_entry_is_an_error_that_names_it(code: str, message: str, plugin: Path, tmp_path: Path) -> None:
    (plugin / "small_plugin" / "entries.py").write_text(code)
    info = plugin / "small_plugin-1.0.dist-info" / "entry_points.txt"
    info.write_text("[mergeline.methods]\nturn = small_plugin.entries:TURN\n")
    (tmp_path / "params.yaml").write_text(PARAMS)
    ended = run(plugin, tmp_path, "-m", "stages", "code")
    assert ended.returncode == 2
    assert f"plug-in 'turn' of small-plugin (mergeline.methods: small_plugin.entries:TURN) {message}" in ended.stderr
    assert "Traceback" not in ended.stderr
