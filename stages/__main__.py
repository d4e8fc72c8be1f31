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
from pathlib import Path
from typing import Any

__all__ = ["DISK_FULL", "STAGES", "TRANSIENT", "StageEntry", "main", "run_stage"]

DISK_FULL = 74
TRANSIENT = 75
_PASSING = (errno.EIO, errno.ENOMEM, errno.EAGAIN, errno.ETIMEDOUT, errno.ESTALE, errno.ENFILE, errno.EMFILE)


@dataclass(frozen=True)
class StageEntry:
    """Where a stage's function is, and what its cells are."""

    module: str
    function: str
    about: str
    cell: str = ""
    gpu: bool = False


STAGES: dict[str, StageEntry] = {
    "code": StageEntry("stages.plan.code", "run", "hash the code that each stage runs"),
    "prepare": StageEntry("stages.prepare", "run", "bring a task's images to the input size", "TASK"),
    "targets": StageEntry("stages.targets", "run", "embed a task's class names", "TASK"),
    "train": StageEntry("stages.train", "run_train", "train an edge model", "task.architecture.s0", True),
    "finetune": StageEntry("stages.train", "run_finetune", "finetune an edge model", "task.architecture.s0", True),
    "untrained": StageEntry("stages.train", "run_untrained", "make an untrained network", "task.architecture.u0", True),
    "import": StageEntry("stages.train", "run_import", "take a checkpoint as an edge", "task.architecture.s0", True),
    "predict": StageEntry("stages.predict", "run", "store an edge's logits", "task.architecture.s0.on-task", True),
    "statistics": StageEntry("stages.statistics", "run", "moments of a group", "tasks.architectures.seeds", True),
    "match": StageEntry("stages.match", "run", "match a group's units", "tasks.architectures.seeds.method"),
    "merge": StageEntry("stages.merge", "run", "merge a group", "tasks.architectures.seeds.method.normalize", True),
    "evaluate": StageEntry(
        "stages.evaluate", "run_merge", "score a merge", "tasks.architectures.seeds.method.normalize", True
    ),
    "evaluate-edge": StageEntry("stages.evaluate", "run_edge", "score an edge", "task.architecture.s0"),
    "evaluate-ensemble": StageEntry(
        "stages.evaluate", "run_ensemble", "score an ensemble", "tasks.architectures.seeds"
    ),
    "embed": StageEntry("stages.similarity", "run_embed", "moments of a task's embeddings", "TASK", True),
    "similarity": StageEntry("stages.similarity", "run_similarity", "Fréchet distance of two tasks", "TASK+TASK"),
    "collect": StageEntry("stages.report.collect", "run", "gather all scores in one table"),
    "check": StageEntry("stages.report.check", "run", "flag numbers that cannot be"),
    "plot": StageEntry("stages.report.plot", "run", "draw the figures, write the tables"),
    "report": StageEntry("stages.report.page", "run", "write reports/index.html"),
}


def run_stage(name: str, cell: str) -> None:
    """Run one stage in the working directory. Errors are raised as they come."""
    from stages.formats.files import root_of
    from stages.plan.params import load_params

    root = root_of()
    entry = STAGES[name]
    params = load_params(root / "params.yaml")
    start = time.perf_counter()
    context: Any
    if name in LIGHT:
        context = _LightContext(root, params)
    else:
        import torch

        from stages.context import Context

        torch.set_num_threads(params.compute.threads)
        context = Context(root, params)
    function: Callable[[Any, str], None] = getattr(importlib.import_module(entry.module), entry.function)
    function(context, cell)
    _write_timing(root, name, cell, time.perf_counter() - start)


LIGHT = ("code", "collect", "check", "plot", "report")
"""Stages that need no torch; they start at once."""


@dataclass(frozen=True)
class _LightContext:
    root: Path
    params: Any

    def path(self, relative: object) -> Path:
        return self.root / str(relative)


def _write_timing(root: Path, name: str, cell: str, seconds: float) -> None:
    """Seconds live apart from results, which are the same bytes every time."""
    folder = root / ".mergeline" / "timings"
    folder.mkdir(parents=True, exist_ok=True)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    values = {
        "stage": name, "cell": cell, "seconds": round(seconds, 4), "peak_mib": usage.ru_maxrss // 1024,
        "machine": platform.node(), "finished": round(time.time(), 1),
    }  # fmt: skip
    target = folder / f"{name}@{cell}.json" if cell else folder / f"{name}.json"
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    temporary.write_text(json.dumps(values), encoding="utf-8")
    temporary.replace(target)


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
    from mergeline.registry import PluginError
    from mergeline.tasks.task import TaskError
    from stages.errors import StageError
    from stages.plan.cells import CellError
    from stages.plan.params import ParamsError

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
        threads = int(yaml12.load(Path("params.yaml").read_text(encoding="utf-8"))["compute"]["threads"])
    except (OSError, UnicodeDecodeError, yaml12.YamlError, KeyError, TypeError, ValueError):
        threads = 1  # what is wrong with the file is said when it is read in earnest
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[variable] = str(threads)


def _failure_status(error: Exception) -> int:
    """1, or a status that says that the same command may succeed later."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DISK_FULL
    out_of_memory = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    passing = isinstance(error, OSError) and error.errno in _PASSING
    return TRANSIENT if out_of_memory or passing else 1


if __name__ == "__main__":
    sys.exit(main())
