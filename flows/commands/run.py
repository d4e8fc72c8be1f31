"""``mergeline run`` and ``mergeline status``: running what is stale, or saying what that is."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from flows.commands.console import DONE, FAILED, Json, Targets, out

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
    dry: Annotated[
        bool, typer.Option("--dry", help="Only say what would run, why and how long, with --profile and --set too.")
    ] = False,
    wait: Annotated[bool, typer.Option("--wait", help="If another run is busy, wait for it to end.")] = False,
    pull: Annotated[bool, typer.Option("--pull", help="First fetch what the DVC remote has of it.")] = False,
    push: Annotated[bool, typer.Option("--push", help="Afterwards send results to the DVC remote.")] = False,
    prefect: Prefect = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print the outcome only.")] = False,
    events: Annotated[bool, typer.Option("--events", hidden=True)] = False,
) -> int:
    """Run what is stale, and only that, in parallel.

    Examples: [bold]mergeline run[/], [bold]mergeline run train -j 2[/], [bold]mergeline run 'evaluate@digits*'[/],
    [bold]mergeline run --set train.epochs=3[/], [bold]mergeline run --profile standard --dry[/].
    """
    from flows.editing import apply_settings, profile_path, proposal, use_profile
    from flows.running import run as running
    from flows.workspace import find_root, run_lock

    root = find_root()
    if profile:
        profile_path(root, profile)
    if dry:
        proposed = proposal(root, profile, settings or ())
        return _show_status(root, targets or [], Shown(why=True), jobs, force, proposed)
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
    from flows.display import duration, make_display, print_outcome
    from flows.mirror.mirror import Mirror
    from flows.running import run as running
    from stages.plan import paths

    mirror = Mirror(root, now=prefect is True) if prefect is not False else None
    listeners: list[Any] = [mirror] if mirror is not None else []
    if events:
        listeners.append(lambda event: print(event.to_json(), flush=True))
    if not quiet:
        seconds = running.expected_time(preparation, jobs)
        show.print(f"{len(preparation.stale)} stages to run, about {duration(seconds)}", highlight=False)
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


@dataclass(frozen=True)
class Shown:
    """What is said of stages: why they are stale, each one by name (fresh ones too), all as JSON."""

    why: bool = False
    everything: bool = False
    as_json: bool = False


MOST_NAMED = 12
"""Stale stages up to which each is named without being asked for."""


def status(
    targets: Targets = None,
    why: Annotated[bool, typer.Option("--why", help="Name each stale stage, and say why it is.")] = False,
    everything: Annotated[bool, typer.Option("--all", help="Name each stage, fresh ones too.")] = False,
    as_json: Json = False,
) -> int:
    """Say what is stale, by kind of stage, and how long it would take; nothing is changed."""
    from flows.workspace import find_root

    return _show_status(find_root(), targets or [], Shown(why, everything, as_json))


def _show_status(
    root: Path, targets: list[str], shown: Shown, jobs: int = 0, force: bool = False, proposed: str | None = None
) -> int:
    from flows.display import duration
    from flows.running import run as running

    preparation = running.prepare(root, targets, force, write=False, proposed=proposed)
    pipeline = preparation.pipeline
    if pipeline is None and shown.everything:
        from flows.dvc.pipeline import Pipeline

        pipeline = Pipeline(root)
    seconds = running.expected_time(preparation, jobs)
    stale = {pipeline.stages[a].name: reasons for a, reasons in preparation.stale.items()} if pipeline else {}
    if shown.as_json:
        report = {
            "fresh": preparation.fresh,
            "stale": {name: [str(reason) for reason in reasons] for name, reasons in stale.items()},
            "seconds": round(seconds, 1),
            "pipelines_to_write": [str(path.relative_to(root)) for path in preparation.written],
            "notices": preparation.notices,
        }
        print(json.dumps(report, indent=2))
        return DONE
    _say_coming(preparation)
    if shown.everything and pipeline is not None:
        for address, stage in pipeline.stages.items():
            if address not in preparation.stale:
                out.print(f"[green]fresh[/] {stage.name}", highlight=False)
    if shown.why or shown.everything or len(stale) <= MOST_NAMED:
        _name_stages(stale, shown.why)
    elif pipeline is not None:
        _count_stages(preparation)
    if stale:
        out.print(f"{len(stale)} stale, {preparation.fresh} fresh; about {duration(seconds)} to run", highlight=False)
    elif not preparation.written and not preparation.removed:
        out.print(f"all {preparation.fresh} stages are up to date", highlight=False)
    return DONE


def _say_coming(preparation: Any) -> None:
    for line in preparation.notices:
        out.print(f"[yellow]note[/] {line}", highlight=False, soft_wrap=True)
    if preparation.written or preparation.removed:
        out.print(
            f"params.yaml asks for other cells: {len(preparation.written)} pipeline files to write, "
            f"{len(preparation.removed)} to remove (mergeline run does it); what follows is as if that were done",
            highlight=False, soft_wrap=True,
        )  # fmt: skip


def _name_stages(stale: dict[str, Any], why: bool) -> None:
    for name, reasons in stale.items():
        direct = [reason for reason in reasons if reason.kind != "upstream"]
        mark = "[yellow]stale[/]" if direct else "[dim]waits[/]"
        text = "; ".join(str(reason) for reason in (direct or reasons)) if why else ""
        out.print(f"{mark} {name}" + (f": {text}" if text else ""), highlight=False, soft_wrap=True)


def _count_stages(preparation: Any) -> None:
    """A line for each kind of stage: how many are stale by themselves, how many wait for them, how many are fresh."""
    from flows.dvc.stage import kind_of

    counts: dict[str, Counter[str]] = {}
    for address, stage in preparation.pipeline.stages.items():
        reasons = preparation.stale.get(address)
        state = "fresh" if reasons is None else "stale" if any(r.kind != "upstream" for r in reasons) else "waits"
        counts.setdefault(kind_of(stage.name), Counter())[state] += 1
    for kind, own in counts.items():
        if own["stale"] or own["waits"]:
            said = [f"[yellow]{own['stale']} stale[/]" if own["stale"] else ""]
            said += [f"[dim]{own[state]} {word}[/]" if own[state] else "" for state, word in STATES.items()]
            out.print(f"{kind}: {', '.join(text for text in said if text)}", highlight=False)
    out.print("each by name: mergeline status --why", style="dim", highlight=False)


STATES = {"waits": "waiting for others", "fresh": "fresh"}
