"""What a matcher gets and what it answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mergeline.maps import UnitMap

if TYPE_CHECKING:  # so that the registry can be read without torch
    from torch import Tensor

    from mergeline.moments import Moments
    from mergeline.spaces import Space, Spaces

__all__ = ["Matcher", "Matching", "Problem", "per_space"]

MomentsNeeded = Literal["none", "cross", "full"]


@dataclass(frozen=True)
class Problem:
    """Models of one topology that are to be matched; model 0 is the reference.

    ``states``: each model's state dict. ``moments``: by space name, read when asked for (it may come from disk);
    empty for matchers that need none. ``generator``: for matchers that draw. ``judge``: how good the merge by some maps
    is, one per model (``mergeline.matching.judge``), for options that are chosen by it. ``same_outputs``: the models'
    outputs mean the same (one task), so that classifiers can be compared.
    """

    spaces: Spaces
    states: Sequence[Mapping[str, Tensor]]
    moments: Mapping[str, Moments]
    generator: np.random.Generator
    judge: Callable[[Sequence[Mapping[str, UnitMap]]], float] | None = None
    same_outputs: bool = True

    @property
    def comparable(self) -> Sequence[Mapping[str, Tensor]]:
        """The states that weights are compared on: without the classifiers, where their outputs mean different things."""
        if self.same_outputs:
            return self.states
        apart = {
            name for name, entries in self.spaces.tensors.items() if any(space == "output" for space, _ in entries)
        }
        return [{name: tensor for name, tensor in state.items() if name not in apart} for state in self.states]

    @property
    def n_models(self) -> int:
        return len(self.states)


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
    options that ``Problem.judge`` chooses, whether some given options are such.
    """

    name: str
    summary: str
    moments: MomentsNeeded
    options: type
    match: Callable[[Problem, Any], Matching]
    judged: Callable[[Any], bool] | None = None

    def needs_judge(self, options: Any) -> bool:
        """Whether these options leave a choice to the judge."""
        return self.judged is not None and self.judged(options)


SpaceMatcher = Callable[["Space", "Moments", Any], tuple[list[UnitMap], float]]


def per_space(match: SpaceMatcher) -> Callable[[Problem, Any], Matching]:
    """A whole-network matcher from one that looks at one space at a time."""

    def matching(problem: Problem, options: Any) -> Matching:
        maps: tuple[dict[str, UnitMap], ...] = tuple({} for _ in range(problem.n_models))
        objective = {}
        for space in problem.spaces.free:
            found, objective[space.name] = match(space, problem.moments[space.name], options)
            for model, unit_map in enumerate(found):
                maps[model][space.name] = unit_map
        return Matching(maps, objective)

    return matching
