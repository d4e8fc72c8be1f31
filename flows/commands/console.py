"""What all commands share: exit codes, where they print, how errors are said."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any

import typer
from rich.console import Console

__all__ = ["DONE", "FAILED", "Json", "Targets", "err", "input_error", "out", "with_exit_codes"]

DONE, FAILED, BAD_INPUT, BUSY = 0, 1, 2, 3
out = Console()
err = Console(stderr=True)

TARGETS_HELP = (
    "Stages to run with all they need: by name (train@digits.r17.s0), group (train), pattern (evaluate@digits*) or "
    "file; all by default."
)
Targets = Annotated[list[str] | None, typer.Argument(help=TARGETS_HELP, show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


def with_exit_codes(function: Callable[..., int | None]) -> Callable[..., None]:
    """Turn errors that a user can mend into one message and the right exit code."""

    @wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        from flows.workspace import BusyError
        from mergeline.registry import PluginError
        from stages.errors import InputError

        try:
            code = function(*args, **kwargs)
        except (InputError, PluginError) as error:
            say_error(str(error))
            raise typer.Exit(BAD_INPUT) from None
        except BusyError as error:
            say_error(str(error))
            raise typer.Exit(BUSY) from None
        except (OSError, sqlite3.OperationalError) as error:
            from flows.system_errors import explained

            if (refused := explained(error)) is None:
                raise
            say_error(refused.text)
            raise typer.Exit(refused.code) from None
        raise typer.Exit(code or DONE)

    return wrapped


def say_error(text: str) -> None:
    for line in text.splitlines():
        err.print("[bold red]error:[/]", end=" ")
        err.print(line, highlight=False, markup=False, soft_wrap=True)


def input_error(text: str) -> Exception:
    """Bad input, to be raised."""
    from stages.errors import InputError

    return InputError(text)
