"""Which inputs a benchmark has that no stage makes, where their files are, and what their fingerprints are.

Not among them: checkpoints (``imports``) and one's own ``pretrained`` weights, which are dependencies of their stages themselves,
and weights in packages that training starts from, which the code names by their hash.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Protocol

from mergeline.encoder_files import encoder_files, text_encoder_files, vocabulary_file
from mergeline.encoder_names import EncoderError
from mergeline.tasks import TASKS, TaskError
from mergeline.tasks.task import reads_all
from mergeline.tokens import TokenError
from stages.errors import InputError, StageError
from stages.fingerprints import places
from stages.fingerprints.fingerprint import Fingerprint, Told, take
from stages.fingerprints.notes import Notes, open_notes
from stages.plan.params import Params

__all__ = ["MissingInputError", "Outside", "md5_of", "outside_inputs", "task_input", "unchanged"]


class MissingInputError(InputError):
    """An input from outside is not there, or not what it should be; the message names the fix."""


class _Finder(Protocol):
    def __call__(self) -> Mapping[str, Path]: ...


@dataclass(frozen=True)
class Outside:
    """``place``: the file of its fingerprint; ``key``: in params.yaml, what names it; ``label``: what its data are of; ``find``:
    its files; ``base``: the folder that their names are relative to, if the user named one; ``unread``: what below them is
    passed over, by its name."""

    place: PurePosixPath
    key: str
    label: str
    find: _Finder
    base: Path | None = None
    unread: Callable[[str], bool] = reads_all

    def fingerprint(self, notes: Notes, told: Told | None = None, anew: bool = False) -> Fingerprint:
        """As it is now.

        Raises
        ------
        MissingInputError: files are missing, or damaged.
        InputError: a file cannot be read, or is being written.
        """
        try:
            files = self.find()
        except (TaskError, EncoderError, TokenError) as error:
            raise MissingInputError(f"{self.key}: {error}") from error
        found = take(notes, files, self.base, told, anew, self.unread)
        if files and not found.files:
            raise MissingInputError(
                f"{self.key}: {', '.join(sorted({str(path) for path in files.values()}))} holds no files"
            )
        return found


def outside_inputs(root: Path, params: Params) -> list[Outside]:
    """All that ``params`` names."""
    found = [task_input(root, params, name) for name in params.tasks]
    encoder, weights = params.similarity.encoder, params.similarity.weights
    own = None if weights is None else root / weights
    finder: _Finder = partial(encoder_files, encoder, own)
    found.append(Outside(places.ENCODER, "similarity.encoder", f"the encoder {encoder}", finder))
    if params.targets.kind == "text":
        name = params.targets.encoder
        finder = partial(text_encoder_files, name, root)
        found.append(Outside(places.TEXT_ENCODER, "targets.encoder", f"the text encoder {name}", finder))
    return found


def task_input(root: Path, params: Params, name: str) -> Outside:
    """The data of a task."""
    task = params.tasks[name]
    base = None if task.root is None else root / task.root

    def find() -> Mapping[str, Path]:
        adapter = TASKS[task.source or name]
        files = adapter.find(base)
        return {**files, "vocabulary": vocabulary_file()} if adapter.kind == "texts" else files

    unread = TASKS[task.source or name].unread
    return Outside(places.task(name), f"tasks.{name}", f"task {name}", find, base, unread)


def md5_of(text: str) -> str:
    """What DVC will find a fingerprint's file to hash to."""
    return hashlib.md5(text.encode()).hexdigest()


@contextmanager
def unchanged(root: Path, source: Outside) -> Iterator[None]:
    """A block that reads an input: what it makes is only taken for made of the planned input if that is what is there, before and
    after. Without a plan there is nothing to hold to.

    Raises
    ------
    StageError: it is another one, or changes meanwhile.
    """
    planned = root / source.place
    if not planned.is_file():
        yield
        return
    fix = "plan again: mergeline plan (mergeline run does it by itself)"
    text = planned.read_text(encoding="utf-8")
    if _now(root, source) != text:
        raise StageError(f"the data of {source.label} are not those that {source.place} was made of; {fix}")
    yield
    if _now(root, source) != text:
        raise StageError(f"the data of {source.label} changed while they were read; run again: mergeline run")


def _now(root: Path, source: Outside) -> str:
    try:
        with open_notes(root) as notes:
            return source.fingerprint(notes).text
    except InputError as error:
        raise StageError(str(error)) from error
