"""Merging tensors: unit maps and models make one state dict.

Every tensor is mapped on its output axis with M and on its input axis with U, ``W* = sum_i w_i M_i W_i U_i``; biases
and norms with M (docs/numerics.md). Which entries belong to which space comes from :mod:`mergeline.spaces`.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from mergeline.bundles import with_bundles
from mergeline.folding import folded, norms_to_fold, set_statistics
from mergeline.maps import UnitMap
from mergeline.spaces import Axis, Spaces, spread, transferred, unspread

__all__ = [
    "Maps",
    "UnitMerger",
    "checked_weights",
    "counterparts",
    "mapped",
    "merge_folded",
    "merge_network",
    "merge_states",
    "uniform_weights",
    "unit_shares",
]

Maps = Mapping[str, UnitMap]
COMPUTED = {torch.float16: torch.float32, torch.bfloat16: torch.float32}
"""Types that tensors are merged in, where their own is too short to add in."""


def uniform_weights(n_models: int) -> tuple[float, ...]:
    """``1/N`` for each model."""
    return (1.0 / n_models,) * n_models


def checked_weights(weights: Sequence[float] | None, n_models: int) -> tuple[float, ...]:
    """Each model's weight; uniform where none are given.

    Raises
    ------
    ValueError: not one for each model, not finite, or they do not sum to one.
    """
    found = uniform_weights(n_models) if weights is None else tuple(weights)
    if len(found) != n_models:
        raise ValueError(f"{n_models} models need as many weights, got {len(found)}")
    if not all(map(math.isfinite, found)) or abs(sum(found) - 1) > 1e-6:
        raise ValueError(f"merge weights must sum to 1 and be finite, got {found}")
    return found


Entry = tuple[str, Axis, Axis]
"""A space, where its units stand in a model's tensor, and where in the merged one."""


def counterparts(spaces: Spaces, own: Spaces, name: str) -> list[Entry]:
    """Where the units of each space stand in a tensor of one model, ``own``, and in the merged one."""
    merged = spaces.tensors.get(name, ())
    entries = own.tensors.get(name, ())
    return [(space, before, after) for (space, before), (_, after) in zip(entries, merged, strict=True)]


def mapped(tensor: Tensor, entries: Sequence[Entry], apply: str, maps: Maps) -> Tensor:
    """Apply maps to the entries of spaces' units: "merge" or "deviations" where they are made, "unmerge" where they are read."""
    return transferred(
        tensor,
        [
            (before, after, partial(_changed, maps[space], apply if after.produces else "unmerge"))
            for space, before, after in entries
        ],
    )


def _changed(unit_map: UnitMap, apply: str, tensor: Tensor, axis: int) -> Tensor:
    changed: Tensor = getattr(unit_map, apply)(tensor, axis)
    return changed


def _group_weights(weights: Sequence[float], maps: Sequence[UnitMap]) -> list[Tensor]:
    """Each model's weight in every merged unit, so that the members of a unit average to one.

    A unit that takes ``m_i`` units of model ``i`` weighs each of them by ``w_i / sum_j w_j m_j``; for permutations
    that is ``w_i``. A merged unit that only models of weight 0 have units in is 0.
    """
    masses = [unit_map.mass() for unit_map in maps]
    total = sum(weight * mass for weight, mass in zip(weights, masses, strict=True))
    total = np.where(total == 0, 1.0, total)
    return [torch.from_numpy(weight / total) for weight in weights]


def merge_states(
    spaces: Spaces,
    states: Sequence[Mapping[str, Tensor]],
    maps: Sequence[Maps],
    weights: Sequence[float] | None = None,
    only: set[str] | None = None,
    deviations: frozenset[str] = frozenset(),
) -> dict[str, Tensor]:
    """The merged state dict.

    Parameters
    ----------
    spaces: the merged network's, with each model's own where widths differ.
    states: each model's state dict, of the traced topology.
    maps: each model's maps by space name; a free space without a map keeps its units. Spaces whose units are bundles of
        mapped ones follow them.
    weights: each model's weight ``w_i``; uniform by default.
    only: names of the tensors to merge; all by default.
    deviations: names of the tensors that hold units' standard deviations.

    Raises
    ------
    ValueError: numbers of states, maps and weights differ, or weights do not sum to one.
    """
    n_models = len(states)
    weights = checked_weights(weights, n_models)
    if len(maps) != n_models:
        raise ValueError(f"{n_models} models need as many maps, got {len(maps)}")
    whole = [with_bundles(spaces, own) for own in maps]
    models = [
        _Part(spaces.of(model), state, own, weight, shares)
        for model, (state, own, weight, shares) in enumerate(
            zip(states, whole, weights, unit_shares(spaces, whole, weights), strict=True)
        )
    ]
    result: dict[str, Tensor] = {}
    for name, reference in states[0].items():
        if only is not None and name not in only:
            continue
        canonical = spaces.recording.aliases.get(name, name)
        if canonical in result:  # another name of a tensor that is merged already
            result[name] = result[canonical]
        elif not reference.is_floating_point():
            result[name] = reference.clone()
        else:
            produced = "deviations" if canonical in deviations else "merge"
            total = sum((_share(spaces, canonical, name, model, produced) for model in models[1:]),
                        _share(spaces, canonical, name, models[0], produced))  # fmt: skip
            result[name] = total.to(reference.dtype)
    return result


def merge_folded(
    spaces: Spaces,
    states: Sequence[Mapping[str, Tensor]],
    maps: Sequence[Maps],
    weights: Sequence[float] | None = None,
    only: set[str] | None = None,
) -> dict[str, Tensor]:
    """:func:`merge_states`, with batch norms under maps that are no permutations folded into their layers first, which
    keeps the merge exact (:mod:`mergeline.folding`)."""
    norms = norms_to_fold(spaces, [with_bundles(spaces, own) for own in maps], only)
    states = [folded(state, norms) for state in states]
    merged = merge_states(spaces, states, maps, weights, only, frozenset(norm.gamma for norm in norms))
    changed = set_statistics(merged, norms)
    for alias, name in spaces.recording.aliases.items():
        if name in changed and alias in merged:
            changed[alias] = changed[name]
    return merged | changed


@dataclass(frozen=True)
class _Part:
    """What one model brings to a merge. ``spaces``: its own. ``shares``: by space, its weight in each merged unit."""

    spaces: Spaces
    state: Mapping[str, Tensor]
    maps: Maps
    weight: float
    shares: Mapping[str, Tensor]


class UnitMerger:
    """Merges what models have of each unit, a value each, as their biases are merged.

    Parameters
    ----------
    maps, weights: as for :func:`merge_states`.
    """

    def __init__(self, spaces: Spaces, maps: Sequence[Maps], weights: Sequence[float]) -> None:
        self.spaces, self.weights = spaces, tuple(weights)
        self.maps = [with_bundles(spaces, own) for own in maps]
        self.shares = unit_shares(spaces, self.maps, weights)

    def merge(self, name: str, axis: int, values: Sequence[Tensor], deviations: bool = False) -> Tensor:
        """Merge values of the units along an axis of a tensor that makes them.

        ``values``: ``(entries of the axis,)`` of each model. ``deviations``: they are standard deviations.
        """
        canonical = self.spaces.recording.aliases.get(name, name)
        apply = "deviations" if deviations else "merge"
        parts = []
        for model, (value, own, weight, shares) in enumerate(
            zip(values, self.maps, self.weights, self.shares, strict=True)
        ):
            entries = [
                (space, *_alone(before, after))
                for space, before, after in counterparts(self.spaces, self.spaces.of(model), canonical)
                if after.axis == axis and after.produces and space in own
            ]
            value = mapped(value, entries, apply, own)
            parts.append(_scaled(value, weight, _scales(value, entries, weight, shares)))
        return torch.stack(parts).sum(0)


def unit_shares(spaces: Spaces, maps: Sequence[Maps], weights: Sequence[float]) -> list[dict[str, Tensor]]:
    """For each model, by space that all map, its weight in every merged unit."""
    found: list[dict[str, Tensor]] = [{} for _ in maps]
    for space in spaces:
        if all(space in own for own in maps):
            for own, share in zip(found, _group_weights(weights, [own[space] for own in maps]), strict=True):
                own[space] = share
    return found


def _share(spaces: Spaces, name: str, alias: str, part: _Part, produced: str) -> Tensor:
    """One model's part of a merged tensor. ``alias``: what the state dict may call it; ``produced``: what a map does to the
    axes that make units."""
    tensor = part.state[name] if name in part.state else part.state[alias]
    own, weight, shares = part.maps, part.weight, part.shares
    tensor = tensor.to(COMPUTED.get(tensor.dtype, tensor.dtype))
    entries = [entry for entry in counterparts(spaces, part.spaces, name) if entry[0] in own]
    grouped = spaces.grouped.get(name) if entries else None
    if grouped is not None:
        tensor = spread(tensor, *part.spaces.grouped[name])
    tensor = mapped(tensor, entries, produced, own)
    tensor = _scaled(tensor, weight, _scales(tensor, entries, weight, shares))
    return unspread(tensor, *grouped) if grouped is not None else tensor


def _alone(before: Axis, after: Axis) -> tuple[Axis, Axis]:
    """Where units stand in a vector that has a value for each entry of an axis."""
    vector = replace(before, axis=0)
    return vector, (vector if after is before else replace(after, axis=0))


def _scales(tensor: Tensor, entries: Sequence[Entry], weight: float, shares: Mapping[str, Tensor]) -> dict[int, Tensor]:
    """By axis of a tensor, what its merged units weigh more or less than their model does."""
    scales: dict[int, Tensor] = {}
    for space, _, axis in entries:
        if axis.produces and space in shares:
            scale = scales.setdefault(axis.axis, torch.ones(tensor.shape[axis.axis], dtype=torch.float64))
            relative = (shares[space] / weight if weight else shares[space]).repeat_interleave(axis.repeat)
            if axis.in_order:
                scale[:] = relative
            else:
                scale[torch.from_numpy(axis.index.reshape(-1))] = relative
    return scales


def _scaled(tensor: Tensor, weight: float, scales: Mapping[int, Tensor]) -> Tensor:
    """A tensor times its model's weight, and along some axes times more."""
    if not scales:
        return tensor * weight
    for number, (axis, scale) in enumerate(scales.items()):
        shape = [1] * tensor.dim()
        shape[axis] = -1
        tensor = tensor * (scale * weight if number == 0 else scale).to(tensor).view(shape)
    return tensor


def merge_network(
    model: nn.Module,
    spaces: Spaces,
    states: Sequence[Mapping[str, Tensor]],
    maps: Sequence[Maps],
    weights: Sequence[float] | None = None,
) -> nn.Module:
    """Merge everything, the classifier too (same task), into ``model``, which is given the merged weights."""
    merged = OrderedDict(merge_folded(spaces, states, maps, weights))
    # Versions of modules, which some read their own tensors by.
    merged._metadata = model.state_dict()._metadata  # type: ignore[attr-defined]
    model.load_state_dict(merged)
    return model.eval()
