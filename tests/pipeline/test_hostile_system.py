"""Full disks, closed folders, odd and long names, no git: one line says what is wrong, and the way out."""

from __future__ import annotations

import hashlib
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.pipeline.conftest import SHELL, SOURCE, Workspace, initialise

pytestmark = pytest.mark.slow

PIPELINE = """\
stages:
  make:
    cmd: cat in.txt > out.txt && mkdir -p folder && echo one > folder/one.txt
    deps: [in.txt]
    outs: [out.txt, folder]
"""


def told(ended: subprocess.CompletedProcess[str], code: int, *parts: str) -> None:
    """One line on what is wrong, and no traceback."""
    text = ended.stdout + ended.stderr
    assert "Traceback" not in text, text
    assert ended.returncode == code, text
    for part in parts:
        assert part in text, text


@contextmanager
def mounted(*arguments: str, at: Path) -> Iterator[None]:
    ended = subprocess.run(["mount", *arguments, str(at)], check=False, capture_output=True)
    if ended.returncode:
        pytest.skip("file systems cannot be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", str(at)], check=False)


def set_up(root: Path) -> Workspace:
    workspace = initialise(root)
    for name in ("mergeline", "stages", "flows"):
        (root / name).symlink_to(SOURCE / name)
    workspace.write("params.yaml", SHELL)
    workspace.write("dvc.yaml", PIPELINE)
    workspace.write("in.txt", "x")
    return workspace


def planned(root: Path) -> dict[str, tuple[str, int]]:
    return {
        str(path.relative_to(root)): (hashlib.md5(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for path in sorted((root / "pipelines").rglob("*"))
        if path.is_file()
    }


def test_what_is_refused_changes_no_pipeline_file(shell: Callable[[str], Workspace]) -> None:
    workspace = shell(PIPELINE)
    workspace.write("in.txt", "x")
    workspace.run()
    before = planned(workspace.root)
    assert before
    workspace.edit("params.yaml", "merges: {}", "merges: {same: {tasks: [digits]}}")
    told(workspace.run("no-such-stage", check=None), 2, "no stage is named 'no-such-stage'")
    assert planned(workspace.root) == before
    workspace.edit("params.yaml", "imports: {}", "imports: {digits.r17.s0: gone.safetensors}")
    told(workspace.run(check=None), 2, "gone.safetensors is missing")
    assert planned(workspace.root) == before
    assert not [path for path in (workspace.root / "pipelines").rglob("*") if path.is_dir() and not any(path.iterdir())]
    workspace.write("params.yaml", SHELL)
    assert "nothing to do" in workspace.run().stdout
    assert planned(workspace.root) == before


def fill(path: Path) -> None:
    """Write until nothing more fits."""
    with path.open("wb", buffering=0) as stream:
        try:
            while stream.write(b"x" * 4096):
                pass
        except OSError:
            return


def test_a_full_disk_is_named_by_every_command(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    with mounted("-t", "tmpfs", "-o", "size=3m", "none", at=small):
        workspace = set_up(small / "benchmark")
        fill(small / "filler")
        for command in (("run", "--no-prefect"), ("verify",)):
            told(
                workspace.mergeline(*command), 1, f"the disk is full: {workspace.root} (0 MiB free)", "mergeline prune"
            )
        told(workspace.mergeline("doctor"), 1, f"the disk of {workspace.root} is full")
        assert not list((workspace.root / "pipelines").rglob("*.tmp"))


def test_a_folder_that_is_closed_is_named_by_every_command(tmp_path: Path) -> None:
    workspace = set_up(tmp_path / "closed")
    workspace.run()
    with mounted("--bind", str(workspace.root), at=workspace.root):
        subprocess.run(["mount", "-o", "remount,bind,ro", str(workspace.root)], check=True)
        for command in (("run", "--no-prefect"), ("serve", "--port", str(free_port()))):
            told(workspace.mergeline(*command), 2, "Read-only file system", "mounted read-only", "work in a copy")
        told(workspace.mergeline("doctor"), 1, f"{workspace.root} may not be written to")


def test_a_benchmark_may_lie_in_a_folder_of_any_name(tmp_path: Path) -> None:
    workspace = set_up(tmp_path / "{b} 100%s [i]x[/i] 'q\" $HOME größe; & #")
    workspace.dvc("remote", "add", "-d", "shared", str(tmp_path / "remote"))
    told(workspace.run("--push"), 0, "1 ran", "sent")
    told(workspace.mergeline("verify"), 0)
    shutil.rmtree(workspace.root / ".dvc/cache")
    (workspace.root / "out.txt").unlink()
    shutil.rmtree(workspace.root / "folder")
    told(workspace.run("--pull"), 0, "1 restored")
    told(workspace.mergeline("doctor"), 0)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_names_that_are_too_long_and_a_port_that_is_taken(tmp_path: Path) -> None:
    workspace = set_up(tmp_path / "names")
    long = str(tmp_path / ("y" * 300))
    told(workspace.mergeline("init", long), 2, "too long")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        told(workspace.mergeline("serve", "--port", port), 2, f"--port {port} cannot be had (Address already in use)")


def test_without_git_and_outside_of_a_repository_the_way_out_is_said(tmp_path: Path) -> None:
    workspace = set_up(tmp_path / "nogit")
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("sh", "cat", "mkdir", "echo"):
        (tools / name).symlink_to(shutil.which(name) or f"/bin/{name}")
    (tools / "python").symlink_to(sys.executable)
    environment = workspace.environment | {"PATH": str(tools)}

    def without_git(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            workspace.command(*command),
            cwd=workspace.root,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    told(without_git("run", "--no-prefect"), 0, "1 ran")
    told(without_git("doctor"), 1, "git is not there", "install git")
    shutil.rmtree(workspace.root / ".git")
    told(workspace.run("--force", check=None), 2, "is not a git repository", "git init", "dvc config core.no_scm true")
    told(workspace.mergeline("doctor"), 1, "is in no git repository", "dvc config core.no_scm true")
    workspace.write(".dvc/config", "[core]\n    no_scm = true\n    analytics = false\n")
    told(workspace.run("--force"), 0, "1 ran")
    told(workspace.mergeline("doctor"), 0)
