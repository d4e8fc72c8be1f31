"""``mergeline verify``: read every cached object and every output again, and compare with what they should be.

DVC trusts a read-only cache object by its size and name; a flipped bit passes unseen. Here every byte is hashed. An object that is
not there at all is a fault too: what it is of could be neither sent nor brought back.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from flows.dvc.locks import set_aside
from flows.dvc.pipeline import Pipeline
from flows.dvc.places import shown

__all__ = ["Fault", "md5_of", "missing_objects", "repair", "verify"]


@dataclass(frozen=True)
class Fault:
    """An object or output whose content is not what its name or lock entry says."""

    path: Path
    kind: str
    """"cache", "output" or "missing" (from the cache)."""
    expected: str
    found: str
    stage: str = ""


def verify(pipeline: Pipeline, told: Callable[[int, int], None] | None = None) -> list[Fault]:
    """Hash all cache objects and all recorded outputs (8 threads: hashing lets go of the interpreter's lock)."""
    cache = pipeline.cache.folder
    jobs: list[tuple[Path, str, str, str]] = []
    for path in sorted(cache.glob("??/*")) if cache.is_dir() else []:
        name = path.parent.name + path.name
        if len(name.removesuffix(".dir")) == 32 and path.is_file():
            jobs.append((path, "cache", name.removesuffix(".dir"), ""))
    for stage, output, expected in pipeline.recorded_outputs():
        path = pipeline.root / output
        if path.is_file() and not expected.endswith(".dir"):
            jobs.append((path, "output", expected, stage))
    faults = []
    with ThreadPoolExecutor(8) as pool:
        for count, (job, found) in enumerate(zip(jobs, pool.map(md5_of, (job[0] for job in jobs)), strict=True), 1):
            path, kind, expected, stage = job
            if found != expected:
                faults.append(Fault(path, kind, expected, found, stage))
            if told is not None:
                told(count, len(jobs))
    return faults + missing_objects(pipeline)


def missing_objects(pipeline: Pipeline) -> list[Fault]:
    """Objects of recorded outputs, and of the files in those that are folders, that the cache does not have."""
    faults: dict[Path, Fault] = {}
    for stage, output, expected in pipeline.cached_outputs():
        path = pipeline.cache.path_of(expected)
        if not path.is_file():
            faults.setdefault(path, Fault(path, "missing", expected, f"missing, of {output}", stage))
            continue
        for name, md5 in _files_in(path) if expected.endswith(".dir") else ():
            inner = pipeline.cache.path_of(md5)
            if not inner.is_file():
                faults.setdefault(inner, Fault(inner, "missing", md5, f"missing, of {output}/{name}", stage))
    return list(faults.values())


def _files_in(listing: Path) -> list[tuple[str, str]]:
    """Name and md5 of each file of a folder, by the folder's object; nothing where that is damaged (its hash tells)."""
    try:
        return [(entry["relpath"], entry["md5"]) for entry in json.loads(listing.read_bytes())]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def md5_of(path: Path) -> str:
    """The hash of a file's bytes; where it cannot be read, why."""
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "md5").hexdigest()
    except OSError as error:
        return f"unreadable: {error}"


def repair(pipeline: Pipeline, faults: list[Fault]) -> list[str]:
    """Set wrong objects aside, bring back what a good copy of exists; the rest is recomputed by the next run.

    An object is restored from an output that has the right content, an output from a good object. Nothing is deleted:
    wrong files go to the quarantine.
    """
    done = []
    bad_objects = {fault.expected for fault in faults if fault.kind != "output"}
    good_outputs = _good_outputs(pipeline, bad_objects)
    for fault in faults:
        name = shown(fault.path, pipeline.root)
        how = "the next run makes it again"
        if fault.kind != "missing":
            kept = set_aside(pipeline.root, fault.path)
            pipeline.forget(fault.path)
            how = f"set aside as {shown(kept, pipeline.root)}; {how}"
        if fault.kind != "output" and fault.expected in good_outputs:
            pipeline.cache.put(good_outputs[fault.expected], fault.expected)
            done.append(f"{name}: restored from {shown(good_outputs[fault.expected], pipeline.root)}")
        elif (
            fault.kind == "output"
            and fault.expected not in bad_objects
            and pipeline.cache.take(fault.expected, fault.path)
        ):
            done.append(f"{name}: restored from the cache")
        else:
            done.append(f"{name}: {how}")
    # An output that came from a wrong object is wrong too, and was found by itself; one that is only missing now is
    # stale, and runs again.
    return done


def _good_outputs(pipeline: Pipeline, wanted: set[str]) -> dict[str, Path]:
    """By md5, files of the workspace that have the content of wanted objects: outputs, and what lies in those that are folders."""
    candidates: dict[str, Path] = {}
    for _, output, expected in pipeline.recorded_outputs():
        path = pipeline.root / output
        if expected in wanted and path.is_file():
            candidates[expected] = path
        if expected.endswith(".dir"):
            listing = pipeline.cache.path_of(expected)
            candidates |= {md5: path / name for name, md5 in _files_in(listing) if md5 in wanted}
    return {md5: path for md5, path in candidates.items() if path.is_file() and md5_of(path) == md5}
