"""Stage ``prepare``: one task's images at the model's input size, with their fixed split."""

from __future__ import annotations

from pathlib import Path

from mergeline.tasks import TASKS, PreparedTask, prepare
from stages.context import Context
from stages.fingerprints.outside import task_input, unchanged
from stages.formats.tasks import write_task
from stages.plan import paths
from stages.plan.keys import known

__all__ = ["run"]


def run(context: Context, cell: str) -> None:
    """``cell``: the task's name in params.yaml."""
    name = known("task", cell, context.params.tasks)
    with unchanged(context.root, task_input(context.root, context.params, name)):
        prepared = _prepared(context, name)
    for note in prepared.notes:
        print(f"{cell}: {note}")
    write_task(context.path(paths.task(cell)), prepared)


def _prepared(context: Context, cell: str) -> PreparedTask:
    task = context.params.tasks[cell]
    adapter = TASKS[task.source or cell]
    raw = adapter.load(adapter.find(Path(task.root) if task.root else None))
    return prepare(
        cell,
        raw,
        context.params.model.input_size,
        classes=task.classes,
        test_fraction=task.test_fraction,
        max_train=task.max_train,
        max_test=task.max_test,
        n_classes=task.n_classes,
    )
