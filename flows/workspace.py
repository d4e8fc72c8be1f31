"""The benchmark's folder: finding it, and keeping two runs out of each other's way."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import stat
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from stages.errors import InputError
from stages.plan import paths

__all__ = ["BusyError", "NoWorkspaceError", "find_root", "run_lock"]


class NoWorkspaceError(InputError):
    """There is no benchmark here."""


class BusyError(Exception):
    """Another run holds the benchmark; the message says which, since when."""


def find_root(start: Path | None = None) -> Path:
    """The folder of the benchmark: the nearest one above ``start`` that holds dvc.yaml and .dvc.

    Raises
    ------
    NoWorkspaceError: there is none.
    InputError: a file of it is a pipe, a socket or a device, at which reading would wait for ever.
    """
    here = (start or Path.cwd()).resolve()
    for folder in (here, *here.parents):
        if (folder / paths.DVC).is_dir() and (folder / paths.PIPELINE_FILE).is_file():
            _refuse_pipes(folder)
            return folder
    raise NoWorkspaceError(
        f"{here} is not inside a benchmark folder (one that holds .dvc, dvc.yaml and params.yaml); "
        "make one: mergeline init DIR"
    )


def _refuse_pipes(root: Path) -> None:
    """Look at every file that commands read before they do."""
    single = (paths.PARAMS, paths.LOCK_FILE, paths.DVC_CONFIG, paths.DVC_LOCAL_CONFIG, paths.DVC_RUNNING)
    several = [
        *(root / paths.PIPELINES).rglob("*"),
        *(root / paths.PROFILES).glob("*"),
        *(root / paths.SCRATCH).glob("*"),
    ]
    for path in (*(root / name for name in single), *several):
        try:
            mode = path.stat().st_mode
        except OSError:  # not there, or a link to nowhere: who reads it says so
            continue
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise InputError(f"{path} is no regular file, but a pipe, a socket or a device; take it away")


@contextlib.contextmanager
def run_lock(root: Path, wait: bool = False) -> Iterator[None]:
    """Hold the benchmark for one run, by a kernel lock that ends with the process.

    Raises
    ------
    BusyError: another run holds it, and ``wait`` is false.
    """
    path = root / paths.RUN_LOCK
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as stream:
        while True:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if not wait:
                    raise BusyError(_who(path)) from None
                time.sleep(0.5)
        _write(stream.fileno(), json.dumps({"pid": os.getpid(), "since": time.time()}))
        try:
            yield
        finally:
            _write(stream.fileno(), "")


def _write(handle: int, text: str) -> None:
    """Say who holds the lock. It is held all the same where a full disk takes no more."""
    with contextlib.suppress(OSError):
        os.ftruncate(handle, 0)
        os.pwrite(handle, text.encode(), 0)


def _who(path: Path) -> str:
    try:
        holder = json.loads(path.read_text(encoding="utf-8"))
        since = datetime.fromtimestamp(holder["since"]).strftime("%Y-%m-%d %H:%M:%S")
        return f"busy: process {holder['pid']} runs this benchmark since {since}; wait for it with --wait"
    except (OSError, ValueError, KeyError):
        return "busy: another process runs this benchmark; wait for it with --wait"
