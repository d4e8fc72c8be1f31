"""Where a tensor of a merged network comes from: which part of it, and what the source models call it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from mergeline.heads import MultiHead, OneHead
from mergeline.preserving import PreserveFirst

__all__ = ["Origin", "origin"]


@dataclass(frozen=True)
class Origin:
    """``tensor``: its name in the source models. ``part``: "merged", "stem" or "head" (then it is one model's own)."""

    tensor: str
    part: str = "merged"


def origin(network: nn.Module, name: str) -> Origin:
    """Of a tensor of a merged network, plain or of parts."""
    first, _, rest = name.partition(".")
    if isinstance(network, PreserveFirst):
        if first == "stems":
            return Origin(rest.partition(".")[2], "stem")
        return origin(network.rest, rest)
    if isinstance(network, MultiHead):
        return Origin(rest) if first == "trunk" else Origin(rest.partition(".")[2], "head")
    if isinstance(network, OneHead):
        return Origin(rest, "merged" if first == "trunk" else "head")
    return Origin(name)
