"""Biases of a merged network's layers: what ``bias_removal`` and ``bias_calibration`` change."""

from __future__ import annotations

from dataclasses import dataclass

from mergeline.normalization.normalizer import Finished
from mergeline.origins import origin
from mergeline.spaces.layers import Layer, layers
from mergeline.spaces.recording import record

__all__ = ["MergedBias", "merged_biases"]


@dataclass(frozen=True)
class MergedBias:
    """A merged layer with a bias: the layer as the source models have it, and the bias's name in the merged network."""

    source: Layer
    name: str


def merged_biases(finished: Finished) -> list[MergedBias]:
    """Of every merged layer that has one, in forward order."""
    graph = finished.spaces.graph
    by_bias = {layer.bias: layer for layer in layers(graph) if layer.bias}
    recording = record(finished.network, finished.spaces.example)
    found = {}
    for layer in layers(recording.graph):
        place = origin(finished.network, layer.bias)
        if layer.bias and place.part == "merged" and place.tensor in by_bias:
            found[layer.bias] = MergedBias(by_bias[place.tensor], layer.bias)
    return list(found.values())
