"""One resolved method: what params.yaml declares and a cell's grid options make of a matcher."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mergeline.matching import MATCHERS, Matcher
from stages.plan.cells import CellError, MethodCell, known
from stages.plan.params import Method, Params

__all__ = ["ResolvedMethod", "resolve"]


@dataclass(frozen=True)
class ResolvedMethod:
    """A matcher with all its options. ``declared``: the section of params.yaml; None for a control."""

    matcher: Matcher
    options: Any
    declared: Method | None

    @property
    def moments(self) -> str:
        """The moments that it needs: "none", "cross" or "full"."""
        return self.matcher.moments

    @property
    def judged(self) -> bool:
        """Whether an option is chosen by accuracy on training images."""
        return self.matcher.needs_judge(self.options)


def resolve(params: Params, cell: MethodCell) -> ResolvedMethod:
    """The method of a cell.

    Raises
    ------
    CellError: no such method, or options that it does not take.
    """
    declared = params.methods.get(cell.name)
    used = (declared.use if declared is not None else None) or cell.name
    matcher = MATCHERS[known("method", used, [*params.methods, *MATCHERS])]
    fixed = (declared.options if declared is not None else None) or {}
    try:
        options = matcher.options(**{**fixed, **dict(cell.options)})
    except (TypeError, ValueError) as error:
        raise CellError(f"{str(cell)!r}: {error}") from error
    return ResolvedMethod(matcher, options, declared)
