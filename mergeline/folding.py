"""Batch norms under maps that are no permutations (docs/numerics.md, "Merging").

The average of two norms' parameters is not the norm of the averaged units: what a unit is divided by differs between the
units that are merged. So each norm is folded into its layer, ``z = a W x + c`` with ``a = gamma / sigma``; the maps act on
that; and the merged norm is written so that it leaves the result as it is, with the deviation and the mean that the
units should have (the averages of the models') as its parameters. Without a normalisation the merge is exact; recomputed
statistics give the units the right scale.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from mergeline.spaces.norms import LayerNormed, layers_with_norms

if TYPE_CHECKING:
    from torch import Tensor

    from mergeline.maps import UnitMap
    from mergeline.spaces import Spaces

__all__ = ["folded", "norms_to_fold", "set_statistics"]

Maps = Mapping[str, "UnitMap"]


def norms_to_fold(spaces: Spaces, maps: Sequence[Maps], only: set[str] | None = None) -> list[LayerNormed]:
    """The norms whose units a map other than a permutation merges, and that are folded into their layers.

    ``only``: names of the tensors that are merged; all by default.
    """
    mixed = {name for own in maps for name, unit_map in own.items() if not unit_map.is_permutation}
    if not mixed:
        return []
    return [
        norm
        for norm in layers_with_norms(spaces.graph)
        if any(space in mixed for space, _ in spaces.tensors.get(norm.running_var, ()))
        and (only is None or only.issuperset(norm.tensors))
    ]


def folded(state: Mapping[str, Tensor], norms: Sequence[LayerNormed]) -> Mapping[str, Tensor]:
    """A state dict in which every norm's factor is part of its layer, and its mean and deviation stand as parameters.

    The layer has no bias of its own; the norm's weight is the units' deviation, its bias their mean, its running mean what
    is still to be subtracted. Its running variance follows from its weight (:func:`set_statistics`).
    """
    result = dict(state)
    for norm in norms:
        weight, mean = state[norm.weight], state[norm.running_mean]
        scale = (state[norm.running_var].double() + norm.eps).rsqrt()
        if norm.gamma:
            scale = scale * state[norm.gamma].double()
            result[norm.gamma] = state[norm.gamma].abs()
        shape = [1] * weight.dim()
        shape[norm.axis] = -1
        result[norm.weight] = (weight.double() * scale.view(shape)).to(weight.dtype)
        left = mean.double()
        if norm.bias:
            left = left - state[norm.bias].double()
            result[norm.bias] = torch.zeros_like(state[norm.bias])
        result[norm.running_mean] = (scale * left).to(mean.dtype)
    return result


def set_statistics(merged: Mapping[str, Tensor], norms: Sequence[LayerNormed]) -> dict[str, Tensor]:
    """The tensors of folded norms that must change after merging, so that each norm divides by its own weight."""
    result = {}
    for norm in norms:
        variance = merged[norm.running_var]
        if norm.gamma:
            weight = merged[norm.gamma].clamp_min(norm.eps**0.5)
            result[norm.gamma] = weight
            result[norm.running_var] = (weight.square() - norm.eps).clamp_min(0).to(variance.dtype)
        else:
            result[norm.running_var] = torch.full_like(variance, 1 - norm.eps)
    return result
