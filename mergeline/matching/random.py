"""``random``: random permutations, a control that shows what an alignment is worth."""

from __future__ import annotations

from dataclasses import dataclass

from mergeline.bundles import random_bundled
from mergeline.maps import Permutation, UnitMap
from mergeline.matching.problem import Matcher, Matching, Problem

__all__ = ["RANDOM", "RandomOptions"]


@dataclass(frozen=True)
class RandomOptions:
    """``random`` has no options."""


def _match(problem: Problem, options: RandomOptions) -> Matching:
    maps: list[dict[str, UnitMap]] = []
    for model in range(problem.n_models):
        if not model:
            maps.append({space.name: Permutation.identity(space.size) for space in problem.spaces.movable})
            continue
        drawn: dict[str, UnitMap] = {}
        for together in problem.spaces.together():
            drawn |= {name: Permutation(index) for name, index in random_bundled(together, problem.generator).items()}
        maps.append(drawn)
    return Matching(tuple(maps))


RANDOM = Matcher("random", "random permutations (a control)", "none", RandomOptions, _match)
