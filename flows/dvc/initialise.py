"""Setting DVC up in a new folder."""

from __future__ import annotations

import logging
from pathlib import Path

from dvc.repo import Repo

from stages.plan import paths

__all__ = ["CONFIG", "initialise"]

CONFIG = """[core]
    analytics = false
    check_update = false
    autostage = false
[cache]
    type = "reflink,copy"
"""
"""Nothing is sent anywhere; files are never linked to the cache, so that writing over one harms no result."""


def initialise(folder: Path, with_git: bool, below_git: bool) -> None:
    """Make ``.dvc`` in a folder; ``below_git``: whether a folder above it is the one that git keeps."""
    logger = logging.getLogger("dvc")
    level = logger.level
    logger.setLevel(logging.WARNING)  # no welcome, which says nothing of mergeline
    try:
        Repo.init(str(folder), no_scm=not with_git, subdir=with_git and below_git)
    finally:
        logger.setLevel(level)
    config = folder / paths.DVC_CONFIG
    scm = "" if with_git else "    no_scm = true\n"
    config.write_text(CONFIG.replace("[cache]", f"{scm}[cache]"), encoding="utf-8")
