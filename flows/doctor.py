"""``mergeline doctor``: what stands in the way of a run, and what an interrupted one left behind."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import shlex
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from flows.dvc.locks import find_damage, heal, set_aside
from flows.dvc.places import cache_folder, run_cache_folder, setting, shown
from flows.dvc.run_cache import damaged_entries, empty_folders
from flows.mirror.server import is_alive, server_note
from flows.running.guard import end_left, left_behind
from flows.running.workers import kill_orphans, orphans
from flows.system_errors import closed_folders, full_folders, who_may
from stages.plan import paths

__all__ = ["Finding", "check_cache_type", "examine"]

LOW_DISK = 1 << 30
OLD_SECONDS = 3600.0


@dataclass(frozen=True)
class Finding:
    """Something that is not as it should be. ``fix`` mends it and says what it did; None: a person must."""

    what: str
    advice: str
    fix: Callable[[], str] | None = None


def examine(root: Path) -> Iterator[Finding]:
    """Everything that is wrong, the worst first. Changes nothing."""
    yield from _damaged_locks(root)
    yield from _cache_type(root)
    yield from _databases(root)
    yield from _run_cache(root)
    yield from _left_processes(root)
    yield from _left_files(root)
    yield from _disk(root)
    yield from _closed(root)
    yield from _git(root)
    yield from _versions()
    yield from _server(root)


def _damaged_locks(root: Path) -> Iterator[Finding]:
    for damage in find_damage(root):
        yield Finding(
            f"{shown(damage.path, root)} cannot be used: {damage.reason}",
            "set it aside; its last good copy or the run cache puts it right",
            lambda: "; ".join(heal(root, conflicts=True)) or "already put right",
        )


def _databases(root: Path) -> Iterator[Finding]:
    from flows.dvc.opening import damaged_databases

    for path in damaged_databases(root):
        yield Finding(
            f"{path}, DVC's notes of hashes, is damaged",
            "set it aside; files are hashed again, nothing is lost",
            partial(_set_aside_database, path),
        )


def _set_aside_database(path: Path) -> str:
    from flows.dvc.opening import set_databases_aside

    return f"set aside as {', '.join(set_databases_aside([path]))}"


def _run_cache(root: Path) -> Iterator[Finding]:
    """What a full disk left in the run cache: dvc repro ends with a traceback there."""
    runs = run_cache_folder(root)
    empty, damaged = list(empty_folders(runs)), list(damaged_entries(runs))
    if empty or damaged:

        def mend() -> str:
            for path in damaged:
                set_aside(root, path)
            for folder in {*empty, *(path.parent for path in damaged)}:
                with contextlib.suppress(OSError):  # another note stands there
                    folder.rmdir()
            return f"removed {len(empty)} empty folders, set {len(damaged)} notes aside"

        yield Finding(
            f"the run cache {shown(runs, root)} has {len(empty)} empty folders and {len(damaged)} damaged notes",
            "remove the folders, set the notes aside; the stages run again if they are needed",
            mend,
        )


def cache_types(root: Path) -> list[str]:
    """DVC's cache.type as configured, the local configuration over the shared one."""
    value, _ = setting(root, "cache", "type", "reflink,copy")
    return [part.strip() for part in value.split(",") if part.strip()]


def check_cache_type(root: Path) -> str | None:
    """What is wrong with cache.type, if something is."""
    bad = [kind for kind in cache_types(root) if kind in ("hardlink", "symlink")]
    if not bad:
        return None
    return (
        f"cache.type is {','.join(cache_types(root))}: with a {bad[0]}, editing an output changes the cached object too, "
        "and DVC does not see it. Set it: dvc config cache.type reflink,copy"
    )


def _cache_type(root: Path) -> Iterator[Finding]:
    if (problem := check_cache_type(root)) is not None:
        yield Finding(problem, "dvc config cache.type reflink,copy, then dvc checkout --relink")


def _left_processes(root: Path) -> Iterator[Finding]:
    left = orphans(root)
    if left:
        yield Finding(
            f"processes of an earlier run are still there: {', '.join(map(str, left))}",
            "end them",
            lambda: f"ended {len(kill_orphans(root))} processes",
        )
    served = left_behind(root / paths.SERVED)
    if served:
        yield Finding(
            f"processes of a schedule that is gone are still there: {', '.join(map(str, served))}",
            "end them",
            lambda: f"ended {len(end_left(root / paths.SERVED))} processes",
        )


def _left_files(root: Path) -> Iterator[Finding]:
    found = list(_temporary_files(root))
    if found:
        size = sum(path.stat().st_size for path in found if path.exists())

        def remove() -> str:
            for path in found:
                path.unlink(missing_ok=True)
            return f"removed {len(found)} files"

        yield Finding(f"{len(found)} temporary files of interrupted runs, {size >> 10} KiB", "remove them", remove)


def _temporary_files(root: Path) -> Iterator[Path]:
    """Half-written files: ours by their folder or name, DVC's in its cache; young ones may be in use."""
    now = time.time()
    places = [
        *(root / paths.TEMPORARY).glob("*"),
        *cache_folder(root).rglob(".*.tmp"),
        *cache_folder(root).rglob("*.tmp"),
        *(root / paths.ARTIFACTS).rglob(".*.tmp"),
        *(root / paths.PIPELINES).rglob(".*.tmp"),
    ]
    for path in dict.fromkeys(places):
        try:
            if path.is_file() and now - path.stat().st_mtime > OLD_SECONDS:
                yield path
        except OSError:
            continue


def _git(root: Path) -> Iterator[Finding]:
    if setting(root, "core", "no_scm", "false")[0].lower() in ("true", "1", "yes", "on"):
        return
    if not any((folder / ".git").exists() for folder in (root, *root.parents)):
        yield Finding(
            f"{root} is in no git repository, and DVC is set up for one: no command but doctor works",
            f"git -C {shlex.quote(str(root))} init, or without git: dvc config core.no_scm true",
        )
    elif shutil.which("git") is None:
        yield Finding(
            "git is not there: results name no commit, and a refresh has nothing to compare with",
            "install git (apt install git, brew install git, conda install git), or leave it: runs need none",
        )


def _closed(root: Path) -> Iterator[Finding]:
    for folder in closed_folders(root)[:1]:
        yield Finding(f"{folder} may not be written to", who_may(folder))


def _disk(root: Path) -> Iterator[Finding]:
    for folder in full_folders():
        yield Finding(
            f"the disk of {folder} is full", "free some space there; mergeline prune --dry-run shows what can go"
        )
    free = shutil.disk_usage(root).free
    if free < LOW_DISK:
        yield Finding(
            f"only {free >> 20} MiB of disk space are left", "free some; mergeline prune --dry-run shows what can go"
        )


def _versions() -> Iterator[Finding]:
    """Versions with which Prefect is known to fail: at the first flow, or in silence at the first schedule."""
    for name, limit, why in (
        ("fastapi", (0, 151), "Prefect 3.8 fails at its first flow"),
        ("sqlalchemy", (2, 1), "Prefect's scheduler creates no runs"),
    ):
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        if tuple(int(part) for part in version.split(".")[:2]) >= limit:
            bound = ".".join(map(str, limit))
            yield Finding(f"{name} {version}: {why}", f"pip install '{name}<{bound}', or make setup")


def _server(root: Path) -> Iterator[Finding]:
    note = server_note(root)
    if not note.is_file():
        return
    try:
        noted = json.loads(note.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        noted = {}
    if not is_alive(str(noted.get("url", ""))) and not _runs(noted.get("pid")):

        def forget() -> str:
            note.unlink(missing_ok=True)
            return "forgot it"

        yield Finding(f"{note.relative_to(root)} names a Prefect server that is gone", "forget it", forget)


def _runs(pid: object) -> bool:
    try:
        os.kill(int(pid), 0)  # type: ignore[call-overload]
    except (ProcessLookupError, TypeError, ValueError):
        return False
    except PermissionError:
        return True
    return True
