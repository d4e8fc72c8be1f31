"""What is remembered of files from outside, in the scratch folder: their hashes by stamp, and what fingerprints were made of.

Losing it costs reading the files again, and the names of what changed.
"""

from __future__ import annotations

import marshal
import sqlite3
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from stages.fingerprints import places
from stages.fingerprints.walk import Stamp

__all__ = ["Known", "Noted", "Notes", "open_notes"]

VERSION = 1
KEPT = 50
"""Fingerprints of an input whose files are still known by name, to say what changed."""

SCHEMA = """
create table if not exists folders (key text primary key, signature text, digest text, files integer, bytes integer, rows blob);
create table if not exists listings (digest text primary key, listing blob);
create table if not exists fingerprints (place text, md5 text, text text, used real, primary key (place, md5));
create table if not exists packages (path text primary key, signature text, name text, version text);
create table if not exists seen (path text primary key, stamp blob);
"""


class Known(NamedTuple):
    """A folder as it was last seen; ``signature`` is empty where the next look must read its rows."""

    signature: str
    digest: str
    files: int
    bytes: int


class Noted(NamedTuple):
    """A file's hash, its stamp as it was hashed, and when that was (ns)."""

    stamp: Stamp
    taken: int
    sha256: str


class Notes:
    """The notes of one benchmark. Several processes may have them open: what is noted is written in short transactions, and what
    cannot be is forgotten."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection
        self._saved = time.monotonic()
        self._unsaved: list[tuple[str, tuple[object, ...]]] = []

    def folder(self, key: str) -> Known | None:
        row = self._db.execute("select signature, digest, files, bytes from folders where key = ?", (key,)).fetchone()
        return None if row is None else Known(*row)

    def rows(self, key: str) -> dict[str, Noted]:
        """The files of a folder by name."""
        row = self._db.execute("select rows from folders where key = ?", (key,)).fetchone()
        values: list[tuple[str, Stamp, int, str]] = [] if row is None else marshal.loads(zlib.decompress(row[0]))
        return {name: Noted(stamp, taken, sha256) for name, stamp, taken, sha256 in values}

    def note_folder(self, key: str, known: Known, rows: Mapping[str, Noted], listing: bytes) -> None:
        """What a folder holds; saved every few seconds, so that hashing that is cut off goes on where it was."""
        plain = [(name, *row) for name, row in rows.items()]
        packed = zlib.compress(marshal.dumps(plain, 2), 1)
        self._note("insert or replace into folders values (?, ?, ?, ?, ?, ?)", key, *known, packed)
        self._note("insert or ignore into listings values (?, ?)", known.digest, zlib.compress(listing, 1))
        if time.monotonic() - self._saved > 2:
            self.save()

    def listing(self, digest: str) -> bytes | None:
        """What a folder's digest was made of."""
        row = self._db.execute("select listing from listings where digest = ?", (digest,)).fetchone()
        return None if row is None else zlib.decompress(row[0])

    def package(self, path: str, signature: str) -> tuple[str, str] | None:
        """Name and version of the package that an unchanged file belongs to; both empty where it is of none."""
        query = "select name, version from packages where path = ? and signature = ?"
        row: tuple[str, str] | None = self._db.execute(query, (path, signature)).fetchone()
        return row

    def note_package(self, path: str, signature: str, name: str, version: str) -> None:
        self._note("insert or replace into packages values (?, ?, ?, ?)", path, signature, name, version)

    def seen(self, path: str) -> Stamp | None:
        """The stamp that a file had when it was last looked at."""
        row = self._db.execute("select stamp from seen where path = ?", (path,)).fetchone()
        return None if row is None else marshal.loads(row[0])

    def note_seen(self, path: str, stamp: Stamp) -> None:
        self._note("insert or replace into seen values (?, ?)", path, marshal.dumps(stamp, 2))

    def has_read(self, place: str) -> bool:
        """Whether an input was ever read here."""
        return self._db.execute("select 1 from fingerprints where place = ?", (place,)).fetchone() is not None

    def fingerprint(self, place: str, md5: str) -> str | None:
        """The text of an input's fingerprint that has this md5."""
        query = "select text from fingerprints where place = ? and md5 = ?"
        row = self._db.execute(query, (place, md5)).fetchone()
        return None if row is None else row[0]

    def note_fingerprint(self, place: str, md5: str, text: str) -> None:
        if self.fingerprint(place, md5) is None:
            self._drop_old(place)
        self._note("insert or replace into fingerprints values (?, ?, ?, ?)", place, md5, text, time.time())
        self.save()

    def _drop_old(self, place: str) -> None:
        """All but the last fingerprints of an input go, and listings that none and no folder has any more."""
        self._note(
            "delete from fingerprints where place = ? and md5 not in "
            "(select md5 from fingerprints where place = ? order by used desc limit ?)",
            place, place, KEPT,
        )  # fmt: skip
        self.save()
        texts = [row[0] for row in self._db.execute("select text from fingerprints")]
        unused = [
            digest
            for (digest,) in self._db.execute(
                "select digest from listings where digest not in (select digest from folders)"
            )
            if not any(digest in text for text in texts)
        ]
        for digest in unused:
            self._note("delete from listings where digest = ?", digest)

    def _note(self, statement: str, *values: object) -> None:
        self._unsaved.append((statement, values))

    def save(self) -> None:
        """Write what was noted."""
        with suppress(sqlite3.OperationalError), self._db:  # locked for long, or a full disk: they are only notes
            for statement, values in self._unsaved:
                self._db.execute(statement, values)
        self._unsaved.clear()
        self._saved = time.monotonic()


@contextmanager
def open_notes(root: Path) -> Iterator[Notes]:
    """A benchmark's notes; damaged ones are made anew, and where none can be written they are forgotten at the end."""
    connection = _connected(root / places.NOTES)
    notes = Notes(connection)
    try:
        yield notes
    finally:  # what was hashed before an error or Ctrl-C need not be hashed again
        notes.save()
        connection.close()


def _connected(path: Path) -> sqlite3.Connection:
    for _ in range(2):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(path, timeout=30)
            if _made(connection):
                return connection
            connection.close()
            path.unlink()
        except (OSError, sqlite3.OperationalError):
            break
        except sqlite3.DatabaseError:
            path.unlink(missing_ok=True)
    connection = sqlite3.connect(":memory:")
    _made(connection)
    return connection


def _made(connection: sqlite3.Connection) -> bool:
    """Whether the tables are there, and of this version; a new file gets them."""
    version: int = connection.execute("pragma user_version").fetchone()[0]
    if version == 0:
        connection.execute("begin immediate")
        for statement in filter(str.strip, SCHEMA.split(";")):
            connection.execute(statement)
        connection.execute(f"pragma user_version = {VERSION}")
        connection.commit()
    return version in (0, VERSION)
