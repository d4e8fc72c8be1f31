"""A merge's network as it is put together from its sources and their maps, before a normalisation."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from mergeline.heads import stop_space
from mergeline.maps import UnitMap
from mergeline.network import assemble
from mergeline.preserving import preserved_layers
from stages.context import Context
from stages.errors import StageError
from stages.formats.maps import read_maps
from stages.plan import paths
from stages.plan.keys import Merge
from stages.sources import LoadedSources, head_names

__all__ = ["Assembled", "assembled", "matched_maps"]


@dataclass(frozen=True)
class Assembled:
    """``models``: the sources by head. ``stop``: the last space that is merged; ``kept``: the first layers that are not."""

    network: nn.Module
    models: dict[str, nn.Module]
    stop: str | None
    kept: int


def matched_maps(context: Context, merge: Merge, loaded: LoadedSources) -> list[dict[str, UnitMap]]:
    """Each source's maps by space.

    Raises
    ------
    StageError: they were made from other models.
    """
    path = context.path(paths.match(merge.match))
    maps, description = read_maps(path)
    if description["models"] != loaded.hashes:
        raise StageError(f"{paths.match(merge.match)} was made from other models; run again: mergeline run")
    return maps


def assembled(merge: Merge, loaded: LoadedSources, maps: list[dict[str, UnitMap]]) -> Assembled:
    """The merged network, its statistics as merged."""
    models = dict(zip(head_names(merge.sources), loaded.models, strict=True))
    reference = loaded.reference
    stop = stop_space(reference, loaded.spaces, merge.stop)
    kept = preserved_layers(reference, loaded.spaces, merge.preserve)
    network = assemble(
        models, loaded.spaces, maps, same_outputs=loaded.same_outputs, stop=stop, weights=merge.weights, preserve=kept,
        reference=reference,
    )  # fmt: skip
    return Assembled(network, models, stop, kept)
