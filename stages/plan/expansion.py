"""Expansion: what params.yaml asks for, as merges; the same parameters give the same merges in the same order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations, pairwise, permutations, product
from typing import Any

from mergeline.architectures import difference, multiplier, stage_blocks
from stages.plan.keys import (
    PLACEMENT,
    Choice,
    CompressedT,
    Edge,
    Merge,
    Narrowed,
    Options,
    Pruned,
    Sources,
    as_written,
)
from stages.plan.methods import resolve
from stages.plan.params import Compression, MergeSeries, Params

__all__ = [
    "architecture_lists",
    "base_edge",
    "can_merge",
    "expand_cells",
    "idle_controls",
    "measured_merges",
    "narrowed_cells",
    "pruned_cells",
]


RANDOM = Choice("random")
"""The method of the control of that name."""


def expand_cells(params: Params, merges: Mapping[str, MergeSeries]) -> list[Merge]:
    """Every merge of some series, in a stable order, each once."""
    found: dict[str, Merge] = {}
    for series in merges.values():
        for merge in _series_merges(params, series):
            found.setdefault(str(merge), merge)
    return list(found.values())


def measured_merges(params: Params) -> dict[str, list[Merge]]:
    """The merges that each measure is taken of, in a stable order; measures that are taken of none are left out."""
    found: dict[str, dict[str, Merge]] = {}
    for series in params.merges.values():
        for measure in series.measures:
            known = found.setdefault(measure, {})
            for merge in _real_merges(params, series):
                known.setdefault(str(merge), merge)
    return {measure: list(known.values()) for measure, known in sorted(found.items())}


def pruned_cells(params: Params) -> list[Pruned]:
    """Every pruned network, in a stable order, each once."""
    return _compressed(params, Pruned, [(series, series.sparsities) for series in params.pruning.values()])


def narrowed_cells(params: Params) -> list[Narrowed]:
    """Every narrowed network, in a stable order, each once."""
    return _compressed(params, Narrowed, [(series, series.widths) for series in params.narrowing.values()])


def _compressed(
    params: Params, kind: type[CompressedT], every: Iterable[tuple[Compression, Sequence[float]]]
) -> list[CompressedT]:
    found: dict[CompressedT, None] = {}
    for series, shares in every:
        models = product(series.tasks, series.architectures or params.architectures, series.seeds or params.seeds)
        for edge in (Edge(*model) for model in models):
            for method, share, normalize in product(series.methods, shares, series.normalize):
                found.setdefault(kind(edge, method, share, normalize))
    return list(found)


def _series_merges(params: Params, series: MergeSeries) -> Iterator[Merge]:
    yield from _real_merges(params, series)
    for control in series.controls:
        yield from _control_cells(params, series, control)


def _real_merges(params: Params, series: MergeSeries) -> Iterator[Merge]:
    """The merges of a series without its controls."""
    methods = [cell for name in series.methods or list(params.methods) for cell in _method_choices(params, name)]
    weights = None if series.weights is None else tuple(series.weights)
    for sources in _sources(params, series):
        architectures = [edge.architecture for edge in sources.edges]
        taken = [method for method in methods if can_merge(params, method, architectures)]
        for method, normalize, stop, kept in product(taken, series.normalize, series.stops, series.preserves):
            yield Merge(sources, method, Choice(normalize), stop, weights, None if kept is None else f"{kept:g}")


def can_merge(params: Params, method: Choice, architectures: Iterable[str]) -> bool:
    """Whether a method merges models of these architectures: of different widths only some do."""
    one_width = len(set(map(multiplier, architectures))) == 1
    return one_width or resolve(params, method).matcher.widths != "equal"


def _method_choices(params: Params, name: str) -> list[Choice]:
    grid = params.methods[name].grid
    if not grid:
        return [Choice(name)]
    return [Choice(name, tuple(zip(grid, values, strict=True))) for values in product(*grid.values())]


def _sources(params: Params, series: MergeSeries) -> Iterator[Sources]:
    seeds = series.seeds or params.seeds
    for tasks in _task_lists(series):
        for architectures in architecture_lists(params, series, len(tasks)):
            if _mirrored(series, tasks, architectures):
                continue
            placements = series.placements if "depths" in difference(architectures) else [PLACEMENT]
            for recipe, chosen in product(_recipes(series), _seed_lists(series, seeds, tasks, architectures)):
                models = zip(tasks, architectures, chosen, strict=True)
                edges = tuple(Edge(t, a, s, recipe=recipe) for t, a, s in models)
                for placement in placements:
                    yield Sources(edges, placement)


def _recipes(series: MergeSeries) -> list[Options]:
    """The points of the series' sweep; the usual recipe where it has none."""
    grid = series.sweep or {}
    return [tuple(zip(grid, map(as_written, values), strict=True)) for values in product(*grid.values())]


def _task_lists(series: MergeSeries) -> list[tuple[str, ...]]:
    lists = []
    for entry in series.tasks:
        tasks = (entry,) * (series.models or 2) if isinstance(entry, str) else tuple(entry)
        lists.append(tasks)
        if series.both_directions and not isinstance(entry, str):
            lists.append(tuple(reversed(tasks)))
    return lists


def _mirrored(series: MergeSeries, tasks: tuple[str, ...], architectures: tuple[str, ...]) -> bool:
    """Whether these are models of one architecture whose other direction, the same merge, is there: with equal weights."""
    listed = [tuple(entry) for entry in series.tasks if not isinstance(entry, str)]
    equal = series.weights is None or len(set(series.weights)) == 1
    back = series.both_directions and tasks not in listed and tuple(reversed(tasks)) in listed
    return back and equal and len(set(architectures)) == 1


def architecture_lists(params: Params, series: MergeSeries, count: int) -> list[tuple[str, ...]]:
    """Homogeneous lists, then (for two models) every pair with the deeper first, and of two as deep the wider."""
    names = sorted(series.architectures or params.architectures, key=_size)
    lists = [(name,) * count for name in names]
    if count == 2 and not series.homogeneous_only:
        lists += [(larger, smaller) for smaller, larger in combinations(names, 2)]
    return lists


def _size(name: str) -> tuple[int, float, str]:
    return sum(stage_blocks(name)), multiplier(name), name


def _seed_lists(
    series: MergeSeries, seeds: list[int], tasks: tuple[str, ...], architectures: tuple[str, ...]
) -> list[tuple[int, ...]]:
    """Seeds of each run.

    Models of one task and one architecture are interchangeable: each set of different seeds once. Models of one task
    and different depths or widths were trained from different initialisations even at the same seed. Models of different tasks
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
    if series.runs == "neighbours":
        place = {seed: index for index, seed in enumerate(seeds)}
        lists = [run for run in lists if all(abs(place[a] - place[b]) <= 1 for a, b in pairwise(run))]
    return lists


def _control_cells(params: Params, series: MergeSeries, control: str) -> Iterator[Merge]:
    """Controls on the first run of every pair (what a number is worth without a second model), by methods that merge it."""
    aligned = [cell for name in series.methods or list(params.methods) for cell in _method_choices(params, name)]
    normalize = Choice(series.normalize[0])
    seen: set[tuple[Any, ...]] = set()
    for sources in _sources(params, series):
        architectures = [edge.architecture for edge in sources.edges]
        key = (sources.combination, sources.placement)
        if key in seen or len(sources.edges) != 2:
            continue
        seen.add(key)
        taken = [method for method in aligned if can_merge(params, method, architectures)]
        if control == "random" and can_merge(params, RANDOM, architectures):
            yield Merge(sources, RANDOM, normalize)
        elif control == "self" and sources.same_task and sources.homogeneous:
            edge = sources.edges[0]
            for method in taken:
                yield Merge(Sources((edge, edge)), method, normalize)
        elif control == "untrained" and not sources.homogeneous:
            for side in range(2):
                edges = tuple(
                    replace(edge, trained=edge.trained and index != side) for index, edge in enumerate(sources.edges)
                )
                for method in taken:
                    yield Merge(replace(sources, edges=edges), method, normalize)


CONTROL_NEEDS = {
    "random": "two models of one width",
    "self": "two models of one task and one architecture, so two seeds",
    "untrained": "two models of different depths or widths",
}
"""What a series must merge for a control of it to make cells."""


def idle_controls(params: Params) -> list[str]:
    """Controls that make no cell at all, a line each: their series have no pair of the kind that they take."""
    return [
        f"merges.{name}.controls: {control} makes no merge here; it needs {CONTROL_NEEDS[control]}"
        for name, series in params.merges.items()
        for control in series.controls
        if next(_control_cells(params, series, control), None) is None
    ]


def base_edge(params: Params, edge: Edge) -> Edge | None:
    """The edge that this one is finetuned from, trained as usual; None where it starts from scratch, is imported or untrained."""
    base = params.tasks[edge.task].pretrain
    if base is None or not edge.trained or str(edge) in params.imports:
        return None
    return Edge(base, edge.architecture, edge.seed)
