"""What is killed leaves nothing behind, locks of GPUs follow no link, and a pipe in the place of a file keeps nobody waiting."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from flows.running.gpu import open_lock
from flows.running.guard import note
from tests.pipeline.conftest import SOURCE, Workspace, wait_for
from tests.pipeline.test_hostile_system import told
from tests.pipeline.test_prefect import _free_port

ENDLESS = "stages:\n  endless:\n    cmd: touch started && sleep 300\n    deps: [in.txt]\n    outs: [out.txt]\n"


@pytest.mark.slow
def test_kill_9_of_a_schedule_ends_its_server_its_runs_and_their_stages(shell: Callable[[str], Workspace]) -> None:
    workspace = shell(ENDLESS)
    workspace.write("in.txt", "x")
    process = subprocess.Popen(
        workspace.command("serve", "--interval", "5", "--port", str(_free_port())), cwd=workspace.root,
        env=workspace.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        wait_for((workspace.root / "started").exists, 150, "a scheduled run's stage")
        assert len(workspace.processes()) > 5
    finally:
        process.kill()
        process.wait()
    wait_for(lambda: not workspace.processes(), 15, "all processes to end")


def test_what_a_schedule_left_is_seen_by_doctor_and_ended(shell: Callable[[str], Workspace]) -> None:
    """Should its guard have been killed too."""
    workspace = shell(ENDLESS)
    left = subprocess.Popen(["sleep", "300"], cwd=workspace.root, start_new_session=True)
    try:
        note(workspace.root / ".mergeline/served", left.pid, "1-1")
        told(workspace.mergeline("doctor"), 1, f"processes of a schedule that is gone are still there: {left.pid}")
        told(workspace.mergeline("doctor", "--fix"), 0)
        assert left.wait(5) == -signal.SIGKILL
    finally:
        left.kill()


@pytest.mark.slow
def test_kill_9_of_dvc_repro_ends_the_stage(shell: Callable[[str], Workspace]) -> None:
    workspace = shell("stages:\n  wait:\n    cmd: python -m stages wait\n    deps: [in.txt]\n    outs: [out.txt]\n")
    workspace.write("in.txt", "x")
    (workspace.root / "stages").unlink()
    shutil.copytree(SOURCE / "stages", workspace.root / "stages", ignore=shutil.ignore_patterns("__pycache__"))
    workspace.edit(
        "stages/registry.py",
        "STAGES: dict[str, Stage] = {",
        'STAGES: dict[str, Stage] = {\n    "wait": Stage("stages.wait", "run", "wait", light=True),',
    )
    workspace.write(
        "stages/wait.py",
        "import time\nfrom pathlib import Path\n\ndef run(context, cell):\n    Path('started').touch()\n    time.sleep(300)\n",
    )
    process = subprocess.Popen(
        [str(Path(sys.executable).parent / "dvc"), "repro"], cwd=workspace.root, env=workspace.environment,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    wait_for((workspace.root / "started").exists, 60, "the stage")
    process.kill()
    process.wait()
    wait_for(lambda: not _stages(workspace), 10, "the stage to end")


def _stages(workspace: Workspace) -> list[psutil.Process]:
    return [process for process in workspace.processes() if "stages" in process.cmdline()]


# -- locks of GPUs -------------------------------------------------------------------------------------------------------


def held_and_then_free(folder: Path, holder: int) -> None:
    """Another handle must wait for the holder, and has the lock when that is closed."""
    other = open_lock(folder, "0")
    with pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(holder)
    fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(other)


def test_a_gpus_lock_is_shared_and_follows_no_link(tmp_path: Path) -> None:
    first = open_lock(tmp_path, "0")
    fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert (tmp_path / "mergeline-gpu-0.lock").stat().st_mode & 0o777 == 0o644
    held_and_then_free(tmp_path, first)


@pytest.mark.parametrize("trap", ["link", "link to nowhere", "pipe", "folder"])
def test_a_trap_in_the_place_of_a_gpus_lock_harms_nothing(tmp_path: Path, trap: str) -> None:
    place, precious = tmp_path / "mergeline-gpu-0.lock", tmp_path / "precious"
    if trap == "pipe":
        os.mkfifo(place)
    elif trap == "folder":
        place.mkdir()
    else:
        place.symlink_to(precious)
    if trap == "link":
        precious.write_text("kept")
    handle = open_lock(tmp_path, "0")
    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(handle)
    assert precious.exists() == (trap == "link")
    assert trap != "link" or precious.read_text() == "kept"
    assert (tmp_path / f"mergeline-{os.getuid()}").stat().st_mode & 0o777 == 0o700


@pytest.mark.skipif(os.getuid() != 0, reason="another user can only be played by root")
def test_another_users_lock_is_waited_for_and_not_stumbled_over(tmp_path: Path) -> None:
    """In a folder like /tmp, where the kernel lets nobody open another's file to create it."""
    tmp_path.chmod(0o1777)
    place = tmp_path / "mergeline-gpu-0.lock"
    os.close(open_lock(tmp_path, "0"))
    os.chown(place, 65534, 65534)
    theirs = os.open(place, os.O_RDONLY)
    fcntl.flock(theirs, fcntl.LOCK_EX)
    held_and_then_free(tmp_path, theirs)


# -- pipes ---------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_pipe_in_the_place_of_a_file_is_named(shell: Callable[[str], Workspace]) -> None:
    workspace = shell("stages:\n  make:\n    cmd: cat in.txt > out.txt\n    deps: [in.txt]\n    outs: [out.txt]\n")
    workspace.write("in.txt", "x")
    (workspace.root / "pipelines/x").mkdir(parents=True)
    (workspace.root / "profiles").mkdir()
    for name, command, code in (
        ("params.yaml", ("run", "--no-prefect"), 2),
        ("in.txt", ("run", "--no-prefect"), 1),
        ("dvc.lock", ("status",), 2),
        ("pipelines/x/dvc.yaml", ("status",), 2),
        ("profiles/own.yaml", ("run", "--no-prefect", "--profile", "own"), 2),
        (".mergeline/fresh.json", ("run", "--no-prefect"), 2),
    ):
        path = workspace.root / name
        kept = path.with_name("kept")
        path.parent.mkdir(exist_ok=True)
        if path.exists():
            path.rename(kept)
        os.mkfifo(path)
        told(workspace.mergeline(*command, timeout=60), code, name, "no regular file")
        path.unlink()
        if kept.exists():
            kept.rename(path)
