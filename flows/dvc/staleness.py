"""Why a stage is stale: what its lock entry says against what is there now."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from dvc.dependency.param import ParamsDependency

from flows.dvc.hashes import Hashes
from flows.dvc.stage import Reason

__all__ = ["stage_reasons"]


def stage_reasons(
    stage: Any, lock: Any, hashes: Hashes, relative: Callable[[Any], str], predicted: Mapping[str, str]
) -> list[Reason]:
    """Why a DVC stage is stale by its own inputs and outputs; empty if it is fresh.

    Parameters
    ----------
    lock: its entry in dvc.lock; None where there is none.
    relative: the path of a dependency or output from the root.
    predicted: md5 sums that files will have.
    """
    if lock is None:
        return [Reason("never run")]
    if stage.frozen:
        return []
    reasons = []
    if stage.always_changed:
        reasons.append(Reason("forced", detail="always_changed is set"))
    if lock.get("cmd") != stage.cmd:
        reasons.append(Reason("command", detail="changed"))
    reasons += _list_reasons(stage, lock)
    for dep in stage.deps:
        if isinstance(dep, ParamsDependency):
            reasons += _param_reasons(hashes, dep)
        else:
            reasons += _file_reasons(hashes, "dependency", dep, relative(dep), predicted)
    for out in stage.outs:
        reasons += _file_reasons(hashes, "output", out, relative(out), {})
    return reasons


def _list_reasons(stage: Any, lock: Any) -> list[Reason]:
    """Inputs that the lock names and the stage no longer does (DVC itself does not see those)."""
    reasons = []
    for kind, entries in (("dependency", stage.deps), ("output", stage.outs)):
        now = {entry.def_path for entry in entries if not isinstance(entry, ParamsDependency)}
        then = {entry["path"] for entry in lock.get("deps" if kind == "dependency" else "outs", [])}
        reasons += [Reason("list", path, f"is no {kind} any more") for path in sorted(then - now)]
    now_keys = {key for dep in stage.deps if isinstance(dep, ParamsDependency) for key in dep.params}
    then_keys = {key for values in lock.get("params", {}).values() for key in values}
    if now_keys:
        reasons += [Reason("list", key, "is no parameter any more") for key in sorted(then_keys - now_keys)]
    return reasons


def _param_reasons(hashes: Hashes, dep: Any) -> list[Reason]:
    recorded = dep.hash_info.value if isinstance(dep.hash_info.value, dict) else {}
    current = hashes.parameters(dep)
    reasons = []
    for key in dep.params or sorted(set(current) | set(recorded)):
        if key not in current:
            reasons.append(Reason("parameter", key, "is missing"))
        elif key not in recorded:
            reasons.append(Reason("parameter", key, "is new"))
        elif current[key] != recorded[key]:
            reasons.append(Reason("parameter", key, _difference(recorded[key], current[key])))
    return reasons


def _file_reasons(hashes: Hashes, kind: str, entry: Any, subject: str, predicted: Mapping[str, str]) -> list[Reason]:
    if not entry.hash_info:
        return [Reason(kind, subject, "is new")]
    if subject in predicted:
        same = predicted[subject] == entry.hash_info.value
        return [] if same else [Reason(kind, subject, "changed")]
    found = hashes.of(entry)
    if found is None:
        return [Reason(kind, subject, "is missing")]
    if found[1] != entry.hash_info:
        return [Reason(kind, subject, "changed")]
    return []


def _difference(then: Any, now: Any) -> str:
    """What changed in a parameter: the keys of a section, or the values."""
    if isinstance(then, dict) and isinstance(now, dict):
        changes = []
        for key in sorted({*then, *now}, key=str):
            if key not in now:
                changes.append(f"{key} removed")
            elif key not in then:
                changes.append(f"{key}: {now[key]} added")
            elif then[key] != now[key]:
                changes.append(f"{key}: {_difference(then[key], now[key])}")
        return ", ".join(changes)
    return f"{then} -> {now}"
