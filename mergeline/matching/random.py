"""``random``: random permutations, a control that shows what an alignment is worth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mergeline.maps import Permutation, UnitMap
from mergeline.matching.problem import Matcher, Matching, Problem

__all__ = ["RANDOM", "RandomOptions"]


@dataclass(frozen=True)
class RandomOptions:
    """``random`` has no options."""


def _match(problem: Problem, options: RandomOptions) -> Matching:
    maps: list[dict[str, UnitMap]] = []
    for model in range(problem.n_models):
        maps.append({})
        for space in problem.spaces.free:
            per_group = space.size // space.groups
            order = problem.generator.permutation(space.groups) if model else np.arange(space.groups)
            inside = [problem.generator.permutation(per_group) if model else np.arange(per_group) for _ in order]
            index = np.concatenate([g * per_group + units for g, units in zip(order, inside, strict=True)])
            maps[-1][space.name] = Permutation(index)
    return Matching(tuple(maps))


RANDOM = Matcher("random", "random permutations (a control)", "none", RandomOptions, _match)
