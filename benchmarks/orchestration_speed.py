"""``mergeline run`` against plain ``dvc repro`` on the same stages, as whole commands in processes of their own.

Every command is timed from its start to its exit. Both tools get the same files in fresh folders, and must leave the
same lock files. ``mergeline run`` uses both cores of a machine that has two; ``dvc repro`` knows no parallel stages.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.formats import yaml12

SOURCE = Path(__file__).resolve().parents[1]
PER_FILE = 10
WARM_SECONDS = 0.5

WORK = f'''\
"""A stage that needs torch and takes {WARM_SECONDS:g} s."""

import time

import torch


def run(context, cell):
    end = time.perf_counter() + {WARM_SECONDS:g}
    found = torch.ones(64, 64) @ torch.ones(64, 64)
    time.sleep(max(0.0, end - time.perf_counter()))
    target = context.path(f"work/{{cell}}.txt")
    target.parent.mkdir(exist_ok=True)
    target.write_text(f"{{found.sum().item()}}\\n")
'''


@dataclass(frozen=True)
class Workspace:
    """A benchmark's folder, and both ways to run it."""

    root: Path

    def mergeline(self, *arguments: str, expect: str = "") -> float:
        """Seconds of ``mergeline run``; ``expect`` must be in what it prints."""
        return self._seconds(sys.executable, "-m", "flows.cli", "run", "--no-prefect", *arguments, expect=expect)

    def dvc(self, *arguments: str, expect: str = "") -> float:
        """Seconds of ``dvc repro``, on every pipeline file."""
        return self._seconds(sys.executable, "-m", "dvc", "repro", "--all-pipelines", *arguments, expect=expect)

    def _seconds(self, *command: str, expect: str) -> float:
        environment = {
            **os.environ,
            "PYTHONPATH": str(self.root),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "DVC_NO_ANALYTICS": "1",
            "COLUMNS": "200",
            "PYTHONPYCACHEPREFIX": str(self.root.parent / "compiled"),
        }
        environment.pop("PYTHONDONTWRITEBYTECODE", None)  # modules are compiled once, before anything is timed
        with tempfile.TemporaryFile("w+") as output:  # a pipe would end with the last of what a command has started
            begun = time.perf_counter()
            ended = subprocess.run(
                command, cwd=self.root, env=environment, stdout=output, stderr=output, timeout=3600, check=False
            )
            seconds = time.perf_counter() - begun
            output.seek(0)
            text = output.read()
        if ended.returncode or expect not in text:
            raise RuntimeError(f"{' '.join(command[1:])}: exit {ended.returncode}\n{text}")
        return seconds

    def locks(self) -> dict[str, Any]:
        """What every lock file says, by its path."""
        paths = [self.root / "dvc.lock", *(self.root / "pipelines").rglob("dvc.lock")]
        return {str(path.relative_to(self.root)): yaml12.load(path.read_text()) for path in paths if path.is_file()}

    def set_value(self, stage: str, value: int) -> None:
        """Change the parameter that one stage reads."""
        path = self.root / "values.yaml"
        path.write_text(path.read_text().replace(f"{stage}: 0\n", f"{stage}: {value}\n"))


def measure(quick: bool = False) -> dict[str, float | str]:
    """Seconds and ratios; ``quick``: 50 and 200 stages in place of 200 and 1,000, which says less."""
    few, many = (50, 200) if quick else (200, 1000)
    found: dict[str, float | str] = {
        "few": few,
        "many": many,
        "cores": len(os.sched_getaffinity(0)),
        "load before": os.getloadavg()[0],
    }
    with tempfile.TemporaryDirectory(prefix="mergeline-speed-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        _cold(folder, 2, 1)  # a first start compiles both tools' modules: not timed
        _torch_stages(folder, 1)
        found |= {f"one file: {name}": value for name, value in _cold(folder, few, few).items()}
        found |= {f"small files: {name}": value for name, value in _cold(folder, few, PER_FILE).items()}
        found |= _incremental(folder, many)
        found |= _torch_stages(folder, 8 if quick else 20)
    return found | {"load after": os.getloadavg()[0]}


def _cold(folder: Path, count: int, per_file: int) -> dict[str, float]:
    """Every stage runs, with nothing in any cache: ours before and after DVC's, of which the slower counts."""
    ours, locks = [], []
    with _workspaces(folder, 3, lambda root: _shell_stages(root, count, per_file)) as (first, theirs, second):
        ours.append(first.mergeline(expect=f"{count} ran"))
        dvc = theirs.dvc()
        ours.append(second.mergeline(expect=f"{count} ran"))
        locks = [workspace.locks() for workspace in (first, theirs, second)]
    if not locks[0] == locks[1] == locks[2]:
        raise AssertionError("mergeline run and dvc repro left different lock files")
    seconds = max(ours)
    return {"ours": seconds, "dvc": dvc, "times faster": dvc / seconds, "ours a stage": seconds / count}


def _incremental(folder: Path, count: int) -> dict[str, float]:
    """Many stages in small files: cold (ours alone), then with nothing stale, then with one parameter changed."""
    with _workspaces(folder, 1, lambda root: _shell_stages(root, count, PER_FILE)) as (workspace,):
        cold = workspace.mergeline(expect=f"{count} ran")
        noted, checked, theirs, one = [], [], [], []
        theirs.append(workspace.dvc(expect="up to date"))
        for turn in range(3):
            noted.append(workspace.mergeline(expect="nothing to do"))
            (workspace.root / ".mergeline" / "fresh.json").unlink()
            checked.append(workspace.mergeline(expect="nothing to do"))
            if turn == 0:
                theirs.append(workspace.dvc(expect="up to date"))
            workspace.set_value(f"s{turn:04}", 1)
            one.append(workspace.mergeline(expect="1 ran"))
        workspace.set_value("s0003", 1)
        one_theirs = workspace.dvc(expect="Running stage")
    median = {name: sorted(seconds)[1] for name, seconds in (("noted", noted), ("checked", checked), ("one", one))}
    return {
        "many: ours": cold,
        "many: ours a stage": cold / count,
        "nothing stale: ours": median["noted"],
        "nothing stale: ours, all checked": median["checked"],
        "nothing stale: dvc": min(theirs),
        "nothing stale: times faster": min(theirs) / median["noted"],
        "nothing stale: times faster, all checked": min(theirs) / median["checked"],
        "one parameter: ours": median["one"],
        "one parameter: dvc": one_theirs,
    }


def _torch_stages(folder: Path, count: int) -> dict[str, float]:
    """Stages that need torch, in warm workers: what a stage costs when it does not start an interpreter of its own."""
    with _workspaces(folder, 3, lambda root: _python_stages(root, count)) as (single, double, theirs):
        one = single.mergeline("--jobs", "1", expect=f"{count} ran")
        two = double.mergeline("--jobs", "2", expect=f"{count} ran")
        dvc = theirs.dvc()
        stages = {name: _work_seconds(workspace) for name, workspace in (("one", single), ("two", double))}
    return {
        "torch: stages": count,
        "torch: work": count * WARM_SECONDS,
        "torch: one worker": one,
        "torch: one worker, stages alone": stages["one"],
        "torch: two workers": two,
        "torch: two workers, stages alone": stages["two"],
        "torch: dvc": dvc,
    }


def _work_seconds(workspace: Workspace) -> float:
    """Seconds from the first stage's start to the last's end: without opening DVC and loading torch before them."""
    ends = [path.stat().st_mtime for path in (workspace.root / "work").iterdir()]
    return max(ends) - min(ends) + WARM_SECONDS


# -- workspaces ------------------------------------------------------------------------------------------------------


@contextmanager
def _workspaces(folder: Path, number: int, fill: Callable[[Path], None]) -> Iterator[list[Workspace]]:
    """Fresh folders with git, DVC, the project's code and some stages; gone afterwards."""
    smallest: dict[str, Any] = yaml12.load((SOURCE / "profiles" / "tiny.yaml").read_text())
    task = {"digits": smallest["tasks"]["digits"]}
    parameters = json.dumps(smallest | {"merges": {}, "tasks": task})  # no cells: only the measurement's own stages
    made = [Workspace(folder / f"workspace-{index}") for index in range(number)]
    try:
        for workspace in made:
            root = workspace.root
            root.mkdir()
            subprocess.run(["git", "init", "-q"], cwd=root, check=True)
            (root / ".dvc").mkdir()
            shutil.copyfile(SOURCE / ".dvc" / "config", root / ".dvc" / "config")
            for name in (".dvcignore", ".gitignore"):
                shutil.copyfile(SOURCE / name, root / name)
            for name in ("mergeline", "stages", "flows"):
                (root / name).symlink_to(SOURCE / name)
            (root / "params.yaml").write_text(parameters)
            fill(root)
        yield made
    finally:
        for workspace in made:
            shutil.rmtree(workspace.root, ignore_errors=True)


def _shell_stages(root: Path, count: int, per_file: int) -> None:
    """Stages that write a small file from a small file of their own; each reads a parameter of its own too."""
    for folder in ("in", "out"):
        (root / folder).mkdir()
    names = [f"s{index:04}" for index in range(count)]
    (root / "values.yaml").write_text("".join(f"{name}: 0\n" for name in names))
    for name in names:
        (root / "in" / f"{name}.txt").write_text(f"{name}\n")
    if per_file >= count:
        (root / "dvc.yaml").write_text(_stages(names, "."))
        return
    (root / "dvc.yaml").write_text("stages: {}\n")
    for begin in range(0, count, per_file):
        path = root / "pipelines" / f"p{begin:04}" / "dvc.yaml"
        path.parent.mkdir(parents=True)
        path.write_text(_stages(names[begin : begin + per_file], "../.."))


def _stages(names: list[str], folder: str) -> str:
    lines = ["stages:"]
    for name in names:
        lines += [
            f"  {name}:",
            f"    wdir: {folder}",
            f"    cmd: cat in/{name}.txt > out/{name}.txt",
            f"    deps: [in/{name}.txt]",
            f"    params: [{{values.yaml: [{name}]}}]",
            f"    outs: [out/{name}.txt]",
        ]
    return "\n".join(lines) + "\n"


def _python_stages(root: Path, count: int) -> None:
    """Stages of ``python -m stages``: the workspace has its own copy of the package, with one stage more."""
    (root / "stages").unlink()
    shutil.copytree(SOURCE / "stages", root / "stages", ignore=shutil.ignore_patterns("__pycache__"))
    (root / "stages" / "work.py").write_text(WORK)
    entries = root / "stages" / "registry.py"
    head = "STAGES: dict[str, Stage] = {\n"
    text = entries.read_text()
    if head not in text:
        raise RuntimeError(f"stages/registry.py has no line {head.strip()!r}")
    entries.write_text(text.replace(head, f'{head}    "work": Stage("stages.work", "run", "wait", "CELL"),\n'))
    (root / "in.txt").write_text("in\n")
    items = ", ".join(f"c{index:02}: {{}}" for index in range(count))
    (root / "dvc.yaml").write_text(
        f"stages:\n  work:\n    foreach: {{{items}}}\n    do:\n      cmd: python -m stages work ${{key}}\n"
        "      deps: [in.txt]\n      outs: ['work/${key}.txt']\n"
    )


def line(found: dict[str, float | str]) -> str:
    """A line for each measurement."""
    few, many, work = (float(found[name]) for name in ("few", "many", "torch: work"))
    return "\n".join(
        [
            *(
                f"orchestration, {few:.0f} stages cold, {where}: {found[f'{kind}: times faster']:.1f} times as fast as "
                f"dvc repro ({found[f'{kind}: ours']:.1f} s against {found[f'{kind}: dvc']:.1f} s; at least {wanted} "
                f"wanted), {found[f'{kind}: ours a stage']:.3f} s a stage with all else (under 0.05 wanted)"
                for kind, where, wanted in (
                    ("one file", "one dvc.yaml", 10),
                    ("small files", f"{PER_FILE} to a dvc.yaml", 3),
                )
            ),
            f"orchestration, {many:.0f} stages cold, {PER_FILE} to a dvc.yaml: {found['many: ours']:.1f} s, "
            f"{found['many: ours a stage']:.3f} s a stage with all else (under 0.05 wanted)",
            f"orchestration, {many:.0f} stages, nothing stale: {found['nothing stale: ours']:.2f} s, and "
            f"{found['nothing stale: ours, all checked']:.2f} s where the note of the last run is gone and every file is "
            f"checked, against {found['nothing stale: dvc']:.1f} s of dvc repro: {found['nothing stale: times faster']:.1f} "
            f"and {found['nothing stale: times faster, all checked']:.1f} times as fast (under 5 s and at least 3 wanted)",
            f"orchestration, {many:.0f} stages, one parameter of one of them changed: {found['one parameter: ours']:.2f} s "
            f"(under 6 wanted), dvc repro {found['one parameter: dvc']:.1f} s",
            f"orchestration, {found['torch: stages']:.0f} stages that need torch, {work:.0f} s of work: one worker does them "
            f"in {found['torch: one worker, stages alone']:.1f} s (near {work:.0f} wanted), two in "
            f"{found['torch: two workers, stages alone']:.1f} s (near {work / 2:.0f} wanted); whole commands, which load DVC "
            f"and torch once: {found['torch: one worker']:.1f} s and {found['torch: two workers']:.1f} s, dvc repro "
            f"{found['torch: dvc']:.1f} s",
            f"orchestration: measured on {found['cores']:.0f} cores; load average {found['load before']:.1f} before and "
            f"{found['load after']:.1f} after",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer stages, in two minutes; the ratios say less")
    print(line(measure(parser.parse_args().quick)))


if __name__ == "__main__":
    main()
