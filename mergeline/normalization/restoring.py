"""REPAIR and RESCALE of a merged network of any form, from its source models' statistics (vanishing_feature Eq. 1, A.3)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from torch import nn

from mergeline.heads import MultiHead
from mergeline.normalization.normalizer import Finished
from mergeline.normalization.rewriting import rewrite
from mergeline.normalization.targets import Goal, goals, layer_statistics, targets
from mergeline.origins import Origin, origin
from mergeline.preserving import PreserveFirst
from mergeline.sources import first_samples
from mergeline.spaces import Spaces
from mergeline.spaces.recording import Recording, record
from mergeline.unit_statistics import LayerStatistics, pooled

__all__ = ["image_sets", "restore", "source_statistics"]


def image_sets(own: Mapping[str, Iterable[Any]]) -> dict[str, str]:
    """For each head, the first head that has the same images."""
    first: dict[int, str] = {}
    return {head: first.setdefault(id(batches), head) for head, batches in own.items()}


def source_statistics(
    models: Mapping[str, nn.Module], spaces: Spaces, own: Mapping[str, Iterable[Any]]
) -> list[dict[str, LayerStatistics]]:
    """Of each model, its layers' statistics on each different set of images among those of heads."""
    sets = image_sets(own)
    return [
        {head: layer_statistics(model, spaces.of(index), own[head]) for head in dict.fromkeys(sets.values())}
        for index, model in enumerate(models.values())
    ]


def restore(finished: Finished, shift: bool, sequential: bool) -> None:
    """Give every merged layer its goals on images of all tasks, then the layers of each head on its own task's.

    Layers that preserve-first merging keeps read their own model's features, and stay as they are.

    Parameters
    ----------
    shift: set means, too (REPAIR); without, outputs are scaled only (RESCALE).
    sequential: see :func:`mergeline.normalization.rewriting.rewrite`.
    """
    sets = image_sets(finished.own)
    statistics = finished.statistics or source_statistics(finished.sources, finished.spaces, finished.own)
    whole = [pooled([by_head[head] for head in dict.fromkeys(sets.values())]) for by_head in statistics]
    network, reference = finished.network, next(iter(finished.sources.values()))

    def of_all(names: Collection[str]) -> dict[str, Goal]:
        return goals(finished.spaces, whole, finished.maps, finished.weights, names)

    if type(network) is type(reference):  # as it was traced
        _restore_part(network, finished.spaces.recording, None, of_all, finished.mixed, shift, sequential)
        return
    _restore_part(network, _recorded(network, finished.mixed), "merged", of_all, finished.mixed, shift, sequential)
    headed = network.rest if isinstance(network, PreserveFirst) else network
    if not isinstance(headed, MultiHead):
        return
    for index, head in enumerate(headed.names):
        own = statistics[index][sets[head]]

        its = finished.spaces.of(index)

        def of_head(names: Collection[str], own: LayerStatistics = own, its: Spaces = its) -> dict[str, Goal]:
            return goals(its, [own], [{}], (1.0,), names)

        alone: Callable[[str], nn.Module] = network.alone  # type: ignore[assignment]
        single, images = alone(head), finished.own[head]
        _restore_part(single, _recorded(single, images), "head", of_head, images, shift, sequential)


def _recorded(network: nn.Module, batches: Iterable[Any]) -> Recording:
    return record(network, first_samples(next(iter(batches)), 2))


def _restore_part(
    network: nn.Module,
    recording: Recording,
    part: str | None,
    goals_of: Callable[[Collection[str]], Mapping[str, Goal]],
    batches: Iterable[Any],
    shift: bool,
    sequential: bool,
) -> None:
    """``part``: of the network, that is set right; None for a network that has no parts."""
    names = [target.name for target in targets(recording)]
    origins = {name: Origin(name) if part is None else origin(network, name) for name in names}
    source_names = {name: found.tensor for name, found in origins.items() if part in (None, found.part)}
    if not source_names:
        return
    known = goals_of(set(source_names.values()))
    rewrite(network, recording, {name: known[own] for name, own in source_names.items()}, batches, shift, sequential)
