"""What a run tells those who watch it: one event a change of a stage's state."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

__all__ = ["Event", "Listener", "State"]

State = Literal[
    "planned",  # it is stale, or waits for a stale one
    "running",
    "retrying",
    "ran",
    "restored",  # its outputs came from the cache
    "unchanged",  # its inputs came out as they were
    "failed",
    "skipped",  # something that it needs failed
    "cancelled",
]


@dataclass(frozen=True)
class Event:
    """A stage's new state. ``stage`` is empty for the run itself ("planned" at its start, "ran"/"failed" at its end)."""

    state: State
    stage: str = ""
    address: str = ""
    reasons: Sequence[str] = ()
    upstream: Sequence[str] = ()
    seconds: float = 0.0
    message: str = ""
    log: str = ""
    tags: Sequence[str] = ()
    extra: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Event:
        return cls(**json.loads(text))


Listener = Callable[[Event], None]
