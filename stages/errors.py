"""Errors with a message for the person who runs a benchmark."""

from __future__ import annotations

__all__ = ["InputError", "StageError"]


class InputError(ValueError):
    """Input that its user can mend: parameters, names, data; nothing was done yet (exit code 2)."""


class StageError(Exception):
    """A stage cannot do its work for a reason that its user can mend; the message names the file and the fix."""
