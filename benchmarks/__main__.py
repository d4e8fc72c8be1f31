"""``python -m benchmarks [NAME ...]``: run the benchmarks, print a line for each finding, keep the numbers as JSON."""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

RESULTS = Path(__file__).resolve().parent / "results"
NAMES = (
    "training",
    "moments",
    "zip",
    "weight",
    "encoder",
    "orchestration",
    "status",
    "tracing",
    "normalization",
    "cka",
)
TABLES = ("architectures",)
"""Benchmarks that print a table and a line."""
LONG = ("demo",)
"""Benchmarks that are measured only where they are named: a quarter of an hour, and the history of a clone."""


def benchmarks() -> dict[str, str]:
    """The module of each benchmark there is, by name."""
    modules = {name: f"benchmarks.{name}_speed" for name in (*NAMES, *LONG)} | {
        name: f"benchmarks.{name}" for name in TABLES
    }
    return {name: module for name, module in modules.items() if find_spec(module) is not None}


def run(name: str, module: str, quick: bool = False) -> None:
    """Measure, print what was found, write it to ``benchmarks/results/NAME.json``."""
    benchmark = importlib.import_module(module)
    accepted = inspect.signature(benchmark.measure).parameters
    found = benchmark.measure(**({"quick": True} if quick and "quick" in accepted else {}))
    print(benchmark.line(found), flush=True)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 all were measured, 1 one raised an error, 2 an unknown name."""
    known = benchmarks()
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Measure speed, as ratios where possible."
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"of {', '.join(known)}; by default all but {', '.join(LONG)}"
    )
    parser.add_argument("--list", action="store_true", help="print the names, and measure nothing")
    parser.add_argument("--quick", action="store_true", help="less work where a benchmark takes minutes")
    chosen = parser.parse_args(arguments)
    unknown = [name for name in chosen.names if name not in known]
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}; there are: {', '.join(known)}")
    if chosen.list:
        for name, module in known.items():
            print(f"{name:<14} {(importlib.import_module(module).__doc__ or '').strip().splitlines()[0]}")
        return 0
    failed = []
    for name in chosen.names or (name for name in known if name not in LONG):
        try:
            run(name, known[name], chosen.quick)
        except Exception as error:
            print(f"error: {name}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
            failed.append(name)
    if failed:
        print(f"not measured: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
