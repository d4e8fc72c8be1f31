"""``python -m stages NAME [CELL]``: run one stage in the current benchmark folder."""

from __future__ import annotations

import argparse
import errno
import importlib
import json
import os
import platform
import resource
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from stages.errors import PASSING
from stages.loaded_code import LoadedCode
from stages.plan import paths
from stages.registry import STAGES
from stages.starter import end_with_dvc

__all__ = ["DISK_FULL", "EXPECTED_VARIABLE", "TRANSIENT", "loaded_code", "main", "run_stage"]

DISK_FULL = 74
TRANSIENT = 75


def run_stage(name: str, cell: str) -> None:
    """Run one stage in the working directory. Errors are raised as they come."""
    from stages.formats.files import root_of
    from stages.plan.loading import load_params

    root = root_of()
    code = loaded_code()
    entry = STAGES[name]
    before = _stamp(root)
    params = load_params(root / paths.PARAMS)
    _check_params(root, before)
    start = time.perf_counter()
    context: Any
    if entry.light:
        context = _LightContext(root, params)
    else:
        import torch

        from stages.context import Context

        torch.set_num_threads(params.compute.threads)
        context = Context(root, params)
    function: Callable[[Any, str], None] = getattr(importlib.import_module(entry.module), entry.function)
    code.settle()
    function(context, cell)
    code.check(name, cell)
    _write_timing(root, name, cell, time.perf_counter() - start)


EXPECTED_VARIABLE = "MERGELINE_EXPECTED"
"""The values of params.yaml that a run records for a stage which it starts, as JSON by key."""


def _check_params(root: Path, before: tuple[int, ...]) -> None:
    """Whether what was just read is what will be recorded: the file may have been edited in between, and be put back again.

    Raises
    ------
    StageError: it is not; names the parameter.
    """
    expected = os.environ.get(EXPECTED_VARIABLE)
    if expected is None:
        return
    from stages.errors import StageError
    from stages.formats import yaml12

    values = yaml12.load((root / paths.PARAMS).read_text(encoding="utf-8"))
    changed = [key for key, value in json.loads(expected).items() if _text_of(values, key) != _text(value)]
    if not changed and _stamp(root) != before:
        changed = ["the file"]
    if changed:
        raise StageError(f"{paths.PARAMS}: {changed[0]} was changed before this stage read it. Run again.")


def _text_of(values: Any, key: str) -> str | None:
    for part in key.split("."):
        if not isinstance(values, dict) or part not in values:
            return None
        values = values[part]
    return _text(values)


def _text(value: Any) -> str:
    """The same for values that are the same, in whatever order their keys stand."""
    return json.dumps(json.loads(json.dumps(value, default=str)), sort_keys=True)


def _stamp(root: Path) -> tuple[int, ...]:
    status = (root / paths.PARAMS).stat()
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino


@cache
def loaded_code() -> LoadedCode:
    """Of this process; in a worker it begins before the worker's modules are loaded (``flows.running.preload``)."""
    return LoadedCode()


@dataclass(frozen=True)
class _LightContext:
    root: Path
    params: Any

    def path(self, relative: object) -> Path:
        return self.root / str(relative)


def _write_timing(root: Path, name: str, cell: str, seconds: float) -> None:
    """Seconds live apart from results, which are the same bytes every time."""
    from stages.formats.files import write_json

    usage = resource.getrusage(resource.RUSAGE_SELF)
    values = {
        "stage": name, "cell": cell, "seconds": round(seconds, 4), "peak_mib": usage.ru_maxrss // 1024,
        "machine": platform.node(), "finished": round(time.time(), 1),
    }  # fmt: skip
    write_json(root / paths.timing(name, cell), values)


def parser() -> argparse.ArgumentParser:
    lines = "\n".join(f"  {name:<18} {entry.about:<42} {entry.cell}" for name, entry in STAGES.items())
    made = argparse.ArgumentParser(
        prog="python -m stages",
        description="Run one stage of the benchmark in the current folder, which holds params.yaml.",
        epilog=f"stages and their cells:\n{lines}\n\nexample: python -m stages train digits.r17.s0",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("name", choices=list(STAGES), metavar="NAME", help="the stage")
    made.add_argument("cell", nargs="?", default="", metavar="CELL", help="the cell; some stages have none")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 done, 1 the stage failed, 2 bad input, 74 the disk is full, 75 out of memory or an I/O error."""
    _limit_threads()
    loaded_code()
    from mergeline.registry import PluginError
    from mergeline.tasks.task import TaskError
    from stages.errors import StageError
    from stages.plan.keys import CellError
    from stages.plan.loading import ParamsError

    chosen = parser().parse_args(arguments)
    if STAGES[chosen.name].cell and not chosen.cell:
        print(f"python -m stages {chosen.name}: needs a cell, {STAGES[chosen.name].cell}", file=sys.stderr)
        return 2
    try:
        run_stage(chosen.name, chosen.cell)
    except (ParamsError, CellError, TaskError, PluginError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except StageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except Exception as error:
        traceback.print_exc()
        return _failure_status(error)
    return 0


def _limit_threads() -> None:
    """Give numpy's libraries ``compute.threads`` threads, which they read once, as they are loaded: sums depend on it."""
    from stages.formats import yaml12

    try:
        threads = int(yaml12.load(Path(paths.PARAMS).read_text(encoding="utf-8"))["compute"]["threads"])
    except (OSError, UnicodeDecodeError, yaml12.YamlError, KeyError, TypeError, ValueError):
        threads = 1  # what is wrong with the file is said when it is read in earnest
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[variable] = str(threads)


def _failure_status(error: Exception) -> int:
    """1, or a status that says that the same command may succeed later."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DISK_FULL
    out_of_memory = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    passing = isinstance(error, OSError) and error.errno in PASSING
    return TRANSIENT if out_of_memory or passing else 1


if __name__ == "__main__":
    end_with_dvc()
    sys.exit(main())
