"""Reading files with errors that name the fix, writing them so that no partial one is ever seen, naming their content."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from stages.errors import PASSING, StageError
from stages.plan import paths

__all__ = ["file_hash", "json_text", "read_json", "reading", "root_of", "write_bytes", "write_json", "writing"]

UNREADABLE = (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile)
"""What readers of JSON, npz, Parquet (ArrowInvalid is a ValueError) and safetensors raise for a damaged file."""


_numbers = count()
_mask = os.umask(0)
os.umask(_mask)
MODE = 0o666 & ~_mask
"""What new files may be used for, as the user has set it; some libraries make theirs readable by their owner alone."""


def root_of() -> Path:
    """The benchmark's root: the working directory, which must hold ``params.yaml``."""
    root = Path.cwd()
    if not (root / paths.PARAMS).is_file():
        raise StageError(f"{root} holds no {paths.PARAMS}; run this in a benchmark's root folder")
    return root


@contextmanager
def reading(path: Path, stage: str = "") -> Iterator[None]:
    """A block that reads ``path``, which ``stage`` makes.

    Raises
    ------
    StageError: missing, damaged or unreadable; names the file and what to do. What may pass (an I/O error, no memory) is
        raised as it is: the file may be good.
    """
    try:
        yield
    except FileNotFoundError:
        raise StageError(f"{path} is missing; make it: {' '.join(('mergeline run', stage)).strip()}") from None
    except UNREADABLE as error:
        number = error.errno if isinstance(error, OSError) else None
        if number in PASSING:
            raise
        if number is not None:
            raise StageError(f"{path} cannot be read: {os.strerror(number)}") from error
        how = f"make it again: mergeline run --force {stage}" if stage else "delete it and run again: mergeline run"
        raise StageError(f"{path} is damaged ({error}); {how}") from error


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """A temporary path to write to; it takes ``path``'s place when the block ends well, and is removed otherwise.

    Inside a benchmark it lies in the scratch folder (a folder of results may be read at any time), elsewhere, and where
    that is another disk, beside ``path``.
    """
    root = next((parent for parent in path.absolute().parents if (parent / paths.PARAMS).is_file()), None)
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = path.parent
    if root is not None:
        scratch = root / paths.TEMPORARY
        scratch.mkdir(parents=True, exist_ok=True)
        folder = scratch if scratch.stat().st_dev == path.parent.stat().st_dev else folder
    temporary = folder / f".{os.getpid()}-{next(_numbers)}{path.suffix}.tmp"
    try:
        yield temporary
        temporary.chmod(MODE)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    """A whole file at once."""
    with writing(path) as temporary:
        temporary.write_bytes(data)


def write_json(path: Path, values: Any) -> None:
    """Values as readable JSON with a stable order; NaN is an error."""
    write_bytes(path, json_text(values).encode())


def json_text(values: Any) -> str:
    """The text that :func:`write_json` writes."""
    return json.dumps(values, indent=2, allow_nan=False) + "\n"


def read_json(path: Path) -> Any:
    """The values of a JSON file.

    Raises
    ------
    StageError: missing or damaged.
    """
    with reading(path):
        return json.loads(path.read_text(encoding="utf-8"))


def file_hash(path: Path) -> str:
    """sha256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
