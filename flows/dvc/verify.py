"""``mergeline verify``: read every cached object and every output again, and compare with what they should be.

DVC trusts a read-only cache object by its size and name; a flipped bit passes unseen. Here every byte is hashed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from flows.dvc.locks import set_aside
from flows.dvc.pipeline import Pipeline

__all__ = ["Fault", "repair", "verify"]


@dataclass(frozen=True)
class Fault:
    """An object or output whose content is not what its name or lock entry says."""

    path: Path
    kind: str
    """"cache" or "output"."""
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
        for count, (job, found) in enumerate(zip(jobs, pool.map(_md5, (job[0] for job in jobs)), strict=True), 1):
            path, kind, expected, stage = job
            if found != expected:
                faults.append(Fault(path, kind, expected, found, stage))
            if told is not None:
                told(count, len(jobs))
    return faults


def _md5(path: Path) -> str:
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
    bad_objects = {fault.expected for fault in faults if fault.kind == "cache"}
    good_outputs = {
        expected: pipeline.root / output
        for _, output, expected in pipeline.recorded_outputs()
        if expected in bad_objects and (pipeline.root / output).is_file() and _md5(pipeline.root / output) == expected
    }
    for fault in faults:
        kept = set_aside(pipeline.root, fault.path)
        pipeline.forget(fault.path)
        name = fault.path.relative_to(pipeline.root)
        if fault.kind == "cache" and fault.expected in good_outputs:
            pipeline.cache.put(good_outputs[fault.expected], fault.expected)
            done.append(f"{name}: restored from {good_outputs[fault.expected].relative_to(pipeline.root)}")
        elif (
            fault.kind == "output"
            and fault.expected not in bad_objects
            and pipeline.cache.take(fault.expected, fault.path)
        ):
            done.append(f"{name}: restored from the cache")
        else:
            done.append(f"{name}: set aside as {kept.relative_to(pipeline.root)}; the next run makes it again")
    # An output that came from a wrong object is wrong too, and was found by itself; one that is only missing now is
    # stale, and runs again.
    return done
