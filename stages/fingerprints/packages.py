"""Which installed package a file belongs to, and its version."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.metadata import distribution, packages_distributions
from pathlib import PurePath

__all__ = ["package_of"]

SITES = ("site-packages", "dist-packages")


def package_of(path: str) -> tuple[str, str]:
    """Name and version; both empty where the file is of none."""
    parts = PurePath(path).parts
    site = next((index for index in range(len(parts) - 1, 0, -1) if parts[index] in SITES), None)
    if site is None or site + 2 > len(parts):
        return "", ""
    inside = PurePath(*parts[site + 1 :])
    for name in dict.fromkeys(_packages().get(inside.parts[0], [])):  # several share a namespace
        found = distribution(name)
        if any(PurePath(str(file)) == inside for file in found.files or []):
            return found.metadata["Name"], found.version
    return "", ""


@cache
def _packages() -> Mapping[str, list[str]]:
    """The packages that have a module of some name; finding out takes a while."""
    return packages_distributions()
