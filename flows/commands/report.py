"""``mergeline report``, ``compare``, ``papers``, ``refresh`` and ``serve``: what the results say, once or on a schedule."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from flows.commands.console import DONE, Json, input_error, out
from stages.plan import paths

__all__ = ["compare", "papers", "refresh", "report", "serve"]


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
    _print_tables([tables / "merges_same_task.md", tables / "merges_task_pairs.md"])
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
    for file in files:
        if not file.is_file():
            continue
        header, _, *lines = [
            [cell.strip() for cell in line.strip("|").split("|")]
            for line in file.read_text(encoding="utf-8").splitlines()
            if line.startswith("|")
        ]
        keep = [index for index, name in enumerate(header) if not name.startswith(("agrees", "follows", "joint"))]
        _print_table([header[index] for index in keep], [[line[index] for index in keep] for line in lines])
        out.print()


def _print_table(header: list[str], lines: list[list[str]]) -> None:
    from rich.table import Table

    table = Table(*header, box=None, header_style="bold", padding=(0, 1))
    for line in lines:
        table.add_row(*line)
    (out if out.is_terminal else Console(width=160)).print(table)


def compare(
    revision: Annotated[str, typer.Argument(help="A commit, branch or tag whose dvc.lock has results.")],
    other: Annotated[
        str | None, typer.Argument(help="A second one; by default the results as they are now.", show_default=False)
    ] = None,
    as_json: Json = False,
) -> int:
    """Two runs side by side: every setting's score in the results of two commits, and which parameters differ.

    Nothing is run or written. A commit's results come from the cache; `git checkout` it and `mergeline run --pull` bring
    those that are not there.
    """
    from flows.comparison import side_by_side
    from flows.workspace import find_root

    root = find_root()
    (first, was), (second, name) = _results_at(root, revision), _results_at(root, other)
    header, lines = side_by_side(first, second)
    changed = _changed_parameters(root, revision, other)
    if as_json:
        settings = [dict(zip(header, line, strict=True)) for line in lines]
        print(json.dumps({"first": was, "second": name, "parameters": changed, "settings": settings}, indent=2))
        return DONE
    out.print(f"first: {was}; second: {name}", highlight=False, soft_wrap=True)
    for key, (then, now) in changed.items():
        out.print(f"  {key}: {then} -> {now}", highlight=False, markup=False, soft_wrap=True)
    _print_table(header, lines)
    return DONE


def _results_at(root: Path, revision: str | None) -> tuple[list[Any], str]:
    """The rows of a commit, or those that are there now, and what they are called."""
    from flows.comparison import rows_at

    if revision is None:
        import pyarrow.parquet as pq

        if not (root / paths.RESULTS).is_file():
            raise input_error(f"{root / paths.RESULTS} is not there yet; make it: mergeline run")
        return pq.read_table(root / paths.RESULTS).to_pylist(), "the results as they are now"
    return rows_at(root, revision)


def _changed_parameters(root: Path, revision: str, other: str | None) -> dict[str, tuple[str, str]]:
    from flows.comparison import parameters_at, parameters_now

    then = parameters_at(root, revision)
    now = parameters_now(root) if other is None else parameters_at(root, other)
    keys = [*then, *(key for key in now if key not in then)]
    return {
        key: (str(then.get(key, "not there")), str(now.get(key, "not there")))
        for key in keys
        if then.get(key) != now.get(key) or (key in then) != (key in now)
    }


def papers(
    paper: Annotated[
        str | None, typer.Argument(help="One paper; by default the list of papers.", show_default=False)
    ] = None,
) -> int:
    """Print the result tables of the five papers that the benchmark follows."""
    from stages import papers as reference

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
    from flows.comparison import change_lines
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
    out.print("\n".join(change_lines(comparison)), highlight=False, markup=False, soft_wrap=True)
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
    from flows.mirror.serving import Schedule
    from flows.mirror.serving import serve as serve_benchmark
    from flows.workspace import find_root

    root = find_root()
    if cron and interval:
        raise input_error("--cron and --interval: choose one")
    if profile:
        profile_path(root, profile)
    _check_schedule(cron, port)
    schedule = Schedule(cron, interval, jobs, profile)
    return serve_benchmark(root, port, schedule, lambda line: out.print(line, highlight=False))


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
