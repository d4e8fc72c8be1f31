"""What is read of the layers of a merged network and of the models it was made from: the words of it, without torch."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["BEFORE", "HEAD", "MERGED", "SMALLEST_BATCH", "SOURCE", "STEM", "Reading", "source_names"]

MERGED, BEFORE = "merged", "before"
"""What the merged network is called, and the same before its statistics are set."""
SOURCE, HEAD, STEM = "source", "head", "stem"
"""Parts that a layer may be of beside "merged": a source model; what each model kept above what is merged, and below."""


SMALLEST_BATCH = 4
"""Samples below which layers cannot be compared: the unbiased HSIC divides by ``n (n - 3)``."""


class Reading(NamedTuple):
    """One number of one layer.

    ``quantity``: features, relative, bound, variance, weight, bias, running_mean, running_variance or cka. ``network``:
    "merged", "before" or a source's name. ``layer``: as the sources call it, or a batch norm. ``part``: "merged", "head", "stem"
    or "source". ``place``: in forward order. ``other`` ...: the network and the layer that it is compared with (cka).
    """

    quantity: str
    network: str
    layer: str
    part: str
    place: int
    value: float
    other: str | None = None
    other_layer: str | None = None
    other_place: int | None = None


def source_names(count: int) -> list[str]:
    """What the source models are called.

    >>> source_names(4)
    ['first', 'second', 'third', '4th']
    """
    return [*("first", "second", "third")[:count], *(f"{place}th" for place in range(4, count + 1))]
