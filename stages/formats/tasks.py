"""Prepared tasks: samples, labels and split as arrays."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from mergeline.tasks.task import PreparedTask, Scale
from stages.formats import FORMAT, check_format
from stages.formats.files import reading, writing

__all__ = ["read_task", "write_task"]


def write_task(path: Path, task: PreparedTask) -> None:
    description = {
        "format": FORMAT, "name": task.name, "classes": list(task.classes), "licence": task.licence,
        "source": task.source, "hash": task.hash,
    }  # fmt: skip
    if task.scale is not None:
        description["scale"] = task.scale._asdict()
    with writing(path) as temporary, temporary.open("wb") as stream:
        np.savez(
            stream,
            inputs=task.inputs,
            labels=task.labels,
            test=task.test,
            description=np.array(json.dumps(description)),
        )


def read_task(path: Path) -> PreparedTask:
    """A prepared task.

    Raises
    ------
    StageError: missing, damaged, or of another version.
    """
    with reading(path, f"prepare@{path.stem}"), np.load(path, allow_pickle=False) as arrays:
        description = json.loads(str(arrays["description"]))
        inputs, labels, test = arrays["inputs"], arrays["labels"], arrays["test"]
    check_format(path, description)
    return PreparedTask(
        description["name"], inputs, labels, test, tuple(description["classes"]), description["licence"],
        description["source"], description["hash"], Scale(**description["scale"]) if "scale" in description else None,
    )  # fmt: skip
