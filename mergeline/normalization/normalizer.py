"""What a normalisation gets and what it does."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # so that the registry can be read without torch
    from torch import nn

    from mergeline.maps import UnitMap
    from mergeline.spaces import Spaces
    from mergeline.unit_statistics import LayerStatistics

__all__ = ["Finished", "Normalizer"]


@dataclass(frozen=True)
class Finished:
    """A merged network with what it was made from.

    ``network``: one network, or a trunk with a head per model (:class:`mergeline.merging.MultiHead`). ``sources``: the
    models by head, of one topology. ``maps``, ``weights``: each model's. ``mixed``: batches of normalised images that
    hold all tasks; ``own``: each head's own task's. ``statistics``: of each source model, in the order of ``sources``, its
    layers' statistics on each different set of images, by the first head that has it, where the normalisation reads them.
    """

    network: nn.Module
    sources: Mapping[str, nn.Module]
    spaces: Spaces
    maps: Sequence[Mapping[str, UnitMap]]
    weights: Sequence[float]
    mixed: Iterable[Any]
    own: Mapping[str, Iterable[Any]]
    statistics: Sequence[Mapping[str, LayerStatistics]] = ()


@dataclass(frozen=True)
class Normalizer:
    """A registered way to set a merged network's statistics right.

    ``options``: a frozen dataclass; its fields are the keys that params.yaml may set. ``run`` changes the network in
    place. ``reads_images``: whether it looks at images. ``sets_statistics``: whether batch norms have sound running
    statistics afterwards, whatever they had before. ``compares``: whether it reads the source models' statistics by
    layer. ``needs_batch_norms``: whether it does nothing without any. ``idle``: why it would do nothing to a network;
    empty where it does something. ``refusal``: why it cannot be done to a traced network, known before anything is
    matched; empty where it can.
    """

    name: str
    summary: str
    options: type
    run: Callable[[Finished, Any], None]
    reads_images: bool = True
    sets_statistics: bool = False
    compares: bool = False
    needs_batch_norms: bool = False
    idle: Callable[[nn.Module], str] | None = None
    refusal: Callable[[nn.Module, Spaces], str] | None = None

    @property
    def restores(self) -> bool:
        """Whether it brings back statistics that a network had, whatever took them: merging or pruning."""
        return self.compares or self.sets_statistics
