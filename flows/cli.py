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

    Exit codes: 0 done, 1 a stage failed, 2 bad input, 3 another run is busy, 4 a refresh found a regression,
    130/143 interrupted.""",
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
        from mergeline.registry import PluginError
        from stages.errors import InputError

        try:
            code = function(*args, **kwargs)
        except (InputError, PluginError) as error:
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
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Change params.yaml first (a copy is kept), like train.epochs=3."
        ),
    ] = None,
    profile: Annotated[
        str | None, typer.Option(help="Make params.yaml this profile first (a copy is kept); see profiles/.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Run the targets again even if nothing changed.")] = False,
    dry: Annotated[bool, typer.Option("--dry", help="Only say what would run, and why.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="If another run is busy, wait for it to end.")] = False,
    pull: Annotated[bool, typer.Option("--pull", help="First fetch what the DVC remote has of it.")] = False,
    push: Annotated[bool, typer.Option("--push", help="Afterwards send results to the DVC remote.")] = False,
    prefect: Annotated[
        bool | None,
        typer.Option(
            "--prefect/--no-prefect",
            help="Record the run in Prefect, starting a server if there is none; by default where that costs no time.",
            show_default=False,
        ),
    ] = None,
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
        raise _input_error("--dry changes nothing: leave out --profile and --set")
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
        preparation = running.prepare(root, targets or (), force)
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
    return DONE if outcome.ok else FAILED


def _input_error(text: str) -> Exception:
    from stages.errors import InputError

    return InputError(text)


def _say_kept(show: Console, kept: Path | None) -> None:
    if kept is not None:
        show.print(f"params.yaml is changed; what stood there is kept in {kept}", highlight=False, soft_wrap=True)


def _say_planned(show: Console, preparation: Any) -> None:
    for line in preparation.healed:
        show.print(f"[yellow]repaired[/] {line}", highlight=False, soft_wrap=True)
    written, removed = len(preparation.written), len(preparation.removed)
    if written or removed:
        show.print(f"pipelines/: {written} files written, {removed} removed, from params.yaml", highlight=False)


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
        }
        print(json.dumps(report, indent=2))
        return DONE
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


@app.command()
@_with_exit_codes
def check() -> int:
    """Check params.yaml, the data and the checkpoints it names, and that pipelines/ matches it. Changes nothing."""
    from flows.running import run as running
    from flows.workspace import find_root
    from stages.plan.params import load_params
    from stages.plan.pipelines import make_plan

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
    from flows.running import run as running
    from flows.workspace import find_root, run_lock
    from stages.plan.params import load_params
    from stages.plan.pipelines import make_plan

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
@_with_exit_codes
def verify(
    repair: Annotated[bool, typer.Option("--repair", help="Set wrong files aside, and restore what can be.")] = False,
    as_json: Json = False,
) -> int:
    """Read every cached object and every output, and compare their bytes with what they should be.

    Exit code 1 if something is wrong (and was not repaired).
    """
    from flows.dvc.pipeline import Pipeline
    from flows.dvc.verify import repair as repair_faults
    from flows.dvc.verify import verify as find_faults
    from flows.workspace import find_root, run_lock

    root = find_root()
    with run_lock(root):
        pipeline = Pipeline(root)
        faults = find_faults(pipeline)
        done = repair_faults(pipeline, faults) if repair else []
    if as_json:
        entries = [
            {"path": str(f.path.relative_to(root)), "kind": f.kind, "expected": f.expected, "found": f.found}
            for f in faults
        ]
        print(json.dumps({"faults": entries, "repaired": done}, indent=2))
    else:
        for fault in faults:
            out.print(
                f"[bold red]✗[/] {fault.kind} {fault.path.relative_to(root)}: content is {fault.found}, should be "
                f"{fault.expected}", highlight=False, soft_wrap=True,
            )  # fmt: skip
        for line in done:
            out.print(f"[green]✓[/] {line}", highlight=False, soft_wrap=True)
        if not faults:
            out.print("every cached object and every output is what it should be", highlight=False)
        elif not repair:
            out.print("put it right: mergeline verify --repair", highlight=False)
    return DONE if not faults or repair else FAILED


@app.command()
@_with_exit_codes
def doctor(
    fix: Annotated[bool, typer.Option("--fix", help="Mend what can be mended.")] = False,
    as_json: Json = False,
) -> int:
    """Look for what stands in the way of a run: damaged locks, processes and files that an interrupted run left,
    settings and versions that are known to do harm.

    Exit code 1 if something is left to mend.
    """
    from flows.doctor import examine
    from flows.workspace import find_root, run_lock

    root = find_root()
    with run_lock(root):
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


@app.command()
@_with_exit_codes
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


@app.command()
@_with_exit_codes
def report(
    open_page: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
) -> int:
    """Print the headline table and where the report is."""
    from flows.workspace import find_root

    root = find_root()
    page, tables = root / "reports" / "index.html", root / "reports" / "tables"
    if not page.is_file():
        raise _input_error(f"{page} is not there yet; make it: mergeline run")
    _print_tables([tables / "merges_same_task.csv", tables / "merges_task_pairs.csv"])
    out.print(f"report: {page}", highlight=False, soft_wrap=True)
    if open_page:
        import webbrowser

        webbrowser.open(page.as_uri())
    return DONE


def _print_tables(files: list[Path]) -> None:
    import csv

    from rich.table import Table

    wide = out if out.is_terminal else Console(width=160)
    for file in files:
        if not file.is_file():
            continue
        with file.open(encoding="utf-8", newline="") as stream:
            header, *lines = list(csv.reader(stream))
        keep = [index for index, name in enumerate(header) if not name.startswith(("agrees", "follows", "joint"))]
        table = Table(*(header[index] for index in keep), box=None, header_style="bold", padding=(0, 1))
        for line in lines:
            table.add_row(*(line[index] for index in keep))
        wide.print(table)
        out.print()


@app.command()
@_with_exit_codes
def refresh(
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=0, help="Stages at a time.")] = 0,
    as_json: Json = False,
) -> int:
    """Run what is stale, compare with the committed results, and say what changed (reports/changes.md).

    The baseline is results.parquet of the last commit's dvc.lock: committing a lock accepts its numbers. Exit code 4
    if something got worse.
    """
    from flows import refresh as refreshing
    from flows.workspace import find_root

    root = find_root()
    code, comparison = refreshing.refresh(root, jobs)
    if comparison is None:
        return code
    if as_json:
        print(
            json.dumps(
                {
                    "baseline": comparison.baseline,
                    "regressions": [change.label for change in comparison.regressions],
                    "improvements": [change.label for change in comparison.improvements],
                    "changed": [change.label for change in comparison.other],
                    "added": comparison.added,
                    "removed": comparison.removed,
                    "unchanged": comparison.unchanged,
                },
                indent=2,
            )
        )
        return code
    out.print("\n".join(refreshing.change_lines(comparison)), highlight=False, markup=False, soft_wrap=True)
    return code


@app.command()
@_with_exit_codes
def serve(
    cron: Annotated[str | None, typer.Option(help='When to refresh, like "0 3 * * 1" (Mondays at three).')] = None,
    interval: Annotated[float | None, typer.Option(min=1, help="Refresh every so many seconds.")] = None,
    port: Annotated[int, typer.Option(help="Of the benchmark's own Prefect server.")] = 4200,
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=0, help="Stages at a time.")] = 0,
    profile: Annotated[
        str | None, typer.Option(help="The profile to refresh; by default params.yaml as it is.")
    ] = None,
) -> int:
    """Run a Prefect server for this benchmark, and refresh it on a schedule: no two at once, only the latest missed.

    Without --cron and --interval only the server runs, and other runs are recorded there. Ends with Ctrl-C.
    """
    from flows.editing import profile_path
    from flows.mirror.serving import serve as serve_benchmark
    from flows.workspace import find_root

    root = find_root()
    if cron and interval:
        raise _input_error("--cron and --interval: choose one")
    if profile:
        profile_path(root, profile)
    return serve_benchmark(root, cron, interval, port, jobs, profile, lambda line: out.print(line, highlight=False))


@app.command()
@_with_exit_codes
def papers(
    paper: Annotated[
        str | None, typer.Argument(help="One paper; by default the list of papers.", show_default=False)
    ] = None,
) -> int:
    """Print the result tables of the five papers that the benchmark follows."""
    from stages.report import papers as reference

    if paper is None:
        for name in reference.PAPERS:
            out.print(f"[bold]{name}[/]: {', '.join(reference.tables(name))}", highlight=False, soft_wrap=True)
        return DONE
    try:
        tables = reference.tables(paper)
    except reference.UnknownPaperError as error:
        raise _input_error(str(error)) from None
    for name, rows in tables.items():
        print(reference.format_table(name, rows) + "\n")
    return DONE


@app.command()
@_with_exit_codes
def merge(
    files: Annotated[list[Path], typer.Argument(help="Checkpoints (.safetensors, .pth), the reference first.")],
    architecture: Annotated[
        list[str],
        typer.Option("--architecture", "-a", help="Of every checkpoint, in order; once if they are all the same."),
    ],
    data: Annotated[str, typer.Option(help="Images they were trained on: a task, or folder (see mergeline tasks).")],
    out_file: Annotated[Path, typer.Option("--out", help="Where the merged network goes (.safetensors).")],
    root: Annotated[Path | None, typer.Option(help="The data's folder, where the task needs one.")] = None,
    method: Annotated[str, typer.Option(help="See mergeline methods.")] = "permute",
    option: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="Options of the method.")] = None,
    input_size: Annotated[int, typer.Option(help="32, 64 or 224 pixels.")] = 224,
    width: Annotated[float, typer.Option(help="Width multiplier of the networks.")] = 1.0,
    images: Annotated[int, typer.Option(help="Training images for the statistics.")] = 1000,
    as_json: Json = False,
) -> int:
    """Merge your own checkpoints of one task, outside a benchmark.

    Example: [bold]mergeline merge a.pth b.pth -a r50 --data folder --root my/images --out merged.safetensors[/]
    """
    from mergeline.matching import MATCHERS
    from stages.formats import yaml12
    from stages.own_models import merge_files

    if len(files) < 2:
        raise _input_error("name two checkpoints at least")
    if len(architecture) not in (1, len(files)):
        raise _input_error(f"{len(architecture)} architectures for {len(files)} checkpoints: name one, or one for each")
    if method not in MATCHERS:
        raise _input_error(f"unknown method {method!r}; known: {', '.join(MATCHERS)}")
    options = {}
    for entry in option or []:
        key, separator, value = entry.partition("=")
        if not separator:
            raise _input_error(f"--option {entry}: expected key=value")
        options[key] = yaml12.load(value)
    try:
        MATCHERS[method].options(**options)
    except (TypeError, ValueError) as error:
        raise _input_error(f"--option: {error}") from None
    names = architecture * len(files) if len(architecture) == 1 else architecture
    result = merge_files(
        files,
        names,
        data,
        root,
        out_file,
        method=method,
        options=options,
        input_size=input_size,
        width=width,
        images=images,
    )
    if as_json:
        print(json.dumps(result, indent=2))
        return DONE
    for name, accuracy in result["sources"].items():
        out.print(f"{name}: {100 * accuracy:.2f} %", highlight=False, soft_wrap=True)
    out.print(
        f"merged by {method}: {100 * result['merged']:.2f} %, in {result['out']}", highlight=False, soft_wrap=True
    )
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
