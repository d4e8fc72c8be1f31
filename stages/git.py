"""What git says of a benchmark's folder."""

from __future__ import annotations

import subprocess
from pathlib import Path

__all__ = ["git_says"]

SECONDS = 60
"""After which git is taken for not answering."""


def git_says(root: Path, *arguments: str) -> str | None:
    """What ``git`` prints; None where it refuses, is not installed, or does not answer."""
    try:
        ended = subprocess.run(
            ["git", *arguments], cwd=root, capture_output=True, text=True, timeout=SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return ended.stdout if ended.returncode == 0 else None
