"""How checkpoints are named: a file, or ``FILE#PART`` for one of several networks in it; to be had without torch."""

from __future__ import annotations

from pathlib import Path

__all__ = ["split_part"]


def split_part(place: str | Path) -> tuple[Path, str | None]:
    """The file, and the part of it that is meant, of ``FILE`` or ``FILE#PART``."""
    file, mark, part = str(place).rpartition("#")
    return (Path(file), part) if mark and file else (Path(place), None)
