"""What params.yaml declares and a cell's own options make of a matcher, and of a normalisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mergeline.matching import MATCHERS, Matcher
from mergeline.normalization import NORMALIZATIONS
from mergeline.registry import options_of
from stages.plan.keys import CellError, Choice, known
from stages.plan.params import Method, Params

__all__ = ["ResolvedMethod", "normalization_options", "resolve"]


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


def resolve(params: Params, cell: Choice) -> ResolvedMethod:
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
        options: Any = options_of(matcher.options, {**fixed, **dict(cell.options)})
    except (TypeError, ValueError) as error:
        raise CellError(f"{str(cell)!r}: {error}") from error
    return ResolvedMethod(matcher, options, declared)


def normalization_options(params: Params, choice: Choice) -> Any:
    """The options of a cell's normalisation: those of params.yaml, and over them those of the cell's name.

    Raises
    ------
    CellError: no such normalisation, or options that it does not take.
    """
    normalizer = NORMALIZATIONS[known("normalisation", choice.name, NORMALIZATIONS)]
    declared = params.normalize.get(choice.name)
    try:
        own = declared.options if declared is not None else {}
        return options_of(normalizer.options, {**own, **dict(choice.options)})
    except (TypeError, ValueError) as error:
        raise CellError(f"{str(choice)!r}: {error}") from error
