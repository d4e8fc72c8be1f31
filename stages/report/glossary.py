"""The words of the report, for those who meet them for the first time."""

from __future__ import annotations

from collections.abc import Iterator

from mergeline.architectures import BLOCKS
from mergeline.depth import PLACEMENTS
from mergeline.matching import MATCHERS
from mergeline.normalization import NORMALIZATIONS
from stages.plan.params import Params
from stages.plan.pipelines import Plan

__all__ = ["glossary"]

WORDS = {
    "edge model": "a network that was trained (or finetuned, or imported) for one task; the models that are merged",
    "source": "one of the edge models that a merge was made from",
    "merge": "one network made of several without any training: their units are matched, their weights averaged",
    "ensemble": "the sources side by side, their predictions averaged: what a merge is up against, at the cost of all of them",
    "run": "one choice of seeds; ± is the standard deviation over runs",
    "homogeneous": "of models of one depth and width",
    "joint": "accuracy over the classes of all tasks together, the task not being given",
    "control": "a merge that shows what a number means: of a model with itself, in random order, or with an untrained one",
    "similarity": "exp(-FD / tau) of the Fréchet distance FD between two tasks' images, as an encoder sees them; 1 for the same",
    "simplicity": "how well a task's own models do: the accuracy of the reference architecture",
    "barrier": "how far the loss rises between two models, above the straight line between their own losses",
}


def glossary(params: Params, plan: Plan) -> list[tuple[str, str]]:
    """Words and what they mean: those of every report, then the methods, normalisations, placements and networks of this one."""
    return [*WORDS.items(), *_methods(params), *_others(plan)]


def _methods(params: Params) -> Iterator[tuple[str, str]]:
    for name, method in params.methods.items():
        used = method.use or name
        if used in MATCHERS:
            yield name, f"method: {MATCHERS[used].summary}"


def _others(plan: Plan) -> Iterator[tuple[str, str]]:
    for name in dict.fromkeys(merge.normalize.name for merge in plan.merges):
        yield name, f"after merging: {NORMALIZATIONS[name].summary}"
    for name in dict.fromkeys(merge.sources.placement for merge in plan.merges):
        if name in PLACEMENTS:
            yield name, f"placement of a shallower network's blocks: {PLACEMENTS[name].summary}"
    for name in dict.fromkeys(edge.architecture for edge in plan.edges):
        if name in BLOCKS:
            counts = ", ".join(map(str, BLOCKS[name]))
            yield name, f"a bottleneck ResNet with {counts} blocks in its four stages"
