"""What ``repair`` and ``rescale`` share: a normalisation of every layer's output towards the aligned source models'."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mergeline.normalization.idle import without_layers
from mergeline.normalization.normalizer import Finished, Normalizer

if TYPE_CHECKING:
    from torch import nn

    from mergeline.spaces import Spaces

__all__ = ["SequentialOptions", "towards_sources"]


@dataclass(frozen=True)
class SequentialOptions:
    """``sequential``: read the images once for every layer, with one batch in memory, instead of once with all of them."""

    sequential: bool = False


def towards_sources(name: str, summary: str, *, shift: bool) -> Normalizer:
    """A normalisation that scales outputs, and, with ``shift``, sets their means (vanishing_feature Eq. 1)."""

    def run(finished: Finished, options: SequentialOptions) -> None:
        from mergeline.normalization.restoring import restore

        restore(finished, shift, options.sequential)

    def refusal(network: nn.Module, spaces: Spaces) -> str:
        from mergeline.normalization.rewriting import refusal

        return refusal(network, spaces.recording, shift)

    return Normalizer(
        name,
        summary,
        SequentialOptions,
        run,
        sets_statistics=shift,
        compares=True,
        idle=without_layers,
        refusal=refusal,
    )
