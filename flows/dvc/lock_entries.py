"""The entries of DVC's lock files: read once, recorded as stages end, written in batches and atomically."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc.utils.serialize import dumps_yaml

from flows.dvc.locks import backup_path
from flows.dvc.stage import PipelineError
from stages.formats import yaml12
from stages.formats.files import write_bytes

__all__ = ["LockEntries", "dump_lock", "fast_yaml", "plain_values", "read_lock"]


class LockEntries:
    """The lock entries of the stages of one opened repository.

    Raises
    ------
    PipelineError: a lock file cannot be read.

    ``read``: how its files are read, where some are known already.
    """

    def __init__(
        self, repo: Repo, root: Path, stages: Iterable[Any], read: Callable[[Path], dict[str, Any]] | None = None
    ) -> None:
        self._repo = repo
        self._root = root
        self._names: dict[str, set[str]] = {}
        for stage in stages:
            if stage.cmd:
                self._names.setdefault(stage.path, set()).add(getattr(stage, "name", ""))
        read = read or read_lock
        self._written = {path: read(Path(path).with_suffix(".lock")).get("stages") or {} for path in self._names}
        self._recorded: dict[str, dict[str, Any]] = {}
        """By file: entries that are recorded but not yet written."""

    def of(self, stage: Any) -> Any:
        """A stage's entry; None where there is none."""
        recorded = self._recorded.get(stage.path, {})
        return recorded[stage.name] if stage.name in recorded else self._written[stage.path].get(stage.name)

    def record(self, stage: Any, entry: Any) -> None:
        self._recorded.setdefault(stage.path, {})[stage.name] = plain_values(entry)

    @property
    def pending(self) -> int:
        """Recorded entries that are not yet written."""
        return sum(len(entries) for entries in self._recorded.values())

    def flush(self) -> None:
        """Write the recorded entries, each file once, atomically, with a backup of what stood there."""
        with self.locked():
            for dvcfile_path, entries in self._recorded.items():
                if not entries:
                    continue
                path = Path(dvcfile_path).with_suffix(".lock")
                data = read_lock(path)
                stages = data.setdefault("stages", {})
                stages.update(entries)
                if path.exists():
                    backup = backup_path(self._root, path)
                    backup.parent.mkdir(parents=True, exist_ok=True)
                    backup.write_bytes(path.read_bytes())
                write_bytes(path, dump_lock(data).encode())
                self._written[dvcfile_path] = stages
                entries.clear()

    def without_stage(self) -> list[tuple[Path, str]]:
        """Entries of stages that are no more."""
        return [
            (Path(path), name)
            for path, entries in self._written.items()
            for name in entries
            if name not in self._names[path]
        ]

    def drop_without_stage(self) -> None:
        """Remove the entries of stages that are no more."""
        with self.locked():
            for path, name in self.without_stage():
                lock = path.with_suffix(".lock")
                data = read_lock(lock)
                data.get("stages", {}).pop(name, None)
                write_bytes(lock, dump_lock(data).encode())
                self._written[str(path)].pop(name, None)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """DVC's own lock, held only while its files are written, so that `dvc status` can be used beside a run."""
        deadline = time.monotonic() + 60
        while True:
            try:
                self._repo.lock.lock()
                break
            except DvcException as error:
                if time.monotonic() > deadline:
                    raise PipelineError(f"another DVC process holds {self._root}/.dvc/tmp/lock: {error}") from error
                time.sleep(0.1)
        self._repo._lock_depth += 1  # what DVC does in here (push, fetch) does not lock again
        try:
            yield
        finally:
            self._repo._lock_depth -= 1
            self._repo.lock.unlock()


def plain_values(entry: Any) -> Any:
    """The entry as plain dictionaries and lists."""
    if isinstance(entry, Mapping):
        return {key: plain_values(value) for key, value in entry.items()}
    return [plain_values(value) for value in entry] if isinstance(entry, list | tuple) else entry


class _FastDumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
    def ignore_aliases(self, data: Any) -> bool:
        return True


def fast_yaml(data: Any) -> str:
    """The text of plain values, as PyYAML writes it."""
    return yaml.dump(data, Dumper=_FastDumper, sort_keys=False, allow_unicode=True, width=100_000)


def dump_lock(data: Any) -> str:
    """The text of a lock file as DVC writes it, by the faster of two writers where both agree on what it says."""
    text = fast_yaml(data)
    return text if not _writers_may_differ(text) else dumps_yaml(data)


def _writers_may_differ(text: str) -> bool:
    """PyYAML and ruamel (DVC's) write the same, but for folded and quoted scalars, nulls and exponents."""
    marks = ('"', "e-", "e+", "? ", ": |", ": >", "null")
    return any(mark in text for mark in marks) or any(len(line) > 78 for line in text.splitlines())


def read_lock(path: Path) -> dict[str, Any]:
    """What stands in a lock file; no stages where there is none.

    Raises
    ------
    PipelineError: it is damaged.
    """
    try:
        data = yaml12.load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        data = None
    except (OSError, ValueError) as error:
        raise PipelineError(f"{path} is damaged ({error}); repair it: mergeline doctor --fix") from error
    if data is not None and not isinstance(data, dict):
        raise PipelineError(f"{path} is damaged (no keys); repair it: mergeline doctor --fix")
    return data or {"schema": "2.0"}
