"""The ``mergeline`` command."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

__all__ = ["app", "main"]

app = typer.Typer(
    name="mergeline",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="""Merge neural networks that were trained apart, and benchmark it reproducibly.

    A benchmark is a folder with [bold]params.yaml[/]. Edit it, then [bold]mergeline run[/]: only what depends on the
    change runs again.

    Exit codes: 0 done, 1 a stage failed, 2 bad input, 3 another run is busy, 130/143 interrupted.""",
)
DONE, FAILED, BAD_INPUT, BUSY = 0, 1, 2, 3
out = Console()
err = Console(stderr=True)

TARGETS_HELP = (
    "Stages to run with all they need: by name (train@digits.r17.s0), group (train), pattern (evaluate@digits*) or "
    "file; all by default."
)
Targets = Annotated[list[str] | None, typer.Argument(help=TARGETS_HELP, show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


def _with_exit_codes(function: Callable[..., int | None]) -> Callable[..., None]:
    """Turn errors that a user can mend into one message and the right exit code."""

    @wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        from flows.workspace import BusyError
        from stages.errors import InputError

        try:
            code = function(*args, **kwargs)
        except InputError as error:
            _say_error(str(error))
            raise typer.Exit(BAD_INPUT) from None
        except BusyError as error:
            _say_error(str(error))
            raise typer.Exit(BUSY) from None
        raise typer.Exit(code or DONE)

    return wrapped


def _say_error(text: str) -> None:
    for line in text.splitlines():
        err.print("[bold red]error:[/]", end=" ")
        err.print(line, highlight=False, markup=False, soft_wrap=True)


@app.command()
@_with_exit_codes
def run(
    targets: Targets = None,
    jobs: Annotated[
        int, typer.Option("--jobs", "-j", min=0, help="Stages at a time; 0: as many as there are cores for.")
    ] = 0,
    force: Annotated[bool, typer.Option(help="Run the targets again even if nothing changed.")] = False,
    dry: Annotated[bool, typer.Option("--dry", help="Only say what would run, and why.")] = False,
    wait: Annotated[bool, typer.Option(help="If another run is busy, wait for it to end.")] = False,
    prefect: Annotated[
        bool | None,
        typer.Option(
            "--prefect/--no-prefect",
            help="Record the run in Prefect, starting a server if there is none; by default where that costs no time.",
            show_default=False,
        ),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print the outcome only.")] = False,
) -> int:
    """Run what is stale, and only that, in parallel.

    Examples: [bold]mergeline run[/], [bold]mergeline run train -j 2[/], [bold]mergeline run 'evaluate@digits*'[/].
    """
    from flows import run as running
    from flows.workspace import find_root, run_lock

    root = find_root()
    if dry:
        return _show_status(root, targets or [], True, False, False, force)
    with run_lock(root, wait):
        preparation = running.prepare(root, targets or (), force)
        _say_planned(root, preparation)
        if not preparation.stale:
            out.print(f"nothing to do: {preparation.fresh} stages are up to date", highlight=False)
            return DONE
        from flows.display import make_display, print_outcome

        mirror = None
        if prefect is not False:
            from flows.benchmark import Mirror

            mirror = Mirror(root, now=prefect is True)
        outcome = running.execute(
            preparation,
            jobs=jobs,
            force=force,
            listeners=[mirror] if mirror is not None else [],
            around=lambda expected, count: make_display(out, expected, count, root, quiet),
        )
        if mirror is not None:
            record = mirror.finish("cancelled" if outcome.cancelled else "ran" if outcome.ok else "failed")
            out.print(record, style="dim", highlight=False, soft_wrap=True)
        print_outcome(out, outcome)
    if outcome.cancelled:
        return 128 + (running.STOPPED[0] if running.STOPPED else 2)
    return DONE if outcome.ok else FAILED


def _say_planned(root: Path, preparation: Any) -> None:
    written, removed = len(preparation.written), len(preparation.removed)
    if written or removed:
        out.print(f"pipelines/: {written} files written, {removed} removed, from params.yaml", highlight=False)


@app.command()
@_with_exit_codes
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
    from flows import run as running

    preparation = running.prepare(root, targets, force, write=False)
    pipeline = preparation.pipeline
    if pipeline is None and everything:
        from flows.pipeline import Pipeline

        pipeline = Pipeline(root)
    stale = {pipeline.stages[a].name: reasons for a, reasons in preparation.stale.items()} if pipeline else {}
    if as_json:
        report = {
            "fresh": preparation.fresh,
            "stale": {name: [str(reason) for reason in reasons] for name, reasons in stale.items()},
            "pipelines_to_write": [str(path.relative_to(root)) for path in preparation.written],
        }
        print(json.dumps(report, indent=2))
        return DONE
    if preparation.written or preparation.removed:
        out.print(
            f"params.yaml asks for other cells: {len(preparation.written)} pipeline files to write, "
            f"{len(preparation.removed)} to remove (mergeline plan); what follows is about those there are",
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
        from flows.durations import expected_seconds

        expected = expected_seconds(root, pipeline.stages)
        seconds = sum(expected[address] for address in preparation.stale)

        out.print(
            f"{len(stale)} stale, {preparation.fresh} fresh; about {duration(seconds)} of work",
            highlight=False,
        )
    elif not preparation.written:
        out.print(f"all {preparation.fresh} stages are up to date", highlight=False)
    return DONE


@app.command()
@_with_exit_codes
def check() -> int:
    """Check params.yaml, the data and the checkpoints it names, and that pipelines/ matches it. Changes nothing."""
    from flows import run as running
    from flows.workspace import find_root
    from stages.params import load_params
    from stages.plan import make_plan

    root = find_root()
    params = load_params(root / "params.yaml")
    plan = make_plan(params)
    running.check_inputs(root, params, None, None)
    written, removed = running.plan_files(root, params, write=False)
    out.print(
        f"params.yaml is valid: {len(plan.edges)} edge models, {len(plan.groups)} groups, {len(plan.merges)} merges, "
        f"{len(plan.stages)} cells",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
    if written or removed:
        out.print(
            f"pipelines/ differs ({len(written)} to write, {len(removed)} to remove): mergeline plan",
            highlight=False,
        )
    return DONE


@app.command()
@_with_exit_codes
def plan(
    show: Annotated[bool, typer.Option("--show", help="Print the cells, and write nothing.")] = False,
) -> int:
    """Write pipelines/ from params.yaml (mergeline run does it by itself)."""
    from flows import run as running
    from flows.workspace import find_root, run_lock
    from stages.params import load_params
    from stages.plan import make_plan

    root = find_root()
    params = load_params(root / "params.yaml")
    if show:
        for stage in make_plan(params).stages:
            print(f"{stage.group}@{stage.cell}")
        return DONE
    with run_lock(root):
        written, removed = running.plan_files(root, params)
    out.print(f"pipelines/: {len(written)} files written, {len(removed)} removed", highlight=False)
    return DONE


@app.command()
def tasks() -> None:
    """List the tasks that params.yaml may name, and where their data come from."""
    from mergeline.tasks import TASKS

    for adapter in TASKS.values():
        out.print(f"[bold]{adapter.name:<12}[/] {adapter.summary}", highlight=False, soft_wrap=True)


@app.command()
def methods() -> None:
    """List the ways to match that params.yaml may name, with their options."""
    import dataclasses

    from mergeline.matching import MATCHERS

    for matcher in MATCHERS.values():
        options = ", ".join(f"{field.name}={field.default}" for field in dataclasses.fields(matcher.options))
        out.print(f"[bold]{matcher.name:<14}[/] {matcher.summary}", highlight=False, soft_wrap=True)
        if options:
            out.print(f"{'':<14} options: {options}", highlight=False, soft_wrap=True, markup=False)


def main() -> None:
    """The entry point of the command."""
    sys.exit(app())


if __name__ == "__main__":
    main()
