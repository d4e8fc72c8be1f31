"""Writing files so that no partial one is ever seen, and naming what they hold."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stages.errors import StageError
from stages.plan import paths

__all__ = ["file_hash", "json_text", "read_json", "root_of", "write_json", "writing"]


def root_of() -> Path:
    """The benchmark's root: the working directory, which must hold ``params.yaml``."""
    root = Path.cwd()
    if not (root / paths.PARAMS).is_file():
        raise StageError(f"{root} holds no {paths.PARAMS}; run this in a benchmark's root folder")
    return root


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """A temporary path to write to; it takes ``path``'s place when the block ends well, and is removed otherwise."""
    scratch = Path.cwd() / paths.SCRATCH / "tmp"
    scratch.mkdir(parents=True, exist_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = scratch / f"{os.getpid()}-{path.name}"
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, values: Any) -> None:
    """Values as readable JSON with a stable order; NaN is an error."""
    text = json_text(values)
    with writing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def json_text(values: Any) -> str:
    """The text that :func:`write_json` writes."""
    return json.dumps(values, indent=2, allow_nan=False) + "\n"


def read_json(path: Path) -> Any:
    """The values of a JSON file.

    Raises
    ------
    StageError: missing or damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise StageError(f"{path} is missing; run the stage that makes it: mergeline run") from None
    except ValueError as error:
        raise StageError(f"{path} is damaged ({error}); delete it and run again: mergeline run") from error


def file_hash(path: Path) -> str:
    """sha256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
