"""The Prefect flow: one flow run for a run of the benchmark, one task run for each stage that was stale.

The work is done by the scheduler (``flows.running.session``) in a process of its own; the flow follows its events. So what a
person watches in Prefect is what happens, and whatever becomes of Prefect (no server, a slow one, one that dies in the
middle) changes nothing about the result. Prefect's own caching is off: DVC decides what is stale.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from flows.mirror.server import configured_url, own_environment, own_server, server_environment
from flows.running.events import Event
from flows.running.guard import start_of
from flows.running.workers import die_with_parent
from stages.plan import paths

if TYPE_CHECKING:
    from prefect.client.schemas.objects import State

__all__ = ["Mirror", "benchmark_flow", "follow", "follow_command", "main"]

PATIENCE = 20.0
"""Seconds that a run waits at its end for Prefect to take down what happened."""
LATE_START = 5.0
"""Seconds after which a run without a server starts one of its own: shorter runs are not worth one."""


# -- in the run: telling the mirror ----------------------------------------------------------------------------------


class Mirror:
    """Tells a process that speaks to Prefect what happens. Never blocks the run, and never fails it.

    With a server configured it starts at once; else a server of the benchmark's own starts with it, once the run has
    taken a few seconds (``now``: at once, and the run's end waits for it).
    """

    def __init__(self, root: Path, now: bool = False) -> None:
        self.root = root
        self.now = now
        self.url = configured_url(root)
        self.begun = time.monotonic()
        self.process: subprocess.Popen | None = None
        self.events: list[Event] = []
        self.lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._timer = threading.Timer(0.0 if self.url or now else LATE_START, self._start)
        self._timer.daemon = True
        self._timer.start()

    def __call__(self, event: Event) -> None:
        self.lines.put(event.to_json())

    def _start(self) -> None:
        with self._lock:
            log = self.root / paths.log("prefect")
            log.parent.mkdir(parents=True, exist_ok=True)
            command = [sys.executable, "-m", "flows.mirror.mirror", str(self.root)]
            environment = server_environment(self.root, self.url)
            environment.pop("PYTHONPATH", None)
            environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
            with log.open("wb") as stream:
                self.process = subprocess.Popen(
                    command, cwd=self.root, env=environment, stdin=subprocess.PIPE, stdout=stream, stderr=stream,
                    text=True, start_new_session=True, preexec_fn=_in_the_background,
                )  # fmt: skip
            threading.Thread(target=self._write, daemon=True).start()

    def _write(self) -> None:
        assert self.process is not None
        assert self.process.stdin is not None
        try:
            while (line := self.lines.get()) is not None:
                self.process.stdin.write(line + "\n")
                self.process.stdin.flush()
            self.process.stdin.close()
        except (BrokenPipeError, OSError, ValueError):
            return

    def finish(self, outcome: str) -> str:
        """Tell the end ("ran", "failed" or "cancelled") and give Prefect a while; what became of the record."""
        self._timer.cancel()
        with self._lock:
            process = self.process
        if process is None:
            return "no Prefect server: run `mergeline serve`, or set PREFECT_API_URL, to keep a record of runs"
        self.lines.put(Event(outcome).to_json())  # type: ignore[arg-type]
        self.lines.put(None)
        ready = (self.root / paths.mirror(process.pid)).exists()
        patience = 180.0 if self.now else PATIENCE if ready or self.url else 0.0
        try:
            status = process.wait(patience)
        except subprocess.TimeoutExpired:
            status = None
            os.killpg(process.pid, 9)
            process.wait()
        (self.root / paths.mirror(process.pid)).unlink(missing_ok=True)
        if status == 0:
            return "recorded in Prefect"
        return "not recorded in Prefect (see logs/prefect.log); the results are not affected"


def _in_the_background() -> None:
    """The record may lag; the stages' work goes first."""
    os.nice(10)


# -- in the mirror: following events as a flow -----------------------------------------------------------------------


def follow(events: Iterable[Event], root: Path) -> State:
    """Inside a flow run: a task run for each stage, as the events come; the state that the flow should end in."""
    from prefect import task
    from prefect.cache_policies import NO_CACHE
    from prefect.states import Cancelled, Completed, Failed

    ends: dict[str, queue.SimpleQueue[Event]] = {}

    @task(cache_policy=NO_CACHE, persist_result=False, retries=0)
    def stage_task(stage: str) -> Any:
        return _task_state(ends[stage].get())

    futures: dict[str, Any] = {}
    planned: list[Event] = []
    final: dict[str, Event] = {}
    outcome = "cancelled"

    def submit(event: Event) -> None:
        wait_for = [futures[up] for up in event.upstream if up in futures] if event.state == "running" else None
        named: Any = stage_task.with_options(name=event.stage, task_run_name=event.stage, tags=list(event.tags) or None)
        futures[event.stage] = named.submit(event.stage, wait_for=wait_for)

    for event in events:
        if not event.stage:
            outcome = event.state
        elif event.state == "planned":
            planned.append(event)
        elif event.state == "running":
            ends[event.stage] = queue.SimpleQueue()
            submit(event)
        elif event.state != "retrying":
            final[event.stage] = event
            if event.stage not in futures:
                ends[event.stage] = queue.SimpleQueue()
                submit(event)
            ends[event.stage].put(event)
    for name, end in ends.items():
        if name not in final:
            end.put(Event("cancelled", name))
    for future in futures.values():
        future.wait(60)
    _artifacts(root, planned, final)
    counts: dict[str, int] = {}
    for event in final.values():
        counts[event.state] = counts.get(event.state, 0) + 1
    message = ", ".join(f"{count} {state}" for state, count in counts.items()) or "nothing to do"
    if outcome == "cancelled":
        return Cancelled(message=message)
    return Failed(message=message) if outcome == "failed" else Completed(message=message)


def follow_command(command: Sequence[str], root: Path) -> tuple[State, int]:
    """Inside a flow run: start a run of the benchmark in a process of its own and follow it; its state and exit code.

    The command prints one event a line. It dies with this process, however that ends.
    """
    log = root / paths.log("refresh")
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command, cwd=root, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stream, text=True,
            env=environment, start_new_session=True, preexec_fn=die_with_parent,
        )  # fmt: skip
    assert process.stdout is not None

    def events() -> Iterator[Event]:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("{"):
                yield Event.from_json(line)
        status = process.wait()
        yield Event("ran" if status == 0 else "cancelled" if status >= 128 or status < 0 else "failed")

    try:
        state = follow(events(), root)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, 15)
        status = process.wait()
    return state, status


def _task_state(event: Event) -> Any:
    from prefect.states import Cancelled, Completed, Failed

    if event.state == "ran":
        return Completed(message=f"{event.seconds:.1f} s")
    if event.state in ("restored", "unchanged"):
        return Completed(name="Cached", message=event.state)
    if event.state == "skipped":
        return Cancelled(name="Skipped", message=f"upstream failed: {event.message}")
    if event.state == "failed":
        return Failed(message=event.message)
    return Cancelled(message=event.message or "the run was ended")


def _artifacts(root: Path, planned: Sequence[Event], final: dict[str, Event]) -> None:
    from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact

    rows = [
        {
            "stage": event.stage,
            "state": final[event.stage].state if event.stage in final else "cancelled",
            "seconds": round(final[event.stage].seconds, 1) if event.stage in final else 0,
            "why": "; ".join(event.reasons),
        }
        for event in planned[:1000]
    ]
    if rows:
        create_table_artifact(rows, key="what-ran", description="What ran in this run of the benchmark, and why")
    metrics = root / paths.METRICS
    if metrics.is_file():
        create_table_artifact(_metric_rows(json.loads(metrics.read_text(encoding="utf-8"))), key="results")
    report = root / paths.PAGE
    if report.is_file():
        create_link_artifact(report.as_uri(), link_text="report", key="report")
        figures = sorted((root / paths.FIGURES).glob("*.svg"))
        lines = "\n".join(f"- [{figure.stem}]({figure.as_uri()})" for figure in figures)
        create_markdown_artifact(f"# Figures\n\n{lines}\n", key="figures")


def _metric_rows(metrics: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"tasks": tasks, "pair": pair, "method": method, "score": value}
        for tasks, pairs in metrics.items()
        for pair, methods in pairs.items()
        for method, value in methods.items()
    ]


def benchmark_flow(events: Iterable[Event], root: Path) -> bool:
    """Run the flow "benchmark" over some events; whether it ended well in Prefect's eyes."""
    from prefect import flow
    from prefect.task_runners import ThreadPoolTaskRunner

    @flow(
        name="benchmark",
        persist_result=False,
        task_runner=cast(Any, ThreadPoolTaskRunner(max_workers=64)),
        validate_parameters=False,
    )
    def benchmark(folder: str) -> Any:
        return follow(events, Path(folder))

    from prefect import tags

    with tags("mergeline", run_tag(os.getppid())):
        state: Any = benchmark(str(root), return_state=True)
    return bool(state.is_completed())


def run_tag(pid: int) -> str:
    """A tag that names a run's process on this machine for good."""
    import platform

    return f"process:{platform.node()}:{pid}:{start_of(pid)}"


def close_dead_runs() -> int:
    """Flow runs whose process is gone but that the server still calls running: mark them crashed. How many."""
    import platform

    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import (
        FlowRunFilter,
        FlowRunFilterState,
        FlowRunFilterStateType,
        FlowRunFilterTags,
    )
    from prefect.client.schemas.objects import StateType
    from prefect.states import Crashed

    wanted = FlowRunFilter(
        tags=FlowRunFilterTags(all_=["mergeline"]),
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.RUNNING])),
    )
    closed = 0
    with get_client(sync_client=True) as client:
        for found in client.read_flow_runs(flow_run_filter=wanted):
            for tag in found.tags:
                kind, _, rest = tag.partition(":")
                host, _, process = rest.rpartition(":")[0].rpartition(":")
                start = rest.rpartition(":")[2]
                if kind == "process" and host == platform.node() and start_of(int(process)) != start:
                    client.set_flow_run_state(found.id, Crashed(message=f"process {process} is gone"), force=True)
                    closed += 1
    return closed


def _read_events() -> Iterator[Event]:
    for line in sys.stdin:
        yield Event.from_json(line)


def main(folder: str) -> int:
    """The mirror's process: events on standard input, a flow run in Prefect."""
    die_with_parent()
    root = Path(folder)
    url = os.environ.get("PREFECT_API_URL")
    if url:
        return _mirror(root)
    with own_server(root) as (own, _):
        os.environ |= own_environment(root, own)
        return _mirror(root)


def _mirror(root: Path) -> int:
    (root / paths.mirror(os.getpid())).touch()
    close_dead_runs()
    benchmark_flow(_read_events(), root)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
