"""Reordering units: the same function with other orders of units in its tensors."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from mergeline.spaces.errors import SpaceError
from mergeline.spaces.space import Space, Spaces, order_of, spread, unspread

__all__ = ["completed", "permute_state", "random_permutation", "random_permutations"]


def random_permutation(space: Space, generator: torch.Generator) -> Tensor:
    """A random permutation of the space's units that keeps its bundles together: ``(size,)`` indices."""
    per_bundle = space.size // space.bundles
    moves = space.bundles > 1 and space.bundle_space
    order = torch.randperm(space.bundles, generator=generator) if moves else torch.arange(space.bundles)
    return torch.cat([place * per_bundle + torch.randperm(per_bundle, generator=generator) for place in order])


def random_permutations(spaces: Spaces, generator: torch.Generator) -> dict[str, Tensor]:
    """A random permutation of every space, those of common bundles in line."""
    chosen: dict[str, Tensor] = {}
    for space in spaces.movable:
        if space.bundle_space:
            own = completed(spaces, chosen).get(space.name)
            per_bundle = space.size // space.bundles
            start = torch.arange(space.size) if own is None else own
            if own is None:
                start = random_permutation(space, generator)
            inside = [torch.randperm(per_bundle, generator=generator) for _ in range(space.bundles)]
            chosen[space.name] = torch.cat(
                [part[order] for part, order in zip(start.split(per_bundle), inside, strict=True)]
            )
        elif space.name not in completed(spaces, chosen):
            chosen[space.name] = random_permutation(space, generator)
    return completed(spaces, chosen)


def completed(spaces: Spaces, permutations: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Permutations of all spaces that move with the given ones: bundles, and what else is in them.

    Raises
    ------
    SpaceError: spaces of common bundles are given different orders of them.
    """
    result = dict(permutations)
    orders = dict(permutations)
    for name, own in permutations.items():
        space = spaces[name]
        if space.bundle_space:
            order = _bundle_order(space, own)
            known = orders.setdefault(space.bundle_space, order)
            if not torch.equal(known, order):
                raise SpaceError(
                    f"spaces: {name!r} and others with its bundles are permuted with different orders of them"
                )
            result[space.bundle_space] = known
    for space in spaces.movable:
        if space.bundle_space in result and space.name not in result:
            result[space.name] = _in_bundles(result[space.bundle_space], space.size // space.bundles)
    return result


def _bundle_order(space: Space, permutation: Tensor) -> Tensor:
    per_bundle = space.size // space.bundles
    order = permutation.div(per_bundle, rounding_mode="floor").reshape(space.bundles, per_bundle)
    if not bool((order == order[:, :1]).all()):
        raise SpaceError(f"spaces: a permutation of {space.name!r} tears its {space.bundles} bundles apart")
    return order[:, 0]


def _in_bundles(order: Tensor, per_bundle: int) -> Tensor:
    return (order[:, None] * per_bundle + torch.arange(per_bundle)).reshape(-1)


def permute_state(spaces: Spaces, state: Mapping[str, Tensor], permutations: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same function with its units reordered: unit ``i`` of the result is unit ``permutations[space][i]``.

    Spaces that have the bundles of a given one, and its bundles, move along.
    """
    moved = completed(spaces, permutations)
    result = {}
    for name, tensor in state.items():
        canonical = spaces.recording.aliases.get(name, name)
        entries = [(moved[space], axis) for space, axis in spaces.tensors.get(canonical, ()) if space in moved]
        grouped = spaces.grouped.get(canonical)
        if entries and grouped is not None:
            tensor = spread(tensor, *grouped)
        for index, axis in entries:
            order = order_of(tensor.shape[axis.axis], axis.index, index)
            tensor = tensor.index_select(axis.axis, order.to(tensor.device))
        if entries and grouped is not None:
            tensor = unspread(tensor, *grouped)
        result[name] = tensor
    return result
