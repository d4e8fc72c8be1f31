"""``rescale``: REPAIR without its shift, so that no offset that is independent of the input comes back (vanishing_feature
Sec. 5.3): ``x / sigma * sigma_goal``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mergeline.normalization.normalizer import Finished, Normalizer
from mergeline.normalization.repair import has_layers

if TYPE_CHECKING:
    from torch import nn

    from mergeline.spaces import Spaces

__all__ = ["RESCALE", "RescaleOptions"]


@dataclass(frozen=True)
class RescaleOptions:
    """``sequential``: read the images once for every layer, with one batch in memory, instead of once with all of them."""

    sequential: bool = False


def _run(finished: Finished, options: RescaleOptions) -> None:
    from mergeline.normalization.restoring import restore

    restore(finished, shift=False, sequential=options.sequential)


def _refusal(network: nn.Module, spaces: Spaces) -> str:
    from mergeline.normalization.rewriting import refusal

    return refusal(network, spaces.recording, shift=False)


RESCALE = Normalizer(
    "rescale",
    "deviations of every layer's output as the aligned source models have them; means follow",
    RescaleOptions,
    _run,
    compares=True,
    idle=has_layers,
    refusal=_refusal,
)
