"""From maps to a finished network: the one place that decides what a merge of some models is.

Models of one task become one network of all layers. Models of different tasks, and merges that stop below the
outputs, become a trunk with a head per model (docs/numerics.md, "Merging").
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import nn

from mergeline.heads import multi_head
from mergeline.maps import UnitMap
from mergeline.merging import checked_weights, merge_network
from mergeline.normalization import NORMALIZATIONS, Finished
from mergeline.preserving import preserve_first
from mergeline.spaces import Spaces
from mergeline.spaces.norms import layers_with_norms
from mergeline.unit_statistics import LayerStatistics

__all__ = ["assemble", "check_maps", "check_normalization", "is_whole", "normalise"]


def is_whole(same_outputs: bool, stop: str | None) -> bool:
    """Whether a merge is one network of all layers: the outputs mean the same, and it does not stop below them."""
    return same_outputs and stop is None


def assemble(
    models: Mapping[str, nn.Module],
    spaces: Spaces,
    maps: Sequence[Mapping[str, UnitMap]],
    *,
    same_outputs: bool,
    stop: str | None = None,
    weights: Sequence[float] | None = None,
    preserve: int = 0,
    reference: nn.Module | None = None,
) -> nn.Module:
    """The merged network, in eval mode, its statistics as merged.

    Parameters
    ----------
    models: by head, of one topology up to their outputs.
    maps: each model's maps by space.
    same_outputs: the models' outputs mean the same (one task).
    stop: the last space that is merged (see :func:`mergeline.merging.cut`); all that there are by default.
    weights: each model's weight; uniform by default.
    preserve: how many of the first layers each model keeps (:mod:`mergeline.preserving`).
    reference: a network of the merged widths, whose layers are copied; the first model by default.
    """
    networks = list(models.values())
    reference = networks[0] if reference is None else reference
    if preserve:
        whole = is_whole(same_outputs, stop)
        return preserve_first(models, spaces, preserve, maps, weights, stop, whole, reference)
    if is_whole(same_outputs, stop):
        states = [model.state_dict() for model in networks]
        return merge_network(deepcopy(reference), spaces, states, maps, weights)
    return multi_head(models, spaces, maps, weights, stop, reference=reference)


def check_maps(spaces: Spaces, maps: Sequence[Mapping[str, UnitMap]], method: str) -> None:
    """Refuse maps that the network does not allow, before anything is made of them.

    Raises
    ------
    ValueError: a map other than a permutation of units that the network compares with each other; or of units of a batch
        norm that cannot be folded into a layer, with a normalisation that does not set its statistics.
    """
    foldable = {norm.running_var for norm in layers_with_norms(spaces.graph)}
    alone = {
        space
        for name, entries in spaces.tensors.items()
        if name.endswith("running_var") and name not in foldable
        for space, _ in entries
    }
    for own in maps:
        for name, unit_map in own.items():
            if unit_map.is_permutation:
                continue
            if spaces[name].compared:
                raise ValueError(
                    f"space {name!r} is compared across its units by {spaces[name].compared}, which no map but a permutation "
                    "commutes with; choose permute, weight, zip of two models or transport without regularization"
                )
            if name in alone and not NORMALIZATIONS[method].sets_statistics:
                raise ValueError(
                    f"space {name!r} is merged by a map that is no permutation, which leaves without meaning the variances of "
                    f"a batch norm that no layer stands before, and normalisation {method!r} does not set them; choose reset"
                )


def check_normalization(method: str, reference: nn.Module, spaces: Spaces | None = None) -> None:
    """Refuse a normalisation that does not fit a network, before any work.

    ``spaces``: the network's, once it is traced; without them only what needs no trace is found.

    Raises
    ------
    ValueError: an unknown method, one that would do nothing to the network, or one that cannot be done to it.
    """
    if method not in NORMALIZATIONS:
        raise ValueError(f"unknown normalisation {method!r}; known: {', '.join(NORMALIZATIONS)}")
    normalizer = NORMALIZATIONS[method]
    if normalizer.idle is not None and (reason := normalizer.idle(reference)):
        raise ValueError(f"normalisation {method!r} would do nothing: {reason}")
    if spaces is not None and normalizer.refusal is not None and (reason := normalizer.refusal(reference, spaces)):
        raise ValueError(f"normalisation {method!r} cannot be done: {reason}")


@torch.no_grad()
def normalise(
    network: nn.Module,
    method: str,
    options: Any = None,
    *,
    models: Mapping[str, nn.Module],
    spaces: Spaces,
    maps: Sequence[Mapping[str, UnitMap]],
    weights: Sequence[float] | None = None,
    mixed: Iterable[Any] = (),
    own: Mapping[str, Iterable[Any]] | None = None,
    statistics: Sequence[Mapping[str, LayerStatistics]] = (),
) -> nn.Module:
    """Set the statistics of an assembled network right, in place.

    Parameters
    ----------
    method, options: a name in :data:`mergeline.normalization.NORMALIZATIONS`, and its options; its defaults if None.
    models, spaces, maps, weights: what the network was assembled from.
    mixed: batches of inputs that hold all tasks, which can be read more than once.
    own: those of each head's task; ``mixed`` by default.
    statistics: of each model by head, its layers' statistics on that head's images, for a normalisation that compares with
        them; it takes them itself, in one pass of each model, where none are given.

    Raises
    ------
    ValueError: unknown method, or one that reads images is given none.
    """
    if method not in NORMALIZATIONS:
        raise ValueError(f"unknown normalisation {method!r}; known: {', '.join(NORMALIZATIONS)}")
    normalizer = NORMALIZATIONS[method]
    if normalizer.reads_images and next(iter(mixed), None) is None:
        raise ValueError(f"normalisation {method!r} needs images, and there are none")
    own = dict.fromkeys(models, mixed) if own is None else own
    finished = Finished(
        network,
        models,
        spaces,
        maps,
        checked_weights(weights, len(models)),
        mixed,
        own,
        statistics,
    )
    normalizer.run(finished, normalizer.options() if options is None else options)
    return network.eval()
