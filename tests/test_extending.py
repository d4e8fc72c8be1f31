"""docs/extending.md is true: a thing of each kind is added by exactly the files that its table names."""

# ruff: noqa: E501 (code in strings)

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Addition:
    """``files``: new files and their text. ``lines``: in files that there are, what stands there and what then does."""

    files: dict[str, str]
    lines: dict[str, tuple[tuple[str, str], ...]]
    limit: int
    """Files that may be touched."""


OPTIONS = "from dataclasses import dataclass\n\n@dataclass(frozen=True)\nclass Options:\n    factor: float = 1.0\n\n"


def registered(package: str, name: str, before: str) -> dict[str, tuple[tuple[str, str], ...]]:
    """The registry's file with one line more (and its import)."""
    marker = "from __future__ import annotations\n"
    imported = f"{marker}\nfrom {package}.dummy import {name}"
    path = package.replace(".", "/") + "/__init__.py"
    return {path: ((marker, imported), (before, f"{before}{name}, "))}


ADDITIONS = {
    "a method": Addition(
        {
            "mergeline/matching/dummy.py": f"{OPTIONS}from mergeline.matching.identity import IDENTITY\n"
            "from mergeline.matching.problem import Matcher\n"
            "DUMMY = Matcher('dummy', 'a test', 'none', Options, lambda problem, options: IDENTITY.match(problem, None))\n"
        },
        registered("mergeline.matching", "DUMMY", "    Matcher,\n    ("),
        2,
    ),
    "a normalisation": Addition(
        {
            "mergeline/normalization/dummy.py": f"{OPTIONS}from mergeline.normalization.normalizer import Normalizer\n"
            "def _run(finished, options):\n    for p in finished.network.parameters():\n        p.data.mul_(options.factor)\n"
            "SCALED = Normalizer('dummy', 'a test', Options, _run)\n"
        },
        registered("mergeline.normalization", "SCALED", 'Normalizer,\n    ('),
        2,
    ),
    "a placement": Addition(
        {
            "mergeline/depth/dummy.py": f"{OPTIONS}from mergeline.depth.placer import Placer\n"
            "def _place(depths, options):\n"
            "    pad = lambda s, d: (0, *[None] * (d - s), *range(1, s))\n"
            "    return tuple(pad(s, d) for s, d in zip(depths.shallow, depths.deep))\n"
            "LAST = Placer('dummy', 'a test', Options, _place)\n"
        },
        registered("mergeline.depth", "LAST", '"mergeline.placements", Placer, ('),
        2,
    ),
    "a task": Addition(
        {
            "mergeline/tasks/dummy.py": "import numpy as np\nfrom mergeline.tasks.task import Adapter, RawTask\n"
            "def _load(files):\n    labels = np.arange(40) % 2\n    images = np.zeros((40, 8, 8), np.uint8) + 99 * labels[:, None, None]\n"
            "    return RawTask(images.astype(np.uint8), labels, np.arange(40), ('a', 'b'), 'none', 'made')\n"
            "MADE = Adapter('dummy', 'a test', lambda root: {}, _load)\n"
        },
        registered("mergeline.tasks", "MADE", "        DIGITS, "),
        2,
    ),
    "an architecture": Addition(
        {
            "mergeline/models/dummy.py": "from torch import nn\n\n\ndef make(num_classes, width, input_size):\n"
            "    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), "
            "nn.Linear(4, num_classes))\n"
        },
        {
            "mergeline/architectures.py": (
                ("def _bottleneck(", "def _dummy(**sizes: Any) -> Any:\n    from mergeline.models.dummy import make\n\n"
                 "    return make(**sizes)\n\n\ndef _bottleneck("),
                ('    RESNET20,\n', '    Design("dummy", _dummy),\n    RESNET20,\n'),
            )
        },
        3,
    ),
    "a metric": Addition(
        {
            "mergeline/metrics/dummy.py": "from mergeline.metrics.metric import Metric\n"
            "TOP = Metric('dummy', 'a test', lambda logits, labels, bins: 0.5, 0, 1)\n"
        },
        registered("mergeline.metrics", "TOP", '"mergeline.metrics", Metric, ('),
        2,
    ),
    "a stage": Addition(
        {
            "stages/dummy.py": "from stages.formats.files import write_json\n\n\ndef run(context, cell):\n"
            "    write_json(context.root / 'artifacts' / 'dummy.json', {'seed': context.params.seed})\n"
        },
        {
            "stages/registry.py": (
                ("STAGES: dict[str, Stage] = {", 'STAGES: dict[str, Stage] = {\n    "dummy": Stage("stages.dummy", "run", "a test", light=True),'),
            ),
            "dvc.yaml": (("  collect:\n", "  dummy:\n    cmd: python -m stages dummy\n    deps: [artifacts/code/dummy.json]\n"
                          "    params: [seed]\n    outs: [artifacts/dummy.json]\n\n  collect:\n"),),
        },
        3,
    ),
}  # fmt: skip

PARAMS = """
seed: 0
compute: {device: cpu, threads: 1}
model: {input_size: 32, width: 0.25}
architectures: [r29, r17]
seeds: [0, 1]
tasks: {dummy: {}}
train: {epochs: 1, batch_size: 10}
finetune: {}
statistics: {images: 20, batch_size: 10}
methods: {dummy: {options: {factor: 2.0}}}
normalize: {reset: {images: 20, batch_size: 10}, dummy: {images: 20, batch_size: 10, factor: 1.5}}
merges:
  deep: {tasks: [dummy], normalize: [dummy], placements: [dummy]}
  plain: {tasks: [dummy], normalize: [dummy], architectures: [dummy]}
evaluate: {batch_size: 20}
similarity: {tau: 1000.0}
targets: {}
imports: {}
report: {}
"""
DEEP = "dummy.r29+r17.s0+s0-placement=dummy.dummy"
PLAIN = "dummy.dummy+dummy.s0+s1.dummy"
RUN = [
    ("code", ""), ("prepare", "dummy"), ("train", "dummy.r29.s0"), ("train", "dummy.r17.s0"), ("match", DEEP),
    ("merge", f"{DEEP}.dummy"), ("predict", "dummy.r29.s0.on-dummy"), ("predict", "dummy.r17.s0.on-dummy"),
    ("evaluate", f"{DEEP}.dummy"), ("train", "dummy.dummy.s0"), ("train", "dummy.dummy.s1"), ("match", PLAIN),
    ("merge", f"{PLAIN}.dummy"), ("collect", ""), ("dummy", ""),
]  # fmt: skip
SCRIPT = f"""
import json
from pathlib import Path
import pyarrow.parquet as pq
from stages.__main__ import main
from stages.plan.loading import load_params
from stages.plan.pipelines import make_plan
for name, cell in {RUN!r}:
    assert main([name, cell] if cell else [name]) == 0, (name, cell)
scores = json.loads(Path("artifacts/evaluations/{DEEP}.dummy.json").read_text())
assert scores["tasks"]["dummy"]["dummy"] == 0.5
assert "dummy" in pq.read_schema("artifacts/results.parquet").names
assert json.loads(Path("artifacts/dummy.json").read_text()) == {{"seed": 0}}
code = {{path.stem for path in Path("artifacts/code").glob("*.json")}}
assert {{"match-dummy", "merge-dummy", "dummy"}} <= code, code
plan = make_plan(load_params(Path("params.yaml")))
assert {{"{DEEP}.dummy", "{PLAIN}.dummy"}} <= {{str(merge) for merge in plan.merges}}
"""


@pytest.mark.parametrize("kind", ADDITIONS)
def test_the_page_names_the_files_and_they_are_few(kind: str) -> None:
    page = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    (line,) = [line for line in page.splitlines() if line.startswith(f"| {kind} |")]
    named = re.findall(r"`([a-z_/]+(?:/|\.py|\.yaml))`", line)
    touched = [*ADDITIONS[kind].files, *ADDITIONS[kind].lines]
    assert len(touched) <= ADDITIONS[kind].limit
    for path in touched:
        assert path in named or str(Path(path).parent) + "/" in named, f"{path} is not in: {line}"
    assert len(named) == len(touched)


@pytest.mark.slow
def test_one_of_each_kind_is_added_by_exactly_these_files_and_runs(tmp_path: Path) -> None:
    for package in ("mergeline", "stages"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    for addition in ADDITIONS.values():
        for path, text in addition.files.items():
            assert not (tmp_path / path).exists()
            (tmp_path / path).write_text(text, encoding="utf-8")
        for path, edits in addition.lines.items():
            text = (tmp_path / path).read_text(encoding="utf-8")
            for old, new in edits:
                assert old in text, (path, old)
                text = text.replace(old, new, 1)
            (tmp_path / path).write_text(text, encoding="utf-8")
    (tmp_path / "params.yaml").write_text(PARAMS, encoding="utf-8")
    ended = subprocess.run([sys.executable, "-c", SCRIPT], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
