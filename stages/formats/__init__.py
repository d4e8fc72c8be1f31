"""The formats of the files between stages, a module each: prepared tasks, models, merged models, moments, maps, predictions.

Each file says what it is and which version of its format it has; no file holds a time or a path, so that the same inputs
give the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stages.errors import StageError

__all__ = ["FORMAT", "KEY", "check_format"]

FORMAT = 1
KEY = "mergeline"
"""The one metadata key of a safetensors file (more than one would be written in a random order)."""


def check_format(path: Path, description: Mapping[str, Any]) -> None:
    if description.get("format") != FORMAT:
        raise StageError(
            f"{path} has format {description.get('format')}, this version reads format {FORMAT}; make it again: "
            "mergeline run"
        )
