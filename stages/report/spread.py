"""How a sample stands in a table: one text for readers, five columns for programs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from stages.report.intervals import LEAST_RUNS, Sample

__all__ = ["Spread", "columns_for_programs", "percent", "spread_of"]

COLUMNS = ("mean", "deviation", "n", "low", "high")
"""What a sample is for programs; low and high are those of the 95 % interval of the mean."""


@dataclass(frozen=True)
class Spread:
    """A cell of a table. ``numbers``: by :data:`COLUMNS`, in the units of the text; None for what is not known."""

    text: str
    numbers: tuple[float | None, ...]

    def __str__(self) -> str:
        return self.text


def percent(sample: Sample) -> Spread:
    """``73.20 ± 1.15``: mean and standard deviation in percent (:func:`spread_of`)."""
    return spread_of(sample, 100.0, 2)


def spread_of(sample: Sample, scale: float = 1.0, digits: int = 3) -> Spread:
    """Mean and standard deviation; of two runs their values, whose deviation says nothing; missing runs are said."""
    if sample.n == 0:
        return Spread("missing", (None, None, 0, None, None))
    text = f"{scale * sample.mean:.{digits}f}"
    if sample.n >= LEAST_RUNS:
        text += f" ± {scale * sample.std:.{digits}f}"
    elif sample.n > 1:
        text += f" ({', '.join(f'{scale * value:.{digits}f}' for value in sample.values)})"
    numbers = [scale * value for value in (sample.mean, sample.std, *sample.interval)]
    mean, deviation, low, high = (None if math.isnan(value) else round(value, digits + 2) for value in numbers)
    missing = f"{'; ' if sample.n == 2 else ' ('}{sample.missing} missing)" if sample.missing else ""
    if missing and sample.n == 2:
        text = text.removesuffix(")")
    return Spread(text + missing, (mean, deviation, sample.n, low, high))


def columns_for_programs(header: Sequence[str], lines: Sequence[Sequence[Any]]) -> tuple[list[str], list[list[Any]]]:
    """A table with one number a column: those of a sample, ``permute``, become ``permute mean``, ``permute deviation``, ..."""
    spread = [any(isinstance(line[index], Spread) for line in lines) for index in range(len(header))]
    names: list[str] = []
    for name, several in zip(header, spread, strict=True):
        names += [f"{name} {column}" for column in COLUMNS] if several else [name]
    return names, [
        [value for cell, several in zip(line, spread, strict=True) for value in (_numbers(cell) if several else [cell])]
        for line in lines
    ]


def _numbers(cell: Any) -> Sequence[Any]:
    return cell.numbers if isinstance(cell, Spread) else [None] * len(COLUMNS)
