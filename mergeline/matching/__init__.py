"""Ways to match the units of several models, behind one registry.

A new method is one file with a :class:`Matcher` and one line here.
"""

from __future__ import annotations

from mergeline.matching.cca import CCA
from mergeline.matching.dual import DUAL_PERMUTE, DUAL_ZIP
from mergeline.matching.identity import IDENTITY
from mergeline.matching.permute import PERMUTE
from mergeline.matching.problem import Matcher, Matching, Problem, per_space
from mergeline.matching.random import RANDOM
from mergeline.matching.transport import TRANSPORT
from mergeline.matching.weight import WEIGHT
from mergeline.matching.zip import ZIP
from mergeline.registry import Registry

__all__ = ["MATCHERS", "Matcher", "Matching", "Problem", "per_space"]

MATCHERS: Registry[Matcher] = Registry(
    "method",
    "mergeline.methods",
    Matcher,
    (IDENTITY, PERMUTE, RANDOM, ZIP, WEIGHT, DUAL_PERMUTE, DUAL_ZIP, CCA, TRANSPORT),
)
