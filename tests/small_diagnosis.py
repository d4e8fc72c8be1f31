"""Made-up diagnoses: features that vanish by a known factor from layer to layer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from mergeline.readings import MERGED, Reading, source_names
from stages.plan.keys import Merge

LAYERS = ("conv1.weight", "layer1.0.conv1.weight", "layer2.0.conv1.weight", "fc.weight")
KEPT = {"identity": 0.5, "permute": 0.8}
"""What each layer keeps of the features of the one before it, by method."""


def diagnosis(merge: Merge) -> Iterator[dict[str, Any]]:
    """The rows of one merge, in each of its tasks."""
    names = source_names(len(merge.edges))
    kept = KEPT[merge.method.name] if merge.normalize.name == "reset" else 0.98
    for scope in merge.sources.tasks:
        for reading in [*_scales(names, kept), *_norms(names), *_similarities(names, kept)]:
            yield {**reading._asdict(), "scope": scope}


def _part(network: str) -> str:
    return "source" if network not in (MERGED, "before") else "merged"


def _scales(names: list[str], kept: float) -> Iterator[Reading]:
    for place, layer in enumerate(LAYERS):
        share = kept ** (place + 1)
        for name in (MERGED, *names):
            own = share if name == MERGED else 1.0
            for quantity, value in (
                ("features", 9 * own),
                ("variance", 4 * own**2),
                ("weight", 0.1 * own**0.2),
                ("bias", 0.0),
            ):
                yield Reading(quantity, name, layer, _part(name), place, value)
        yield Reading("relative", MERGED, layer, "merged", place, share)
        yield Reading("bound", MERGED, layer, "merged", place, share)


def _norms(names: list[str]) -> Iterator[Reading]:
    for place, layer in enumerate(("bn1", "layer1.0.bn1", "layer2.0.bn1")):
        for name in (MERGED, "before", *names):
            yield Reading("running_mean", name, layer, _part(name), place, 0.5)
            yield Reading(
                "running_variance", name, layer, _part(name), place, 2.0 if name == "before" else 1 / (place + 1)
            )


def _similarities(names: list[str], kept: float) -> Iterator[Reading]:
    for first, second in ((MERGED, names[0]), (MERGED, names[1]), (names[0], names[1])):
        for i, layer in enumerate(LAYERS):
            for j, other in enumerate(LAYERS):
                value = float(np.exp(-abs(i - j))) * (kept if first == MERGED else 0.6)
                yield Reading("cka", first, layer, _part(first), i, value, second, other, j)
