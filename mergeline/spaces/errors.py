"""The error of everything that has to do with spaces."""

from __future__ import annotations

__all__ = ["SpaceError"]


class SpaceError(ValueError):
    """A model cannot be traced into spaces, or its spaces are wrong."""
