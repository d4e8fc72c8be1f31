"""``python -m stages.check_models [EDGE ...]``: whether imported checkpoints fit their edges, trained weights the
architectures that start from them, and merges can stop where ``stops`` says.

Exit status 2, with a line for each fault.
"""

from __future__ import annotations

import sys
from itertools import product
from pathlib import Path

from mergeline.architectures import Architecture, build
from mergeline.heads import cut, stop_space, trace_architecture
from mergeline.preserving import preserved_layers, stem_nodes
from mergeline.tasks import TASKS
from stages.errors import StageError
from stages.plan import paths
from stages.plan.expansion import expand_cells
from stages.plan.keys import parse_edge
from stages.plan.loading import load_params
from stages.plan.params import Params
from stages.train import check_checkpoint, load_pretrained

__all__ = ["main"]


def main(names: list[str]) -> int:
    root = Path.cwd()
    params = load_params(root / paths.PARAMS)
    faults = [*_imports(root, params, names), *_pretrained(root, params), *_cuts(params)]
    print("\n".join(faults))
    return 2 if faults else 0


def _imports(root: Path, params: Params, names: list[str]) -> list[str]:
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
    return faults


def _pretrained(root: Path, params: Params) -> list[str]:
    faults = []
    for name in params.pretrained:
        try:
            load_pretrained(
                root, params, build(Architecture(name, 2, params.model.width, params.model.input_size)), name
            )
        except StageError as error:
            faults.append(str(error))
    return faults


def _cuts(params: Params) -> list[str]:
    """Faults of where merges stop, of what they preserve, and of both together."""
    faults: list[str] = []
    for name_of_series, series in params.merges.items():
        if all(value is None for value in (*series.stops, *series.preserves)):
            continue
        for name in sorted({cell.sources.topology for cell in expand_cells(params, {name_of_series: series})}):
            architecture = Architecture(name, 2, params.model.width, params.model.input_size)
            model = build(architecture)
            spaces = trace_architecture(architecture)
            for stop, preserve in product(series.stops, series.preserves):
                key = "stops" if preserve is None else "preserves"
                try:
                    kept = preserved_layers(model, spaces, preserve)
                    cut(model, spaces, stop_space(model, spaces, stop), stem_nodes(spaces, kept))
                except ValueError as error:
                    faults.append(f"merges.{name_of_series}.{key}: {name}: {error}")
    return list(dict.fromkeys(faults))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
