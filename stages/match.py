"""Stage ``match``: one map per model and space, by one method."""

from __future__ import annotations

from collections.abc import Callable

from mergeline.matching import Problem
from mergeline.matching.problem import Judge, solve
from mergeline.seeds import numpy_generator
from stages.context import Context
from stages.errors import StageError
from stages.formats.maps import write_maps
from stages.formats.moments import MomentFile
from stages.plan import paths
from stages.plan.keys import Sources, parse_match
from stages.plan.methods import resolve
from stages.sources import LoadedSources, load_sources

__all__ = ["match", "run"]


def run(context: Context, cell: str) -> None:
    """``cell``: the sources of a merge and a method, ``digits.r35+r17.s0+s1.permute``."""
    match(context, cell, None)


def match(context: Context, cell: str, make_judge: Callable[[Sources, LoadedSources], Judge] | None) -> None:
    """Match the units and write the maps; ``make_judge`` is for methods with an option that is chosen by accuracy.

    Raises
    ------
    StageError: the method needs a judge and there is none, or there is one and the method needs none; or it merges models of one
        width alone, and these differ.
    """
    sources, method = parse_match(cell)
    resolved = resolve(context.params, method)
    if resolved.judged != (make_judge is not None):
        other = "match-judged" if resolved.judged else "match"
        raise StageError(f"{cell} is made by another stage: python -m stages {other} {cell}")
    loaded = load_sources(context, sources)
    matcher = resolved.matcher
    if loaded.spaces.models and matcher.widths == "equal":
        raise StageError(f"{cell}: {sources.difference} differ, and {matcher.name} merges models of one width")
    problem = Problem(
        loaded.spaces,
        [model.state_dict() for model in loaded.models],
        {} if resolved.moments == "none" else MomentFile(context.path(paths.statistics(sources))),
        numpy_generator(context.params.seed, "match", cell),
        None if make_judge is None else make_judge(sources, loaded),
        same_outputs=loaded.same_outputs,
    )
    matching = solve(matcher, problem, resolved.options)
    description = {
        "cell": cell,
        "models": loaded.hashes,
        "method": matcher.name,
        "objective": matching.objective,
    }
    write_maps(context.path(paths.match(cell)), matching.maps, description)
