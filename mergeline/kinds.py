"""What samples and their labels can be: known without torch, so that a benchmark can be checked at once."""

from __future__ import annotations

from typing import Literal

__all__ = ["OF_PIXELS", "UNLABELLED", "Kind", "Target"]

Kind = Literal["images", "texts"]
"""What a task's samples are, and what a network reads."""
Target = Literal["classes", "pixels", "values"]
"""What is told of a sample: its class, the class of each of its pixels, or a value of each of its pixels."""
OF_PIXELS: tuple[Target, ...] = ("pixels", "values")
"""The targets that have a label for each pixel: one benchmark may have both, and the same networks tell them."""

UNLABELLED = -1
"""The class of a pixel that counts for nothing; its value is NaN."""
