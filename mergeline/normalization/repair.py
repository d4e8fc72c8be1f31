"""``repair``: every layer's output before its activation gets the mean and deviation that the aligned source models have
(vanishing_feature Eq. 1, Algorithm 2).

Where a batch norm follows a layer, it is set: its running statistics anew, its weight and bias to the goal. Elsewhere the layer's
own weight and bias are rewritten, so that the network stays the architecture that it is; a layer without a bias gets one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mergeline.normalization.normalizer import Finished, Normalizer

if TYPE_CHECKING:
    from torch import nn

    from mergeline.spaces import Spaces

__all__ = ["REPAIR", "RepairOptions", "has_layers"]


@dataclass(frozen=True)
class RepairOptions:
    """``sequential``: read the images once for every layer, with one batch in memory, instead of once with all of them."""

    sequential: bool = False


def _run(finished: Finished, options: RepairOptions) -> None:
    from mergeline.normalization.restoring import restore

    restore(finished, shift=True, sequential=options.sequential)


def has_layers(network: nn.Module) -> str:
    """Why there is nothing to set right; empty where there is."""
    matrices = any(parameter.dim() > 1 for parameter in network.parameters())
    return "" if matrices else "the network has no convolution and no linear map; choose none"


def _refusal(network: nn.Module, spaces: Spaces) -> str:
    from mergeline.normalization.rewriting import refusal

    return refusal(network, spaces.recording, shift=True)


REPAIR = Normalizer(
    "repair",
    "means and deviations of every layer's output as the aligned source models have them",
    RepairOptions,
    _run,
    sets_statistics=True,
    compares=True,
    idle=has_layers,
    refusal=_refusal,
)
