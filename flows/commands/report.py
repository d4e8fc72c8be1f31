"""``mergeline report``, ``papers``, ``refresh`` and ``serve``: what the results say, once or on a schedule."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from flows.commands.console import DONE, Json, input_error, out
from stages.plan import paths

__all__ = ["papers", "refresh", "report", "serve"]


def report(
    open_page: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    bundle: Annotated[
        Path | None,
        typer.Option(help="A new .zip with the page, its figures and tables, all rows, params.yaml and dvc.lock."),
    ] = None,
) -> int:
    """Print the headline table and where the report is. The page alone can be mailed: it loads nothing."""
    from flows.workspace import find_root

    root = find_root()
    page, tables = root / paths.PAGE, root / paths.TABLES
    if not page.is_file():
        raise input_error(f"{page} is not there yet; make it: mergeline run")
    _print_tables([tables / "merges_same_task.csv", tables / "merges_task_pairs.csv"])
    out.print(f"report: {page}", highlight=False, soft_wrap=True)
    if bundle is not None:
        out.print(f"bundle: {_bundled(root, bundle)}", highlight=False, soft_wrap=True)
    if open_page:
        import webbrowser

        webbrowser.open(page.as_uri())
    return DONE


def _bundled(root: Path, target: Path) -> Path:
    """A zip of what was reported, with times that are always the same."""
    import zipfile

    from stages.formats.files import writing
    from stages.own_models import check_target

    if target.suffix != ".zip":
        raise input_error(f"{target}: a bundle's name ends in .zip")
    check_target(target)
    chosen = [root / paths.PARAMS, root / paths.LOCK_FILE, root / paths.PAGE, root / paths.RESULTS]
    chosen += [path for folder in (paths.FIGURES, paths.TABLES, paths.MEASURED) for path in (root / folder).rglob("*")]
    with writing(target) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(path for path in chosen if path.is_file()):
            entry = zipfile.ZipInfo(path.relative_to(root).as_posix(), (1980, 1, 1, 0, 0, 0))
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            archive.writestr(entry, path.read_bytes())
    return target


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
        raise input_error(str(error)) from None
    for name, rows in tables.items():
        print(reference.format_table(name, rows) + "\n")
    return DONE


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
        raise input_error("--cron and --interval: choose one")
    if profile:
        profile_path(root, profile)
    _check_schedule(cron, port)
    return serve_benchmark(root, cron, interval, port, jobs, profile, lambda line: out.print(line, highlight=False))


def _check_schedule(cron: str | None, port: int) -> None:
    """Refuse what no server could be started with, before one is."""
    import socket

    if cron is not None:
        from prefect.client.schemas.schedules import CronSchedule

        try:
            CronSchedule(cron=cron)
        except ValueError:
            raise input_error(
                f'--cron {cron!r} is no schedule: five fields, minute to day of the week, like "0 3 * * 1" (Mondays at three)'
            ) from None
    if not 0 < port < 65536:
        raise input_error(f"--port {port}: a port is a number from 1 to 65535")
    with socket.socket() as asked:
        asked.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            asked.bind(("127.0.0.1", port))
        except OSError as error:
            raise input_error(
                f"--port {port} cannot be had ({error.strerror}); is a server running already? choose another"
            ) from None
