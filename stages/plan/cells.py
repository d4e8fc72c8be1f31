"""Cells: the units of a benchmark, with names that people read and that never change.

A cell's name says all of it: ``digits.r35.s0`` is the edge model of architecture r35 with seed 0 on digits;
``digits+landcover.r35+r17.s0+s1`` a pair of edges; behind it come the method and the normalisation:
``digits+landcover.r35+r17.s0+s1.permute.reset``. Adding a seed, a method or a pair adds cells and renames none.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations, pairwise, permutations, product
from typing import TYPE_CHECKING, Any

from mergeline.architectures import deepest, stage_blocks
from stages.errors import InputError
from stages.formats import yaml12

if TYPE_CHECKING:
    from stages.plan.params import MergeFamily, Params

__all__ = [
    "CellError", "Edge", "Group", "Merge", "MethodCell", "Prediction", "base_edge", "expand_cells",
    "known", "parse_cell",
    "parse_edge", "parse_group", "parse_match", "parse_merge", "parse_prediction",
]  # fmt: skip


class CellError(InputError):
    """A cell's name cannot be read."""


@dataclass(frozen=True, order=True)
class Edge:
    """One trained model: ``task.architecture.s0``; ``u0`` in place of ``s0`` is an untrained network (a control)."""

    task: str
    architecture: str
    seed: int
    trained: bool = True

    def __str__(self) -> str:
        return f"{self.task}.{self.architecture}.{self.tag}"

    @property
    def tag(self) -> str:
        return f"{'s' if self.trained else 'u'}{self.seed}"


@dataclass(frozen=True, order=True)
class Group:
    """Edges that are merged; the first is the reference. ``tasks.architectures.seeds``, each joined with ``+``.

    Models of one task name it once: ``digits.r35+r17.s0+s1``.
    """

    edges: tuple[Edge, ...]

    def __str__(self) -> str:
        tasks = self.tasks
        return ".".join(
            (
                "+".join(tasks),
                "+".join(e.architecture for e in self.edges),
                "+".join(e.tag for e in self.edges),
            )
        )

    @cached_property
    def tasks(self) -> tuple[str, ...]:
        """The tasks, each once."""
        return tuple(dict.fromkeys(edge.task for edge in self.edges))

    @property
    def same_task(self) -> bool:
        return len(self.tasks) == 1

    @cached_property
    def topology(self) -> str:
        """The architecture that all are expanded to."""
        return deepest([edge.architecture for edge in self.edges])

    @property
    def homogeneous(self) -> bool:
        return len({edge.architecture for edge in self.edges}) == 1

    @property
    def control(self) -> str:
        """Which control this group is: "self", "untrained-0" (the first is untrained), ..., or ""."""
        for index, edge in enumerate(self.edges):
            if not edge.trained:
                return f"untrained-{index}"
        return "self" if len(set(self.edges)) < len(self.edges) else ""


@dataclass(frozen=True, order=True)
class MethodCell:
    """A method and the grid options that make this cell: ``zip``, or ``zip-alpha=0.3-beta=0``."""

    name: str
    options: tuple[tuple[str, Any], ...] = ()

    def __str__(self) -> str:
        return "".join([self.name, *(f"-{key}={_plain(value)}" for key, value in self.options)])


@dataclass(frozen=True, order=True)
class Merge:
    """A merged network: a group, a method, where it stops, and the normalisation after it."""

    group: Group
    method: MethodCell
    normalize: str
    stop: str | None = None
    weights: tuple[float, ...] | None = None

    @property
    def match(self) -> str:
        """The name of its match cell."""
        return f"{self.group}.{self.method}"

    def __str__(self) -> str:
        parts = [f"{self.group}.{self.method}"]
        if self.stop is not None:
            parts.append(f"-stop={self.stop}")
        if self.weights is not None:
            parts.append(f"-weights={'+'.join(_plain(w) for w in self.weights)}")
        return "".join(parts) + f".{self.normalize}"

    @property
    def edges(self) -> tuple[Edge, ...]:
        return self.group.edges


@dataclass(frozen=True, order=True)
class Prediction:
    """The logits of one edge on the test images of one task: ``digits.r35.s0.on-landcover``."""

    edge: Edge
    task: str

    def __str__(self) -> str:
        return f"{self.edge}.on-{self.task}"


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return "null"
    if isinstance(value, float):  # short, but never another number than what was set
        short = f"{value + 0:g}"  # no -0
        return short if float(short) == value else repr(value)
    return str(value)


def parse_cell(name: str) -> tuple[Group, str]:
    """The group of a cell's name, and what follows it (method, normalisation), which may be empty.

    Raises
    ------
    CellError: not ``tasks.architectures.seeds[.rest]``.
    """
    parts = name.split(".", 3)
    if len(parts) < 3:
        raise CellError(f"{name!r} is not a cell; cells are named tasks.architectures.seeds, like digits.r35+r17.s0+s1")
    tasks, architectures, tags = (part.split("+") for part in parts[:3])
    if len(tasks) == 1:
        tasks = tasks * len(tags)
    if not len(tasks) == len(architectures) == len(tags):
        raise CellError(f"{name!r}: {len(tasks)} tasks, {len(architectures)} architectures and {len(tags)} seeds")
    edges = []
    for task, architecture, tag in zip(tasks, architectures, tags, strict=True):
        if tag[:1] not in ("s", "u") or not tag[1:].isdecimal():
            raise CellError(f"{name!r}: {tag!r} is not a seed; seeds are named s0, s1, ... (u0: untrained)")
        edges.append(Edge(task, architecture, int(tag[1:]), tag[0] == "s"))
    group = Group(tuple(edges))
    _check_written(".".join(parts[:3]), group)
    return group, parts[3] if len(parts) == 4 else ""


def _check_written(name: str, cell: object) -> None:
    """A cell has one name: seeds and files are derived from it."""
    if str(cell) != name:
        raise CellError(f"{name!r} is written {str(cell)!r}")


def known(what: str, value: str, allowed: Iterable[str]) -> str:
    """``value``, if it is one of ``allowed``.

    Raises
    ------
    CellError: names what is allowed.
    """
    names = list(allowed)
    if value not in names:
        raise CellError(f"unknown {what} {value!r}; there are: {', '.join(names) or 'none'}")
    return value


def parse_group(name: str) -> Group:
    """A group from its name."""
    group, rest = parse_cell(name)
    if rest:
        raise CellError(f"{name!r} is not a group; groups are named tasks.architectures.seeds, like {group}")
    _check_written(name, group)
    return group


def parse_edge(name: str) -> Edge:
    """An edge from its name."""
    group, rest = parse_cell(name)
    if len(group.edges) != 1 or rest:
        raise CellError(f"{name!r} is not one edge model; edges are named task.architecture.s0")
    _check_written(name, group.edges[0])
    return group.edges[0]


def parse_prediction(name: str) -> Prediction:
    """A prediction from its name."""
    group, rest = parse_cell(name)
    if len(group.edges) != 1 or not rest.startswith("on-"):
        raise CellError(f"{name!r} is not a prediction; predictions are named like digits.r35.s0.on-landcover")
    return Prediction(group.edges[0], rest.removeprefix("on-"))


def parse_match(name: str) -> tuple[Group, MethodCell]:
    """A match cell from its name."""
    group, rest = parse_cell(name)
    if not rest:
        raise CellError(f"{name!r} names no method; match cells are named tasks.architectures.seeds.method")
    method = parse_method(rest)
    _check_written(rest, method)
    return group, method


def parse_method(text: str) -> MethodCell:
    """``zip-alpha=0.3`` as a method and its grid options."""
    name, *pairs = _split_options(text)
    return MethodCell(name, tuple((key, _value(text, value)) for key, value in pairs))


def _value(name: str, text: str) -> Any:
    try:
        value = yaml12.load(text)
    except yaml12.YamlError as error:
        raise CellError(f"{name!r}: {text!r} is not a value: {error}") from error
    if isinstance(value, dict | list):
        raise CellError(f"{name!r}: {text!r} is not a plain value")
    return value


def parse_merge(name: str) -> Merge:
    """A merge from its name."""
    group, rest = parse_cell(name)
    body, separator, normalize = rest.rpartition(".")
    if not separator:
        raise CellError(f"{name!r} names no method and normalisation, like {group}.permute.reset")
    method, *pairs = _split_options(body)
    stop, weights, options = None, None, []
    for key, value in pairs:
        if key == "stop":
            stop = value
        elif key == "weights":
            weights = tuple(_weight(name, part) for part in value.split("+"))
        else:
            options.append((key, _value(name, value)))
    merge = Merge(group, MethodCell(method, tuple(options)), normalize, stop, weights)
    _check_written(name, merge)
    return merge


def _weight(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise CellError(f"{name!r}: {text!r} is not a weight") from None


def _split_options(text: str) -> list[Any]:
    """``name-key=value-key=value`` as [name, (key, value), ...]; names and values may hold ``-`` themselves."""
    pieces = text.split("=")
    keys = [piece.rpartition("-") for piece in pieces[:-1]]
    if not keys:
        return [text]
    values = [keys[i][0] for i in range(1, len(keys))] + [pieces[-1]]
    return [keys[0][0], *((key[2], value) for key, value in zip(keys, values, strict=True))]


# -- expansion of params.yaml ------------------------------------------------------------------------------------


def expand_cells(params: Params, families: Mapping[str, MergeFamily]) -> list[Merge]:
    """Every merge of some families, in a stable order, each once."""
    found: dict[str, Merge] = {}
    for family in families.values():
        for merge in _family_cells(params, family):
            found.setdefault(str(merge), merge)
    return list(found.values())


def _family_cells(params: Params, family: MergeFamily) -> Iterator[Merge]:
    methods = [cell for name in family.methods or list(params.methods) for cell in _method_cells(params, name)]
    weights = None if family.weights is None else tuple(family.weights)
    for group in _groups(params, family):
        for method, normalize, stop in product(methods, family.normalize, family.stops):
            yield Merge(group, method, normalize, stop, weights)
    for control in family.controls:
        yield from _control_cells(params, family, control)


def _method_cells(params: Params, name: str) -> list[MethodCell]:
    grid = params.methods[name].grid
    if not grid:
        return [MethodCell(name)]
    return [MethodCell(name, tuple(zip(grid, values, strict=True))) for values in product(*grid.values())]


def _groups(params: Params, family: MergeFamily) -> Iterator[Group]:
    seeds = family.seeds or params.seeds
    for tasks in _task_lists(family):
        for architectures in _architecture_lists(params, family, len(tasks)):
            for chosen in _seed_lists(family, seeds, tasks, architectures):
                edges = (Edge(t, a, s) for t, a, s in zip(tasks, architectures, chosen, strict=True))
                yield Group(tuple(edges))


def _task_lists(family: MergeFamily) -> list[tuple[str, ...]]:
    lists = []
    for entry in family.tasks:
        tasks = (entry,) * (family.models or 2) if isinstance(entry, str) else tuple(entry)
        lists.append(tasks)
        if family.both_directions and not isinstance(entry, str):
            lists.append(tuple(reversed(tasks)))
    return lists


def _architecture_lists(params: Params, family: MergeFamily, count: int) -> list[tuple[str, ...]]:
    """Homogeneous lists, then (for two models) every pair with the deeper first."""
    names = sorted(family.architectures or params.architectures, key=_depth)
    lists = [(name,) * count for name in names]
    if count == 2 and not family.homogeneous_only:
        lists += [(deep, shallow) for shallow, deep in combinations(names, 2)]
    return lists


def _depth(name: str) -> tuple[int, str]:
    return sum(stage_blocks(name)), name


def _seed_lists(
    family: MergeFamily, seeds: list[int], tasks: tuple[str, ...], architectures: tuple[str, ...]
) -> list[tuple[int, ...]]:
    """Seeds of each run.

    Models of one task and one architecture are interchangeable: each set of different seeds once. Models of one task
    and different depths were trained from different initialisations even at the same seed. Models of different tasks
    may share their pretrained start at the same seed, so seeds must differ.
    """
    count = len(tasks)
    same_task = len(set(tasks)) == 1
    if same_task and len(set(architectures)) == 1:
        lists = list(combinations(seeds, count))
    elif same_task:
        lists = list(product(seeds, repeat=count))
    else:
        lists = list(permutations(seeds, count))
    if family.runs == "neighbours":
        place = {seed: index for index, seed in enumerate(seeds)}
        lists = [run for run in lists if all(abs(place[a] - place[b]) <= 1 for a, b in pairwise(run))]
    return lists


def _control_cells(params: Params, family: MergeFamily, control: str) -> Iterator[Merge]:
    """Controls on the first run of every depth pair (what a number is worth without a second model)."""
    aligned = [cell for name in family.methods or list(params.methods) for cell in _method_cells(params, name)]
    normalize = family.normalize[0]
    seen: set[tuple[Any, ...]] = set()
    for group in _groups(params, family):
        key = (tuple(edge.task for edge in group.edges), tuple(edge.architecture for edge in group.edges))
        if key in seen or len(group.edges) != 2:
            continue
        seen.add(key)
        if control == "random":
            yield Merge(group, MethodCell("random"), normalize)
        elif control == "self" and group.same_task and group.homogeneous:
            edge = group.edges[0]
            for method in aligned:
                yield Merge(Group((edge, edge)), method, normalize)
        elif control == "untrained" and not group.homogeneous:
            for side in range(2):
                edges = tuple(
                    Edge(e.task, e.architecture, e.seed, e.trained and index != side)
                    for index, e in enumerate(group.edges)
                )
                for method in aligned:
                    yield Merge(Group(edges), method, normalize)


def base_edge(params: Params, edge: Edge) -> Edge | None:
    """The edge that this one is finetuned from; None where it is trained from scratch, imported or untrained."""
    base = params.tasks[edge.task].pretrain
    if base is None or not edge.trained or str(edge) in params.imports:
        return None
    return Edge(base, edge.architecture, edge.seed)
