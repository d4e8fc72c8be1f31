"""Units that no activation tells apart: dead in one of the models. Their weights decide (docs/numerics.md)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from mergeline.assignment import match_permutation
from mergeline.maps import Permutation, UnitMap
from mergeline.matching.problem import Matching, Problem
from mergeline.matching.weight import AlignedWeights

if TYPE_CHECKING:
    from mergeline.moments import Moments

OptionsT = TypeVar("OptionsT")

__all__ = ["settle_dead", "settled"]


def settled(match: Callable[[Problem, OptionsT], Matching]) -> Callable[[Problem, OptionsT], Matching]:
    """A matcher's function by activations, and then by weights where activations say nothing."""

    def run(problem: Problem, options: OptionsT) -> Matching:
        return settle_dead(problem, match(problem, options))

    return run


def settle_dead(problem: Problem, matching: Matching) -> Matching:
    """The same permutations, but for units whose partner is dead or that are dead themselves: these are assigned anew,
    among themselves and inside their bundles, by the inner products of their weights as all other units are mapped."""
    maps: list[dict[str, UnitMap]] = [dict(own) for own in matching.maps]
    for model in range(1, problem.n_models):
        undecided = {
            space.name: _undecided(problem.moments[space.name], model, own)
            for space in problem.spaces.free
            if isinstance(own := maps[model][space.name], Permutation)
        }
        if not any(len(units) > 1 for units in undecided.values()):
            continue
        start = {name: own.index for name, own in maps[model].items() if isinstance(own, Permutation)}
        weights = AlignedWeights(problem.spaces, problem.comparable[0], problem.comparable[model], start)
        for space in problem.spaces.free:
            units = undecided.get(space.name, np.zeros(0, dtype=np.int64))
            per_bundle = space.size // space.bundles
            step = np.arange(space.size)
            for bundle in np.unique(units // per_bundle):
                inside = units[units // per_bundle == bundle]
                if len(inside) > 1:
                    product = weights.product(space.name)[np.ix_(inside, inside)]
                    step[inside] = inside[match_permutation(product)]
            if not np.array_equal(step, np.arange(space.size)):
                weights.move(space.name, step)
                maps[model][space.name] = Permutation(weights.index[space.name])
    return Matching(tuple(maps), matching.objective)


def _undecided(moments: Moments, model: int, own: Permutation) -> np.ndarray:
    """Units of the reference that are dead, or whose partners are."""
    dead = [moments.dead(0), moments.dead(model)[own.index]]
    return np.flatnonzero(dead[0] | dead[1])
