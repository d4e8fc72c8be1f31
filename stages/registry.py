"""Every stage: where its function is, what its cells are, and what running it takes. In the order of the data."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["STAGES", "Stage", "code_name"]


@dataclass(frozen=True)
class Stage:
    """A stage of the pipeline.

    ``module``, ``function``: what runs it, with a context and the cell's name. ``cell``: how its cells are named; empty
    where there is one. ``light``: it needs no torch, and starts at once. ``gpu``: it uses a GPU where there is one.
    ``seconds``: a first guess of how long a cell takes, until one has run. ``variants``: the module of the registry of
    which each cell runs one entry, whose code alone it depends on; ``only``: what such an entry must have.
    """

    module: str
    function: str
    about: str
    cell: str = ""
    light: bool = False
    gpu: bool = False
    seconds: float = 2.0
    variants: str = ""
    only: str = ""


_EDGE, _SOURCES = "task.architecture.s0", "tasks.architectures.seeds"
_PRUNED = f"{_EDGE}.method-sparsity=0.9.normalize"
_NARROWED = f"{_EDGE}.method-width=0.5.normalize"
_MATCH, _MERGE = f"{_SOURCES}.method", f"{_SOURCES}.method.normalize"
STAGES: dict[str, Stage] = {
    "code": Stage("stages.plan.code", "run", "hash the code that each stage runs", light=True, seconds=2),
    "prepare": Stage("stages.prepare", "run", "bring a task's images to the input size", "TASK", seconds=2),
    "targets": Stage("stages.targets", "run", "embed a task's class names", "TASK", seconds=1),
    "import": Stage("stages.train", "run_import", "take a checkpoint as an edge", _EDGE, gpu=True),
    "train": Stage("stages.train", "run_train", "train an edge model", _EDGE, gpu=True, seconds=22),
    "finetune": Stage("stages.train", "run_finetune", "finetune an edge model", _EDGE, gpu=True, seconds=5),
    "untrained": Stage(
        "stages.train", "run_untrained", "make an untrained network", "task.architecture.u0", gpu=True, seconds=0.5
    ),
    "predict": Stage("stages.predict", "run", "store an edge's logits", f"{_EDGE}.on-task", gpu=True, seconds=0.3),
    "evaluate-edge": Stage("stages.evaluate", "run_edge", "score an edge", _EDGE, seconds=0.1),
    "embed": Stage("stages.similarity", "run_embed", "moments of a task's embeddings", "TASK", gpu=True, seconds=2),
    "similarity": Stage(
        "stages.similarity", "run_similarity", "Fréchet distance of two tasks", "TASK+TASK", seconds=0.2
    ),
    "blocks": Stage("stages.blocks", "run", "compare two edges' blocks", _SOURCES, gpu=True, seconds=2),
    "statistics": Stage("stages.statistics", "run", "moments of a merge's sources", _SOURCES, gpu=True, seconds=1.2),
    "layers": Stage("stages.layers", "run", "statistics of an edge's layers", f"{_EDGE}.on-task", gpu=True, seconds=1),
    "match": Stage(
        "stages.match",
        "run",
        "match the units of a merge's sources",
        _MATCH,
        variants="mergeline.matching",
        seconds=0.3,
    ),
    "match-judged": Stage(
        "stages.match_judged",
        "run",
        "the same, options chosen by accuracy",
        _MATCH,
        gpu=True,
        variants="mergeline.matching",
        only="judged",
    ),
    "merge": Stage(
        "stages.merge", "run", "merge networks", _MERGE, gpu=True, variants="mergeline.normalization", seconds=0.5
    ),
    "curve": Stage(
        "stages.curve",
        "run",
        "losses between a merge's models",
        _MERGE,
        gpu=True,
        seconds=15,
        variants="mergeline.normalization",
    ),
    "landscape": Stage("stages.landscape", "run", "losses around a merge and its models", _MERGE, gpu=True, seconds=30),
    "diagnosis": Stage("stages.diagnosis", "run", "a merge's layers beside its models'", _MERGE, gpu=True, seconds=10),
    "examples": Stage("stages.examples", "run", "what a merge and its models tell of images", _MERGE, gpu=True),
    "prune": Stage(
        "stages.prune", "run", "prune an edge", _PRUNED, gpu=True, variants="mergeline.normalization", seconds=1
    ),
    "narrow": Stage("stages.narrow", "run", "narrow an edge", _NARROWED, gpu=True, variants="mergeline.normalization"),
    "evaluate": Stage("stages.evaluate", "run_merge", "score a merge", _MERGE, gpu=True, seconds=0.6),
    "evaluate-ensemble": Stage("stages.evaluate", "run_ensemble", "score an ensemble", _SOURCES, seconds=0.1),
    "evaluate-pruned": Stage(
        "stages.evaluate_compressed", "run_pruned", "score a pruned edge", _PRUNED, gpu=True, seconds=1
    ),
    "evaluate-narrowed": Stage(
        "stages.evaluate_compressed", "run_narrowed", "score a narrowed edge", _NARROWED, gpu=True, seconds=1
    ),
    "collect": Stage("stages.report.collect", "run", "gather all scores in one table", light=True, seconds=0.5),
    "audit": Stage("stages.report.audit", "run", "flag numbers that cannot be", light=True, seconds=0.3),
    "plot": Stage("stages.report.plot", "run", "draw the figures, write the tables", light=True, seconds=3),
    "report": Stage("stages.report.page", "run", "write reports/index.html", light=True),
}


def code_name(stage: str, variant: str = "") -> str:
    """What the code of a stage, or of one variant of it, is called: ``train``, ``match-zip``."""
    return f"{stage}-{variant}" if variant else stage
