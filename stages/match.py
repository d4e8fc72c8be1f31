"""Stage ``match``: one map per model and space, by one method."""

from __future__ import annotations

from mergeline.matching import Problem
from mergeline.matching.problem import Judge
from mergeline.seeds import numpy_generator
from stages.context import Context
from stages.errors import StageError
from stages.formats.maps import write_maps
from stages.formats.moments import MomentFile
from stages.plan import paths
from stages.plan.keys import parse_match
from stages.plan.methods import resolve
from stages.sources import LoadedSources, load_sources

__all__ = ["match", "run"]


def run(context: Context, cell: str) -> None:
    """``cell``: the sources of a merge and a method, ``digits.r35+r17.s0+s1.permute``."""
    sources, method = parse_match(cell)
    if resolve(context.params, method).judged:
        raise StageError(f"{cell} chooses an option by accuracy: python -m stages match-judged {cell}")
    match(context, cell, load_sources(context, sources), None)


def match(context: Context, cell: str, loaded: LoadedSources, judge: Judge | None) -> None:
    """Match loaded models and write their maps; ``judge`` is for methods with an option that is chosen by accuracy."""
    sources, method = parse_match(cell)
    resolved = resolve(context.params, method)
    matcher = resolved.matcher
    problem = Problem(
        loaded.spaces,
        [model.state_dict() for model in loaded.models],
        {} if resolved.moments == "none" else MomentFile(context.path(paths.statistics(sources))),
        numpy_generator(context.params.seed, "match", cell),
        judge,
        same_outputs=loaded.same_outputs,
    )
    matching = matcher.match(problem, resolved.options)
    description = {
        "cell": cell,
        "models": loaded.hashes,
        "method": matcher.name,
        "objective": matching.objective,
    }
    write_maps(context.path(paths.match(cell)), matching.maps, description)
