"""Files that come with mergeline: profiles, the report's template, a benchmark's pipeline. A local copy stands before them."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

__all__ = ["local_or_packaged", "packaged"]

INSTALLED = Path(__file__).resolve().parents[1] / "packaged"
"""Where an installed package has them."""
CHECKOUT = Path(__file__).resolve().parents[2]


def packaged(name: PurePosixPath) -> Path:
    """The file or folder that came with mergeline."""
    return INSTALLED / name if INSTALLED.is_dir() else CHECKOUT / name


def local_or_packaged(root: Path, name: PurePosixPath) -> Path:
    """The benchmark's own, if it has one, or else the one that came with mergeline."""
    return root / name if (root / name).exists() else packaged(name)
