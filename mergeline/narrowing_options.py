"""The options of the methods that :mod:`mergeline.narrowing` has, without torch, so that a plan can be checked at once."""

from __future__ import annotations

from dataclasses import dataclass

from mergeline.matching.zip import ZipOptions

__all__ = ["OPTIONS", "JoinOptions", "KeepOptions"]


@dataclass(frozen=True)
class JoinOptions:
    """``alpha``: factor of a joined unit's correlations, in (0, 1], as for ``zip`` of several models."""

    alpha: float = 0.3

    def __post_init__(self) -> None:
        ZipOptions(self.alpha)


@dataclass(frozen=True)
class KeepOptions:
    """Keeping some units has no options."""


OPTIONS: dict[str, type] = {"zip": JoinOptions, "largest": KeepOptions, "random": KeepOptions}
"""By method, the class of its options."""
