"""``mergeline run`` and ``mergeline status``: running what is stale, or saying what that is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from flows.commands.console import DONE, FAILED, Json, Targets, input_error, out

__all__ = ["run", "status"]


Jobs = Annotated[int, typer.Option("--jobs", "-j", min=0, help="Stages at a time; 0: as many as there are cores for.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change params.yaml first (a copy is kept), like train.epochs=3."),
]
Profile = Annotated[
    str | None, typer.Option(help="Make params.yaml this profile first (a copy is kept); see profiles/.")
]
Prefect = Annotated[
    bool | None,
    typer.Option(
        "--prefect/--no-prefect",
        help="Record the run in Prefect, starting a server if there is none; by default where that costs no time.",
        show_default=False,
    ),
]


def run(
    targets: Targets = None,
    jobs: Jobs = 0,
    settings: Settings = None,
    profile: Profile = None,
    force: Annotated[bool, typer.Option("--force", help="Run the targets again even if nothing changed.")] = False,
    dry: Annotated[bool, typer.Option("--dry", help="Only say what would run, and why.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="If another run is busy, wait for it to end.")] = False,
    pull: Annotated[bool, typer.Option("--pull", help="First fetch what the DVC remote has of it.")] = False,
    push: Annotated[bool, typer.Option("--push", help="Afterwards send results to the DVC remote.")] = False,
    prefect: Prefect = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print the outcome only.")] = False,
    events: Annotated[bool, typer.Option("--events", hidden=True)] = False,
) -> int:
    """Run what is stale, and only that, in parallel.

    Examples: [bold]mergeline run[/], [bold]mergeline run train -j 2[/], [bold]mergeline run 'evaluate@digits*'[/],
    [bold]mergeline run --set train.epochs=3[/].
    """
    from flows.editing import apply_settings, profile_path, use_profile
    from flows.running import run as running
    from flows.workspace import find_root, run_lock

    root = find_root()
    if dry and (profile or settings):
        raise input_error("--dry changes nothing: leave out --profile and --set")
    if profile:
        profile_path(root, profile)
    if dry:
        return _show_status(root, targets or [], True, False, False, force)
    show = Console(quiet=True) if events else out
    with run_lock(root, wait):
        if profile:
            _say_kept(show, use_profile(root, profile))
        if settings:
            _say_kept(show, apply_settings(root, settings))
        preparation = running.prepare(root, targets or (), force, pulling=pull)
        _say_planned(show, preparation)
        if pull and preparation.stale:
            show.print(running.pull(root, preparation), highlight=False, soft_wrap=True)
            preparation = running.prepare(root, targets or (), force)
        if not preparation.stale:
            show.print(f"nothing to do: {preparation.fresh} stages are up to date", highlight=False)
            code = DONE
        else:
            code = _execute(root, preparation, jobs, force, prefect, quiet or events, events, show)
        if push and code == DONE:
            show.print(running.push(root), highlight=False, soft_wrap=True)
    return code


def _execute(
    root: Path,
    preparation: Any,
    jobs: int,
    force: bool,
    prefect: bool | None,
    quiet: bool,
    events: bool,
    show: Console,
) -> int:
    from flows.display import make_display, print_outcome
    from flows.mirror.mirror import Mirror
    from flows.running import run as running
    from stages.plan import paths

    mirror = Mirror(root, now=prefect is True) if prefect is not False else None
    listeners: list[Any] = [mirror] if mirror is not None else []
    if events:
        listeners.append(lambda event: print(event.to_json(), flush=True))
    outcome = running.execute(
        preparation,
        jobs=jobs,
        force=force,
        listeners=listeners,
        around=lambda expected, count: make_display(out, expected, count, root, quiet),
    )
    if mirror is not None:
        record = mirror.finish("cancelled" if outcome.cancelled else "ran" if outcome.ok else "failed")
        show.print(record, style="dim", highlight=False, soft_wrap=True)
    print_outcome(show, outcome)
    if outcome.cancelled:
        return 128 + (running.STOPPED[0] if running.STOPPED else 2)
    page = root / paths.PAGE
    if outcome.ok and page.is_file():
        show.print(f"report: {page}; its table: mergeline report", highlight=False, soft_wrap=True)
    return DONE if outcome.ok else FAILED


def _say_kept(show: Console, kept: Path | None) -> None:
    if kept is not None:
        show.print(f"params.yaml is changed; what stood there is kept in {kept}", highlight=False, soft_wrap=True)


def _say_planned(show: Console, preparation: Any) -> None:
    for line in preparation.healed:
        show.print(f"[yellow]repaired[/] {line}", highlight=False, soft_wrap=True)
    for line in preparation.notices:
        show.print(f"[yellow]note[/] {line}", highlight=False, soft_wrap=True)
    written, removed = len(preparation.written), len(preparation.removed)
    if written or removed:
        show.print(f"pipelines/: {written} files written, {removed} removed, from params.yaml", highlight=False)


def status(
    targets: Targets = None,
    why: Annotated[bool, typer.Option("--why", help="Say why each stage is stale.")] = False,
    everything: Annotated[bool, typer.Option("--all", help="List fresh stages too.")] = False,
    as_json: Json = False,
) -> int:
    """Say what is stale (and why), without changing anything."""
    from flows.workspace import find_root

    return _show_status(find_root(), targets or [], why, everything, as_json, False)


def _show_status(root: Path, targets: list[str], why: bool, everything: bool, as_json: bool, force: bool) -> int:
    from flows.running import run as running

    preparation = running.prepare(root, targets, force, write=False)
    pipeline = preparation.pipeline
    if pipeline is None and everything:
        from flows.dvc.pipeline import Pipeline

        pipeline = Pipeline(root)
    stale = {pipeline.stages[a].name: reasons for a, reasons in preparation.stale.items()} if pipeline else {}
    if as_json:
        report = {
            "fresh": preparation.fresh,
            "stale": {name: [str(reason) for reason in reasons] for name, reasons in stale.items()},
            "pipelines_to_write": [str(path.relative_to(root)) for path in preparation.written],
            "notices": preparation.notices,
        }
        print(json.dumps(report, indent=2))
        return DONE
    for line in preparation.notices:
        out.print(f"[yellow]note[/] {line}", highlight=False, soft_wrap=True)
    if preparation.written or preparation.removed:
        out.print(
            f"params.yaml asks for other cells: {len(preparation.written)} pipeline files to write, "
            f"{len(preparation.removed)} to remove (mergeline run does it); what follows is as if that were done",
            highlight=False, soft_wrap=True,
        )  # fmt: skip
    if everything and pipeline is not None:
        for address, stage in pipeline.stages.items():
            if address not in preparation.stale:
                out.print(f"[green]fresh[/] {stage.name}", highlight=False)
    for name, reasons in stale.items():
        direct = [reason for reason in reasons if reason.kind != "upstream"]
        mark = "[yellow]stale[/]" if direct else "[dim]waits[/]"
        text = "; ".join(str(reason) for reason in (direct or reasons)) if why else ""
        out.print(f"{mark} {name}" + (f": {text}" if text else ""), highlight=False, soft_wrap=True)
    if stale and pipeline is not None:
        from flows.display import duration
        from flows.running.durations import expected_seconds

        expected = expected_seconds(root, pipeline.stages)
        seconds = sum(expected[address] for address in preparation.stale)

        out.print(
            f"{len(stale)} stale, {preparation.fresh} fresh; about {duration(seconds)} of work",
            highlight=False,
        )
    elif not preparation.written:
        out.print(f"all {preparation.fresh} stages are up to date", highlight=False)
    return DONE
