"""What all commands share: exit codes, where they print, how errors are said."""

from __future__ import annotations

import errno
import os
import signal
import sqlite3
import sys
import traceback
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any

import typer
from rich.console import Console

__all__ = ["DONE", "FAILED", "Json", "Targets", "err", "input_error", "out", "with_exit_codes"]

DONE, FAILED, BAD_INPUT, BUSY = 0, 1, 2, 3


class _Output(Console):
    """The terminal, or whatever the output goes to."""

    def on_broken_pipe(self) -> None:
        """Leave the answer to :func:`with_exit_codes`: rich would end the process with the code of a failed stage."""
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


out = _Output()
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
            raise typer.Exit(_say_system_error(error)) from None
        raise typer.Exit(code or DONE)

    return wrapped


PIPE_CLOSED = 128 + signal.SIGPIPE


def _say_system_error(error: OSError | sqlite3.Error) -> int:
    """One line of what the system refused, and the exit code: bad input where a place was named that is unfit."""
    from flows.system_errors import explained

    if isinstance(error, BrokenPipeError):  # who read the output has enough of it
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123  so that nothing more is said as Python ends
        return PIPE_CLOSED
    refused = explained(error)
    if refused is None:
        traceback.print_exception(error)
        return FAILED
    say_error(refused.text)
    return refused.code


def say_error(text: str) -> None:
    for line in text.splitlines():
        err.print("[bold red]error:[/]", end=" ")
        err.print(line, highlight=False, markup=False, soft_wrap=True)


def input_error(text: str) -> Exception:
    """Bad input, to be raised."""
    from stages.errors import InputError

    return InputError(text)
