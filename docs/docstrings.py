"""How the project's docstrings become the reference: sections under a line of dashes, items written ``name: text``.

An extension of griffe, which mkdocstrings reads the code with. It changes what is shown, not the code.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import griffe

SECTIONS = {"Parameters": "Args", "Returns": "Returns", "Raises": "Raises"}
"""Our headings, and those of the style that is parsed."""
ROLE = re.compile(r":(?:mod|func|class|meth|attr|data):`~?([^`]+)`")


class ProjectStyle(griffe.Extension):
    """Brings every docstring to the style that is parsed."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            names = [own.name for own in obj.parameters] if isinstance(obj, griffe.Function) else []
            obj.docstring.value = converted(obj.docstring.value, names)


def converted(text: str, names: Sequence[str] = ()) -> str:
    """A docstring in the style that is parsed. ``names``: parameters of the function that it is of."""
    plain = ROLE.sub(r"`\1`", text).replace("``", "`")
    lines = plain.splitlines()
    out: list[str] = []
    place = 0
    while place < len(lines):
        if lines[place].strip() in SECTIONS and _ruled(lines, place + 1):
            heading, place = lines[place].strip(), place + 2
            body = []
            while place < len(lines) and not _ruled(lines, place + 1):
                body.append(lines[place])
                place += 1
            body, rest = _without_prose(body)
            place -= len(rest)
            out += ["", f"{SECTIONS[heading]}:", *_section(heading, body, names), ""]
        elif lines[place].startswith(">>>"):
            end = next((i for i in range(place, len(lines)) if not lines[i].strip()), len(lines))
            out += ["", "```pycon", *lines[place:end], "```", ""]
            place = end
        else:
            out.append(lines[place])
            place += 1
    return "\n".join(out).strip()


def _ruled(lines: Sequence[str], place: int) -> bool:
    return place < len(lines) and re.fullmatch(r"\s*-{3,}\s*", lines[place]) is not None


def _without_prose(body: list[str]) -> tuple[list[str], list[str]]:
    """A section's own lines; an example that follows is none of them."""
    for place, line in enumerate(body):
        if line.startswith(">>>"):
            return body[:place], body[place:]
    return body, []


def _section(heading: str, body: Sequence[str], names: Sequence[str]) -> Iterator[str]:
    """A section's items, each in one line."""
    text = [line for line in body if line.strip()]
    if heading == "Returns":
        yield "    " + " ".join(line.strip() for line in text).replace(": ", " – ", 1)
        return
    items: list[str] = []
    for line in text:
        if line.startswith(" ") and items:
            items[-1] += " " + line.strip()
        else:
            items.append(line.strip())
    for item in items:
        for own in _apart(item, names):
            yield f"    {own}"


def _apart(item: str, names: Sequence[str]) -> Iterator[str]:
    """``a: text. b: text`` and ``a, b: text`` as an item for each parameter."""
    if names:
        known = "|".join(map(re.escape, names))
        item = re.sub(rf"(?<=[.;]) (?=(?:{known})(?:, (?:{known}))*: )", "\n", item)
    for part in item.split("\n"):
        head, colon, text = part.partition(": ")
        if colon and ", " in head and all(name in names for name in head.split(", ")):
            for name in head.split(", "):
                yield f"{name}: {text}"
        else:
            yield part
