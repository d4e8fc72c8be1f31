"""The guard of a run, or of ``mergeline serve``: a small process that outlives it, to end what it started if it is killed.

A kernel ends a command's own process with its parent, but not what that process has started. Started with
``python flows/running/guard.py FOLDER PID START``; imports the standard library only, so that it is there at once.
"""

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path


def start_of(pid: int) -> str:
    """A process's start time in clock ticks: with its number it names one process for good."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def wait_for_end(pid: int, start: str) -> None:
    """Wait until a process is gone."""
    try:
        descriptor = os.pidfd_open(pid)
        if start_of(pid) == start:
            waiter = select.poll()
            waiter.register(descriptor, select.POLLIN)
            waiter.poll()
    except OSError:  # gone already, or an old kernel
        while start_of(pid) == start:
            time.sleep(0.5)


def mark_of(pid: int) -> str:
    """What names a process for good in the notes of those that it starts."""
    return f"{pid}-{start_of(pid)}"


def start(folder: Path, mark: str) -> subprocess.Popen:
    """Start the guard of a process, which outlives it and then ends what is noted in a folder as started by it."""
    return subprocess.Popen(
        [sys.executable, "-I", "-S", __file__, str(folder), *mark.split("-")], cwd="/", start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def note(folder: Path, pid: int, mark: str) -> None:
    """Leave a mark of a process that was started, so that it can be told later what is left of it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / str(pid)).write_text(f"{start_of(pid)} {mark}", encoding="utf-8")


def end_left(folder: Path) -> list[int]:
    """End what is left of processes whose starter is gone; their numbers."""
    ended = []
    for leader in left_behind(folder):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(leader, signal.SIGKILL)
            ended.append(leader)
        (folder / str(leader)).unlink(missing_ok=True)
    return ended


def left_behind(folder: Path) -> list[int]:
    """Noted processes that are still there while their starter is not."""
    return [
        leader
        for leader, (begun, run) in noted(folder).items()
        if mark_of(int(run.partition("-")[0] or 0)) != run and group_is_left(leader, begun)
    ]


def noted(folder: Path) -> dict[int, tuple[str, str]]:
    """The processes that runs have started: start time and run of each by its number."""
    found = {}
    for entry in folder.iterdir() if folder.is_dir() else ():
        with contextlib.suppress(OSError, ValueError):
            start, _, run = entry.read_text(encoding="utf-8").partition(" ")
            found[int(entry.name)] = start, run
    return found


def group_is_left(pid: int, start: str) -> bool:
    """Whether a process, or one of its group after it has ended, is still there (a number is not used again before)."""
    now = start_of(pid)
    if now:
        return now == start
    try:
        os.killpg(pid, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def main(folder: str, pid: str, start: str) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    wait_for_end(int(pid), start)
    for leader, (begun, run) in noted(Path(folder)).items():
        if run == f"{pid}-{start}" and group_is_left(leader, begun):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(leader, signal.SIGKILL)


if __name__ == "__main__":
    main(*sys.argv[1:])
