"""DVC's lock files: telling a damaged one, setting it aside, and putting back what stood there.

DVC writes its locks in place: a kill in the middle leaves a short file, after which every command fails. What such a
file held is not lost: the flow keeps a copy of each lock from before its last change, and the run cache knows all else.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.dvc.places import shown
from stages.errors import InputError
from stages.formats import yaml12
from stages.plan import paths

__all__ = ["Damage", "LockConflict", "backup_path", "find_damage", "heal", "is_whole", "lock_files", "set_aside"]


LONGEST = 200
"""Characters of a path that are kept in the name of a file which was set aside (a name may have 255 bytes)."""


class LockConflict(InputError):
    """A lock file holds merge conflict markers: which side is right is a person's decision."""


@dataclass(frozen=True)
class Damage:
    """A file that DVC cannot read. ``conflict``: it holds merge conflict markers."""

    path: Path
    reason: str
    conflict: bool = False


def lock_files(root: Path) -> list[Path]:
    """Every dvc.lock of a benchmark."""
    top = root / paths.LOCK_FILE
    return [*([top] if top.exists() else []), *sorted((root / paths.PIPELINES).rglob(paths.LOCK_FILE))]


def find_damage(root: Path) -> list[Damage]:
    """Lock files that cannot be read, and DVC's own table of running commands where it is damaged."""
    found = [damage for path in lock_files(root) if (damage := _lock_damage(path)) is not None]
    rwlock = root / paths.DVC_RUNNING
    if rwlock.is_file():
        try:
            json.loads(rwlock.read_text(encoding="utf-8"))
        except (ValueError, OSError) as error:
            found.append(Damage(rwlock, f"not JSON ({error})"))
    return found


def _lock_damage(path: Path) -> Damage | None:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        return Damage(path, str(error))
    if any(line.startswith(("<<<<<<< ", ">>>>>>> ")) for line in text.splitlines()):
        return Damage(path, "it holds merge conflict markers", conflict=True)
    try:
        data: Any = yaml12.load(text)
    except yaml12.YamlError as error:
        return Damage(path, f"it is cut off or not YAML ({error})")
    if not isinstance(data, dict) or "schema" not in data or not isinstance(data.get("stages", {}), dict):
        return Damage(path, "it is cut off" if text.strip() else "it is empty")
    for name, entry in data.get("stages", {}).items():
        if not isinstance(entry, dict) or "cmd" not in entry or not is_whole(entry):
            return Damage(path, f"its entry {name!r} is cut off")
    return None


def is_whole(entry: dict[str, Any]) -> bool:
    """Whether an entry's lists are lists of files with a path and a whole hash."""
    if not all(isinstance(entry.get(key, []), list) for key in ("deps", "outs")):
        return False
    items = [*entry.get("deps", []), *entry.get("outs", [])]
    return all(
        isinstance(item, dict)
        and isinstance(item.get("path"), str)
        and ("md5" not in item or _is_md5(item["md5"]))
        and ("size" not in item or isinstance(item["size"], int))
        for item in items
    )


def _is_md5(value: Any) -> bool:
    return isinstance(value, str) and len(value.removesuffix(".dir")) == 32


def heal(root: Path, conflicts: bool = False) -> list[str]:
    """Set damaged files aside and put their last good copy back where there is one; says what was done.

    Raises
    ------
    LockConflict: a lock holds conflict markers, and ``conflicts`` is false.
    """
    done = []
    for damage in find_damage(root):
        relative = shown(damage.path, root)
        if damage.conflict and not conflicts:
            raise LockConflict(
                f"{relative}: {damage.reason}. Resolve them, or let the run cache rebuild the file: mergeline doctor --fix"
            )
        kept = set_aside(root, damage.path)
        backup = backup_path(root, damage.path)
        if backup.is_file() and _lock_damage(backup) is None and damage.path.name == paths.LOCK_FILE:
            shutil.copyfile(backup, damage.path)
            how = "its last good copy is back; what is newer comes from the run cache"
        elif damage.path.name == paths.LOCK_FILE:
            how = "it is rebuilt from the run cache"
        else:
            how = "DVC makes a new one"
        done.append(f"{relative}: {damage.reason}; set aside as {kept.relative_to(root)}; {how}")
    return done


def backup_path(root: Path, lock: Path) -> Path:
    """Where the copy of a lock from before its last change lies."""
    return root / paths.KEPT_LOCKS / os.path.relpath(lock, root).replace(os.sep, "%")


def set_aside(root: Path, path: Path) -> Path:
    """Move a damaged file to the quarantine; nothing is deleted."""
    folder = root / paths.QUARANTINE
    folder.mkdir(parents=True, exist_ok=True)
    name = shown(path, root).lstrip(os.sep).replace(os.sep, "%")[-LONGEST:]
    target = folder / f"{name}.{time.strftime('%Y%m%d-%H%M%S')}"
    count = 0
    while target.exists():
        count += 1
        target = folder / f"{name}.{time.strftime('%Y%m%d-%H%M%S')}.{count}"
    shutil.move(path, target)
    return target
