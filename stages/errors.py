"""Errors with a message for the person who runs a benchmark."""

from __future__ import annotations

import errno

__all__ = ["PASSING", "InputError", "StageError"]

PASSING = (errno.EIO, errno.ENOMEM, errno.EAGAIN, errno.ETIMEDOUT, errno.ESTALE, errno.ENFILE, errno.EMFILE)
"""System errors after which the same command may succeed later."""


class InputError(ValueError):
    """Input that its user can mend: parameters, names, data; nothing was done yet (exit code 2)."""


class StageError(Exception):
    """A stage cannot do its work for a reason that its user can mend; the message names the file and the fix."""
