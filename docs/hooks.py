"""What the site has that no page holds: the reference of the command, from the command itself."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

MARK = "<!-- commands -->"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """The page that asks for the commands gets them."""
    return markdown.replace(MARK, "\n".join(commands())) if MARK in markdown else markdown


def commands() -> Iterator[str]:
    """Markdown of every command: what it does, its arguments and options."""
    import typer

    from flows.cli import app

    group: Any = typer.main.get_command(app)
    for name, command in group.commands.items():
        usage = " ".join(["mergeline", name, *(_usage(own) for own in command.params if not own.is_eager)])
        yield from (f"## {name}", "", _plain(command.help), "", "```text", usage.rstrip(), "```", "")
        rows = [own for own in command.params if own.name != "help" and not getattr(own, "hidden", False)]
        if rows:
            yield from ("| argument or option | | default |", "|---|---|---|")
            yield from (
                f"| {_names(own)} | {_cell(getattr(own, 'help', '') or '')} | {_default(own)} |" for own in rows
            )
        yield ""


def _usage(parameter: Any) -> str:
    """A required parameter as it stands in a command; nothing for one that may be left out."""
    if parameter.param_type_name == "argument":
        word = (parameter.metavar or parameter.name).strip("{}[].").upper() + ("..." if parameter.nargs == -1 else "")
        return word if parameter.required else f"[{word}]"
    return f"{parameter.opts[0]} {_value(parameter)}".strip() if parameter.required else ""


def _value(parameter: Any) -> str:
    """What stands behind an option."""
    if getattr(parameter, "is_flag", False):
        return ""
    if parameter.metavar:
        return str(parameter.metavar)
    return " ".join([next(opt for opt in parameter.opts if opt.startswith("--")).lstrip("-").upper()] * parameter.nargs)


def _names(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return f"`{parameter.name.upper()}`"
    words = [*parameter.opts, *parameter.secondary_opts]
    value = _value(parameter)
    several = " (repeatable)" if getattr(parameter, "multiple", False) else ""
    return (
        ", ".join(f"`{word} {value}`" if value and word.startswith("--") else f"`{word}`" for word in words) + several
    )


def _default(parameter: Any) -> str:
    value = parameter.default
    if (
        callable(value)
        or value is None
        or value is False
        or value in ((), [], "")
        or "Sentinel" in type(value).__name__
    ):
        return "required" if parameter.required else ""
    return f"`{value}`"


def _plain(text: str | None) -> str:
    """Help without its markup; examples are code."""
    lines = " \n".join(line.strip() for line in (text or "").strip().splitlines())
    return re.sub(r"\[bold\](.*?)\[/\]", r"`\1`", lines.replace("[/bold]", "[/]"))


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
