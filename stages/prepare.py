"""Stage ``prepare``: one task's images at the model's input size, with their fixed split."""

from __future__ import annotations

from pathlib import Path

from mergeline.tasks import TASKS, prepare
from stages.context import Context
from stages.formats.tasks import write_task
from stages.plan import paths
from stages.plan.keys import known

__all__ = ["run"]


def run(context: Context, cell: str) -> None:
    """``cell``: the task's name in params.yaml."""
    task = context.params.tasks[known("task", cell, context.params.tasks)]
    adapter = TASKS[task.source or cell]
    raw = adapter.load(adapter.find(Path(task.root) if task.root else None))
    prepared = prepare(
        cell,
        raw,
        context.params.model.input_size,
        classes=task.classes,
        test_fraction=task.test_fraction,
        max_train=task.max_train,
        max_test=task.max_test,
        n_classes=task.n_classes,
    )
    write_task(context.path(paths.task(cell)), prepared)
