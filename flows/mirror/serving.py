"""``mergeline serve``: the benchmark's own Prefect server, and the refresh on a schedule."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from flows.mirror.access import ROOT_VARIABLE, secret_file
from flows.mirror.server import note_server, own_environment, own_server, server_note
from flows.running import guard
from flows.running.workers import die_with_parent
from stages.plan import paths

__all__ = ["Schedule", "serve"]


@dataclass(frozen=True)
class Schedule:
    """When a benchmark is refreshed, by ``cron`` or every ``interval`` seconds (or neither), and how."""

    cron: str | None
    interval: float | None
    jobs: int
    profile: str | None

    def __str__(self) -> str:
        return f"by cron {self.cron!r}" if self.cron else f"every {self.interval:g} s" if self.interval else "never"


def serve(root: Path, port: int, schedule: Schedule, say: Callable[[str], None]) -> int:
    """Serve until interrupted; exit code 0, or 1 if the server or the schedule's process ended by itself."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    note, started = server_note(root), root / paths.SERVED
    guard.end_left(started)
    keeper = guard.start(started, guard.mark_of(os.getpid()))
    try:
        return _serve(root, port, schedule, say, stop)
    finally:
        note.unlink(missing_ok=True)
        for pid in guard.noted(started):
            (started / str(pid)).unlink(missing_ok=True)
        keeper.kill()
        keeper.wait()


def _serve(root: Path, port: int, schedule: Schedule, say: Callable[[str], None], stop: threading.Event) -> int:
    say(f"starting a Prefect server on port {port} (it takes some ten seconds)")
    with own_server(root, port) as (url, server):
        note_server(root, url)
        guard.note(root / paths.SERVED, server.pid, guard.mark_of(os.getpid()))
        say(
            f"runs are recorded at {url.removesuffix('/api')}; its pages ask for a password: the line in {secret_file(root)}"
        )
        runner = None
        try:
            if schedule.cron or schedule.interval:
                runner = _start_runner(root, url, schedule)
                guard.note(root / paths.SERVED, runner.pid, guard.mark_of(os.getpid()))
                say(f"refreshing {schedule}; ends with Ctrl-C")
            while not stop.wait(0.5):
                if server.poll() is not None:
                    say("the Prefect server ended; see logs/prefect-server.log")
                    return 1
                if runner is not None and runner.poll() is not None:
                    say("the schedule's process ended; see logs/schedule.log")
                    return 1
        finally:
            if runner is not None and runner.poll() is None:
                os.killpg(runner.pid, signal.SIGTERM)
                try:
                    runner.wait(15)
                except subprocess.TimeoutExpired:
                    os.killpg(runner.pid, signal.SIGKILL)
                    runner.wait()
    return 0


def _start_runner(root: Path, url: str, schedule: Schedule) -> subprocess.Popen:
    log = root / paths.log("schedule")
    log.parent.mkdir(parents=True, exist_ok=True)
    options = {"folder": str(root), **asdict(schedule)}
    environment = own_environment(root, url)
    environment[ROOT_VARIABLE] = str(root)
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    environment["PREFECT_LOGGING_LEVEL"] = "INFO"
    with log.open("wb") as stream:
        return subprocess.Popen(
            [sys.executable, "-m", "flows.mirror.serving", json.dumps(options)], cwd=root, env=environment, stdout=stream,
            stderr=stream, stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=die_with_parent,
        )  # fmt: skip


def run_schedule(folder: str, schedule: Schedule) -> None:
    """In a process of its own: serve the flow ``refresh`` on its schedule until ended."""
    from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy

    from flows.mirror.mirror import close_dead_runs
    from flows.mirror.scheduled import refresh

    close_dead_runs()
    drop_late_runs("refresh")
    refresh.serve(
        name="refresh",
        cron=schedule.cron,
        interval=schedule.interval,
        limit=1,
        global_limit=ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW),
        parameters={"folder": folder, "jobs": schedule.jobs, "profile": schedule.profile},
        tags=["mergeline"],
        print_starting_message=False,
    )


def drop_late_runs(flow_name: str) -> int:
    """After a time without a server: of all scheduled runs that were missed, keep the latest. How many were dropped."""
    import datetime

    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import (
        FlowFilter,
        FlowFilterName,
        FlowRunFilter,
        FlowRunFilterState,
        FlowRunFilterStateType,
    )
    from prefect.client.schemas.objects import StateType
    from prefect.states import Cancelled

    now = datetime.datetime.now(datetime.UTC)
    scheduled = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED])))
    with get_client(sync_client=True) as client:
        found = client.read_flow_runs(
            flow_filter=FlowFilter(name=FlowFilterName(any_=[flow_name])), flow_run_filter=scheduled
        )
        missed = sorted(
            (run for run in found if run.expected_start_time is not None and run.expected_start_time < now),
            key=lambda run: run.expected_start_time or now,
        )
        for run in missed[:-1]:
            client.set_flow_run_state(
                run.id, Cancelled(message="missed; only the latest missed run is made up"), force=True
            )
    return max(0, len(missed) - 1)


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    run_schedule(given.pop("folder"), Schedule(**given))
