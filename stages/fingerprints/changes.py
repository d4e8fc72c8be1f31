"""What is different between two fingerprints, in words."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from mergeline.tasks.own_images import OWN_SUFFIXES
from stages.fingerprints.fingerprint import Fingerprint, listed

__all__ = ["difference"]

Listing = Callable[[str], bytes | None]
"""What a folder's digest was made of, if it is known."""


@dataclass
class _Files:
    added: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    renamed: list[tuple[str, str]] = field(default_factory=list)


def difference(then: Fingerprint, now: Fingerprint, listing: Listing) -> str:
    """Which files were added, deleted, changed or renamed; where their names are not known, which folders changed."""
    touched = [name for name in {**then.folders, **now.folders} if then.folders.get(name) != now.folders.get(name)]
    before = {name: listing(then.folders[name]) if name in then.folders else b"" for name in touched}
    after = {name: listing(now.folders[name]) if name in now.folders else b"" for name in touched}
    unknown = sorted(name for name in touched if before[name] is None or after[name] is None)
    if unknown:
        words = [f"changed in {_some(unknown)}"]
    else:
        words = list(_in_words(_compare(_hashes(before), _hashes(after))))
        if touched and not words:
            words = [f"empty folders came or went: {_some(sorted(touched))}"]
    for name in sorted({*then.packages, *now.packages}):
        old, new = then.packages.get(name, "none"), now.packages.get(name, "none")
        if old != new:
            words.append(f"package {name} {old} -> {new}")
    return ", ".join(words)


def _hashes(listings: Mapping[str, bytes | None]) -> dict[str, str]:
    """The hash of each file, by its name with its folder."""
    return {
        str(PurePosixPath(folder, name)): sha256
        for folder, listing in listings.items()
        for name, sha256 in listed(listing or b"")
    }


def _compare(before: Mapping[str, str], after: Mapping[str, str]) -> _Files:
    """A file that is gone and one that is new with the same content are one that was renamed."""
    found = _Files(changed=sorted(name for name in before.keys() & after.keys() if before[name] != after[name]))
    gone: dict[str, list[str]] = {}
    for name in sorted(before.keys() - after.keys(), reverse=True):
        gone.setdefault(before[name], []).append(name)
    for name in sorted(after.keys() - before.keys()):
        old = gone.get(after[name])
        if old:
            found.renamed.append((old.pop(), name))
        else:
            found.added.append(name)
    found.removed = sorted(name for names in gone.values() for name in names)
    return found


def _in_words(files: _Files) -> Iterator[str]:
    """The first part says what is counted: images, or files of any kind."""
    renamed = [f"{old} -> {new}" for old, new in files.renamed]
    parts = {"added": files.added, "deleted": files.removed, "changed": files.changed, "renamed": renamed}
    every = [*files.added, *files.removed, *files.changed, *(name for pair in files.renamed for name in pair)]
    kind = "image" if all(PurePosixPath(name).suffix.lower() in OWN_SUFFIXES for name in every) else "file"
    for what, names in parts.items():
        if names:
            counted = f"{len(names):,} {kind}{'s' if kind and len(names) > 1 else ''}" if kind else f"{len(names):,}"
            yield f"{counted} {what} ({_some(names, 1)})"
            kind = ""


def _some(names: list[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
