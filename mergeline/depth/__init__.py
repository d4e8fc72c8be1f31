"""Depth: which block of a shallow network stands where in a deep topology, behind one registry.

A new placement is one file with a :class:`Placer` and one line here. :mod:`mergeline.depth.expansion` expands networks.
"""

from __future__ import annotations

from mergeline.depth.append import APPEND, place_append
from mergeline.depth.placer import Placement, Placer
from mergeline.registry import Registry

__all__ = ["PLACEMENTS", "Placement", "Placer", "place_append"]

PLACEMENTS: Registry[Placer] = Registry("placement", "mergeline.placements", Placer, (APPEND,))
