"""Looking at what comes from outside, as each command that plans or judges does first: whether it is there, and what changed.

What is found stands in the fingerprint files, which DVC tracks; ``status`` and ``check``, which write nothing, foresee them.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from mergeline.checkpoint_names import split_part
from mergeline.pretrained_files import local_place
from mergeline.tasks import TASKS, TaskError
from mergeline.tasks.task import parted
from stages.errors import InputError
from stages.fingerprints import places
from stages.fingerprints.changes import difference
from stages.fingerprints.fingerprint import Fingerprint, read_fingerprint
from stages.fingerprints.notes import Notes, open_notes
from stages.fingerprints.outside import MissingInputError, Outside, md5_of, outside_inputs
from stages.fingerprints.walk import Stamp, walk
from stages.formats.files import write_bytes
from stages.plan.params import Params

if TYPE_CHECKING:
    from flows.dvc.pipeline import Pipeline
    from flows.dvc.stage import Reason

__all__ = [
    "Look",
    "Missing",
    "data_lines",
    "explained",
    "forget_rewritten",
    "look",
    "missing_faults",
    "missing_notices",
    "own_data",
]

FIRST = "noted for the first time"
"""What is said of data where results are older than fingerprints."""


@dataclass(frozen=True)
class Missing:
    """An input that is not there. ``here``: it was read in this folder before, so that something happened to it; where it never
    was, as in a clone that shares results alone, the fingerprint stands for it."""

    source: Outside
    message: str
    here: bool

    def __str__(self) -> str:
        key, base = self.source.key, self.source.base
        if not self.here:
            return self.message
        if base is not None and not base.exists():
            return (
                f"{key}: {base} is not there, and the data of {self.source.label} were read from it before. Put it back, or set "
                f"{key}.root to where it is now; finished results are kept"
            )
        return f"{self.message} (The data were there before; finished results are kept.)"


@dataclass
class Look:
    """``found``: by place, each input and its fingerprint; ``changed``: those that the files do not say, with what they did say;
    ``written``: whether they say it now; ``rewritten``: other files that DVC may take for unchanged, whose times were set back."""

    found: dict[str, tuple[Outside, Fingerprint]] = field(default_factory=dict)
    missing: dict[str, Missing] = field(default_factory=dict)
    changed: dict[str, Fingerprint | None] = field(default_factory=dict)
    rewritten: dict[str, Stamp] = field(default_factory=dict)
    written: bool = False

    @property
    def predicted(self) -> dict[str, str]:
        """md5 of the fingerprint files that a run would write."""
        return {} if self.written else {place: md5_of(self.found[place][1].text) for place in self.changed}

    @property
    def files(self) -> dict[str, int]:
        """By task how many files its data are, where they are in a folder of somebody's own."""
        return {
            source.key.removeprefix("tasks."): fingerprint.files
            for source, fingerprint in self.found.values()
            if source.base is not None
        }

    @property
    def needs_check(self) -> bool:
        """Whether something happened that the files of the pipeline do not show."""
        return bool(self.predicted or self.rewritten) or any(missing.here for missing in self.missing.values())


def look(root: Path, params: Params, write: bool, anew: bool = False) -> Look:
    """Every input as it is now. With ``write`` fingerprint files are brought up to date, and those of no input removed.

    ``anew``: read every byte, whatever is remembered.

    Raises
    ------
    InputError: a file cannot be read, or is being written; names it.
    """
    seen = Look(written=write)
    with open_notes(root) as notes:
        sources = outside_inputs(root, params)
        for source in sources:
            place = str(source.place)
            told = _Told(source.label)
            try:
                now = source.fingerprint(notes, told, anew)
            except MissingInputError as error:
                seen.missing[place] = Missing(source, str(error), notes.has_read(place))
                continue
            finally:
                told.close()
            seen.found[place] = source, now
            text = _text_of(root / place)
            if text != now.text:
                then = None if text is None else read_fingerprint(text)
                if text is not None and then is not None:
                    notes.note_fingerprint(place, md5_of(text), text)
                seen.changed[place] = then
                if write:
                    write_bytes(root / place, now.text.encode())
            notes.note_fingerprint(place, md5_of(now.text), now.text)
        seen.rewritten = _rewritten(notes, root, params)
    if write:
        _remove_others(root, [root / source.place for source in sources])
    return seen


def _text_of(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None


def _remove_others(root: Path, own: Sequence[Path]) -> None:
    for path in sorted((root / places.INPUTS).rglob("*.json")):
        if path not in own:
            path.unlink()


def _rewritten(notes: Notes, root: Path, params: Params) -> dict[str, Stamp]:
    """Dependencies from outside of which nothing that DVC looks at changed (size, time, inode), and yet they were written to."""
    found = {}
    own = [root / split_part(place)[0] for place in params.imports.values()]
    own += [root / place for given in params.pretrained.values() if (place := local_place(given)) is not None]
    for path in own:
        for folder in walk({"": path}, None) if path.exists() else ():
            for name, file in folder.paths.items():
                stamp, then = folder.stamps[name], notes.seen(file)
                if stamp is None or stamp == then:
                    continue
                if then is not None and (stamp[:2], stamp[3]) == (then[:2], then[3]):
                    found[file] = stamp
                else:
                    notes.note_seen(file, stamp)
    return found


def forget_rewritten(root: Path, seen: Look, pipeline: Pipeline) -> None:
    """Let DVC hash again what was written to behind its back."""
    if not seen.rewritten:
        return
    with open_notes(root) as notes:
        for file, stamp in seen.rewritten.items():
            for path in (Path(file), *Path(file).parents):  # DVC remembers folders too
                pipeline.forget(path)
            notes.note_seen(file, stamp)


# -- what to say of it -----------------------------------------------------------------------------------------------


def explained(root: Path, seen: Look, pipeline: Pipeline, stale: Mapping[str, list[Reason]]) -> dict[str, list[Reason]]:
    """Why stages are stale, with what happened to their data in place of the name of a fingerprint."""
    with open_notes(root) as notes:
        return {
            address: [_explained(notes, seen, pipeline, address, reason) for reason in reasons]
            for address, reasons in stale.items()
        }


def _explained(notes: Notes, seen: Look, pipeline: Pipeline, address: str, reason: Reason) -> Reason:
    from flows.dvc.stage import Reason

    if reason.kind != "dependency" or reason.subject not in seen.found:
        return reason
    source, now = seen.found[reason.subject]
    md5 = pipeline.recorded_dependency(address, reason.subject)
    return Reason("data", f"of {source.label}:", _since(notes, str(source.place), md5, now))


def _since(notes: Notes, place: str, md5: str | None, now: Fingerprint) -> str:
    if md5 is None:
        return FIRST
    text = notes.fingerprint(place, md5)
    then = None if text is None else read_fingerprint(text)
    return (then and difference(then, now, notes.listing)) or "changed"


def data_lines(root: Path, seen: Look, pipeline: Pipeline) -> list[str]:
    """What changed of the data since results were made of them, a line for each input."""
    forget_rewritten(root, seen, pipeline)
    stale = explained(root, seen, pipeline, pipeline.stale(predicted=seen.predicted))
    reasons = [reason for own in stale.values() for reason in own if reason.kind == "data" and reason.detail != FIRST]
    return list(dict.fromkeys(str(reason) for reason in reasons))


def missing_faults(
    seen: Look, pipeline: Pipeline | None, stale: Mapping[str, Sequence[Reason]], chosen: Collection[str]
) -> list[str]:
    """What must be mended first: inputs that stale stages need to run, and those of any chosen stage that were here before.

    With ``pipeline`` None: all that are missing.
    """
    faults = []
    for place, missing in seen.missing.items():
        users = [] if pipeline is None else _users(pipeline, place, chosen)
        must_run = [
            user for user in users if user in stale and not (pipeline and pipeline.restorable(user, stale[user]))
        ]
        if pipeline is None or must_run or (users and missing.here):
            faults.append(str(missing))
    return faults


def own_data(root: Path, params: Params, seen: Look, names: Collection[str]) -> list[str]:
    """What there is to say of some tasks' data, those that are the user's own and here, a line each; they are listed, not read.

    Raises
    ------
    InputError: data that make no task, as they are laid out; names them and the fix.
    """
    lines, faults = [], []
    for name in names:
        task = params.tasks[name]
        adapter = TASKS[task.source or name]
        if not adapter.own or str(places.task(name)) in seen.missing:
            continue
        try:
            raw = adapter.load(adapter.find(None if task.root is None else root / task.root))
            parted(name, raw, classes=task.classes, test_fraction=task.test_fraction, n_classes=task.n_classes)
        except TaskError as error:
            faults.append(f"tasks.{name}: {error}")
        else:
            lines += [f"tasks.{name}: {note}" for note in raw.notes]
    if faults:
        raise InputError("\n".join(faults))
    return lines


def missing_notices(seen: Look, pipeline: Pipeline | None) -> list[str]:
    """What should be known of inputs that are not here, where finished results stand without them."""
    return [
        f"the data of {missing.source.label} are not here; its results are of those that {place} was made of"
        for place, missing in seen.missing.items()
        if not missing.here and (pipeline is None or _users(pipeline, place, pipeline.stages))
    ]


def _users(pipeline: Pipeline, place: str, chosen: Collection[str]) -> list[str]:
    return [address for address in chosen if place in pipeline.stages[address].deps]


class _Told:
    """A bar while data are read for the first time, where that takes more than a moment; one line where there is no terminal."""

    def __init__(self, label: str) -> None:
        self.label = label
        self.begun = time.monotonic()
        self.said = False
        self.bar: Progress | None = None

    def __call__(self, files: int, total_files: int, size: int, total_size: int) -> None:
        if time.monotonic() - self.begun < 1 or files == total_files:
            return
        if not self.said:
            self.said = True
            text = f"reading the data of {self.label}: {total_files:,} files that are new or were touched"
            if not sys.stderr.isatty():
                print(text, file=sys.stderr, flush=True)
                return
            columns = (TextColumn(text), BarColumn(), DownloadColumn(), TimeRemainingColumn())
            self.bar = Progress(*columns, console=Console(stderr=True), transient=True)
            self.bar.add_task(text, total=total_size)
            self.bar.start()
        if self.bar is not None:
            self.bar.update(self.bar.task_ids[0], completed=size)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.stop()
