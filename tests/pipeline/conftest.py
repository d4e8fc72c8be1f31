"""Benchmarks in temporary folders: real DVC, real stages, real processes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

SOURCE = Path(__file__).resolve().parents[2]

MICRO = """\
seed: 0
compute: {device: cpu, threads: 1}
model: {input_size: 32, width: 0.0625}
architectures: [r17]
seeds: [0, 1]
tasks:
  digits: {max_train: 200, max_test: 100}
  optdigits: {max_train: 200, max_test: 100}
train: {epochs: 1, batch_size: 50}
finetune: {epochs: 1, batch_size: 50}
statistics: {images: 100, batch_size: 50, moments: cross}
methods:
  identity: {}
  permute: {}
normalize:
  reset: {images: 100, batch_size: 50}
merges:
  same: {tasks: [digits]}
  pairs: {tasks: [[digits, optdigits]], seeds: [0, 1]}
evaluate: {batch_size: 100}
similarity: {encoder: efficientnet-lite0@64, images: 40, batch_size: 20, tau: 1000.0}
targets: {kind: logits}
imports: {}
report: {title: micro}
execution: {jobs: 2, timeout: 300.0, retries: 1}
"""


SHELL = MICRO.replace("  optdigits: {max_train: 200, max_test: 100}\n", "").replace(
    "merges:\n  same: {tasks: [digits]}\n  pairs: {tasks: [[digits, optdigits]], seeds: [0, 1]}\n", "merges: {}\n"
)
"""Parameters that make no cells, for pipelines of shell commands."""


@dataclass(frozen=True)
class Workspace:
    """A benchmark's folder and ways to use it as a person would."""

    root: Path

    @property
    def environment(self) -> dict[str, str]:
        bin_folder = str(Path(sys.executable).parent)
        return {
            **os.environ,
            "PYTHONPATH": str(self.root),
            "PATH": f"{bin_folder}:{os.environ['PATH']}",
            "DVC_NO_ANALYTICS": "1",
            "COLUMNS": "200",
        }

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "flows.cli", *arguments]

    def mergeline(
        self, *arguments: str, timeout: float = 240, check: int | None = None
    ) -> subprocess.CompletedProcess[str]:
        ended = subprocess.run(
            self.command(*arguments), cwd=self.root, env=self.environment, capture_output=True, text=True, timeout=timeout,
            check=False,
        )  # fmt: skip
        if check is not None:
            assert ended.returncode == check, f"exit {ended.returncode}\n{ended.stdout}\n{ended.stderr}"
        return ended

    def run(self, *arguments: str, check: int | None = 0) -> subprocess.CompletedProcess[str]:
        return self.mergeline("run", "--no-prefect", *arguments, check=check)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command("run", "--no-prefect", *arguments), cwd=self.root, env=self.environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip

    def dvc(self, *arguments: str, check: bool = True) -> str:
        ended = subprocess.run(
            [str(Path(sys.executable).parent / "dvc"), *arguments], cwd=self.root, env=self.environment,
            capture_output=True, text=True, timeout=600, check=False,
        )  # fmt: skip
        assert not check or ended.returncode == 0, ended.stdout + ended.stderr
        return ended.stdout

    def git(self, *arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=self.root, capture_output=True, text=True, check=True, timeout=60
        ).stdout

    def write(self, name: str, text: str) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    def edit(self, name: str, before: str, after: str) -> None:
        path = self.root / name
        text = path.read_text(encoding="utf-8")
        assert before in text, f"{before!r} is not in {name}"
        path.write_text(text.replace(before, after), encoding="utf-8")

    def stale(self) -> dict[str, list[str]]:
        import json

        return json.loads(self.mergeline("status", "--json", check=0).stdout)["stale"]

    def processes(self) -> list[psutil.Process]:
        """Every process that works in this folder, but this test's own."""
        found = []
        for process in psutil.process_iter(["cwd", "pid"]):
            try:
                if process.info["cwd"] and Path(process.info["cwd"]).is_relative_to(self.root):
                    found.append(process)
            except (psutil.Error, ValueError):
                continue
        return [process for process in found if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]


def initialise(root: Path) -> Workspace:
    """Git and DVC in an empty folder."""
    root.mkdir(parents=True, exist_ok=True)
    workspace = Workspace(root)
    workspace.git("init", "-q", "-b", "main")
    workspace.git("config", "user.email", "test@example.org")
    workspace.git("config", "user.name", "test")
    shutil.copytree(SOURCE / ".dvc", root / ".dvc", ignore=shutil.ignore_patterns("tmp", "cache"))
    shutil.copyfile(SOURCE / ".dvcignore", root / ".dvcignore")
    shutil.copyfile(SOURCE / ".gitignore", root / ".gitignore")
    return workspace


def make_benchmark(root: Path, params: str = MICRO) -> Workspace:
    """A benchmark with the project's own code and pipeline, and small parameters."""
    workspace = initialise(root)
    for name in ("mergeline", "stages", "flows"):
        shutil.copytree(SOURCE / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(SOURCE / "reports" / "templates", root / "reports" / "templates")
    shutil.copytree(SOURCE / "profiles", root / "profiles")
    shutil.copyfile(SOURCE / "dvc.yaml", root / "dvc.yaml")
    workspace.write("params.yaml", params)
    return workspace


def finish(workspace: Workspace) -> Workspace:
    """Run a benchmark to its end and commit it."""
    workspace.run()
    workspace.git("add", "-A")
    workspace.git("commit", "-qm", "a finished benchmark")
    return workspace


@contextmanager
def copied(finished: Workspace, target: Path) -> Iterator[Workspace]:
    """A copy of a finished benchmark, which nothing runs in any more at the end."""
    shutil.copytree(finished.root, target, symlinks=True, ignore=shutil.ignore_patterns("__pycache__", "fresh.json"))
    workspace = Workspace(target)
    yield workspace
    for process in workspace.processes():
        process.kill()


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A micro benchmark that ran to its end, planned and committed. Not to be changed: copy it (``benchmark``)."""
    return finish(make_benchmark(tmp_path_factory.mktemp("finished") / "benchmark"))


@pytest.fixture
def benchmark_copy(finished: Workspace, tmp_path: Path) -> Iterator[Workspace]:
    """A finished micro benchmark of the test's own; whatever the test did, nothing of it runs on."""
    with copied(finished, tmp_path / "benchmark") as workspace:
        yield workspace


@pytest.fixture
def shell(tmp_path: Path) -> Callable[[str], Workspace]:
    """Makes a pipeline of shell commands from the text of its dvc.yaml."""

    def make(dvc_yaml: str, params: str = SHELL) -> Workspace:
        workspace = initialise(tmp_path / "shell")
        for name in ("mergeline", "stages", "flows"):
            (workspace.root / name).symlink_to(SOURCE / name)
        workspace.write("params.yaml", params)
        workspace.write("dvc.yaml", dvc_yaml)
        return workspace

    return make


def wait_for(condition: Callable[[], object], seconds: float = 60.0, what: str = "") -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s for {what or condition}"
        time.sleep(0.05)


def answer_of(request: urllib.request.Request, seconds: float = 60.0) -> tuple[int, bytes, dict[str, str]]:
    """Status, content and headers of a Prefect server's answer, whatever it says.

    It says 503 while its database is busy with another request, for its clients to ask again (they do); nothing was done then.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, answer.read(), dict(answer.headers)
        except urllib.error.HTTPError as error:
            if error.code != 503 or time.monotonic() > deadline:
                return error.code, error.read(), dict(error.headers)
        time.sleep(0.2)


def signal_group(process: subprocess.Popen[str], number: int) -> None:
    os.killpg(process.pid, number)


def output_files(root: Path, folders: Sequence[str] = ("artifacts",)) -> dict[str, bytes]:
    """Content of every result file."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for folder in folders
        for path in sorted((root / folder).rglob("*"))
        if path.is_file()
    }
