"""REPAIR and RESCALE of a merged network of any form, from its source models' statistics (vanishing_feature Eq. 1, A.3)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import nn

from mergeline.heads import MultiHead
from mergeline.normalization.normalizer import Finished
from mergeline.normalization.rewriting import rewrite, with_biases
from mergeline.normalization.targets import Goal, goals, pooled, targets
from mergeline.origins import origin
from mergeline.preserving import PreserveFirst
from mergeline.sources import first_samples
from mergeline.spaces.recording import record

__all__ = ["image_sets", "restore"]


def image_sets(own: Mapping[str, Iterable[Any]]) -> dict[str, Iterable[Any]]:
    """The different sets of images among those of heads, each under the first head that has it."""
    first: dict[int, str] = {}
    for head, batches in own.items():
        first.setdefault(id(batches), head)
    return {head: own[head] for head in first.values()}


def restore(finished: Finished, shift: bool, sequential: bool) -> None:
    """Give every merged layer its goals on images of all tasks, then the layers of each head on its own task's.

    Layers that preserve-first merging keeps read their own model's features, and stay as they are.

    Parameters
    ----------
    shift: set means, too (REPAIR); without, outputs are scaled only (RESCALE).
    sequential: see :func:`mergeline.normalization.rewriting.rewrite`.
    """
    sets = list(image_sets(finished.own))
    whole = [pooled([by_head[head] for head in sets]) for by_head in finished.statistics]
    merged = goals(finished.spaces, whole, finished.maps, finished.weights)
    network = finished.network
    _restore_part(network, "merged", merged, finished.mixed, shift, sequential)
    headed = network.rest if isinstance(network, PreserveFirst) else network
    if not isinstance(headed, MultiHead):
        return
    for index, head in enumerate(headed.names):
        by_head = finished.statistics[index]
        own = goals(finished.spaces, [by_head[head] if head in by_head else by_head[sets[0]]], [{}], (1.0,))
        alone: Callable[[str], nn.Module] = network.alone  # type: ignore[assignment]
        _restore_part(alone(head), "head", own, finished.own[head], shift, sequential)


def _restore_part(
    network: nn.Module, part: str, known: Mapping[str, Goal], batches: Iterable[Any], shift: bool, sequential: bool
) -> None:
    example = first_samples(next(iter(batches)), 2)
    wanted = {}
    for target in targets(record(network, example)):
        found = origin(network, target.name)
        if found.part == part:
            wanted[target.name] = known[found.tensor]
    if not wanted:
        return
    recording = with_biases(network, wanted if shift else (), example)
    rewrite(network, recording, wanted, batches, shift, sequential)
