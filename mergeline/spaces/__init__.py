"""Spaces of interchangeable units: derived from the network itself, checked against it, and walked through.

:func:`trace` finds them, :func:`verify` proves them; everything else (moments, matching, merging, cutting) is driven by
the result.
"""

from __future__ import annotations

from mergeline.spaces.errors import SpaceError
from mergeline.spaces.permuting import permute_state, random_permutation, random_permutations
from mergeline.spaces.space import (
    Axis,
    Observation,
    Places,
    Space,
    Spaces,
    put,
    seen_at,
    spread,
    take,
    transferred,
    unspread,
)
from mergeline.spaces.tracing import trace
from mergeline.spaces.verifying import verify
from mergeline.spaces.walking import Walk

__all__ = [
    "Axis",
    "Observation",
    "Places",
    "Space",
    "SpaceError",
    "Spaces",
    "Walk",
    "permute_state",
    "put",
    "random_permutation",
    "random_permutations",
    "seen_at",
    "spread",
    "take",
    "trace",
    "transferred",
    "unspread",
    "verify",
]
