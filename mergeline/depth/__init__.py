"""Depth: which block of a shallow network stands where in a deep topology, behind one registry.

A new placement is one file with a :class:`Placer` and one line here. :mod:`mergeline.depth.expansion` expands networks.
"""

from __future__ import annotations

from mergeline.depth.append import APPEND, place_append
from mergeline.depth.placer import Depths, Placement, Placer
from mergeline.depth.segments import LMA, SMA, place_lma, place_sma
from mergeline.depth.spread import SPREAD, place_spread
from mergeline.registry import Registry

__all__ = [
    "PLACEMENTS",
    "Depths",
    "Placement",
    "Placer",
    "place_append",
    "place_lma",
    "place_sma",
    "place_spread",
]

PLACEMENTS: Registry[Placer] = Registry("placement", "mergeline.placements", Placer, (APPEND, SPREAD, SMA, LMA))
