"""``mergeline verify``, ``doctor`` and ``prune``: keeping a benchmark whole and small."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Annotated

import typer

from flows.commands.console import DONE, FAILED, Json, out
from stages.plan import paths

__all__ = ["doctor", "prune", "verify"]


def verify(
    repair: Annotated[bool, typer.Option("--repair", help="Set wrong files aside, and restore what can be.")] = False,
    as_json: Json = False,
) -> int:
    """Read every cached object, every output and all data of the tasks, and compare them with what they should be.

    Exit code 1 if something is wrong (and was not repaired), or if data changed since results were made of them.
    """
    from flows.data import data_lines, look
    from flows.dvc.pipeline import Pipeline
    from flows.dvc.places import shown
    from flows.dvc.verify import repair as repair_faults
    from flows.dvc.verify import verify as find_faults
    from flows.refusal import restored_if_refused
    from flows.workspace import find_root, run_lock
    from stages.plan.loading import load_params

    root = find_root()
    with run_lock(root), restored_if_refused(root):
        seen = look(root, load_params(root / paths.PARAMS), write=True, anew=True)
        pipeline = Pipeline(root)
        faults = find_faults(pipeline)
        done = repair_faults(pipeline, faults) if repair else []
        data = [
            *map(str, filter(lambda missing: missing.here, seen.missing.values())),
            *data_lines(root, seen, pipeline),
        ]
    if as_json:
        entries = [
            {"path": shown(f.path, root), "kind": f.kind, "expected": f.expected, "found": f.found} for f in faults
        ]
        print(json.dumps({"faults": entries, "repaired": done, "data": data}, indent=2))
    else:
        for fault in faults:
            what = fault.found if fault.kind == "missing" else f"content is {fault.found}, should be {fault.expected}"
            place = "cache" if fault.kind == "missing" else fault.kind
            out.print(f"[bold red]✗[/] {place} {shown(fault.path, root)}: {what}", highlight=False, soft_wrap=True)
        for line in done:
            out.print(f"[green]✓[/] {line}", highlight=False, soft_wrap=True)
        for line in data:
            out.print(f"[bold red]✗[/] {line}", highlight=False, soft_wrap=True)
        if data:
            out.print(
                "results are of the data as they were; make them of what is there now: mergeline run", highlight=False
            )
        if not faults:
            out.print("every cached object and every output is what it should be", highlight=False)
        elif not repair:
            out.print("put it right: mergeline verify --repair", highlight=False)
    return DONE if (not faults or repair) and not data else FAILED


def doctor(
    fix: Annotated[bool, typer.Option("--fix", help="Mend what can be mended.")] = False,
    as_json: Json = False,
) -> int:
    """Look for what stands in the way of a run: damaged locks, processes and files that an interrupted run left,
    settings and versions that are known to do harm.

    Exit code 1 if something is left to mend.
    """
    from flows.doctor import examine
    from flows.workspace import find_root

    root = find_root()
    with _held(root):
        found = list(examine(root))
        mended = {index: finding.fix() for index, finding in enumerate(found) if fix and finding.fix is not None}
    if as_json:
        entries = [{"what": f.what, "advice": f.advice, "mended": mended.get(index)} for index, f in enumerate(found)]
        print(json.dumps(entries, indent=2))
    else:
        for index, finding in enumerate(found):
            mark = "[green]mended[/]" if index in mended else "[yellow]found[/]"
            out.print(f"{mark} {finding.what}", highlight=False, soft_wrap=True)
            out.print(f"    {mended.get(index) or finding.advice}", highlight=False, soft_wrap=True)
        if not found:
            out.print("nothing stands in the way", highlight=False)
        elif not fix and any(finding.fix for finding in found):
            out.print("mend it: mergeline doctor --fix", highlight=False)
    return DONE if len(mended) == len(found) else FAILED


@contextmanager
def _held(root: Path) -> Iterator[None]:
    """The run lock; where the disk is full or closed, which is what a doctor is asked about, none can be made."""
    from flows.workspace import run_lock

    with ExitStack() as stack:
        with suppress(OSError):
            stack.enter_context(run_lock(root))
        yield


def prune(
    dry: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
) -> int:
    """Remove results, logs and lock entries of cells that the benchmark no longer has. DVC's cache keeps what it has."""
    from flows.dvc.pipeline import Pipeline
    from flows.dvc.prune import leftovers, remove
    from flows.workspace import find_root, run_lock

    root = find_root()
    with run_lock(root):
        pipeline = Pipeline(root)
        found = list(leftovers(pipeline))
        entries = pipeline.stale_lock_entries()
        for leftover in found:
            out.print(f"{leftover.kind}: {leftover.path.relative_to(root)}", highlight=False, soft_wrap=True)
        for path, name in entries:
            out.print(
                f"lock entry: {name} in {path.with_suffix('.lock').relative_to(root)}", highlight=False, soft_wrap=True
            )
        if not dry:
            remove(pipeline, found)
    size = sum(leftover.size for leftover in found)
    verb = "would free" if dry else "freed"
    out.print(f"{len(found)} files and {len(entries)} lock entries, {verb} {size / 2**20:.1f} MiB", highlight=False)
    return DONE
