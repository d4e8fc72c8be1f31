"""What REPAIR and RESCALE set right: outputs of layers before their activation, and what they should be (vanishing_feature Eq. 1).

A target is a convolution or linear map, or a batch norm, which then speaks for the layer before it. Its statistics are the mean
and the standard deviation of every unit over all images and positions. A source model's are taken in one pass of that
model alone; those of the merged units follow from the maps, as biases do.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx, nn

from mergeline.merging import UnitMerger
from mergeline.spaces.layers import Layer, computed_layers, layers
from mergeline.spaces.norms import BatchNorm, batch_norm_of
from mergeline.spaces.recording import Recording
from mergeline.spaces.walking import Walk
from mergeline.unit_statistics import LayerStatistics, UnitStatistics, unit_statistics

if TYPE_CHECKING:
    from mergeline.maps import UnitMap
    from mergeline.spaces import Spaces

__all__ = [
    "Goal",
    "Target",
    "goals",
    "layer_statistics",
    "targets",
]

Maps = Mapping[str, "UnitMap"]


@dataclass(frozen=True)
class Target:
    """An output that is set right.

    ``name``: of the weight of a layer, or of the running variance of a batch norm. ``nodes``: the graph's nodes that give
    the output. ``channel``: the axis of its units, from the end. ``layer`` or ``norm``: what makes it.
    """

    name: str
    nodes: tuple[fx.Node, ...]
    channel: int
    layer: Layer | None = None
    norm: BatchNorm | None = None

    @property
    def made_by(self) -> tuple[str, int]:
        """A tensor and its axis that the units are along."""
        if self.layer is not None:
            return self.layer.weight, self.layer.axis
        assert self.norm is not None
        return self.norm.variance, 0


@dataclass(frozen=True)
class Goal:
    """What a merged target's mean and standard deviation should be, ``(C,)`` float64 each."""

    mean: Tensor
    deviation: Tensor


# -- what is set right ------------------------------------------------------------------------------------------------


def targets(recording: Recording) -> list[Target]:
    """Every output that is set right, in forward order: batch norms, and layers that are not read by batch norms alone.

    Raises
    ------
    ValueError: a layer computes its weight from other tensors, so that there is nothing to write a statistic into.
    """
    for node in computed_layers(recording.graph):
        place = recording.modules.get(node.name) or node.name
        raise ValueError(
            f"layer {place!r} computes its weight anew in every pass: its output cannot be set right; choose none"
        )
    found: dict[str, Target] = {}
    norms: dict[fx.Node, Target] = {}
    for node in recording.graph.nodes:
        norm = batch_norm_of(node)
        if norm is not None:
            norms[node] = Target(norm.variance, (node,), 1 - len(recording.shapes[node.name]), norm=norm)
    by_layer = {node: layer for layer in layers(recording.graph) for node in layer.nodes}
    for node in recording.graph.nodes:
        own = norms.get(node)
        if own is None and node in by_layer and not set(node.users) <= set(norms):
            layer = by_layer[node]
            own = Target(layer.name, layer.nodes, layer.channel, layer)
        if own is not None and own.name not in found:
            found[own.name] = own
        elif own is not None and own.norm is not None:
            known = found[own.name]
            found[own.name] = Target(known.name, (*known.nodes, *own.nodes), known.channel, None, known.norm)
    return list(found.values())


# -- statistics -------------------------------------------------------------------------------------------------------


@torch.no_grad()
def layer_statistics(model: nn.Module, spaces: Spaces, batches: Iterable[Any]) -> dict[str, UnitStatistics]:
    """A model's statistics of every target, in one pass over the images.

    Raises
    ------
    ValueError: there are no images.
    """
    walk = Walk(spaces, model)
    by_node = {node.name: target for target in targets(spaces.recording) for node in target.nodes}
    found: dict[str, UnitStatistics] = {}
    for batch in batches:
        for node, value in walk.values(batch):
            target = by_node.get(node.name)
            if target is not None:
                own = unit_statistics([value], target.channel)
                found[target.name] = found[target.name].joined(own) if target.name in found else own
    if by_node and not found:
        raise ValueError("statistics of layers need images, and there are none")
    return found


# -- goals ------------------------------------------------------------------------------------------------------------


def goals(
    spaces: Spaces,
    statistics: Sequence[LayerStatistics],
    maps: Sequence[Maps],
    weights: Sequence[float],
    names: Collection[str] | None = None,
) -> dict[str, Goal]:
    """What the merged units' statistics should be: the average of the aligned models' (vanishing_feature Eq. 1).

    ``names``: of the targets; all by default.

    Under a permutation, an aligned model's statistics are the permuted ones. A group's are the average of its members';
    under a dense map, means are mapped, and deviations as those of units that do not correlate.
    """
    merger = UnitMerger(spaces, maps, weights)
    aligned = [targets(spaces.of(model).recording) for model in range(len(statistics))] if spaces.models else []
    found = {}
    for place, target in enumerate(targets(spaces.recording)):
        if names is None or target.name in names:
            sources = [own[place] for own in aligned] or [target] * len(statistics)
            values = [own[source.name] for own, source in zip(statistics, sources, strict=True)]
            found[target.name] = _goal(merger, target, sources, values)
    return found


def _goal(merger: UnitMerger, target: Target, sources: Sequence[Target], statistics: Sequence[UnitStatistics]) -> Goal:
    """``sources``: the target as each model has it."""
    tensor, axis = target.made_by
    rows = target.layer.rows if target.layer is not None else None
    known = rows is not None and any(entry.axis == axis for _, entry in merger.spaces.tensors.get(tensor, ()))

    def merged(values: Sequence[Tensor], deviations: bool) -> Tensor:
        if rows is None or not known:
            return merger.merge(tensor, axis, values, deviations)
        whole = [
            _placed(merger.spaces.of(model), source, value)
            for model, (source, value) in enumerate(zip(sources, values, strict=True))
        ]
        return merger.merge(tensor, axis, whole, deviations)[slice(*rows)]

    return Goal(
        merged([own.mean for own in statistics], False),
        merged([own.deviation for own in statistics], True),
    )


def _placed(spaces: Spaces, target: Target, values: Tensor) -> Tensor:
    """The values of a target that is some rows of a tensor, among those of its whole axis."""
    tensor, axis = target.made_by
    assert target.layer is not None
    assert target.layer.rows is not None
    size = next(entry.size for _, entry in spaces.tensors[tensor] if entry.axis == axis)
    whole = values.new_zeros(size)
    whole[slice(*target.layer.rows)] = values
    return whole
