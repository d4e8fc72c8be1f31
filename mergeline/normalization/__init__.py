"""Statistics after merging, behind one registry (vanishing_feature Sec. 2, 5.3, A.3).

A new normalisation is one file with a :class:`Normalizer` and one line here.
"""

from __future__ import annotations

from mergeline.normalization.bias_calibration import BIAS_CALIBRATION
from mergeline.normalization.bias_removal import BIAS_REMOVAL
from mergeline.normalization.none import NONE
from mergeline.normalization.normalizer import Finished, Normalizer
from mergeline.normalization.repair import REPAIR
from mergeline.normalization.rescale import RESCALE
from mergeline.normalization.reset import RESET
from mergeline.registry import Registry

__all__ = ["NORMALIZATIONS", "Finished", "Normalizer"]

NORMALIZATIONS: Registry[Normalizer] = Registry(
    "normalisation",
    "mergeline.normalizations",
    Normalizer,
    (NONE, RESET, REPAIR, RESCALE, BIAS_REMOVAL, BIAS_CALIBRATION),
)
