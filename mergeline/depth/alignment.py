"""Bringing models of different depth to one topology, that of the deepest."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from mergeline.depth.blocks import Chain, find_chains
from mergeline.depth.expansion import block_counts, expand, place
from mergeline.depth.placer import Placement, Placer
from mergeline.depth.similarity import block_similarity
from mergeline.sources import first_samples

__all__ = ["Placed", "to_one_depth"]


@dataclass(frozen=True, eq=False)
class Placed:
    """How a model was expanded. ``similarity``: of the blocks, ``(deep, shallow)`` by stage; empty if not compared."""

    placement: Placement
    shallow: tuple[int, ...]
    deep: tuple[int, ...]
    similarity: tuple[NDArray[np.float64], ...] = ()

    @property
    def starts(self) -> tuple[tuple[int, ...], ...]:
        """By stage, the deep position of each of the model's own blocks."""
        return tuple(tuple(at for at, block in enumerate(blocks) if block is not None) for blocks in self.placement)


def to_one_depth(
    networks: Mapping[str, nn.Module], placer: Placer, data: Mapping[str, Iterable[Any]]
) -> tuple[dict[str, nn.Module], dict[str, Placed]]:
    """The networks with the blocks of the deepest, and how those that lacked some were expanded.

    Parameters
    ----------
    placer: says where blocks stand. data: batches of inputs by task, which can be read more than once; blocks are compared on
        all of them, and expanded networks checked on the first.

    Raises
    ------
    ValueError: the networks differ in more than depth, none of them holds the others, or one cannot be expanded.
    """
    if len({tuple(network.state_dict()) for network in networks.values()}) == 1:
        return dict(networks), {}
    deepest, chains = _deepest(networks)
    first = next((batch for part in data.values() for batch in part), None)
    if first is None:
        raise ValueError("merging needs data: there is no batch")
    found, placed = {}, {}
    for name, network in networks.items():
        if not chains[name]:
            found[name] = network
            continue
        compared = block_similarity(network, networks[deepest], chains[name], _all(data)) if placer.compares else ()
        blocks = place(chains[name], placer, compared)
        try:
            found[name] = expand(network, networks[deepest], first_samples(first, 2), blocks, chains[name])
        except ValueError as error:
            raise ValueError(f"model {name!r} has fewer blocks than {deepest!r}, and {error}") from error
        placed[name] = Placed(blocks, *block_counts(chains[name]), compared)
    return found, placed


def _all(data: Mapping[str, Iterable[Any]]) -> Iterator[Any]:
    return (batch for part in data.values() for batch in part)


def _deepest(networks: Mapping[str, nn.Module]) -> tuple[str, dict[str, tuple[Chain, ...]]]:
    """The network that holds all the others, and where each of these differs from it."""
    faults = []
    for name, candidate in networks.items():
        chains = {}
        for other, network in networks.items():
            try:
                chains[other] = find_chains(network, candidate)
            except ValueError as error:
                faults.append(f"model {other!r} has another topology than {name!r}: {error}")
                break
        else:
            return name, chains
    raise ValueError(faults[0])
