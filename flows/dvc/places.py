"""Where DVC keeps a benchmark's objects, found without opening DVC, and what to call a file that may lie anywhere."""

from __future__ import annotations

import configparser
import os
from pathlib import Path

from stages.plan import paths

__all__ = ["cache_folder", "run_cache_folder", "setting", "shown"]


def setting(root: Path, section: str, key: str, default: str) -> tuple[str, Path]:
    """A setting of DVC's and the folder of the file that has it; the local file over the shared one."""
    for place in (paths.DVC_LOCAL_CONFIG, paths.DVC_CONFIG):
        parser = configparser.ConfigParser(interpolation=None)
        try:
            parser.read(root / place, encoding="utf-8")
            value = parser.get(section, key, fallback="").strip("\"' ")
        except (configparser.Error, UnicodeDecodeError):
            continue  # DVC says what is wrong with it
        if value:
            return value, (root / place).parent
    return default, root / paths.DVC


def cache_folder(root: Path) -> Path:
    """Where DVC keeps its objects, which may be outside of the benchmark."""
    value, folder = setting(root, "cache", "dir", str(root / paths.DVC_CACHE))
    return folder / value


def run_cache_folder(root: Path) -> Path:
    """Where DVC notes what stages made of which inputs."""
    return cache_folder(root) / "runs"


def shown(path: Path, root: Path) -> str:
    """A file as it is called in messages: from the root where it lies below it, else in full."""
    return os.path.relpath(path, root) if path.is_relative_to(root) else str(path)
