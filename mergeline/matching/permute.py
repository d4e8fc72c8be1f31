"""``permute``: the permutation with the largest summed correlation of activations.

zipit ("Permute"), depth_heterogeneity App. D. Every model is aligned to model 0 by an exact assignment.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mergeline.assignment import match_permutation
from mergeline.bundles import in_bundles, match_bundled
from mergeline.maps import Permutation, UnitMap
from mergeline.matching.problem import Matcher, per_space
from mergeline.matching.ties import settled

if TYPE_CHECKING:
    from mergeline.moments import Moments
    from mergeline.spaces import Space

__all__ = ["PERMUTE", "PermuteOptions", "match_grouped", "match_permutation"]


def match_grouped(correlation: ArrayLike, bundles: int) -> NDArray[np.int64]:
    """The optimal assignment that keeps ``bundles`` equal, consecutive bundles of units together (mudsc Sec. 3.3)."""
    return match_bundled([np.asarray(correlation, dtype=np.float64)], bundles)[0]


@dataclass(frozen=True)
class PermuteOptions:
    """``permute`` has no options."""


def _match(
    space: Space, moments: Moments, partners: Sequence[NDArray[np.int64]], options: PermuteOptions
) -> tuple[list[UnitMap], float]:
    maps: list[UnitMap] = [Permutation.identity(space.size)]
    total = 0.0
    for model in range(1, len(moments.means)):
        correlation = moments.correlation(0, model)
        index = np.empty(space.size, dtype=np.int64)
        for own, other in in_bundles(correlation.shape, partners[model]):
            index[own] = other.start + match_permutation(correlation[own, other])
        total += float(correlation[np.arange(space.size), index].mean())
        maps.append(Permutation(index))
    return maps, total / max(1, len(maps) - 1)


PERMUTE = Matcher(
    "permute",
    "the permutation with the largest correlation of activations",
    "cross",
    PermuteOptions,
    settled(per_space(_match)),
)
