"""Units that activations do not tell apart: their weights decide, not their place (docs/numerics.md).

Dead units correlate 0 with everything; units that are active on one and the same image correlate 1 with each other. Any
of them may take the other's partner at no cost, and of all such choices one makes the same unit of both models.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from mergeline.assignment import match_permutation
from mergeline.maps import Groups, Permutation, UnitMap
from mergeline.matching.problem import Matching, Problem
from mergeline.matching.weight import AlignedWeights

if TYPE_CHECKING:
    from mergeline.moments import Moments

OptionsT = TypeVar("OptionsT")

__all__ = ["settle", "settled", "tied_units"]

Index = NDArray[np.int64]
Float64 = NDArray[np.float64]

TIE = 1e-5
"""Similarity that an exchange of partners may cost for the two units to be tied: what float32 cannot tell from 0."""
SWEEPS = 3
"""Passes over all spaces at most: a space's weights are compared under the maps of its neighbours."""


Similarity = Callable[["Moments", int], Float64]
"""Of the units of model 0 and of another one, by activations, ``(C_reference, C)``, at most 1."""


def correlation(moments: Moments, model: int) -> Float64:
    """The similarity that most matchers look at."""
    return moments.correlation(0, model)


def settled(match: Callable[[Problem, OptionsT], Matching]) -> Callable[[Problem, OptionsT], Matching]:
    """A matcher's function by correlation, and then by weights where correlation says nothing."""

    def run(problem: Problem, options: OptionsT) -> Matching:
        return settle(problem, match(problem, options))

    return run


def settle(problem: Problem, matching: Matching, similarity: Similarity = correlation) -> Matching:
    """The same matching, but for units that activations do not tell apart: their weights choose among their partners.

    Left as it is where models differ in width, as weights of neighbours that have no partners cannot be compared.
    """
    if problem.spaces.models:
        return matching
    maps: list[dict[str, UnitMap]] = [dict(own) for own in matching.maps]
    for model in range(1, problem.n_models):
        _settle(problem, maps, model, similarity)
    return Matching(tuple(maps), matching.objective)


def tied_units(similarity: Float64, partners: Index, bundles: int = 1) -> list[Index]:
    """Sets of units, two or more each, that may exchange their partners at no cost in similarity.

    Parameters
    ----------
    similarity: ``(C_reference, C)``.
    partners: the other model's unit of each of the reference's, -1 for none.
    bundles: equal, consecutive ones that the reference's units stay in.
    """
    from scipy.sparse import coo_matrix  # here, so that the registry can be read without
    from scipy.sparse.csgraph import connected_components

    size = len(partners)
    units = np.flatnonzero(partners >= 0)
    own = np.full(size, np.inf)
    own[units] = similarity[units, partners[units]]
    unit_of = np.full(similarity.shape[1], -1)
    unit_of[partners[units]] = units
    # Of two units that may exchange partners, one likes the other's at least as much as its own.
    first, column = np.nonzero(similarity >= (own - TIE)[:, None])
    second = unit_of[column]
    near = (second >= 0) & (second != first) & (first * bundles // size == second * bundles // size)
    first, second, column = first[near], second[near], column[near]
    cost = own[first] + own[second] - similarity[first, column] - similarity[second, partners[first]]
    first, second = first[cost <= TIE], second[cost <= TIE]
    if not len(first):
        return []
    graph = coo_matrix((np.ones(len(first), dtype=np.int8), (first, second)), shape=(size, size))
    labels = connected_components(graph, directed=False)[1]
    order = np.argsort(labels, kind="stable")
    sets = np.split(order, np.cumsum(np.bincount(labels))[:-1])
    return [found for found in sets if len(found) > 1]


def _settle(problem: Problem, maps: list[dict[str, UnitMap]], model: int, similarity: Similarity) -> None:
    """Let weights choose among tied partners of one model, in place."""
    pairs, sets = {}, {}
    for space in problem.spaces.free:
        partners = _partners(maps[0][space.name], maps[model][space.name])
        if partners is None:
            continue
        pairs[space.name] = partners
        alike = similarity(problem.moments[space.name], model)
        if tied := tied_units(alike, partners, space.bundles):
            sets[space.name] = (tied, alike)
    if not sets:
        return
    start = {name: _completed(partners) for name, partners in pairs.items()}
    weights = AlignedWeights(problem.spaces, problem.comparable[0], problem.comparable[model], start)
    for _ in range(SWEEPS):
        moved = False
        for name, (tied, alike) in sets.items():
            step = _step(weights, name, tied, alike)
            if step is not None:
                weights.move(name, step)
                moved = True
        if not moved:
            break
    for name in sets:
        maps[model][name] = _exchanged(maps[model][name], start[name], weights.index[name])


def _partners(reference: UnitMap, own: UnitMap) -> Index | None:
    """The other model's unit of each of the reference's where the two alone make a merged unit, else -1; None where maps
    are linear, or widths differ."""
    if reference.size != own.size:
        return None
    if isinstance(reference, Permutation) and isinstance(own, Permutation):
        return own.index[np.argsort(reference.index)]
    if not (isinstance(reference, Groups) and isinstance(own, Groups)):
        return None
    alone = (reference.mass() == 1) & (own.mass() == 1)
    of_group = np.full(own.merged, -1)
    of_group[own.labels] = np.arange(own.size)
    return np.where(alone[reference.labels], of_group[reference.labels], -1)


def _completed(partners: Index) -> Index:
    """Partners for all units: those that have none get what is left, in order."""
    index = partners.copy()
    index[index < 0] = np.setdiff1d(np.arange(len(index)), partners)
    return index


def _step(weights: AlignedWeights, name: str, sets: list[Index], similarity: Float64) -> Index | None:
    """The exchange of partners, relative to those that the units have now, that weights choose; None for none.

    Similarity comes first: no weight makes up for more than a few ties of it.
    """
    index = weights.index[name]
    everyone = np.concatenate(sets)
    product = weights.product(name, everyone)
    first, second = (norms[everyone] for norms in weights.norms(name))
    step = np.arange(len(index))
    ends = np.cumsum([len(units) for units in sets])
    for units, end in zip(sets, ends.tolist(), strict=True):
        inside = slice(end - len(units), end)
        # Cosines: a unit of small weights is told apart as well as any.
        own = product[inside, inside] / np.maximum(first[inside, None] * second[inside], 1e-300)
        alike = similarity[np.ix_(units, index[units])]
        # What lies within a tie of the best is noise, and has no say.
        worse = np.maximum(alike.max(axis=1, keepdims=True) - alike - TIE, 0.0)
        score = own - worse / TIE
        chosen = match_permutation(score)
        kept = np.arange(len(units))
        if score[kept, chosen].sum() > score[kept, kept].sum() + 1e-9 * len(units):
            step[units] = units[chosen]
    return None if np.array_equal(step, np.arange(len(index))) else step


def _exchanged(own: UnitMap, before: Index, after: Index) -> UnitMap:
    """A map with the partners ``before`` replaced by those ``after``."""
    goes = np.arange(own.size)
    goes[after] = before  # the unit takes the place of the one that it replaces
    if isinstance(own, Permutation):
        found = np.empty_like(goes)
        found[before] = after
        return Permutation(found[own.index])
    assert isinstance(own, Groups)
    return Groups(own.labels[goes], own.merged)
