"""What samples and their labels can be: known without torch, so that a benchmark can be checked at once."""

from __future__ import annotations

from typing import Literal

__all__ = ["UNLABELLED", "Kind", "Target"]

Kind = Literal["images", "texts"]
"""What a task's samples are, and what a network reads."""
Target = Literal["classes", "pixels"]
"""What is told of a sample: its class, or the class of each of its pixels."""

UNLABELLED = -1
"""The label of a pixel that counts for nothing."""
