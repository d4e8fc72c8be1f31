"""After pruning: a pruned network's statistics set right, towards those of the network before (vanishing_feature Sec. 5.5, A.7)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from mergeline.network import check_normalization, normalise
from mergeline.normalization import NORMALIZATIONS
from mergeline.registry import entry_and_options
from mergeline.sources import Batches, check_same_topology, first_samples
from mergeline.spaces import trace

__all__ = ["normalise_pruned"]


def normalise_pruned(
    pruned: nn.Module,
    original: nn.Module,
    data: Any,
    method: str = "repair",
    options: Mapping[str, object] | None = None,
) -> nn.Module:
    """Set a pruned network's statistics right, in place: zeros stay zeros, as outputs are scaled and shifted as a whole.

    Parameters
    ----------
    pruned, original: the network after and before (:func:`mergeline.pruning.prune`).
    data: batches of inputs, as for :func:`mergeline.merge`; labels are not used.
    method, options: "reset", "repair" or "rescale", and its options. ``repair`` gives a layer without a bias one.

    Raises
    ------
    ValueError: an unknown method, one that does not set statistics of such a network, no data, or another network.
    """
    known = [name for name, entry in NORMALIZATIONS.items() if entry.restores]
    if method not in known:
        raise ValueError(f"unknown normalisation {method!r} of pruned networks; known: {', '.join(known)}")
    batches = Batches(data, again=True)
    first = next(iter(batches), None)
    if first is None:
        raise ValueError("normalising needs data: there is no batch")
    spaces = trace(original, first_samples(first, 2))
    check_same_topology({"original": original, "pruned": pruned}, spaces, same_outputs=True)
    check_normalization(method, original, spaces)
    _, settings = entry_and_options("normalisation", method, NORMALIZATIONS, options)
    return normalise(
        pruned, method, settings, models={"original": original}, spaces=spaces, maps=[{}], weights=(1.0,), mixed=batches
    )
