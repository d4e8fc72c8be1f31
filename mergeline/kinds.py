"""What samples can be: known without torch, so that a benchmark can be checked at once."""

from __future__ import annotations

from typing import Literal

__all__ = ["Kind"]

Kind = Literal["images", "texts"]
"""What a task's samples are, and what a network reads."""
