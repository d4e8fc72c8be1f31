"""The result tables of the papers this pipeline follows, as data.

Each table is one tidy CSV file beside this module, named `<paper>_table<id>.csv`, one number a line.
Numbers are kept as printed, also where a printed average disagrees with the printed parts.
`n` is filled only where the table itself prints it. Two-number cells such as `14.83 (1.008x)` give two
metrics, `Params (M)` and `Params (x)`. Column names are made uniform: `T. A` is `Task A`, `Joint Acc` is
`Joint`, and the columns under a spanning heading carry its name (`AM` is activation matching).

Known blemishes of the sources:

- heterogeneous_merging: the paper's available text has lost many decimal points (`2294` for 22.94) and
  garbles row labels. Points were put back where every other number of the column has one; task accuracies
  and averages agree with each other afterwards. Table II's third row has an unreadable label, read as
  `Homo Avg` after Table I, although its task accuracies equal those of the single models. Table III's
  width factors (`x4`, `x8`, `x16`) are partly garbled and its dataset is not named.
- depth_heterogeneity Table 3 prints EuroSAT as `euosat` and NABirds as `nabird`.
- zipit Tables 1a (`Permute`) and 2 (`ZipIt! 49/50`, all four) print averages that differ from the mean of
  their parts.
- mudsc Table 4 prints improvements that at times differ from the difference of the scores beside them:
  nine by 0.01, `Rbg2mist` of `MuDSC Zip` by 0.07.
- vanishing_feature Tables 4 and 8 print a FLOPs factor of 1.12 where the same cost is 1.19 elsewhere.
"""

import csv
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any


@dataclass(frozen=True)
class Paper:
    """A paper by its title, and where to read it."""

    title: str
    authors: str
    link: str


PAPERS: dict[str, Paper] = {
    "depth_heterogeneity": Paper(
        "Is Depth Heterogeneity a Barrier to Model Merging?", "Shaheen, Chandar, Knyazev, Lobacheva, 2026",
        "https://iclr.cc/virtual/2026/10020266",
    ),
    "heterogeneous_merging": Paper(
        "Training-free Heterogeneous Model Merging", "Xu, Zheng, Song, Sun, Song, 2024", "https://arxiv.org/abs/2501.00061"
    ),
    "mudsc": Paper(
        "Training-Free Pretrained Model Merging", "Xu, Yuan, Wang, Wang, Song, Song, 2024", "https://arxiv.org/abs/2403.01753"
    ),
    "vanishing_feature": Paper(
        "Vanishing Feature: Diagnosing Model Merging and Beyond", "Qu, Horváth, 2024", "https://arxiv.org/abs/2402.05966"
    ),
    "zipit": Paper(
        "ZipIt! Merging Models from Different Tasks without Training", "Stoica, Bolya, Bjorner, Ramesh, Hearn, Hoffman, 2023",
        "https://arxiv.org/abs/2305.03053",
    ),
}  # fmt: skip
"""The papers that are followed, by the names that they have here."""

# A printed number and its deviation; None where the table has no number.
Cell = tuple[float, float | None] | None


class UnknownPaperError(ValueError):
    """A paper that has no tables here."""

    def __init__(self, paper: str) -> None:
        super().__init__(f"unknown paper {paper!r}; known papers: {', '.join(PAPERS)}")


class UnknownTableError(ValueError):
    """A table name that has no file here."""

    def __init__(self, table_name: str) -> None:
        super().__init__(f"unknown table {table_name!r}; known tables: {', '.join(_table_names())}")


@dataclass(frozen=True)
class ReferenceRow:
    """One printed number of one table."""

    setting: str
    method: str
    metric: str
    mean: float
    std: float | None
    n: int | None
    source: str


def tables(paper: str) -> dict[str, list[ReferenceRow]]:
    """All tables of a paper by table name, in the paper's order."""
    if paper not in PAPERS:
        raise UnknownPaperError(paper)
    return {name: list(_read(name)) for name in _table_names() if name.startswith(f"{paper}_table")}


def load(table_name: str) -> list[ReferenceRow]:
    """The rows of one table, such as `zipit_table1a`."""
    if table_name not in _table_names():
        raise UnknownTableError(table_name)
    return list(_read(table_name))


def wide(rows: Iterable[ReferenceRow]) -> list[dict[str, Any]]:
    """One dict per (setting, method): `setting`, `method`, `n`, and `(mean, std)` under each metric."""
    lines: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        line = lines.setdefault((row.setting, row.method), {"setting": row.setting, "method": row.method, "n": row.n})
        line[row.metric] = (row.mean, row.std)
        if line["n"] is None:
            line["n"] = row.n
    return list(lines.values())


def format_table(name: str, rows: Iterable[ReferenceRow]) -> str:
    """A plain aligned text table: title, header, rule, then one line per (setting, method)."""
    lines = wide(rows)
    columns = [_text_column(key, [line[key] for line in lines]) for key in ("setting", "method")]
    metrics = {metric: [line.get(metric) for line in lines] for metric in _metrics(lines)}
    spread = {metric for metric, cells in metrics.items() if any(cell and cell[1] is not None for cell in cells)}
    shared = max((_decimals(metrics[metric]) for metric in spread), default=0)
    for metric, cells in metrics.items():
        columns.append(_number_column(metric, cells, shared if metric in spread else _decimals(cells)))
    runs: list[Cell] = [None if line["n"] is None else (line["n"], None) for line in lines]
    if any(runs):
        columns.append(_number_column("n", runs, 0))
    body = ["  ".join(cells).rstrip() for cells in zip(*columns, strict=True)]
    rule = "-" * max(len(text) for text in body)
    return "\n".join([name, body[0], rule, *body[1:]])


@cache
def _table_names() -> list[str]:
    """Every table's name, numbers in names sorted as numbers."""
    names = [entry.name.removesuffix(".csv") for entry in files(__name__).iterdir() if entry.name.endswith(".csv")]
    return sorted(names, key=_natural_key)


def _natural_key(name: str) -> list[tuple[int, str]]:
    """A sort key under which `table2` comes before `table10`."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", name)]


@cache
def _read(table_name: str) -> tuple[ReferenceRow, ...]:
    """The rows of one existing CSV file."""
    text = (files(__name__) / f"{table_name}.csv").read_text(encoding="utf-8")
    return tuple(
        ReferenceRow(
            setting=line["setting"],
            method=line["method"],
            metric=line["metric"],
            mean=float(line["mean"]),
            std=float(line["std"]) if line["std"] else None,
            n=int(line["n"]) if line["n"] else None,
            source=line["source"],
        )
        for line in csv.DictReader(text.splitlines())
    )


def _metrics(lines: list[dict[str, Any]]) -> list[str]:
    """The metrics of a table, in the order of its fullest line, then any others."""
    order: dict[str, None] = {}
    for line in sorted(lines, key=len, reverse=True):
        order.update(dict.fromkeys(key for key in line if key not in ("setting", "method", "n")))
    return list(order)


def _text_column(title: str, values: list[str]) -> list[str]:
    """A header and left aligned cells of one width."""
    width = max(len(text) for text in [title, *values])
    return [text.ljust(width) for text in [title, *values]]


def _number_column(title: str, cells: list[Cell], digits: int) -> list[str]:
    """A header and cells of one width, means and deviations each right aligned."""
    means = [f"{cell[0]:.{digits}f}" if cell else "" for cell in cells]
    stds = [f"{cell[1]:.{digits}f}" if cell and cell[1] is not None else "" for cell in cells]
    mean_width = max(map(len, means), default=0)
    std_width = max(map(len, stds), default=0)
    texts = []
    for mean, std in zip(means, stds, strict=True):
        text = mean.rjust(mean_width)
        if std_width:
            text += (f" ± {std.rjust(std_width)}" if std else "").ljust(std_width + 3)
        texts.append(text)
    width = max(len(text) for text in [title, *texts])
    return [text.rjust(width) for text in [title, *texts]]


def _decimals(cells: list[Cell]) -> int:
    """How many decimal places the cells of a column need."""
    numbers = [number for cell in cells if cell for number in cell if number is not None]
    texts = [f"{number:.6f}".rstrip("0") for number in numbers]
    return max((len(text.partition(".")[2]) for text in texts), default=0)
