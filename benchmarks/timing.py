"""Timing two or more ways to do a thing in turn, so that a machine that is busy for a while harms all alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from statistics import median

__all__ = ["in_turn", "ratio"]


def in_turn(ways: Mapping[str, Callable[[], object]], rounds: int = 7, warmup: int = 1) -> dict[str, list[float]]:
    """Seconds of each way in each round, after a warm-up; the ways take turns within a round."""
    for _ in range(warmup):
        for way in ways.values():
            way()
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            begun = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - begun)
    return seconds


def ratio(seconds: Mapping[str, list[float]], first: str, second: str) -> float:
    """Median over rounds of ``first / second`` within a round."""
    return median(a / b for a, b in zip(seconds[first], seconds[second], strict=True))
