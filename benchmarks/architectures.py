"""Networks of many families: does it trace, is the trace proved, does a planted permutation merge back; against torch-pruning.

Printed as a table; the numbers of every network are kept as JSON. A planted permutation is merged by every matcher that
looks at activations and takes seconds (``tests/planted.py``); the largest difference is printed, and of how many.
"""

from __future__ import annotations

import signal
import time
from typing import Any

import torch
from torch import nn

from mergeline.sources import first_samples
from mergeline.spaces import trace
from mergeline.spaces.verifying import check_spaces
from tests.planted import planted_differences, within_reach
from tests.zoo import HUGGING_FACE, TIMM, TORCHVISION, ZOO, make

__all__ = ["line", "measure"]

SAMPLES = 8
PATIENCE = 120
"""Seconds after which a graph that is still being built is given up."""
QUICK = 6


def _timed(work: Any) -> tuple[float, Any]:
    begun = time.perf_counter()
    result = work()
    return time.perf_counter() - begun, result


def _torch_pruning(model: nn.Module, inputs: Any) -> float | str:
    """Seconds that torch-pruning's dependency graph takes with all its groups, or why there is none."""
    try:
        import torch_pruning
    except ImportError:
        return "not installed"

    def build() -> int:
        graph = torch_pruning.DependencyGraph().build_dependency(model, example_inputs=inputs)
        return sum(1 for _ in graph.get_all_groups())

    def stop(*_: Any) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(PATIENCE)
    try:
        return _timed(build)[0]
    except TimeoutError:
        return f"over {PATIENCE} s"
    except Exception as error:
        return type(error).__name__
    finally:
        signal.alarm(0)


def measure(quick: bool = False) -> dict[str, Any]:
    """Every network of the zoo; with ``quick`` a few of them."""
    torch.set_num_threads(1)
    rows: dict[str, dict[str, Any]] = {}
    for name in list(ZOO)[:: len(ZOO) // QUICK] if quick else ZOO:
        row: dict[str, Any] = {}
        begun = time.perf_counter()
        try:
            model, inputs = make(name, SAMPLES)
            few = first_samples(inputs, 2)
            row["trace"], spaces = _timed(lambda model=model, few=few: trace(model, few))
            row["units"] = sum(space.size for space in spaces.free)
            row["verify"], found = _timed(lambda model=model, spaces=spaces, few=few: check_spaces(model, spaces, few))
            row["difference"] = max(found.values(), default=0.0)
            row["torch_pruning"] = _torch_pruning(make(name, 1)[0], few)
            planted = planted_differences(model, spaces, inputs, within_reach(spaces))
            row["merged by"] = {method: found for method, found in planted.items() if isinstance(found, float)}
            row["refused"] = {method: found for method, found in planted.items() if isinstance(found, str)}
            row["planted"] = max(row["merged by"].values())
            row["seconds"] = time.perf_counter() - begun
        except Exception as error:
            row["error"] = f"{type(error).__name__}: {str(error)[:160]}"
        rows[name] = row
        print(_row(name, row), flush=True)
    return {"rows": rows, "families": {"torchvision": list(TORCHVISION), "timm": list(TIMM), "hf": list(HUGGING_FACE)}}


def _row(name: str, row: dict[str, Any]) -> str:
    def number(key: str, form: str) -> str:
        value = row.get(key)
        return format(value, form) if isinstance(value, float) else str(value if value is not None else "-")

    text = (
        f"{name:<30} trace {number('trace', '.2f'):>6} s  verify {number('verify', '.2f'):>6} s  {number('difference', '.0e')}"
        f"  planted {number('planted', '.0e')} by {len(row.get('merged by', ()))}  torch-pruning {number('torch_pruning', '.2f')}"
    )
    return text + (f"  {row['error']}" if "error" in row else "")


def line(found: dict[str, Any]) -> str:
    rows = found["rows"].values()
    proved = sum(row.get("difference", 1.0) <= 1e-4 for row in rows)
    merged = sum(row.get("planted", 1.0) <= 1e-4 for row in rows)
    theirs = sum(isinstance(row.get("torch_pruning"), float) for row in rows)
    return (
        f"architectures: {proved} of {len(rows)} trace and are proved, a planted permutation merges back in {merged}; "
        f"torch-pruning groups {theirs}"
    )
