"""A merged network beside the models it was made from, layer by layer, under the names that these give their layers.

What is measured is in :mod:`mergeline.diagnostics`. A merged network may have several parts; each of its layers is known by its
name in the source models, and a layer that each model kept counts with the mean over the models.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from typing import Any

import numpy as np
from torch import nn

from mergeline.diagnostics import (
    batch_norm_statistics,
    cka_map,
    feature_norms,
    layer_variances,
    magnitudes,
    vanishing,
)
from mergeline.heads import MultiHead
from mergeline.origins import Origin, origin
from mergeline.preserving import PreserveFirst
from mergeline.readings import HEAD, MERGED, SOURCE, STEM, Reading
from mergeline.sources import first_samples
from mergeline.spaces import Spaces
from mergeline.spaces.layers import layers
from mergeline.spaces.norms import batch_norm_of
from mergeline.spaces.recording import record
from mergeline.spaces.space import Carried

__all__ = ["batch_norm_readings", "by_head", "compare"]

STATISTIC = ".running_mean"


def by_head(network: nn.Module) -> dict[str, nn.Module]:
    """A merged network with each of its heads alone; under "" one that has none."""
    headed = network.rest if isinstance(network, PreserveFirst) else network
    if not isinstance(headed, MultiHead):
        return {"": network}
    assert isinstance(network, PreserveFirst | MultiHead)
    return {name: network.alone(name) for name in headed.names}


def compare(
    merged: nn.Module,
    sources: Mapping[str, nn.Module],
    spaces: Spaces,
    batches: Sequence[Any],
    own: str | None = None,
) -> Iterator[Reading]:
    """Everything that is known of a merged network's layers beside its sources', on the same images.

    Parameters
    ----------
    merged: with one head alone, where it has several (:func:`by_head`).
    sources: by name, of one topology up to their outputs, whose trace is ``spaces`` (with each one's own where widths differ); all
        on one device.
    batches: of at least 4 images each.
    own: the source whose layers the head's are: these are compared with its own alone.

    Raises
    ------
    ValueError: no images, too few in a batch, or inputs for which 0 has no meaning.
    """
    order = {layer.name: place for place, layer in enumerate(layers(spaces.graph))}
    networks = {MERGED: _recorded(merged, batches)}
    networks |= {
        name: _Network(model, spaces.of(index), _of_source) for index, (name, model) in enumerate(sources.items())
    }
    features = {}
    for name, network in networks.items():
        measured = _scales(network, batches)
        features[name] = network.joined(measured["features"], order)
        for quantity, values in measured.items():
            yield from _readings(quantity, name, network, values, order)
        yield from _batch_norms(name, network, spaces)
    yield from _vanishing(networks[MERGED], features, order, own)
    for (first, one), (second, two) in combinations(networks.items(), 2):
        yield from _similarities((first, second), (one, two), order, batches)


@dataclass(frozen=True)
class _Network:
    """A network, its graph, and where its tensors come from."""

    model: nn.Module
    spaces: Spaces
    origin: Callable[[str], Origin]

    def joined(self, values: Mapping[str, float], order: Mapping[str, int]) -> dict[str, float]:
        """By the sources' names, in forward order; the mean where each model has such a layer."""
        found: dict[str, list[float]] = {}
        for name, value in values.items():
            found.setdefault(self.origin(name).tensor, []).append(value)
        return {name: float(np.mean(found[name])) for name in sorted(found, key=order.__getitem__)}

    def parts(self, names: Iterable[str]) -> dict[str, str]:
        """By the sources' names, the part that each layer is of."""
        return {found.tensor: found.part for found in map(self.origin, names)}


def _of_source(name: str) -> Origin:
    return Origin(name, SOURCE)


def _recorded(network: nn.Module, batches: Sequence[Any]) -> _Network:
    """A merged network with its graph alone: what units its spaces have is of no account here."""
    if not batches:
        raise ValueError("layers are measured on images, and there are none")
    recording = record(network, first_samples(batches[0], 2))
    spaces = Spaces(recording, {}, {}, {}, Carried({}, np.empty(0, np.int64), {}))
    return _Network(network, spaces, partial(origin, network))


def _scales(network: _Network, batches: Sequence[Any]) -> dict[str, dict[str, float]]:
    """By quantity, what is said of the network's layers alone, by its own names."""
    model, spaces = network.model, network.spaces
    sizes = magnitudes(model, spaces)
    return {
        "features": feature_norms(model, spaces, batches),
        "variance": layer_variances(model, spaces, batches),
        "weight": {layer: size.weight for layer, size in sizes.items()},
        "bias": {layer: size.bias for layer, size in sizes.items()},
    }


def _readings(
    quantity: str, name: str, network: _Network, values: Mapping[str, float], order: Mapping[str, int]
) -> Iterator[Reading]:
    parts = network.parts(values)
    for layer, value in network.joined(values, order).items():
        yield Reading(quantity, name, layer, parts[layer], order[layer], value)


def _vanishing(
    merged: _Network, features: Mapping[str, Mapping[str, float]], order: Mapping[str, int], own: str | None
) -> Iterator[Reading]:
    """The merged network's features relative to its sources'; those of a head to its own source's."""
    parts = merged.parts(layer.name for layer in layers(merged.spaces.graph))
    heads = {} if own is None else {name: norm for name, norm in features[own].items() if parts.get(name) == HEAD}
    found = vanishing(features[MERGED], [{**norms, **heads} for name, norms in features.items() if name != MERGED])
    for quantity, values in (("relative", found.relative), ("bound", found.bound)):
        for layer, value in values.items():
            yield Reading(quantity, MERGED, layer, parts[layer], order[layer], value)


def _similarities(
    names: tuple[str, str], networks: tuple[_Network, _Network], order: Mapping[str, int], batches: Sequence[Any]
) -> Iterator[Reading]:
    """CKA of all layers of two networks; layers that each model kept are many, and are left out."""
    one, two = networks
    rows, columns, matrix = cka_map(one.model, two.model, one.spaces, two.spaces, batches)
    for i, first in enumerate(map(one.origin, rows)):
        for j, second in enumerate(map(two.origin, columns)):
            if STEM not in (first.part, second.part):
                yield Reading(
                    "cka", names[0], first.tensor, first.part, order[first.tensor], float(matrix[i, j]),
                    names[1], second.tensor, order[second.tensor],
                )  # fmt: skip


# -- batch norms ------------------------------------------------------------------------------------------------------


def batch_norm_readings(name: str, network: nn.Module, spaces: Spaces) -> Iterator[Reading]:
    """Of a merged network's every batch norm, the mean over its units: of its running means' sizes, and of its variances.

    ``name``: what the network is called. ``spaces``: the source models', for the order of their batch norms.
    """
    return _batch_norms(name, _Network(network, spaces, partial(origin, network)), spaces)


def _batch_norms(name: str, network: _Network, spaces: Spaces) -> Iterator[Reading]:
    norms = [norm for norm in map(batch_norm_of, spaces.graph.nodes) if norm is not None]
    order = {norm.mean.removesuffix(STATISTIC): place for place, norm in enumerate(norms)}
    found = batch_norm_statistics(network.model)
    known = {module: own for module, own in found.items() if network.origin(module).tensor in order}
    means = {module: float(np.abs(own.mean).mean()) for module, own in known.items()}
    variances = {module: float(own.variance.mean()) for module, own in known.items()}
    for quantity, values in (("running_mean", means), ("running_variance", variances)):
        yield from _readings(quantity, name, network, values, order)
