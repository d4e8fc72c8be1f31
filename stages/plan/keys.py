"""Keys: the names of a benchmark's cells and their parts, which never change.

A name says all of it: ``digits.r35.s0`` is the edge model of architecture r35 with seed 0 on digits;
``digits+landcover.r35+r17.s0+s1`` are the sources of a merge; behind them come the method and the normalisation:
``digits+landcover.r35+r17.s0+s1.permute.reset``. Adding a seed, a method or a pair adds cells and renames none.

The grammar, which only this module knows::

    edge       TASK.ARCHITECTURE[-SETTING=VALUE].SEED
    sources    TASK[+TASK].ARCHITECTURE+ARCHITECTURE[-SETTING=VALUE].SEED+SEED[-placement=NAME]
    match      SOURCES.METHOD[-OPTION=VALUE]
    merge      MATCH[-stop=SPACE][-preserve=LAYERS][-weights=SHARE+SHARE].NORMALISATION[-OPTION=VALUE]
    pruned     EDGE.METHOD-sparsity=SHARE.NORMALISATION
    narrowed   EDGE.METHOD-width=SHARE.NORMALISATION
    prediction EDGE.on-TASK
    similarity TASK+TASK

What is as usual is not written, so that a new setting renames no cell that does not use it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any, ClassVar, TypeVar

from mergeline.architectures import deepest, difference, stage_blocks
from stages.errors import InputError
from stages.formats import yaml12

__all__ = [
    "CellError", "Choice", "Combination", "Compressed", "CompressedT", "Edge", "Key", "Merge", "Narrowed", "Prediction",
    "Pruned", "Sources", "TaskPair", "as_written", "known", "parse_cell", "parse_edge", "parse_key", "parse_match",
    "parse_merge", "parse_method", "parse_narrowed", "parse_prediction", "parse_pruned", "parse_sources", "parse_task_pair",
]  # fmt: skip

CompressedT = TypeVar("CompressedT", bound="Compressed")
Options = tuple[tuple[str, Any], ...]
"""Settings and their values, in the order in which they are written."""

INITIALIZATION = "initialization"
"""The one setting of a recipe that is no setting of a training: how the weights are drawn."""
UNCHANGED = "none"
"""The normalisation that leaves statistics as they are."""
PLACEMENT = "append"
"""The placement that a name means where it says none."""


class CellError(InputError):
    """A cell's name cannot be read."""


@dataclass(frozen=True, order=True)
class Edge:
    """One trained model: ``task.architecture.s0``; ``u0`` in place of ``s0`` is an untrained network (a control).

    ``recipe``: settings of its training that differ from the usual ones, ``task.architecture-learning_rate=0.05.s0``.
    """

    task: str
    architecture: str
    seed: int
    trained: bool = True
    recipe: Options = ()

    def __str__(self) -> str:
        return f"{self.task}.{self.model}.{self.tag}"

    @property
    def model(self) -> str:
        """The architecture, and how it was trained where that is not as usual: what runs have in common."""
        return str(Choice(self.architecture, self.recipe))

    @property
    def tag(self) -> str:
        return f"{'s' if self.trained else 'u'}{self.seed}"


@dataclass(frozen=True, order=True)
class Combination:
    """What the runs of one setting share: the tasks, each once, and the architectures with their recipe, without the seeds."""

    tasks: tuple[str, ...]
    architectures: tuple[str, ...]

    @property
    def same_task(self) -> bool:
        return len(self.tasks) == 1

    @property
    def tasks_label(self) -> str:
        """``digits``, ``digits+landcover``."""
        return "+".join(self.tasks)

    @property
    def architectures_label(self) -> str:
        """``r35+r17``; a recipe, which is that of all, stands once: ``r35+r17-epochs=3``."""
        last = self.architectures[-1]
        recipe = last[len(_split_options(last)[0]) :]
        return "+".join(name.removesuffix(recipe) for name in self.architectures) + recipe

    @property
    def difference(self) -> str:
        """What the architectures differ in: "depths", "widths", "depths and widths", or "" where there is one."""
        return difference(_split_options(name)[0] for name in self.architectures)


@dataclass(frozen=True, order=True)
class Sources:
    """The edges that are merged; the first is the reference. ``tasks.architectures.seeds``, each joined with ``+``.

    Models of one task name it once: ``digits.r35+r17.s0+s1``. ``placement``: where the blocks of the shallow ones stand.
    All were trained by one recipe.
    """

    edges: tuple[Edge, ...]
    placement: str = PLACEMENT

    def __post_init__(self) -> None:
        if len({edge.recipe for edge in self.edges}) > 1:
            raise CellError(f"{' and '.join(map(str, self.edges))} were trained by different recipes")

    def __str__(self) -> str:
        return ".".join(self.parts)

    @property
    def parts(self) -> tuple[str, str, str]:
        """The name's parts: tasks, architectures, and seeds with what else makes these sources."""
        placed = "" if self.placement == PLACEMENT else f"-placement={self.placement}"
        return self.combination.tasks_label, self.combination.architectures_label, self.seeds_label + placed

    @cached_property
    def tasks(self) -> tuple[str, ...]:
        """The tasks, each once."""
        return tuple(dict.fromkeys(edge.task for edge in self.edges))

    @cached_property
    def combination(self) -> Combination:
        return Combination(self.tasks, tuple(edge.model for edge in self.edges))

    @property
    def seeds_label(self) -> str:
        """``s0+s1``."""
        return "+".join(edge.tag for edge in self.edges)

    @property
    def same_task(self) -> bool:
        return self.combination.same_task

    @cached_property
    def topology(self) -> str:
        """The architecture of their merge: the blocks of the deepest, to which all are expanded, and the widest's channels."""
        return deepest([edge.architecture for edge in self.edges])

    @property
    def depth_pairs(self) -> tuple[Sources, ...]:
        """Of each edge that is expanded, itself with the first edge that has all blocks, which stands first."""
        blocks = stage_blocks(self.topology)
        deep = next(edge for edge in self.edges if stage_blocks(edge.architecture) == blocks)
        shallow = dict.fromkeys(edge for edge in self.edges if stage_blocks(edge.architecture) != blocks)
        return tuple(Sources((deep, edge)) for edge in shallow)

    @property
    def difference(self) -> str:
        """See :attr:`Combination.difference`."""
        return self.combination.difference

    @property
    def recipe_label(self) -> str | None:
        """``learning_rate=0.05``; None where the models were trained as usual."""
        return str(Choice("", self.edges[0].recipe)).removeprefix("-") or None

    @property
    def unplaced(self) -> Sources:
        """The same edges as they are, whatever they are expanded to: those of an ensemble."""
        return replace(self, placement=PLACEMENT)

    @property
    def homogeneous(self) -> bool:
        return len({edge.architecture for edge in self.edges}) == 1

    @property
    def control(self) -> str:
        """Which control these are: "self", "untrained-0" (the first is untrained), ..., or ""."""
        for index, edge in enumerate(self.edges):
            if not edge.trained:
                return f"untrained-{index}"
        return "self" if len(set(self.edges)) < len(self.edges) else ""


@dataclass(frozen=True, order=True)
class Choice:
    """A method or a normalisation, and the options that make this cell: ``zip``, or ``zip-alpha=0.3-beta=0``."""

    name: str
    options: Options = ()

    def __str__(self) -> str:
        return "".join([self.name, *(f"-{key}={_plain(value)}" for key, value in self.options)])


@dataclass(frozen=True, order=True)
class Merge:
    """A merged network: sources, a method, where it stops, what it preserves, and the normalisation after it."""

    sources: Sources
    method: Choice
    normalize: Choice
    stop: str | None = None
    weights: tuple[float, ...] | None = None
    preserve: str | None = None

    @property
    def match(self) -> str:
        """The name of its match cell."""
        return f"{self.sources}.{self.method}"

    def __str__(self) -> str:
        return f"{self.match}{self.settings}.{self.normalize}"

    @property
    def settings(self) -> str:
        """What is said of the merge beside method and normalisation, as it stands in the name."""
        said = {"stop": self.stop, "preserve": self.preserve, "weights": self.weights_label}
        return "".join(f"-{key}={value}" for key, value in said.items() if value is not None)

    @property
    def weights_label(self) -> str | None:
        """``0.3+0.7``."""
        return None if self.weights is None else "+".join(_plain(weight) for weight in self.weights)

    @property
    def edges(self) -> tuple[Edge, ...]:
        return self.sources.edges

    @property
    def kept_apart(self) -> bool:
        """Whether some layers of each model are not merged."""
        return self.stop is not None or self.preserve is not None

    def label(self, usual: str = "") -> str:
        """What makes it differ from other merges of its sources, in words; the ``usual`` normalisation is not said."""
        said = {"stop": self.stop, "preserve": self.preserve, "weights": self.weights_label}
        if self.sources.placement != PLACEMENT:
            said["placement"] = self.sources.placement
        words = [f"{key}={value}" for key, value in said.items() if value is not None]
        normalize = [str(self.normalize)] if str(self.normalize) != usual else []
        return " ".join([str(self.method), *words, *normalize])


@dataclass(frozen=True, order=True)
class Prediction:
    """The logits of one edge on the test images of one task: ``digits.r35.s0.on-landcover``."""

    edge: Edge
    task: str

    def __str__(self) -> str:
        return f"{self.edge}.on-{self.task}"


@dataclass(frozen=True, order=True)
class Compressed:
    """One edge model made smaller without training: by a method, to a share of something, and normalised after it."""

    edge: Edge
    method: str
    share: float
    normalize: str
    kind: ClassVar[str]
    """What such networks are called: "pruned", "narrowed"."""
    measure: ClassVar[str]
    """What the share is of, as it stands in the name."""

    def __str__(self) -> str:
        return f"{self.edge}.{Choice(self.method, ((self.measure, self.share),))}.{self.normalize}"

    def label(self, usual: str = "") -> str:
        """What makes it differ from others of its edge, in words; the ``usual`` normalisation is not said."""
        normalize = [self.normalize] if self.normalize != usual else []
        return " ".join([self.method, f"{self.measure}={_plain(self.share)}", *normalize])


class Pruned(Compressed):
    """With a share of its weights set to zero: ``digits.r35.s0.magnitude-sparsity=0.9.repair``."""

    kind, measure = "pruned", "sparsity"


class Narrowed(Compressed):
    """With a share of the units of every space: ``digits.r35.s0.zip-width=0.5.reset``."""

    kind, measure = "narrowed", "width"


@dataclass(frozen=True, order=True)
class TaskPair:
    """Two tasks whose similarity is measured: ``digits+landcover``."""

    first: str
    second: str

    def __str__(self) -> str:
        return f"{self.first}+{self.second}"


@dataclass(frozen=True)
class Key:
    """An evaluated cell's parts; ``merge`` and ``compressed`` are None for an edge or an ensemble."""

    sources: Sources
    merge: Merge | None = None
    compressed: Compressed | None = None

    def __str__(self) -> str:
        return str(self.made or self.sources)

    @property
    def made(self) -> Merge | Compressed | None:
        """What was made of the sources without training."""
        return self.merge or self.compressed

    @property
    def control(self) -> str:
        """Which control it is ("self", "untrained-0", "random"), or ""."""
        return "random" if self.merge is not None and self.merge.method.name == "random" else self.sources.control


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return "null"
    if isinstance(value, float):  # short, but never another number than what was set
        short = f"{value + 0:g}"  # no -0
        return short if float(short) == value else repr(value)
    return str(value)


# -- reading names ------------------------------------------------------------------------------------------------


def parse_cell(name: str) -> tuple[Sources, str]:
    """The sources in a cell's name, and what follows them (method, normalisation), which may be empty.

    Raises
    ------
    CellError: not ``tasks.architectures.seeds[.rest]``.
    """
    found = _PARTS.fullmatch(name)
    if found is None:
        raise CellError(f"{name!r} is not a cell; cells are named tasks.architectures.seeds, like digits.r35+r17.s0+s1")
    models, pairs = _split_options(found[2])
    recipe = tuple((key, _value(name, value)) for key, value in pairs)
    seeds, dash, more = found[3].partition("-")
    tasks, architectures, tags = (part.split("+") for part in (found[1], models, seeds))
    if len(tasks) == 1:
        tasks = tasks * len(tags)
    if not len(tasks) == len(architectures) == len(tags):
        raise CellError(f"{name!r}: {len(tasks)} tasks, {len(architectures)} architectures and {len(tags)} seeds")
    edges = []
    for task, architecture, tag in zip(tasks, architectures, tags, strict=True):
        if tag[:1] not in ("s", "u") or not tag[1:].isdecimal():
            raise CellError(f"{name!r}: {tag!r} is not a seed; seeds are named s0, s1, ... (u0: untrained)")
        edges.append(Edge(task, architecture, int(tag[1:]), tag[0] == "s", recipe))
    sources = Sources(tuple(edges))
    if dash:
        placed = dict(_split_options(f"-{more}")[1])
        if set(placed) != {"placement"}:
            raise CellError(f"{name!r}: after the seeds only -placement=NAME can stand, not {dash + more!r}")
        sources = replace(sources, placement=placed["placement"])
    _check_written(".".join(found.group(1, 2, 3)), sources)
    return sources, found[4] or ""


_PARTS = re.compile(r"([^.]*)\.([^.=]*(?:=[^.=]*(?:\.\d[^.=]*)?)*)\.([^.]*)(?:\.(.*))?", re.DOTALL)
"""A cell's tasks, architectures (in whose recipe a point followed by a digit is a number's) and seeds, and the rest."""


def as_written(value: Any) -> Any:
    """A value of params.yaml as it is read back from a name, so that equal cells are equal: 1 for 1.0."""
    text = _plain(value)
    return _value(text, text)


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


def parse_sources(name: str) -> Sources:
    """The sources of a merge from their name."""
    sources, rest = parse_cell(name)
    if rest:
        raise CellError(
            f"{name!r} names more than the sources of a merge; they are named tasks.architectures.seeds, like {sources}"
        )
    _check_written(name, sources)
    return sources


def parse_edge(name: str) -> Edge:
    """An edge from its name."""
    sources, rest = parse_cell(name)
    if len(sources.edges) != 1 or rest:
        raise CellError(f"{name!r} is not one edge model; edges are named task.architecture.s0")
    _check_written(name, sources.edges[0])
    return sources.edges[0]


def parse_prediction(name: str) -> Prediction:
    """A prediction from its name."""
    sources, rest = parse_cell(name)
    if len(sources.edges) != 1 or not rest.startswith("on-"):
        raise CellError(f"{name!r} is not a prediction; predictions are named like digits.r35.s0.on-landcover")
    return Prediction(sources.edges[0], rest.removeprefix("on-"))


def parse_task_pair(name: str) -> TaskPair:
    """Two tasks from their name."""
    first, plus, second = name.partition("+")
    if not plus or not first or not second:
        raise CellError(f"{name!r} is not a pair of tasks; they are named like digits+landcover")
    return TaskPair(first, second)


def parse_match(name: str) -> tuple[Sources, Choice]:
    """A match cell from its name."""
    sources, rest = parse_cell(name)
    if not rest:
        raise CellError(f"{name!r} names no method; match cells are named tasks.architectures.seeds.method")
    method = parse_method(rest)
    _check_written(rest, method)
    return sources, method


def parse_method(text: str) -> Choice:
    """``zip-alpha=0.3`` as a name and its options."""
    name, pairs = _split_options(text)
    return Choice(name, tuple((key, _value(text, value)) for key, value in pairs))


def _value(name: str, text: str) -> Any:
    try:
        value = yaml12.load(text)
    except yaml12.YamlError as error:
        raise CellError(f"{name!r}: {text!r} is not a value: {error}") from error
    if isinstance(value, dict | list):
        raise CellError(f"{name!r}: {text!r} is not a plain value")
    return value


_LAST_PART = re.compile(r"(.+)\.([A-Za-z_][^.]*(?:\.\d[^.]*)*)", re.DOTALL)
"""A merge's name before its normalisation, which starts with a letter (a point in a number does not), and that."""


def parse_merge(name: str) -> Merge:
    """A merge from its name."""
    sources, rest = parse_cell(name)
    found = _LAST_PART.fullmatch(rest)
    if found is None:
        raise CellError(f"{name!r} names no method and normalisation, like {sources}.permute.reset")
    method, pairs = _split_options(found[1])
    stop, preserve, weights, options = None, None, None, []
    for key, value in pairs:
        if key == "stop":
            stop = value
        elif key == "preserve":
            preserve = value
        elif key == "weights":
            weights = tuple(_share(name, part, "weight") for part in value.split("+"))
        else:
            options.append((key, _value(name, value)))
    merge = Merge(sources, Choice(method, tuple(options)), parse_method(found[2]), stop, weights, preserve)
    _check_written(name, merge)
    return merge


def parse_pruned(name: str) -> Pruned:
    """A pruned network from its name."""
    return _parse_compressed(name, Pruned, "digits.r35.s0.magnitude-sparsity=0.9.repair")


def parse_narrowed(name: str) -> Narrowed:
    """A narrowed network from its name."""
    return _parse_compressed(name, Narrowed, "digits.r35.s0.zip-width=0.5.reset")


def _parse_compressed(name: str, kind: type[CompressedT], example: str) -> CompressedT:
    sources, rest = parse_cell(name)
    found = _LAST_PART.fullmatch(rest)
    method, pairs = _split_options(found[1]) if found is not None else ("", [])
    if len(sources.edges) != 1 or found is None or [key for key, _ in pairs] != [kind.measure]:
        raise CellError(f"{name!r} is no {kind.kind} network; they are named like {example}")
    compressed = kind(sources.edges[0], method, _share(name, pairs[0][1], kind.measure), found[2])
    _check_written(name, compressed)
    return compressed


@lru_cache(maxsize=100_000)
def parse_key(kind: str, cell: str) -> Key:
    """The parts of a cell that was evaluated; ``kind``: "edge", "ensemble", "merge", "pruned" or "narrowed"."""
    if kind == "merge":
        merge = parse_merge(cell)
        return Key(merge.sources, merge)
    if kind in (Pruned.kind, Narrowed.kind):
        compressed = parse_pruned(cell) if kind == Pruned.kind else parse_narrowed(cell)
        return Key(Sources((compressed.edge,)), compressed=compressed)
    return Key(parse_sources(cell) if kind == "ensemble" else Sources((parse_edge(cell),)))


def _share(name: str, text: str, what: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise CellError(f"{name!r}: {text!r} is not a {what}") from None


def _split_options(text: str) -> tuple[str, list[tuple[str, str]]]:
    """``name-key=value-key=value`` as the name and its pairs; names and values may hold ``-`` themselves."""
    pieces = text.split("=")
    keys = [piece.rpartition("-") for piece in pieces[:-1]]
    if not keys:
        return text, []
    values = [keys[i][0] for i in range(1, len(keys))] + [pieces[-1]]
    return keys[0][0], [(key[2], value) for key, value in zip(keys, values, strict=True)]
