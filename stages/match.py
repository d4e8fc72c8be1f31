"""Stage ``match``: one map per model and space, by one method."""

from __future__ import annotations

import importlib

from mergeline.matching import Problem
from mergeline.seeds import numpy_generator
from stages.context import Context
from stages.formats.maps import write_maps
from stages.formats.moments import MomentFile
from stages.groups import load_group
from stages.plan import paths
from stages.plan.cells import parse_match
from stages.plan.methods import resolve

__all__ = ["run"]


def run(context: Context, cell: str) -> None:
    """``cell``: a group and a method, ``digits.r35+r17.s0+s1.permute``."""
    group, method = parse_match(cell)
    resolved = resolve(context.params, method)
    matcher, options = resolved.matcher, resolved.options
    loaded = load_group(context, group)
    moments = {} if matcher.moments == "none" else MomentFile(context.path(paths.statistics(group)))
    judge = None
    if resolved.judged:  # found by name: other methods do not depend on that code
        judge = importlib.import_module("stages.judging").training_accuracy(context, group, loaded)
    problem = Problem(
        loaded.spaces,
        [model.state_dict() for model in loaded.models],
        moments,
        numpy_generator(context.params.seed, "match", cell),
        judge,
        same_outputs=loaded.same_outputs,
    )
    matching = matcher.match(problem, options)
    description = {
        "cell": cell,
        "models": loaded.hashes,
        "method": matcher.name,
        "objective": matching.objective,
    }
    write_maps(context.path(paths.match(cell)), matching.maps, description)
