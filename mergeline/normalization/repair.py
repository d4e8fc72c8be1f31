"""``repair``: every layer's output before its activation gets the mean and deviation that the aligned source models have
(vanishing_feature Eq. 1, Algorithm 2).

Where a batch norm follows a layer, it is set: its running statistics anew, its weight and bias to the goal. Elsewhere the layer's
own weight and bias are rewritten, so that the network stays the architecture that it is; a layer without a bias gets one.
"""

from __future__ import annotations

from mergeline.normalization.towards_sources import towards_sources

__all__ = ["REPAIR"]

REPAIR = towards_sources(
    "repair", "means and deviations of every layer's output as the aligned source models have them", shift=True
)
