"""Spaces in which a model has no units but in name: the inside of an expanded network's identity blocks.

They correlate with nothing, and are no reason to join or to move the other models' units. The merged units are those of
the other models alone, so that of a merged block the residual branch is halved, and no more than that.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from mergeline.spaces import Spaces

__all__ = ["idle_spaces"]


def idle_spaces(spaces: Spaces, state: Mapping[str, Tensor]) -> frozenset[str]:
    """The free spaces all of whose units one model makes with weights of 0, by which nothing is ever seen of them."""
    found = set()
    for space in spaces.free:
        made = [axis for axis in space.outputs if not axis.tensor.endswith(("running_mean", "running_var"))]
        read = space.inputs
        if made and read and not any(bool(state[axis.tensor].any()) for axis in (*made, *read)):
            found.add(space.name)
    return frozenset(found)
