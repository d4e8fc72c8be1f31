"""``python -m stages.check_imports EDGE ...``: whether the checkpoints in ``imports`` fit their edges.

Exit status 2, with a line for each that does not.
"""

from __future__ import annotations

import sys
from pathlib import Path

from mergeline.architectures import Architecture
from mergeline.models import build
from mergeline.tasks import TASKS
from stages.cells import parse_edge
from stages.errors import StageError
from stages.params import load_params
from stages.train import check_checkpoint

__all__ = ["main"]


def main(names: list[str]) -> int:
    root = Path.cwd()
    params = load_params(root / "params.yaml")
    faults = []
    for name in names:
        edge = parse_edge(name)
        task = params.tasks[edge.task]
        if task.classes is not None:
            n_classes = len(task.classes)
        elif task.n_classes is not None:
            n_classes = task.n_classes
        else:
            adapter = TASKS[task.source or edge.task]
            n_classes = len(adapter.load(adapter.find(root / task.root if task.root else None)).classes)
        model = build(Architecture(edge.architecture, n_classes, params.model.width, params.model.input_size))
        try:
            check_checkpoint(root / params.imports[name], model, name)
        except StageError as error:
            faults.append(str(error))
    print("\n".join(faults))
    return 2 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
