"""Objects of a DVC remote whose content is not what their name says: never used, named, and left for a person to judge.

DVC deletes such an object in a remote that is a folder, without a word, and takes a read-only one for good.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from dvc_data.hashfile.db import HashFileDB
from dvc_objects.errors import ObjectFormatError

from flows.dvc.locks import set_aside
from flows.dvc.pipeline import Pipeline
from flows.dvc.verify import md5_of

__all__ = ["damage_lines", "named_objects", "set_wrong_aside", "untouched_remote"]


@contextlib.contextmanager
def untouched_remote(pipeline: Pipeline) -> Iterator[set[str]]:
    """A block in which DVC removes nothing from the remote; gives the names of objects that it would have removed."""
    found: set[str] = set()
    real = HashFileDB.check
    own = {pipeline.repo.cache.local.path, pipeline.repo.cache.legacy.path}

    def check(self: Any, oid: str, check_hash: bool = True, _info: Any = None) -> Any:
        if self.path in own or not check_hash or self.fs.protocol != "local":
            return real(self, oid, check_hash, _info)
        path = Path(self.oid_to_path(oid))
        if not path.exists():
            raise FileNotFoundError(path)
        if md5_of(path) != oid.removesuffix(".dir"):
            found.add(oid)
            raise ObjectFormatError(f"{path} is corrupted")
        return real(self, oid, False, _info)

    HashFileDB.check = check  # type: ignore[method-assign]
    try:
        yield found
    finally:
        HashFileDB.check = real  # type: ignore[method-assign]


def set_wrong_aside(pipeline: Pipeline, since: int) -> set[str]:
    """Look at every object that came to the cache since a time (ns); the names of wrong ones, which go to the quarantine."""
    folder = pipeline.cache.folder
    arrived = [path for path in folder.glob("??/*") if path.is_file() and path.stat().st_ctime_ns >= since - 10**9]
    wrong = set()
    with ThreadPoolExecutor(8) as pool:
        for path, md5 in zip(arrived, pool.map(md5_of, arrived), strict=True):
            name = path.parent.name + path.name
            if len(name.removesuffix(".dir")) == 32 and md5 != name.removesuffix(".dir"):
                set_aside(pipeline.root, path)
                pipeline.forget(path)
                wrong.add(name)
    return wrong


def named_objects(error: Exception) -> set[str]:
    """The objects that an error of DVC names."""
    return set(re.findall(r"\b[0-9a-f]{32}(?:\.dir)?", str(error)))


def damage_lines(pipeline: Pipeline, damaged: set[str]) -> list[str]:
    """What to say of damaged objects of the remote: which, of what, and what to do."""
    if not damaged:
        return []
    names = _outputs(pipeline)
    remote = pipeline.repo.cloud.get_remote_odb()
    return [
        f"warning: {remote.oid_to_path(oid)} in the DVC remote is damaged, of {names.get(oid, 'an earlier result')}; it is left "
        "there, and made here again. To put it right: delete it there, then mergeline run --push"
        for oid in sorted(damaged)
    ]


def _outputs(pipeline: Pipeline) -> dict[str, str]:
    """The outputs that objects are of, and the files in those that are folders."""
    found: dict[str, str] = {}
    for _, output, md5 in pipeline.recorded_outputs():
        found.setdefault(md5, output)
        if md5.endswith(".dir"):
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                for entry in json.loads(pipeline.cache.path_of(md5).read_bytes()):
                    found.setdefault(entry["md5"], f"{output}/{entry['relpath']}")
    return found
