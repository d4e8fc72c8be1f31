"""What a person sees of a run: a live table in a terminal, plain lines elsewhere."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from flows.dvc.stage import kind_of
from flows.running.events import Event
from flows.running.session import Outcome
from stages.plan import paths

__all__ = ["LiveDisplay", "PlainDisplay", "duration", "make_display", "print_outcome"]

MARKS = {
    "ran": ("✓", "green"),
    "restored": ("↺", "cyan"),
    "unchanged": ("=", "dim"),
    "failed": ("✗", "bold red"),
    "skipped": ("-", "yellow"),
    "cancelled": ("!", "yellow"),
    "retrying": ("…", "yellow"),
}


def duration(seconds: float) -> str:
    """Seconds as people say them: ``0.4 s``, ``75 s``, ``12 min``, ``3.5 h``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


class _Tally:
    """Counts by state, what runs, and the time that is left."""

    def __init__(self, expected: Mapping[str, float], jobs: int) -> None:
        self.expected = expected
        self.jobs = jobs
        self.states: dict[str, str] = {}
        self.names: dict[str, str] = {}
        self.started: dict[str, float] = {}
        self.planned: dict[str, float] = defaultdict(float)
        """Expected seconds of what has not started, by kind of stage."""
        self.ended: dict[str, tuple[float, float]] = {}
        """Expected and real seconds of what ran, by kind: the expectation is scaled by how it went so far."""
        self.begun = time.monotonic()
        self.lock = threading.Lock()

    def take(self, event: Event) -> None:
        kind, expected = kind_of(event.stage), self.expected.get(event.address, 1.0)
        with self.lock:
            if event.state == "planned":
                self.planned[kind] += expected
            elif self.states.get(event.address) == "planned":
                self.planned[kind] -= expected
            if event.state == "ran":
                before, took = self.ended.get(kind, (0.0, 0.0))
                self.ended[kind] = before + expected, took + event.seconds
            self.states[event.address] = event.state
            self.names[event.address] = event.stage
            if event.state == "running":
                self.started[event.address] = time.monotonic()
            elif event.state not in ("retrying", "planned"):
                self.started.pop(event.address, None)

    @property
    def counts(self) -> Counter[str]:
        return Counter(self.states.values())

    @property
    def total(self) -> int:
        return len(self.states)

    @property
    def done(self) -> int:
        return sum(state not in ("planned", "running", "retrying") for state in self.states.values())

    def seconds_left(self) -> float:
        """Expected work that is left, over the workers."""
        now = time.monotonic()
        left = sum(max(0.0, seconds) * self._pace(kind) for kind, seconds in self.planned.items())
        for address, start in self.started.items():
            pace = self._pace(kind_of(self.names[address]))
            left += max(0.0, self.expected.get(address, 1.0) * pace - (now - start))
        return left / self.jobs

    def _pace(self, kind: str) -> float:
        expected, took = self.ended.get(kind, (0.0, 0.0))
        return took / expected if expected else 1.0


class PlainDisplay:
    """A line as each stage ends, with how many are done and how long the rest may take."""

    def __init__(self, console: Console, expected: Mapping[str, float], jobs: int, root: Path) -> None:
        self.console = console
        self.tally = _Tally(expected, jobs)

    def __enter__(self) -> PlainDisplay:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def __call__(self, event: Event) -> None:
        self.tally.take(event)
        if event.state in ("planned", "running", "unchanged"):
            return
        mark, style = MARKS[event.state]
        done, total = self.tally.done, self.tally.total
        left = f", {duration(self.tally.seconds_left())} left" if done < total else ""
        took = f" {duration(event.seconds)}" if event.seconds else ""
        note = f": {event.message.splitlines()[0]}" if event.message else ""
        self.console.print(
            f"[{style}]{mark}[/] {event.stage} {event.state}{took}{note} [dim]({done}/{total}{left})[/]",
            highlight=False, soft_wrap=True,
        )  # fmt: skip


class LiveDisplay:
    """A table that stays in place: what runs and for how long, progress of long stages, counts, time left."""

    def __init__(self, console: Console, expected: Mapping[str, float], jobs: int, root: Path) -> None:
        self.tally = _Tally(expected, jobs)
        self.root = root
        self.console = console
        self.live = Live(console=console, get_renderable=self.render, refresh_per_second=4, transient=True)

    def __enter__(self) -> LiveDisplay:
        self.live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.live.__exit__(kind, value, trace)

    def __call__(self, event: Event) -> None:
        self.tally.take(event)
        if event.state in ("failed", "retrying"):
            mark, style = MARKS[event.state]
            first = event.message.splitlines()[0] if event.message else ""
            self.live.console.print(f"[{style}]{mark} {event.stage}[/] {first}", highlight=False)

    def render(self) -> RenderableType:
        with self.tally.lock:
            started = dict(self.tally.started)
            counts = self.tally.counts
            done, total = self.tally.done, self.tally.total
            left = self.tally.seconds_left()
        now = time.monotonic()
        table = Table(box=None, padding=(0, 1), show_header=False)
        for address, start in list(started.items())[:12]:
            name = self.tally.names[address]
            table.add_row("▸", name, self._bar(name, now - start, address), duration(now - start))
        words = [f"{counts[state]} {state}" for state in MARKS if counts[state]]
        foot = Text(f"{done}/{total} stages", style="bold")
        foot.append(f"  {', '.join(words)}  " if words else "  ", style="dim")
        foot.append(f"{duration(now - self.tally.begun)} so far, about {duration(left)} left", style="dim")
        return Group(table, ProgressBar(total=max(total, 1), completed=done, width=60), foot)

    def _bar(self, name: str, seconds: float, address: str) -> RenderableType:
        path = self.root / paths.progress(name)
        try:
            done, total = json.loads(path.read_text(encoding="utf-8"))
            return ProgressBar(total=total, completed=done, width=24)
        except (OSError, ValueError):
            expected = self.tally.expected.get(address, 1.0)
            return ProgressBar(total=expected, completed=min(seconds, expected), width=24)


def make_display(
    console: Console, expected: Mapping[str, float], jobs: int, root: Path, quiet: bool = False
) -> PlainDisplay | LiveDisplay:
    """The display that fits where the output goes."""
    kind = LiveDisplay if console.is_terminal and not quiet else PlainDisplay
    return kind(Console(quiet=True) if quiet else console, expected, jobs, root)


def print_outcome(console: Console, outcome: Outcome) -> None:
    """What ran, and for each failure its cause, its log and the command to try it alone."""
    words = [
        f"{outcome.count(state)} {state}"
        for state in ("ran", "restored", "unchanged", "failed", "skipped", "cancelled")
        if outcome.count(state)
    ]
    console.print(f"{', '.join(words) or 'nothing to do'} in {duration(outcome.seconds)}", highlight=False)
    for stage in outcome.failed:
        console.print(f"\n[bold red]✗ {stage.name}[/]", highlight=False)
        for line in stage.message.splitlines():
            console.print(f"    {line}", highlight=False, markup=False, soft_wrap=True)
        if stage.log:
            console.print(f"  log: {stage.log}", highlight=False, soft_wrap=True)
        console.print(f"  alone: {stage.command}", highlight=False, soft_wrap=True, markup=False)
