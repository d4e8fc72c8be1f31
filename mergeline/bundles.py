"""Units that stay in bundles: attention heads, groups of a convolution or of a norm (mudsc Sec. 3.3).

Bundles are assigned first, by what their units gain inside every pair of bundles; then units are matched inside
assigned bundles. Spaces that have their bundles in common (queries with keys, and values, of one attention) are assigned
together. The result is optimal among all matchings that keep bundles together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mergeline.assignment import match_permutation
from mergeline.maps import Absent, Dense, Groups, Permutation, UnitMap

if TYPE_CHECKING:
    from mergeline.spaces import Space, Spaces

__all__ = ["assign_bundles", "in_bundles", "match_bundled", "moves", "random_bundled", "with_bundles"]

Index = NDArray[np.int64]
Float64 = NDArray[np.float64]


def _gains(similarity: Float64, bundles: int) -> tuple[Float64, Index]:
    """What units gain inside every pair of bundles, ``(bundles, bundles)``, and their best order there."""
    per_bundle = len(similarity) // bundles
    if per_bundle * bundles != len(similarity) or similarity.shape[0] != similarity.shape[1]:
        raise ValueError(f"{similarity.shape} units do not fall into {bundles} equal bundles")
    blocks = similarity.reshape(bundles, per_bundle, bundles, per_bundle).transpose(0, 2, 1, 3)
    if per_bundle == 1:
        return blocks[:, :, 0, 0], np.zeros((bundles, bundles, 1), dtype=np.int64)
    inner = np.empty((bundles, bundles, per_bundle), dtype=np.int64)
    gain = np.empty((bundles, bundles))
    rows = np.arange(per_bundle)
    for a in range(bundles):
        for b in range(bundles):
            inner[a, b] = match_permutation(blocks[a, b])
            gain[a, b] = blocks[a, b][rows, inner[a, b]].sum()
    return gain, inner


def match_bundled(similarities: Sequence[Float64], bundles: int, movable: bool = True) -> list[Index]:
    """The permutations of several spaces with common bundles, ``(units,)`` each, of largest summed similarity.

    Parameters
    ----------
    similarities: of each space, ``(C, C)``.
    bundles: how many there are, equal and consecutive, in every space.
    movable: whether bundles may change places.
    """
    if bundles == 1:
        return [match_permutation(similarity) for similarity in similarities]
    found = [_gains(np.asarray(similarity, dtype=np.float64), bundles) for similarity in similarities]
    partners = match_permutation(sum(gain for gain, _ in found)) if movable else np.arange(bundles)
    result = []
    for _, inner in found:
        per_bundle = inner.shape[2]
        result.append(np.concatenate([partners[a] * per_bundle + inner[a, partners[a]] for a in range(bundles)]))
    return result


def assign_bundles(similarities: Sequence[Float64], bundles: int, movable: bool) -> Index:
    """Which bundle of the other model goes with each of the reference, ``(bundles,)``, for spaces with common bundles."""
    if bundles == 1 or not movable:
        return np.arange(bundles)
    return match_permutation(sum(_gains(np.asarray(own, dtype=np.float64), bundles)[0] for own in similarities))


def moves(together: Sequence[tuple[Space, int]]) -> bool:
    """Whether the common bundles of some spaces may change places."""
    return any(space.bundle_space for space, _ in together)


def in_bundles(sizes: tuple[int, int], partners: Index) -> list[tuple[slice, slice]]:
    """Where the units of each assigned pair of bundles stand, in the reference and in the other model.

    ``sizes``: units of both. ``partners``: for each bundle of the reference the other model's.
    """
    per, own_per = sizes[0] // len(partners), sizes[1] // len(partners)
    return [
        (slice(a * per, (a + 1) * per), slice(b * own_per, (b + 1) * own_per)) for a, b in enumerate(partners.tolist())
    ]


def random_bundled(together: Sequence[tuple[Space, int]], generator: np.random.Generator) -> dict[str, Index]:
    """A random permutation of each of some spaces with common bundles."""
    bundles = together[0][1]
    order = generator.permutation(bundles) if bundles > 1 and moves(together) else np.arange(bundles)
    chosen = {}
    for space, _ in together:
        per_bundle = space.size // bundles
        chosen[space.name] = np.concatenate(
            [bundle * per_bundle + generator.permutation(per_bundle) for bundle in order]
        )
    return chosen


def with_bundles(spaces: Spaces, maps: Mapping[str, UnitMap]) -> dict[str, UnitMap]:
    """Maps with those of the spaces whose units are bundles of mapped spaces: they follow their members."""
    result = dict(maps)
    for name, unit_map in maps.items():
        space = spaces[name]
        if space.bundle_space and space.bundle_space not in result:
            lacking = isinstance(unit_map, Absent)
            result[space.bundle_space] = (
                Absent(space.bundles, space.bundles) if lacking else Permutation(_bundle_order(unit_map, space.bundles))
            )
    return result


def _bundle_order(unit_map: UnitMap, bundles: int) -> Index:
    """For each merged bundle the own bundle that goes to it."""
    if isinstance(unit_map, Permutation):
        return unit_map.index.reshape(bundles, -1)[:, 0] // (unit_map.size // bundles)
    if isinstance(unit_map, Groups):
        goes = unit_map.labels.reshape(bundles, -1)[:, 0] // (unit_map.merged // bundles)
        return np.argsort(goes, kind="stable")
    assert isinstance(unit_map, Dense)
    blocks = np.abs(unit_map.to_merged).reshape(bundles, unit_map.merged // bundles, bundles, -1).sum(axis=(1, 3))
    return match_permutation(blocks)
