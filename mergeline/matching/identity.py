"""``identity``: no alignment, which makes the merge a plain average of the weights."""

from __future__ import annotations

from dataclasses import dataclass

from mergeline.maps import Permutation, UnitMap
from mergeline.matching.problem import Matcher, Matching, Problem

__all__ = ["IDENTITY", "IdentityOptions"]


@dataclass(frozen=True)
class IdentityOptions:
    """``identity`` has no options."""


def _match(problem: Problem, options: IdentityOptions) -> Matching:
    def maps() -> dict[str, UnitMap]:
        return {space.name: Permutation.identity(space.size) for space in problem.spaces.movable}

    return Matching(tuple(maps() for _ in range(problem.n_models)))


IDENTITY = Matcher("identity", "no alignment: plain weight averaging", "none", IdentityOptions, _match)
