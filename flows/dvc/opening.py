"""Opening DVC's repository, with its databases put right where they are damaged.

They only save work (hashes of files by their stamps, listings of remotes). DVC ends with a traceback at a damaged one, whatever the
command.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc_data.hashfile import _progress

__all__ = ["damaged_databases", "open_repo", "set_databases_aside"]

ASIDE = ".damaged-"


class _Progress(_progress.QueryingProgress):
    """DVC's bar, which takes braces in the path of the cache for fields to be filled."""

    def __init__(
        self, iterable: Any = None, total: Any = None, name: str | None = None, phase: str = "Querying"
    ) -> None:
        super().__init__(iterable, total, name and name.replace("{", "{{").replace("}", "}}"), phase)


_progress.QueryingProgress = _Progress  # type: ignore[misc]


def open_repo(root: Path) -> Repo:
    """The repository; a damaged database is set aside, and DVC makes a new one.

    Raises
    ------
    DvcException, OSError, sqlite3.Error: DVC cannot open it.
    """
    repo, error = _opened(root)
    damaged = list(_damaged(repo)) if repo is not None else []
    if repo is not None and error is None:
        if not damaged:
            return repo
        repo.close()
    if not damaged and error is not None:
        raise error
    set_databases_aside(damaged)
    return Repo(str(root))


def damaged_databases(root: Path) -> list[Path]:
    """DVC's databases for a benchmark that cannot be read."""
    try:
        repo, error = _opened(root)
    except DvcException:
        return []  # for another reason, which is said elsewhere
    found = list(_damaged(repo)) if repo is not None else []
    if repo is not None and error is None:
        repo.close()
    return found


def set_databases_aside(databases: list[Path]) -> list[str]:
    """Move the folder of each (it holds nothing else) to a name beside it; the new names."""
    now = time.strftime("%Y%m%d-%H%M%S")
    return [
        str(shutil.move(path.parent, path.parent.with_name(f"{path.parent.name}{ASIDE}{now}-{os.getpid()}")))
        for path in databases
    ]


def _opened(root: Path) -> tuple[Repo | None, Exception | None]:
    """The repository, which knows where its databases are also where they could not be opened, and why they could not."""
    repo = Repo.__new__(Repo)
    try:
        repo.__init__(str(root))
    except (sqlite3.Error, OSError) as error:
        return (repo if "config" in repo.__dict__ else None), error
    return repo, None


def _damaged(repo: Repo) -> Iterator[Path]:
    folder = Path(repo.site_cache_dir)
    for path in sorted((*folder.rglob("cache.db"), *folder.rglob("db.db"))):
        if ASIDE in str(path.relative_to(folder)):
            continue
        try:
            with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=60)) as connection:
                if connection.execute("pragma quick_check(1)").fetchone() != ("ok",):
                    yield path
        except sqlite3.OperationalError as error:  # in use, or no permission: DVC says so
            if "malformed" in str(error) or "disk I/O" in str(error):
                yield path
        except sqlite3.DatabaseError:
            yield path
