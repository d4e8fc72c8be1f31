"""Who may use the benchmark's own Prefect server: who knows a secret that lies in a file for its user's eyes alone.

A server on this machine can be reached by all of its users, and by pages in their browsers. Without a secret they could post a
flow run, and so run code.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from pathlib import Path

from stages.errors import InputError
from stages.plan import paths

__all__ = ["ROOT_VARIABLE", "refuse_other_folder", "secret_file", "secret_of"]

ROOT_VARIABLE = "MERGELINE_ROOT"
"""The benchmark that a scheduled flow belongs to; it accepts no other."""


def secret_file(root: Path) -> Path:
    """Where the secret lies, as ``user:password``."""
    return root / paths.PREFECT_AUTH


def secret_of(root: Path) -> str:
    """The secret of the benchmark's own server; made where there is none that nobody else can read.

    Raises
    ------
    InputError: it can be neither read nor made; names the file.
    """
    path = secret_file(root)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return _read(path) or _make(path)
    except OSError as error:
        raise InputError(
            f"{path}, the secret of the Prefect server, cannot be had: {error.strerror}; run without a record: mergeline run "
            "--no-prefect"
        ) from error


def _read(path: Path) -> str | None:
    """The secret; None where there is none, or others may know it."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError:
        if path.is_symlink():
            return None
        raise
    with os.fdopen(handle, encoding="utf-8") as stream:
        status = os.fstat(handle)
        own = stat.S_ISREG(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o077
        text = stream.read().strip() if own else ""
    return text if ":" in text and len(text) > 32 else None


def _make(path: Path) -> str:
    made = f"mergeline:{secrets.token_urlsafe(32)}"
    fresh = path.with_name(f"{path.name}.{os.getpid()}")
    fresh.unlink(missing_ok=True)
    handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as stream:
        stream.write(made + "\n")
    with contextlib.suppress(FileNotFoundError):
        if path.is_symlink() or _read(path) is None:
            path.unlink()
    try:
        os.link(fresh, path)  # of two that start at once, one makes it
    except FileExistsError:
        made = _read(path) or made
    finally:
        fresh.unlink()
    return made


def refuse_other_folder(root: Path) -> None:
    """Refuse a benchmark that is not the one which a scheduled flow was started for.

    Raises
    ------
    InputError: it is another one; names both.
    """
    served = os.environ.get(ROOT_VARIABLE)
    if served and Path(served).resolve() != root.resolve():
        raise InputError(
            f"{root} is not the benchmark that is refreshed here, {served}; serve it by itself: mergeline serve"
        )
