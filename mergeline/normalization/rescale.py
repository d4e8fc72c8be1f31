"""``rescale``: REPAIR without its shift, so that no offset that is independent of the input comes back (vanishing_feature
Sec. 5.3): ``x / sigma * sigma_goal``."""

from __future__ import annotations

from mergeline.normalization.towards_sources import towards_sources

__all__ = ["RESCALE"]

RESCALE = towards_sources(
    "rescale", "deviations of every layer's output as the aligned source models have them; means follow", shift=False
)
