"""One run of the pipeline: stale stages in dependency order, in parallel, each recorded as it ends.

The scheduler knows no Prefect and needs none: who watches is told by events.
"""

from __future__ import annotations

import heapq
import queue
import shutil
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from flows.dvc.lock_entries import plain_values
from flows.dvc.pipeline import Pipeline
from flows.dvc.stage import InputsChanged, MissingOutput, PipelineError, Reason, Snapshot
from flows.running.events import Event, Listener, State
from flows.running.workers import Result, Workers, stage_arguments
from stages.plan import paths
from stages.registry import STAGES

__all__ = ["Outcome", "Session", "StageOutcome"]

FLUSH_SECONDS = 2.0
"""Lock files are written about this often; what is not yet written is restored from the run cache after a crash."""
LOW_DISK = 200 << 20
"""Bytes of free space below which nothing new is started."""


@dataclass
class StageOutcome:
    """What became of one stage."""

    address: str
    name: str
    state: State
    seconds: float = 0.0
    message: str = ""
    log: str = ""
    command: str = ""


@dataclass
class Outcome:
    """What became of a run."""

    stages: dict[str, StageOutcome] = field(default_factory=dict)
    seconds: float = 0.0
    cancelled: bool = False

    def count(self, *states: State) -> int:
        return sum(stage.state in states for stage in self.stages.values())

    @property
    def failed(self) -> list[StageOutcome]:
        return [stage for stage in self.stages.values() if stage.state == "failed"]

    @property
    def ok(self) -> bool:
        return not self.cancelled and not self.count("failed", "skipped", "cancelled")


class Session:
    """Runs the stale stages of a pipeline.

    Parameters
    ----------
    stale: stages and why they are stale, upstream first (``Pipeline.stale``).
    expected: seconds that stages are likely to take (``flows.running.durations``); decides what starts first.
    jobs, threads, timeout, retries: see ``execution`` and ``compute`` in params.yaml.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        stale: Mapping[str, Sequence[Reason]],
        *,
        jobs: int,
        threads: int = 1,
        timeout: float = 86400.0,
        retries: int = 1,
        force: bool = False,
        expected: Mapping[str, float] | None = None,
        listeners: Sequence[Listener] = (),
    ) -> None:
        self.pipeline = pipeline
        self.stale = stale
        self.jobs = max(1, jobs)
        self.retries = retries
        self.force = force
        self.expected = expected or {}
        self.listeners = listeners
        self.outcome = Outcome()
        self._ended: queue.SimpleQueue[tuple[str, Result] | None] = queue.SimpleQueue()
        self._workers = Workers(
            pipeline.root, self.jobs, threads, timeout, lambda key, result: self._ended.put((key, result))
        )
        self._cancel = threading.Event()
        self._attempts: dict[str, int] = {}
        self._snapshots: dict[str, Snapshot] = {}
        self._running: dict[str, float] = {}
        self._waiting: dict[str, set[str]] = {}
        self._ready: list[tuple[float, str]] = []
        self._rank: dict[str, float] = {}
        self._downstream = pipeline.downstream
        self._flushed = time.monotonic()

    def cancel(self) -> None:
        """End the run: kill what runs, record what has ended. May be called from a signal handler."""
        self._cancel.set()
        self._ended.put(None)

    def execute(self) -> Outcome:
        """Run everything; returns when all is done, failed or cancelled."""
        begun = time.monotonic()
        for address, reasons in self.stale.items():
            stage = self.pipeline.stages[address]
            self._waiting[address] = {up for up in stage.upstream if up in self.stale}
            self._tell(address, "planned", reasons=[str(reason) for reason in reasons])
        self._rank = self._ranks()
        for address, needs in self._waiting.items():
            if not needs:
                self._push(address)
        try:
            while not self._cancel.is_set():
                self._start_ready()
                if not self._running:
                    break
                self._take(self._ended.get())
                while not self._ended.empty():
                    self._take(self._ended.get())
                self._flush_now_and_then()
        finally:
            self.outcome.cancelled = self._cancel.is_set()
            self._workers.stop() if self._running or self._cancel.is_set() else self._workers.close()
            for address in list(self._running):
                self._end(address, "cancelled")
            for address in self._waiting:
                if address not in self.outcome.stages:
                    self._end(address, "cancelled")
            self.pipeline.flush()
            self.outcome.seconds = time.monotonic() - begun
        return self.outcome

    def _ranks(self) -> dict[str, float]:
        """Expected seconds from each stage's start to the end of the longest chain behind it."""
        ranks: dict[str, float] = {}
        for address in reversed(list(self.stale)):
            behind = max((ranks[down] for down in self._downstream[address] if down in ranks), default=0.0)
            ranks[address] = self.expected.get(address, 1.0) + behind
        return ranks

    # -- steps ----------------------------------------------------------------------------------------------------

    def _start_ready(self) -> None:
        """Start what can start; stages that need not run end at once and may make others ready."""
        while self._ready and len(self._running) < self.jobs + 1 and not self._cancel.is_set():
            _, address = heapq.heappop(self._ready)
            try:
                self._begin(address)
            except (PipelineError, OSError) as error:
                self._end(address, "failed", message=str(error))

    def _begin(self, address: str) -> None:
        stage = self.pipeline.stages[address]
        if not self.force and not self.pipeline.reasons(address):
            self._end(address, "unchanged")
            return
        snapshot = self.pipeline.snapshot(address)
        if not self.force and self.pipeline.restore(address, snapshot):
            self._end(address, "restored")
            return
        free = shutil.disk_usage(self.pipeline.root).free
        if free < LOW_DISK:
            raise PipelineError(f"only {free >> 20} MiB of disk space are left; free some and run again")
        self.pipeline.clear_outputs(address)
        self._snapshots[address] = snapshot
        self._attempts[address] = 1
        self._launch(address)
        self._tell(address, "running", tags=["gpu" if _is_gpu(stage.command) else "cpu"])

    def _launch(self, address: str) -> None:
        stage = self.pipeline.stages[address]
        log = self.log(address)
        log.parent.mkdir(parents=True, exist_ok=True)
        header = f"$ {stage.command}\n"
        if self._attempts[address] == 1:
            log.write_text(header, encoding="utf-8")
        else:
            with log.open("a", encoding="utf-8") as stream:
                stream.write(f"\nattempt {self._attempts[address]}\n{header}")
        self._running[address] = time.monotonic()
        progress = self.pipeline.root / paths.progress(stage.name)
        gpu = _is_gpu(stage.command)
        values = plain_values(self._snapshots[address].params.get(str(self.pipeline.root / paths.PARAMS), {}))
        self._workers.start(address, stage.command, stage.folder, log, progress, gpu, values)

    def log(self, address: str) -> Path:
        """The log file of a stage."""
        return self.pipeline.root / paths.log(self.pipeline.stages[address].name)

    def _take(self, ended: tuple[str, Result] | None) -> None:
        if ended is None:
            return
        address, result = ended
        self._running.pop(address, None)
        if result.ok:
            try:
                self.pipeline.record(address, self._snapshots.pop(address))
                self._end(address, "ran", result.seconds)
            except (InputsChanged, MissingOutput, PipelineError, OSError) as error:
                self._end(address, "failed", result.seconds, str(error))
            return
        if result.transient and self._attempts[address] <= self.retries:
            self._attempts[address] += 1
            self._tell(address, "retrying", message=result.cause)
            try:
                self.pipeline.clear_outputs(address)
                self._launch(address)
            except OSError as error:
                self._end(address, "failed", result.seconds, str(error))
            return
        self.pipeline.clear_outputs(address)
        message = result.cause or f"exit status {result.status}"
        tail = result.tail()
        self._end(address, "failed", result.seconds, f"{message}\n{tail}" if tail else message)

    def _end(self, address: str, state: State, seconds: float = 0.0, message: str = "") -> None:
        """Note a stage's end; make those that waited for it ready, or skip them."""
        todo = [(address, state, seconds, message)]
        while todo:
            address, state, seconds, message = todo.pop()
            if address in self.outcome.stages:
                continue
            self._note(address, state, seconds, message)
            name = self.pipeline.stages[address].name
            for down in self._downstream[address]:
                if down not in self._waiting or state == "cancelled":
                    continue
                if state in ("failed", "skipped") and not self.pipeline.stages[down].with_gaps:
                    todo.append((down, "skipped", 0.0, f"{name} {state}"))
                    continue
                self._waiting[down].discard(address)
                if not self._waiting[down] and down not in self.outcome.stages:
                    self._push(down)

    def _note(self, address: str, state: State, seconds: float, message: str) -> None:
        stage = self.pipeline.stages[address]
        if state == "skipped":  # what it made from other inputs must not be taken for a result (the cache keeps it)
            self.pipeline.clear_outputs(address)
        self._running.pop(address, None)
        log = str(self.log(address)) if state in ("ran", "failed") else ""
        self.outcome.stages[address] = StageOutcome(address, stage.name, state, seconds, message, log, stage.command)
        self._tell(address, state, seconds=seconds, message=message, log=log)

    def _push(self, address: str) -> None:
        """Make a stage ready; those with the most work behind them start first."""
        heapq.heappush(self._ready, (-self._rank[address], address))

    def _flush_now_and_then(self) -> None:
        """Write lock files every few seconds, but for at most a tenth of the time."""
        now = time.monotonic()
        if self.pipeline.pending and now - self._flushed >= FLUSH_SECONDS:
            self.pipeline.flush()
            self._flushed = time.monotonic() + 9 * (time.monotonic() - now)

    def _tell(self, address: str, state: State, **values: object) -> None:
        stage = self.pipeline.stages[address]
        event = Event(
            state,
            stage.name,
            address,
            upstream=[self.pipeline.stages[up].name for up in stage.upstream if up in self.stale],
            **values,  # type: ignore[arg-type]
        )
        for listener in self.listeners:
            listener(event)


def _is_gpu(command: str) -> bool:
    arguments = stage_arguments(command)
    return arguments is not None and arguments[0] in STAGES and STAGES[arguments[0]].gpu
