"""What a matcher gets and what it answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from mergeline.bundles import assign_bundles, moves
from mergeline.maps import Absent, Permutation, UnitMap, among_more
from mergeline.matching.idle import idle_spaces

if TYPE_CHECKING:  # so that the registry can be read without torch
    from torch import Tensor

    from mergeline.moments import Moments
    from mergeline.spaces import Space, Spaces

__all__ = ["Matcher", "Matching", "Problem", "Widths", "per_space", "solve"]

MomentsNeeded = Literal["none", "cross", "full"]
Widths = Literal["equal", "models", "any"]


Judge = Callable[[Sequence[Mapping[str, UnitMap]]], float]
"""How good the merge by some maps, one per model, is."""


@dataclass(frozen=True)
class Problem:
    """Models of one topology that are to be matched; model 0 is the reference.

    ``spaces``: the merged network's, with each model's own where widths differ. ``states``: each model's state dict.
    ``moments``: by space name, read when asked for (it may come from disk); empty for matchers that need none.
    ``generator``: for matchers that draw. ``judge``: how good the merge by some maps is, one per model
    (``mergeline.matching.judge``), for options that are chosen by it. ``same_outputs``: the models' outputs mean the same
    (one task), so that classifiers can be compared.
    """

    spaces: Spaces
    states: Sequence[Mapping[str, Tensor]]
    moments: Mapping[str, Moments]
    generator: np.random.Generator
    judge: Judge | None = None
    same_outputs: bool = True

    @property
    def comparable(self) -> Sequence[Mapping[str, Tensor]]:
        """The states that weights are compared on: without the classifiers, where their outputs mean different things."""
        if self.same_outputs:
            return self.states
        apart = self.spaces.output_tensors
        return [{name: tensor for name, tensor in state.items() if name not in apart} for state in self.states]

    @property
    def n_models(self) -> int:
        return len(self.states)

    @cached_property
    def idle(self) -> tuple[frozenset[str], ...]:
        """For each model, the spaces in which it has units in name only, while another has real ones."""
        found = [idle_spaces(self.spaces.of(model), state) for model, state in enumerate(self.states)]
        everywhere = frozenset.intersection(*found)
        return tuple(own - everywhere for own in found)


@dataclass(frozen=True)
class Matching:
    """One map per model and space, and what the matcher maximised.

    ``objective``: by space, or one entry per restart or setting for matchers of the whole network.
    """

    maps: tuple[dict[str, UnitMap], ...]
    objective: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Matcher:
    """A registered way to match: the moments it needs, its options with their defaults, and the function.

    ``moments``: "none", those between models ("cross"), or also within each model ("full").
    ``options``: a frozen dataclass; its fields are the keys that params.yaml may set. ``judged``: for a method with
    options that ``Problem.judge`` chooses, whether some given options are such. ``widths``: which it can do: models and a
    merged network of "equal" widths, models of different ones and the width of one of the "models", or "any". ``mixes``: whether,
    with some options, its maps mix the units of a model, which no norm over units commutes with.
    """

    name: str
    summary: str
    moments: MomentsNeeded
    options: type
    match: Callable[[Problem, Any], Matching]
    judged: Callable[[Any], bool] | None = None
    widths: Widths = "equal"
    mixes: Callable[[Any], bool] | None = None

    def needs_judge(self, options: Any) -> bool:
        """Whether these options leave a choice to the judge."""
        return self.judged is not None and self.judged(options)


def solve(matcher: Matcher, problem: Problem, options: Any) -> Matching:
    """What a matcher answers, with the units that models have in name only taken out (:class:`mergeline.maps.Absent`)."""
    matching = matcher.match(problem, options)
    maps: list[dict[str, UnitMap]] = []
    for own, idle in zip(matching.maps, problem.idle, strict=True):
        maps.append(
            {
                name: Absent(unit_map.size, unit_map.merged) if name in idle else unit_map
                for name, unit_map in own.items()
            }
        )
    return Matching(tuple(maps), matching.objective)


Index = NDArray[np.int64]
SpaceMatcher = Callable[["Space", "Moments", Sequence[Index], Any], tuple[list[UnitMap], float]]
Similarity = Callable[["Moments", int], NDArray[np.float64]]


def _correlation(moments: Moments, model: int) -> NDArray[np.float64]:
    return moments.correlation(0, model)


def per_space(match: SpaceMatcher, similarity: Similarity = _correlation) -> Callable[[Problem, Any], Matching]:
    """A whole-network matcher from one that looks at one space at a time.

    ``match``: called with a space, its moments, for each model which of its bundles goes with each of the reference's, and
    the options. ``similarity``: of units, ``(C, C)``, that bundles are assigned by.
    """

    def matching(problem: Problem, options: Any) -> Matching:
        maps: tuple[dict[str, UnitMap], ...] = tuple({} for _ in range(problem.n_models))
        objective = {}
        found: dict[str, tuple[list[UnitMap], float]] = {}
        for together in problem.spaces.together():
            seen = [(space, bundles) for space, bundles in together if space.observations]
            partners = _partners(problem, together, similarity)
            for space, _ in seen:
                live = [model for model, idle in enumerate(problem.idle) if space.name not in idle]
                found[space.name] = _among(live, match, space, problem.moments[space.name], partners, options)
        for space in problem.spaces.free:
            own, objective[space.name] = found[space.name]
            for model, unit_map in enumerate(own):
                maps[model][space.name] = unit_map
        return Matching(maps, objective)

    return matching


def _among(
    live: Sequence[int], match: SpaceMatcher, space: Space, moments: Moments, partners: Sequence[Index], options: Any
) -> tuple[list[UnitMap], float]:
    """What is found between the models that have units of a space; those of the others stay where they are."""
    if len(live) == len(partners):
        return match(space, moments, partners, options)
    chosen = moments.select(live)
    own, objective = _alone(match, space, chosen, [partners[model] for model in live], options)
    maps: list[UnitMap] = [
        Permutation.identity(size) if size == space.size else Absent(size, space.size) for size in moments.sizes
    ]
    for model, unit_map in zip(live, own, strict=True):
        maps[model] = unit_map if unit_map.merged == space.size else among_more(unit_map, space.size)
    return maps, objective


def _alone(
    match: SpaceMatcher, space: Space, moments: Moments, partners: Sequence[Index], options: Any
) -> tuple[list[UnitMap], float]:
    """Maps to as many units as the widest of some models has, or as the merged network, if that has fewer."""
    width = min(space.size, max(moments.sizes))
    if set(moments.sizes) == {width} and (len(partners) < 2 or len(partners[0]) > 1):
        return [Permutation.identity(size) for size in moments.sizes], 1.0
    return match(space if width == space.size else replace(space, size=width), moments, partners, options)


def _partners(problem: Problem, together: Sequence[tuple[Space, int]], similarity: Similarity) -> list[Index]:
    bundles = together[0][1]
    partners = [np.arange(bundles)]
    for model in range(1, problem.n_models):
        similarities = []
        if bundles > 1:
            similarities = [similarity(problem.moments[s.name], model) for s, _ in together if s.observations]
        partners.append(assign_bundles(similarities, bundles, moves(together)))
    return partners
