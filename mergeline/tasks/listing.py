"""Which files lie below a folder: links followed, but not in circles; what systems and editors leave there passed over."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from mergeline.tasks.task import TaskError

__all__ = ["Listing", "counted", "leads_back", "some", "told", "unread"]

_LEFT_BY_SYSTEMS = {
    "__macosx", "__pycache__", "@eadir", "thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "lost+found",
    "system volume information",
}  # fmt: skip


CIRCLE = "links that lead back to a folder above"


def unread(name: str) -> bool:
    """Whether a file or folder is hidden, or left there by a system, by its name; nothing of it is ever read."""
    return name.startswith(".") or name.lower() in _LEFT_BY_SYSTEMS


def leads_back(link: str, above: tuple[str, ...]) -> bool:
    """Whether a link to a folder leads to one of ``above``, real folders that it was reached through, or to one that they lie in:
    following it would never end."""
    target = Path(os.path.realpath(link))
    return any(Path(folder).is_relative_to(target) for folder in above)


class Listing:
    """Files below folders, by their endings. ``left_out``: by the reason, the names of all else, relative to ``base``."""

    def __init__(self, base: Path, endings: tuple[str, ...]) -> None:
        self.base, self.endings = base, endings
        self.left_out: dict[str, list[str]] = {}

    def leave_out(self, reason: str, path: str | Path) -> None:
        self.left_out.setdefault(reason, []).append(os.path.relpath(path, self.base))

    def inside(self, folder: Path) -> tuple[list[Path], list[Path]]:
        """The folders and the files with one of the endings that lie in a folder itself, by name.

        Raises
        ------
        TaskError: the folder cannot be listed, or what is named like a file is a pipe, a socket or a device.
        """
        folders: list[Path] = []
        files: list[Path] = []
        real = os.path.realpath(folder)
        for path, is_folder in self._entries(str(folder)):
            if is_folder and os.path.islink(path) and leads_back(path, (real,)):  # noqa: PTH114
                self.leave_out(CIRCLE, path)
            else:
                (folders if is_folder else files).append(Path(path))
        return sorted(folders), sorted(files)

    def below(self, folder: Path) -> Iterator[Path]:
        """The files with one of the endings at any depth below a folder, in no order.

        Raises
        ------
        TaskError: as :meth:`inside`.
        """
        deeper: list[tuple[str, tuple[str, ...]]] = [(str(folder), (os.path.realpath(folder),))]
        while deeper:
            place, above = deeper.pop()
            for path, is_folder in self._entries(place):
                if not is_folder:
                    yield Path(path)
                elif not os.path.islink(path):  # noqa: PTH114
                    deeper.append((path, above))
                elif leads_back(path, (*above, os.path.realpath(place))):
                    self.leave_out(CIRCLE, path)
                else:
                    deeper.append((path, (*above, os.path.realpath(place), os.path.realpath(path))))

    def _entries(self, folder: str) -> Iterator[tuple[str, bool]]:
        """Folders, and files with one of the endings."""
        try:
            with os.scandir(folder) as listed:
                entries = list(listed)
        except OSError as error:
            raise TaskError(f"{folder} cannot be listed: {os.strerror(error.errno or 0)}") from error
        for entry in entries:
            if unread(entry.name):
                self.leave_out("hidden files and folders", entry.path)
                continue
            if entry.is_symlink() and not _leads_anywhere(entry.path):
                self.leave_out("links to nowhere", entry.path)
            elif entry.is_dir():
                yield entry.path, True
            elif not entry.name.lower().endswith(self.endings):
                self.leave_out("files that are no images", entry.path)
            elif not entry.is_file():
                raise TaskError(
                    f"{entry.path} is no regular file, but a pipe, a socket or a device, of which no image is read; take it away"
                )
            else:
                yield entry.path, False


def _leads_anywhere(link: str) -> bool:
    try:
        os.stat(link)  # noqa: PTH116
    except OSError:  # nothing is there, or only the link itself
        return False
    return True


def some(names: Sequence[object], most: int = 3) -> str:
    """The first few of some names."""
    return ", ".join(str(name) for name in names[:most]) + (", ..." if len(names) > most else "")


def counted(names: Sequence[object]) -> str:
    """How many, and the first few."""
    return f"{len(names)}: {some(names)}"


def told(left_out: Mapping[str, Sequence[str]]) -> str:
    """How many of what was left out, and the first names."""
    return ", ".join(f"{reason} ({counted(sorted(names))})" for reason, names in left_out.items())
