"""What a drawing says when it is pointed at, and which of its parts are one series: kept in the SVG itself, without a library."""

from __future__ import annotations

import re
from html import escape, unescape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.container import ErrorbarContainer

__all__ = ["mark", "mark_bars", "with_hover"]

_MARKED = re.compile(r'<g id="hover:([^"]*?)\|([^"]*?)">')


def mark(artist: Artist, series: str, said: str) -> None:
    """Note what a part of a figure belongs to, and what it says when it is pointed at."""
    artist.set_gid(f"hover:{series}|{said}")


def mark_bars(drawn: ErrorbarContainer, series: str, said: str) -> None:
    """As :func:`mark`, of a point with its whiskers."""
    line, caps, bars = drawn.lines
    for artist in (*([line] if line is not None else []), *caps, *bars):
        mark(artist, series, said)


def with_hover(svg: str) -> str:
    """The marks of a drawing as titles, which every browser shows, and as the series of its groups."""
    return _MARKED.sub(
        lambda found: (
            f'<g class="series" data-series="{_quoted(found[1])}"><title>{escape(unescape(found[2]), quote=False)}</title>'
        ),
        svg,
    )


def _quoted(text: str) -> str:
    return escape(unescape(text))
