"""The ``mergeline`` command."""

from __future__ import annotations

import sys
from importlib.metadata import version
from typing import Annotated

import typer

from flows.commands.care import doctor, prune, verify
from flows.commands.console import out, with_exit_codes
from flows.commands.diagnosis import diagnose
from flows.commands.merging import merge, show
from flows.commands.models import methods, normalizations, placements, tasks
from flows.commands.plan import check, plan
from flows.commands.report import compare, papers, refresh, report, serve
from flows.commands.run import run, status
from flows.commands.starting import init

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
COMMANDS = (
    init, run, status, check, plan, verify, doctor, prune, report, compare, refresh, serve, papers,
    merge, show, diagnose, tasks, methods, normalizations, placements,
)  # fmt: skip


def _say_version(asked: bool) -> None:
    if asked:
        out.print(f"mergeline {version('mergeline')}", highlight=False)
        raise typer.Exit


@app.callback()
def _every_command(
    asked: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options that stand before a command."""


for _command in COMMANDS:
    app.command()(with_exit_codes(_command))


def main() -> None:
    """The entry point of the command."""
    sys.exit(app())


if __name__ == "__main__":
    main()
