"""How much work a stage is, in that of a typical one of its kind in the demo: what makes times comparable across settings.

Only ratios within one kind of stage count, and they are rough: epochs, images, blocks, width and input size.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from mergeline.architectures import ARCHITECTURES, multiplier, stage_blocks
from stages.errors import InputError
from stages.plan.keys import parse_cell, parse_edge
from stages.plan.params import Params
from stages.plan.recipes import recipe_settings

__all__ = ["kind_of_work", "work"]

BLOCKS, WIDTH, SIZE, IMAGES = 9, 0.25, 32, 600
"""Those of the demo: of its r29, and of its statistics and normalisation."""
EPOCHS = {"train": 6, "finetune": 4}
TRAINED = 4000
"""Images of a task that a network is trained on, where nobody says how many there are."""
MOST_SMALL = 100
"""Images below which an epoch takes no less time."""


def work(params: Params, stage: str, cell: str, files: Mapping[str, int] | None = None) -> float:
    """The work of a cell, 1 for what is typical of its stage; 1 where nothing is known of it.

    ``files``: how many the data of a task are, where they are somebody's own.
    """
    try:
        return _work(params, stage, cell, files or {})
    except (InputError, KeyError):  # a cell that is gone from the parameters
        return 1.0


def _work(params: Params, stage: str, cell: str, files: Mapping[str, int]) -> float:
    if stage in EPOCHS:
        edge = parse_edge(cell)
        epochs = recipe_settings(params, edge, stage)["epochs"] / EPOCHS[stage]
        return epochs * _images(params, edge.task, files) * _cost(params, [edge.architecture])
    if stage == "embed":
        return min(params.similarity.images, files.get(cell, IMAGES)) / IMAGES
    if stage in ("prepare", "targets", "similarity") or "." not in cell:
        return 1.0
    sources, rest = parse_cell(cell)
    architectures = [edge.architecture for edge in sources.edges]
    if stage in ("statistics", "blocks"):
        return params.statistics.images / IMAGES * _cost(params, architectures) / 2
    if stage in ("merge", "curve", "diagnosis", "landscape"):
        own = params.normalize.get(rest.rpartition(".")[2])
        images = own.images if own is not None else IMAGES
        return images / IMAGES * _cost(params, [sources.topology])
    return _cost(params, [sources.topology])


def kind_of_work(stage: str, cell: str) -> str:
    """Cells whose times compare: of a match those of one method, of a merge those of one normalisation."""
    if stage not in ("match", "match-judged", "merge", "prune", "narrow"):
        return stage
    last = parse_cell(cell)[1].rpartition(".")[2]
    return f"{stage} {last}"


def _images(params: Params, task: str, files: Mapping[str, int]) -> float:
    most = params.tasks[task].max_train
    count = files.get(task, TRAINED)
    return max(MOST_SMALL, count if most is None else min(count, most)) / TRAINED


def _cost(params: Params, architectures: Iterable[str]) -> float:
    size = (params.model.input_size / SIZE) ** 2
    width = (params.model.width / WIDTH) ** 1.5
    return sum(_blocks(name) * multiplier(name) ** 1.5 for name in architectures) * size * width


def _blocks(name: str) -> float:
    blocks = sum(stage_blocks(name)) if name in ARCHITECTURES else BLOCKS
    return (1 + (blocks or BLOCKS)) / (1 + BLOCKS)
