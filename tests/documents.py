"""The pages of the documentation as tests see them: their blocks, links and commands."""

from __future__ import annotations

import ast
import re
import shlex
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import typer
from markdown.extensions.toc import slugify

from flows.cli import app

__all__ = [
    "PAGES",
    "ROOT",
    "Block",
    "Command",
    "anchors",
    "blocks",
    "commands",
    "constants",
    "inline_commands",
    "links",
    "parsed",
]

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("README.md", *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md")))
FENCE = re.compile(r"^(?P<margin> *)```(?P<language>\w*)(?P<rest>[^\n]*)\n(?P<text>.*?)^ *```$", re.M | re.S)
LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^)\s]+)\)")


@dataclass(frozen=True)
class Block:
    """A fenced block. ``title``: the file that it is; ``section``: the heading that it stands under."""

    page: str
    line: int
    language: str
    text: str
    title: str
    section: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


@dataclass(frozen=True)
class Command:
    """A line that a person types. ``fails``: whether an error is shown below it."""

    words: tuple[str, ...]
    fails: bool = False

    def __str__(self) -> str:
        return shlex.join(self.words)


@cache
def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str, *languages: str) -> list[Block]:
    """A page's blocks in order, of some languages."""
    text = text_of(page)
    found = []
    for match in FENCE.finditer(text):
        before = text[: match.start()]
        title = re.search(r'title="([^"]+)"', match["rest"])
        headings = re.findall(r"^#+ (.+)$", FENCE.sub("", before), re.M)
        found.append(
            Block(
                page, before.count("\n") + 1, match["language"], textwrap.dedent(match["text"]),
                title[1] if title else "", headings[-1] if headings else "",
            )
        )  # fmt: skip
    return [block for block in found if not languages or block.language in languages]


def commands(block: Block) -> list[Command]:
    """The commands of a block: all lines of ``sh``, those behind a prompt of ``console``."""
    lines = block.text.replace("\\\n", " ").splitlines()
    prompt = "$ " if block.language == "console" else ""
    found: list[Command] = []
    for line in lines:
        if prompt and not line.startswith(prompt):
            if line.startswith("error:") and found:
                found[-1] = Command(found[-1].words, True)
            continue
        words = shlex.split(line.removeprefix(prompt), comments=True)
        found += [Command(tuple(part)) for part in _parts(words) if part]
    return found


def _parts(words: Sequence[str]) -> list[list[str]]:
    """What stands between ``&&``."""
    parts: list[list[str]] = [[]]
    for word in words:
        if word == "&&":
            parts.append([])
        else:
            parts[-1].append(word)
    return parts


def inline_commands(page: str) -> list[Command]:
    """Commands in running text, ``mergeline run --push`` and the like, that are whole."""
    plain = FENCE.sub("", text_of(page))
    found = re.findall(r"`(mergeline [a-z][^`]*)`", " ".join(plain.split()))
    return [Command(tuple(shlex.split(text))) for text in found]


def parsed(words: Sequence[str]) -> Any:
    """What the command's own parser makes of ``mergeline ...``; an unknown option or a missing argument raises."""
    group: Any = typer.main.get_command(app)
    name, *rest = words[1:]
    return group.commands[name].make_context(name, list(rest)).params


def links(page: str) -> list[str]:
    """Where a page's links and images lead."""
    return LINK.findall(FENCE.sub("", text_of(page)))


@cache
def anchors(page: str) -> set[str]:
    """What a page's headings are called in links."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", text_of(page)), re.M)
    return {slugify(re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", ""), "-") for heading in headings}


@cache
def constants() -> str:
    """All text in the sources, what f-strings hold between their values included."""
    return "\0".join(_constants())


def _constants() -> Iterator[str]:
    for layer in ("mergeline", "stages", "flows"):
        for path in (ROOT / layer).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield node.value
