"""Lists of what there is to choose from."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from flows.commands.console import out

__all__ = ["methods", "normalizations", "placements", "tasks"]


def tasks() -> None:
    """List the tasks that params.yaml may name, and where their data come from."""
    from mergeline.tasks import TASKS

    _list(TASKS)


def methods() -> None:
    """List the ways to match that params.yaml may name, with their options."""
    from mergeline.matching import MATCHERS

    _list(MATCHERS)


def normalizations() -> None:
    """List the normalisations that params.yaml may name, with their options."""
    from mergeline.normalization import NORMALIZATIONS

    _list(NORMALIZATIONS)


def placements() -> None:
    """List the placements of shallow blocks that params.yaml may name."""
    from mergeline.depth import PLACEMENTS

    _list(PLACEMENTS)


def _list(registry: Mapping[str, Any]) -> None:
    for name, entry in registry.items():
        out.print(f"[bold]{name:<14}[/] {entry.summary}", highlight=False, soft_wrap=True)
        kind = getattr(entry, "options", None)
        options = ", ".join(f"{field.name}={field.default}" for field in dataclasses.fields(kind)) if kind else ""
        if options:
            out.print(f"{'':<14} options: {options}", highlight=False, soft_wrap=True, markup=False)
