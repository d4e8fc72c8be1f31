"""Warm workers: stages run in processes that have torch loaded, any other command in a process of its own.

Nothing survives its parent: workers and commands have their own process groups, are told by the kernel to die with
the process that started them, and are killed with everything they started. Each stage writes to its own log file.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pebble import ProcessExpired, ProcessPool

from flows.running import guard
from flows.running.gpu import held_gpu
from flows.running.guard import wait_for_end
from stages.__main__ import DISK_FULL, EXPECTED_VARIABLE, TRANSIENT
from stages.plan import paths

__all__ = [
    "Result",
    "Workers",
    "available_cores",
    "die_with_parent",
    "kill_orphans",
    "orphans",
    "stage_arguments",
]


TAIL_LINES = 15


@dataclass(frozen=True)
class Result:
    """How a stage's command ended. ``status``: exit status, negative for a signal."""

    status: int
    seconds: float
    log: Path
    cause: str = ""
    transient: bool = False

    @property
    def ok(self) -> bool:
        return self.status == 0

    def tail(self) -> str:
        """The last lines of its log."""
        try:
            lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return ""
        return "\n".join(lines[-TAIL_LINES:])


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def stage_arguments(command: str) -> tuple[str, str] | None:
    """Name and cell of a ``python -m stages NAME [CELL]`` command; None for any other."""
    found = re.fullmatch(r"python3? -m stages (\S+)(?: (\S+))?", command.strip())
    return (found[1], found[2] or "") if found else None


def die_with_parent() -> None:
    """Ask the kernel to kill this process when its parent ends, however it ends (Linux)."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG


# -- in the worker ---------------------------------------------------------------------------------------------------


def _start_worker(folder: str, mark: str) -> None:
    die_with_parent()
    os.setpgid(0, 0)
    # The parent is the server that workers are forked from, which lives as long as any of them: watch the flow itself.
    flow, _, start = mark.partition("-")
    threading.Thread(target=_die_with, args=(int(flow), start), daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.chdir(folder)
    os.environ["MERGELINE_RUN"] = mark
    guard.note(_notes(Path(folder)), os.getpid(), mark)


def _die_with(pid: int, start: str) -> None:
    """Wait for a process to end, then kill this one and all it started."""
    wait_for_end(pid, start)
    os.killpg(0, signal.SIGKILL)


def _run_stage(name: str, cell: str, log: str, progress: str, gpu: bool, expected: str) -> int:
    """One stage in this worker, with its output in its own log; its exit status."""
    os.environ["MERGELINE_PROGRESS"] = progress
    os.environ[EXPECTED_VARIABLE] = expected
    with _logged_to(log), held_gpu() if gpu else contextlib.nullcontext():
        from stages.__main__ import main

        try:
            return main([name, cell] if cell else [name])
        except SystemExit as end:  # argparse
            return int(end.code or 0)
        finally:
            Path(progress).unlink(missing_ok=True)


@contextlib.contextmanager
def _logged_to(path: str) -> Iterator[None]:
    """Send this process's output, also that of libraries and children, to a file."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = os.dup(1), os.dup(2)
    target = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(target, 1)
    os.dup2(target, 2)
    os.close(target)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os.dup2(kept[0], 1)
        os.dup2(kept[1], 2)
        os.close(kept[0])
        os.close(kept[1])


# -- in the flow ------------------------------------------------------------------------------------------------------


class Workers:
    """Runs commands, up to ``jobs`` at a time; ``done(key, result)`` is called from a thread as each ends."""

    def __init__(
        self, root: Path, jobs: int, threads: int, timeout: float, done: Callable[[str, Result], None]
    ) -> None:
        self.root = root
        self.jobs = jobs
        self.timeout = timeout
        self.done = done
        self.mark = guard.mark_of(os.getpid())
        self._threads = threads
        self._pool: ProcessPool | None = None
        self._stages: dict[str, Future] = {}
        self._commands: dict[str, subprocess.Popen] = {}
        self._guard: subprocess.Popen | None = None
        self._lock = threading.Lock()
        self._free = threading.Semaphore(jobs)  # of the session's one command more, which waits to be next
        self._stopping = False

    def start(
        self, key: str, command: str, folder: Path, log: Path, progress: Path, gpu: bool, values: Mapping[str, Any]
    ) -> None:
        """Start a command; it runs as soon as a worker is free. ``values``: of params.yaml, that will be recorded for it."""
        log.parent.mkdir(parents=True, exist_ok=True)
        progress.parent.mkdir(parents=True, exist_ok=True)
        arguments = stage_arguments(command)
        if arguments is not None and folder == self.root:
            begun = time.monotonic()
            future = self._warm_pool().schedule(
                _run_stage,
                args=(*arguments, str(log), str(progress), gpu, json.dumps(values, default=str)),
                timeout=self.timeout,
            )
            with self._lock:
                self._stages[key] = future
            future.add_done_callback(lambda ended: self._stage_done(key, ended, begun, log))
        else:
            if self._guard is None:
                self._guard = guard.start(_notes(self.root), self.mark)
            threading.Thread(target=self._run_command, args=(key, command, folder, log), daemon=True).start()

    def stop(self) -> None:
        """Kill everything that runs, and what that started."""
        self._stopping = True
        with self._lock:
            commands = list(self._commands.values())
        for process in commands:
            _kill_group(process.pid)
        if self._pool is not None:
            self._pool.stop()
        kill_orphans(self.root)
        if self._pool is not None:
            self._pool.join()
            self._pool = None
        clear_notes(self.root)
        self._end_guard()

    def close(self) -> None:
        """End the workers once they are idle."""
        if self._pool is not None:
            self._pool.close()
            self._pool.join()
            self._pool = None
        clear_notes(self.root)
        self._end_guard()

    def _end_guard(self) -> None:
        if self._guard is not None:
            self._guard.kill()
            self._guard.wait()
            self._guard = None

    def _warm_pool(self) -> ProcessPool:
        if self._pool is None:
            for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
                os.environ[variable] = str(self._threads)
            # Workers end without clean-up; what libraries registered in them is unlinked by Python's tracker, silently.
            quiet = [os.environ.get("PYTHONWARNINGS", ""), "ignore:resource_tracker:UserWarning"]
            os.environ["PYTHONWARNINGS"] = ",".join(filter(None, quiet))
            context = multiprocessing.get_context("forkserver")
            # torch is loaded once, in the server that workers are forked from: a new one is there at once.
            context.set_forkserver_preload(["flows.running.preload"])
            self._pool = ProcessPool(
                max_workers=self.jobs,
                initializer=_start_worker,
                initargs=(str(self.root), self.mark),
                context=context,
            )
        return self._pool

    def _stage_done(self, key: str, future: Future, begun: float, log: Path) -> None:
        with self._lock:
            self._stages.pop(key, None)
        if self._stopping:
            return
        seconds = time.monotonic() - begun
        try:
            status = future.result()
            cause = {TRANSIENT: "out of memory or an I/O error", DISK_FULL: "the disk is full"}.get(status, "")
            result = Result(status, seconds, log, cause, status == TRANSIENT)
        except (CancelledError, GeneratorExit):
            return
        except TimeoutError:
            result = Result(-signal.SIGKILL, seconds, log, f"stopped after {self.timeout:g} s (execution.timeout)")
        except ProcessExpired as error:
            result = _killed(-abs(error.exitcode or 9), seconds, log)
        except Exception as error:
            result = Result(1, seconds, log, f"{type(error).__name__}: {error}")
        self.done(key, result)

    def _run_command(self, key: str, command: str, folder: Path, log: Path) -> None:
        with self._free:
            if not self._stopping:
                self._run_now(key, command, folder, log)

    def _run_now(self, key: str, command: str, folder: Path, log: Path) -> None:
        begun = time.monotonic()
        environment = {**os.environ, "MERGELINE_RUN": self.mark, "DVC_ROOT": str(self.root)}
        environment["PATH"] = f"{Path(sys.executable).parent}:{environment.get('PATH', '')}"
        cause, transient = "", False
        try:
            with log.open("ab") as stream:
                process = subprocess.Popen(
                    command, shell=True, cwd=folder, stdout=stream, stderr=stream, stdin=subprocess.DEVNULL,
                    env=environment, start_new_session=True, preexec_fn=die_with_parent,
                )  # fmt: skip
                with self._lock:
                    self._commands[key] = process
                guard.note(_notes(self.root), process.pid, self.mark)
                try:
                    status = process.wait(self.timeout)
                except subprocess.TimeoutExpired:
                    cause = f"stopped after {self.timeout:g} s (execution.timeout)"
                    _kill_group(process.pid)
                    status = process.wait()
                (_notes(self.root) / str(process.pid)).unlink(missing_ok=True)
        except OSError as error:
            status, cause = 1, str(error)
            transient = error.errno not in (errno.ENOSPC, errno.EDQUOT)
        with self._lock:
            self._commands.pop(key, None)
        if self._stopping:
            return
        seconds = time.monotonic() - begun
        killed = status if status < 0 else 128 - status if status in (128 + 9, 128 + 15) else 0
        if killed and not cause:
            self.done(key, _killed(killed, seconds, log))
        else:
            self.done(key, Result(status, seconds, log, cause, transient))


def _killed(status: int, seconds: float, log: Path) -> Result:
    number = -status
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    hint = " (out of memory?)" if number == signal.SIGKILL else ""
    return Result(status, seconds, log, f"killed by {name}{hint}", transient=True)


def _kill_group(pid: int) -> None:
    for kill in (os.killpg, os.kill):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            kill(pid, signal.SIGKILL)


def orphans(root: Path) -> list[int]:
    """Processes (or what is left of their groups) that this benchmark's runs started and that are still there."""
    folder = _notes(root)
    found = []
    for pid, (start, _) in guard.noted(folder).items():
        if pid != os.getpid() and guard.group_is_left(pid, start):
            found.append(pid)
        else:
            (folder / str(pid)).unlink(missing_ok=True)
    return found


def _notes(root: Path) -> Path:
    return root / paths.PROCESSES


def kill_orphans(root: Path) -> list[int]:
    """Kill the processes that a run left behind, with all they started; returns their numbers."""
    left = orphans(root)
    for pid in left:
        _kill_group(pid)
    deadline = time.monotonic() + 5
    while orphans(root) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left


def clear_notes(root: Path) -> None:
    """Forget the processes of a run that has ended."""
    folder = _notes(root)
    for pid in guard.noted(folder):
        (folder / str(pid)).unlink(missing_ok=True)
