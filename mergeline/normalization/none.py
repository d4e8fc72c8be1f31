"""``none``: statistics as they were merged."""

from __future__ import annotations

from dataclasses import dataclass

from mergeline.normalization.normalizer import Finished, Normalizer

__all__ = ["NONE", "NoneOptions"]


@dataclass(frozen=True)
class NoneOptions:
    """``none`` has no options."""


def _run(finished: Finished, options: NoneOptions) -> None:
    """Nothing is done."""


NONE = Normalizer("none", "statistics as merged", NoneOptions, _run, reads_images=False)
