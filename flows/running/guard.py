"""The guard of a run: a small process that outlives it, to end what its shell commands started if it is killed.

A kernel ends a command's own process with its parent, but not what that process has started. Started with
``python flows/running/guard.py FOLDER PID START``; imports the standard library only, so that it is there at once.
"""

import contextlib
import os
import select
import signal
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
