"""What the system refused, said to a person: which folder, why, and the way out."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import tempfile
from dataclasses import dataclass
from pathlib import Path

from flows.dvc.places import cache_folder
from stages.plan import paths

__all__ = ["Refused", "closed_folders", "explained", "full_folders", "who_may"]

FULL = (errno.ENOSPC, errno.EDQUOT)
CLOSED = (errno.EACCES, errno.EPERM, errno.EROFS)
UNFIT = {
    errno.ENOENT: "is missing, or a folder above it is",
    errno.ENOTDIR: "has a file above it where a folder should be",
    errno.EISDIR: "is a folder",
    errno.ELOOP: "is a link to itself",
}
"""What else makes a place unfit to be read or written."""
NEARLY_FULL = 1 << 20
DATABASES = "/var/tmp"
"""Where DVC has its databases unless it is told."""
SHOWN = 80
"""Characters of a name that is too long."""


@dataclass(frozen=True)
class Refused:
    """A message, and the exit code: 1 where the input is good, 2 where it must be changed."""

    text: str
    code: int


def explained(error: OSError | sqlite3.Error) -> Refused | None:
    """What to say of an error of the system; None for one that tells of a fault in the program."""
    if isinstance(error, sqlite3.Error):
        if "full" in str(error):
            return Refused(_full(None), 1)
        return Refused(f"a database cannot be written ({error}); mergeline doctor looks for the cause", 2)
    name = error.filename2 or error.filename
    name = os.fsdecode(name) if isinstance(name, str | bytes | os.PathLike) else None
    reason = os.strerror(error.errno) if error.errno else str(error)
    if error.errno in FULL:
        if name is None and not full_folders():
            return Refused("the output cannot be written: no space is left where it goes", 1)
        return Refused(_full(name), 1)
    if error.errno == errno.ENAMETOOLONG:
        short = "a name" if name is None else name if len(name) <= SHOWN else f"{name[:SHOWN]}..."
        return Refused(f"{short}: a file's name is too long for this file system; choose a shorter one", 2)
    if error.errno in CLOSED and name is not None:
        return Refused(f"{name} cannot be used: {reason}. {who_may(Path(name))}", 2)
    if error.errno in UNFIT and name is not None:
        return Refused(f"{name} {UNFIT[error.errno]}", 2)
    return None


def _full(name: str | None) -> str:
    places = full_folders() or ([Path(name).parent] if name else [Path.cwd()])
    found = ", ".join(f"{place} ({shutil.disk_usage(_there(place)).free >> 20} MiB free)" for place in places)
    return (
        f"the disk is full: {found}. Nothing is lost: free some space there (mergeline prune --dry-run shows what can go, dvc gc "
        "--workspace deletes results that are no longer current), then run again"
    )


def full_folders() -> list[Path]:
    """The folders that a benchmark writes to whose disk has no space left, each disk once."""
    root = _root()
    places = [
        root,
        cache_folder(root),
        Path(tempfile.gettempdir()),
        Path(os.environ.get("DVC_SITE_CACHE_DIR", DATABASES)),
    ]
    disks: dict[int, Path] = {}
    for place in places:
        there = _there(place)
        if shutil.disk_usage(there).free < NEARLY_FULL:
            disks.setdefault(there.stat().st_dev, place)
    return list(disks.values())


def closed_folders(root: Path) -> list[Path]:
    """The folders of a benchmark that are there and that this user may not write to."""
    own = (paths.SCRATCH, paths.LOGS, paths.ARTIFACTS, paths.PIPELINES, paths.REPORTS, paths.DVC)
    places = [root, *(root / place for place in own), cache_folder(root)]
    return [place for place in places if place.is_dir() and not os.access(place, os.W_OK)]


def _root() -> Path:
    here = Path.cwd()
    return next((folder for folder in (here, *here.parents) if (folder / paths.DVC).is_dir()), here)


def _there(place: Path) -> Path:
    """The nearest folder above a place that is there."""
    return next((folder for folder in (place, *place.parents) if folder.is_dir()), Path("/"))


def who_may(path: Path) -> str:
    """Why a place cannot be written to, and the way out."""
    there = _there(path.absolute())
    try:
        owner = there.owner()
    except (KeyError, OSError):
        owner = "another user"
    if os.statvfs(there).f_flag & os.ST_RDONLY:
        return f"{there} is on a file system that is mounted read-only: work in a copy of the folder, or mount it to be written"
    return f"{there} belongs to {owner}: work in a copy of the folder, or have its mode changed"
