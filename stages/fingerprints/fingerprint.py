"""A fingerprint: the names and contents of all files of an input, folder by folder, in a small text.

The same names and contents give the same bytes wherever they lie and whenever they were touched. Each file is hashed once; after
that it is known by its stamp, and a folder in which none changed is not even opened in the notes.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from mergeline.tasks.task import reads_all
from stages.errors import InputError
from stages.fingerprints.notes import Known, Noted, Notes
from stages.fingerprints.packages import package_of
from stages.fingerprints.walk import Folder, Stamp, signature, stamp_of, walk

__all__ = ["Fingerprint", "Told", "listed", "read_fingerprint", "take"]

FORMAT = 1
THREADS = 8
SETTLED = 2_000_000_000
"""Nanoseconds after its last change from when on a file's stamp is trusted: within a tick of the clock it could change twice."""
TRIES = 5
ABSENT = "-"
"""In place of the hash of a link to nowhere."""

Told = Callable[[int, int, int, int], None]
"""Told of files read, of how many, and the same in bytes."""


@dataclass(frozen=True)
class Fingerprint:
    """``folders``: by name, the hash over the names and hashes of its files; ``packages``: versions of those that files came in."""

    folders: Mapping[str, str]
    files: int
    bytes: int
    packages: Mapping[str, str]

    @property
    def text(self) -> str:
        """What stands in the file."""
        values = {
            "format": FORMAT, "files": self.files, "bytes": self.bytes, "packages": dict(sorted(self.packages.items())),
            "folders": dict(sorted(self.folders.items())),
        }  # fmt: skip
        return json.dumps(values, indent=2) + "\n"


def read_fingerprint(text: str) -> Fingerprint | None:
    """What a fingerprint's text says; None if it is none."""
    try:
        values = json.loads(text)
        if values["format"] != FORMAT:
            return None
        return Fingerprint(dict(values["folders"]), values["files"], values["bytes"], dict(values["packages"]))
    except (ValueError, KeyError, TypeError):
        return None


def take(
    notes: Notes, files: Mapping[str, Path], base: Path | None, told: Told | None = None, anew: bool = False,
    unread: Callable[[str], bool] = reads_all,
) -> Fingerprint:  # fmt: skip
    """The fingerprint of some files and folders as they are now.

    Parameters
    ----------
    base: what names are relative to; see :func:`stages.fingerprints.walk.walk`.
    told: told how far hashing is, where there is something to hash.
    anew: hash every file, whatever is known.
    unread: which files and folders below those are passed over, by their names.

    Raises
    ------
    InputError: a file cannot be read, or changes while it is; names it.
    """
    try:
        found = list(walk(files, base, unread))
    except OSError as error:
        raise InputError(f"{error.filename} cannot be read: {os.strerror(error.errno or 0)}") from error
    known: dict[str, Known] = {}
    pending: list[Folder] = []
    for folder in found:
        noted = notes.folder(folder.key)
        if noted is not None and not anew and noted.signature and noted.signature == signature(folder.stamps):
            known[folder.name] = noted
        else:
            pending.append(folder)
    known |= _hashed(notes, pending, told, anew)
    return Fingerprint(
        {name: folder.digest for name, folder in known.items()},
        sum(folder.files for folder in known.values()),
        sum(folder.bytes for folder in known.values()),
        _packages(notes, [path for path in files.values() if path.is_file()]),
    )


def _packages(notes: Notes, paths: Iterable[Path]) -> dict[str, str]:
    found = {}
    for path in paths:
        stamp = stamp_of(str(path))
        mark = signature({"": stamp})
        known = notes.package(str(path), mark)
        if known is None:
            known = package_of(str(path))
            notes.note_package(str(path), mark, *known)
        if known[0]:
            found[known[0]] = known[1]
    return found


# -- hashing --------------------------------------------------------------------------------------------------------


def _hashed(notes: Notes, pending: Sequence[Folder], told: Told | None, anew: bool) -> dict[str, Known]:
    """Folders of which something is not known, with all that is hashed of them noted."""
    rows = {folder.name: {} if anew else _trusted(notes, folder) for folder in pending}
    todo = {folder.name: [name for name in folder.stamps if name not in rows[folder.name]] for folder in pending}
    progress = _Progress(pending, todo, told)
    known = {}
    pool = ThreadPoolExecutor(THREADS)
    try:
        for folder in pending:
            names = todo[folder.name]
            for name, row in zip(names, pool.map(_hash, [folder.paths[name] for name in names]), strict=True):
                rows[folder.name][name] = row
                progress.add(row.stamp[0])
            known[folder.name] = _note(notes, folder, rows[folder.name])
        notes.save()
    finally:
        pool.shutdown(cancel_futures=True)
    return known


class _Progress:
    def __init__(self, pending: Sequence[Folder], todo: Mapping[str, Sequence[str]], told: Told | None) -> None:
        sizes = [(folder.stamps[name] or (0,))[0] for folder in pending for name in todo[folder.name]]
        self.files, self.bytes, self.total_files, self.total_bytes, self.told = 0, 0, len(sizes), sum(sizes), told

    def add(self, size: int) -> None:
        self.files += 1
        self.bytes += size
        if self.told is not None:
            self.told(self.files, self.total_files, self.bytes, self.total_bytes)


def _trusted(notes: Notes, folder: Folder) -> dict[str, Noted]:
    """The files of a folder that are as they were when they were hashed."""
    return {
        name: row
        for name, row in notes.rows(folder.key).items()
        if row.stamp == folder.stamps.get(name) and _settled(row.stamp, row.taken)
    }


def _settled(stamp: Stamp, taken: int) -> bool:
    return taken - stamp[2] > SETTLED


def _hash(path: str) -> Noted:
    """A file's hash, with the stamp that it had before and after it was read."""
    for _ in range(TRIES):
        taken, before = time.time_ns(), stamp_of(path)
        if before is None:
            return Noted((0, 0, 0, 0), taken, ABSENT)
        try:
            with open(path, "rb") as stream:  # noqa: PTH123
                sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise InputError(f"{path} cannot be read: {os.strerror(error.errno or 0)}") from error
        if stamp_of(path) == before:
            return Noted(before, taken, sha256)
    raise InputError(f"{path} is being written; run again when that is done")


def _note(notes: Notes, folder: Folder, rows: Mapping[str, Noted]) -> Known:
    listing = _listing({name: row.sha256 for name, row in rows.items()})
    whole = all(row.sha256 != ABSENT and _settled(row.stamp, row.taken) for row in rows.values())
    mark = signature({name: row.stamp for name, row in rows.items()}) if whole else ""
    digest = hashlib.sha256(listing).hexdigest()
    known = Known(mark, digest, len(rows), sum(row.stamp[0] for row in rows.values()))
    notes.note_folder(folder.key, known, rows, listing)
    return known


def _listing(hashes: Mapping[str, str]) -> bytes:
    """Names and hashes in the names' order, as bytes that any names can be read back from."""
    entries = sorted((os.fsencode(name), sha256.encode()) for name, sha256 in hashes.items())
    return b"".join(sha256 + b" " + name + b"\0" for name, sha256 in entries)


def listed(listing: bytes) -> Iterator[tuple[str, str]]:
    """The names and hashes of a folder's listing."""
    for entry in listing.split(b"\0")[:-1]:
        sha256, _, name = entry.partition(b" ")
        yield os.fsdecode(name), sha256.decode()
