"""Whether a stage ran the code that is recorded for it.

The hashes of a stage's code are taken as a run begins; its modules are loaded later, some only as they are needed. A file that
is written to in between, and perhaps back again, would leave a result of other code that counts as fresh. So the stamps of all
code are taken before it is hashed, and a stage whose process loaded a file with another stamp is not recorded.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from stages.errors import StageError
from stages.plan import paths

__all__ = ["STAMPS_VARIABLE", "LoadedCode", "Stamp", "stamps_of", "write_stamps"]

Stamp = tuple[int, int, int, int]
"""A file's size, times of modification and of change (ns), and inode. The time of change is the kernel's: nobody sets it back."""

STAMPS_VARIABLE = "MERGELINE_CODE"
"""Names the file with the stamps that a run took before it looked at the code; without it a stage stands alone."""
PACKAGES = ("mergeline", "stages")
HOME = Path(__file__).resolve().parents[1]
NOT_RESULTS = ("stages", "stages.__main__", "stages.registry", "stages.context", "stages.loaded_code", "stages.starter")
"""Modules that change no result; most are loaded before anything can be looked at."""


def stamps_of(files: Iterable[Path]) -> dict[str, Stamp | None]:
    """The stamp of each file, by the path without links."""
    return {path: _stamp_of(path) for path in map(os.path.realpath, files)}


def _stamp_of(path: str) -> Stamp | None:
    try:
        status = os.stat(path)  # noqa: PTH116
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def write_stamps(root: Path, stamps: dict[str, Stamp | None]) -> Path:
    """Leave a run's stamps for its stages; the file to name in the environment."""
    from stages.formats.files import write_json

    path = root / paths.CODE_STAMPS
    write_json(path, stamps)
    return path


def own_files() -> list[Path]:
    """All modules that are part of the project."""
    return [path for package in PACKAGES for path in (HOME / package).rglob("*.py")]


class LoadedCode:
    """What a process loads of the project, from before it loads any of it that matters."""

    def __init__(self) -> None:
        given = _given_stamps()
        self._in_run = given is not None
        self._before = stamps_of(own_files()) if given is None else given
        self._sure: set[str] = set()
        self._paths: dict[str, str] = {}
        self.settle()

    def settle(self) -> None:
        """Modules that are loaded by now and whose files nobody wrote to are the right ones, whatever becomes of the files."""
        self._sure |= {name for name, path in self._loaded() if self._as_before(path)}

    def check(self, stage: str, cell: str) -> None:
        """To be called at a stage's end.

        Raises
        ------
        StageError: other code than was hashed may have run; names the file.
        """
        if stage == "code":
            self._check_hashed()
        for name, path in self._loaded():
            if name not in self._sure and not self._as_before(path):
                raise StageError(
                    f"{_short(path)} was written to before it was loaded: other code than is recorded may have run, and the result "
                    "is not kept. Run again."
                )
        if not self._in_run and stage != "code":
            self._check_recorded(stage, cell)

    def _check_hashed(self) -> None:
        """The stage that hashes the code read all of it: none may have changed."""
        now = stamps_of([*own_files(), *(Path(path) for path in self._before)])
        changed = [path for path, stamp in now.items() if self._before.get(path) != stamp]
        if changed:
            raise StageError(f"{_short(changed[0])} was written to while the code was hashed. Run again.")

    def _check_recorded(self, stage: str, cell: str) -> None:
        """In a process that no run has started (``dvc repro``): whether the hashes that DVC records are those of this code."""
        for note in _notes(stage, cell):
            try:
                recorded = json.loads(note.read_text(encoding="utf-8"))
                written = note.stat().st_mtime_ns
            except (OSError, ValueError):
                continue
            for name, path in self._loaded():
                stamp = self._before.get(path)
                if name not in recorded or (stamp is not None and max(stamp[1], stamp[2]) < written):
                    continue
                from stages.plan.code import module_hash

                if module_hash(name) != recorded[name]:
                    raise StageError(
                        f"{_short(path)} is not what {paths.ARTIFACTS}/code says, which would be recorded: hash the code first. "
                        "Run: mergeline run"
                    )

    def _loaded(self) -> Iterator[tuple[str, str]]:
        for name, module in list(sys.modules.items()):
            path = getattr(module, "__file__", None)
            if path is None or name in NOT_RESULTS:
                continue
            if name.split(".")[0] in PACKAGES or path in self._before:
                if path not in self._paths:
                    self._paths[path] = os.path.realpath(path)
                yield name, self._paths[path]

    def _as_before(self, path: str) -> bool:
        return path in self._before and _stamp_of(path) == self._before[path]


def _given_stamps() -> dict[str, Stamp | None] | None:
    try:
        noted = json.loads(Path(os.environ[STAMPS_VARIABLE]).read_text(encoding="utf-8"))
    except (KeyError, OSError, ValueError):
        return None
    return {path: None if stamp is None else (stamp[0], stamp[1], stamp[2], stamp[3]) for path, stamp in noted.items()}


def _notes(stage: str, cell: str) -> Iterator[Path]:
    """The hashes that this cell of a stage depends on."""
    for path in Path(paths.code(stage)).parent.glob(f"{stage}*.json"):
        if path.stem == stage or path.stem.removeprefix(f"{stage}-") in cell.split("."):
            yield path


def _short(path: str) -> str:
    return os.path.relpath(path, HOME) if Path(path).is_relative_to(HOME) else path
