"""What the schema of params.yaml cannot say: names that must be known, sections that must fit each other.

Every check gives its faults as lines, ``KEY: what is wrong; what is allowed``.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from mergeline.architectures import ARCHITECTURES, INITIALIZATIONS, Architecture, deepest, known_names, multiplier
from mergeline.depth import PLACEMENTS
from mergeline.encoder_names import LITE0, MINILM, describe_encoder, encoder_reads
from mergeline.kinds import OF_PIXELS
from mergeline.matching import MATCHERS
from mergeline.narrowing_options import OPTIONS as NARROWERS
from mergeline.normalization import NORMALIZATIONS
from mergeline.pruning_options import OPTIONS as PRUNERS
from mergeline.pruning_options import READ_LABELS
from mergeline.readings import SMALLEST_BATCH
from mergeline.registry import options_of
from mergeline.tasks import TASKS, Adapter
from stages.papers import PAPERS, tables
from stages.plan.expansion import architecture_lists, expand_cells, narrowed_cells, pruned_cells
from stages.plan.keys import INITIALIZATION, UNCHANGED, Edge, Merge
from stages.plan.methods import resolve
from stages.plan.params import Compression, MergeSeries, Method, Narrowing, Params, Training, WithOptions
from stages.plan.recipes import WITHOUT_MOMENTUM, recipe_settings

__all__ = ["faults_of", "suggestion"]


def faults_of(params: Params) -> list[str]:
    """Everything that is wrong with parameters of the right form; empty if nothing is."""
    faults = [
        *_architectures(params),
        *_tasks(params),
        *_recipes(params),
        *_methods(params),
        *_normalizations(params),
        *(line for name, series in params.merges.items() for line in _series(params, f"merges.{name}", series)),
        *_registered("pruners", params.pruners, PRUNERS),
        *(
            line
            for name, series in params.pruning.items()
            for line in _compression(params, f"pruning.{name}", series, PRUNERS)
        ),
        *_registered("narrowers", params.narrowers, NARROWERS),
        *(
            line
            for name, series in params.narrowing.items()
            for line in _narrowing(params, f"narrowing.{name}", series)
        ),
        *_report(params),
        *_encoder(params),
        *_pretrained(params),
        *_kinds(params),
    ]
    return faults or list(_cells(params))


def suggestion(word: str, known: Iterable[str]) -> str:
    """`` (did you mean 'digits'?)``, or nothing."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _unknown(path: str, value: str, allowed: Iterable[str]) -> list[str]:
    names = list(allowed)
    if value in names:
        return []
    if allowed is ARCHITECTURES:  # without other libraries' networks, which a benchmark does not have
        names = [name for name in names if not ARCHITECTURES[name].foreign]
    said = known_names() if allowed is ARCHITECTURES else ", ".join(names)
    return [f"{path}: unknown {value!r}{suggestion(value, names)}; allowed: {said}"]


def _architectures(params: Params) -> Iterator[str]:
    for index, name in enumerate(params.architectures):
        unknown = _unknown(f"architectures[{index}]", name, ARCHITECTURES)
        yield from unknown
        if not unknown:
            try:
                Architecture(name, 1, params.model.width, params.model.input_size)
            except ValueError as error:
                yield f"architectures[{index}]: {error}"


def _tasks(params: Params) -> Iterator[str]:
    for name, task in params.tasks.items():
        yield from _unknown(f"tasks.{name}" + (".source" if task.source else ""), task.source or name, TASKS)
        yield from _valued(params, name)
        if task.pretrain is None:
            continue
        yield from _unknown(f"tasks.{name}.pretrain", task.pretrain, params.tasks)
        chain = [name]
        while chain[-1] in params.tasks and (base := params.tasks[chain[-1]].pretrain) is not None:
            if base in chain:
                yield f"tasks.{name}.pretrain: {' -> '.join([*chain, base])} is a circle"
                break
            chain.append(base)


def _valued(params: Params, name: str) -> Iterator[str]:
    """What tasks that tell values cannot have, which is of classes."""
    if any(adapter.target == "values" for adapter in _adapters(params, [name]).values()):
        for key in ("classes", "n_classes"):
            if getattr(params.tasks[name], key) is not None:
                yield f"tasks.{name}.{key}: {name} tells values, which have no classes; leave it out"
        if params.targets.kind == "text":
            yield f"targets.kind: text has a place for each class, and {name} tells values; set logits"


def _recipes(params: Params) -> Iterator[str]:
    for name, given in params.recipes.items():
        unknown = _unknown(f"recipes.{name}", name, ARCHITECTURES)
        yield from unknown
        if not unknown and "momentum" in given.model_fields_set:
            yield from _idle_momentum(params, f"recipes.{name}.momentum", [name])


def _idle_momentum(params: Params, path: str, architectures: Iterable[str]) -> Iterator[str]:
    """A momentum that is set for models whose optimizer has none."""
    for name in architectures:
        used = {recipe_settings(params, Edge("", name, 0), section)["optimizer"] for section in ("train", "finetune")}
        if used <= set(WITHOUT_MOMENTUM):
            yield f"{path}: would do nothing to {name}: {' and '.join(used)}, which trains it, has no momentum"


def _methods(params: Params) -> Iterator[str]:
    for name, method in params.methods.items():
        path = f"methods.{name}"
        used = method.use or name
        unknown = _unknown(f"{path}.use" if method.use else path, used, MATCHERS)
        yield from unknown
        if unknown:
            continue
        matcher = MATCHERS[used]
        yield from _method_options(path, method, matcher.options)
        if method.grid is not None and method.options is None:
            yield f"{path}.options: a grid needs options beside it, even if empty: options: {{}}"
        if matcher.moments == "full" and params.statistics.moments != "full":
            yield f"{path}: {matcher.name} needs the moments within each model; set statistics.moments: full"


def _method_options(path: str, method: Method, kind: type[Any]) -> Iterator[str]:
    fields = [field.name for field in dataclasses.fields(kind)]
    for key, value in (method.options or {}).items():
        yield from _option(f"{path}.options.{key}", key, [value], kind, fields, "option")
    for key, values in (method.grid or {}).items():
        yield from _option(f"{path}.grid.{key}", key, values, kind, fields, "option")


def _option(
    path: str, key: str, values: Iterable[Any], kind: type[Any], allowed: Iterable[str], word: str
) -> Iterator[str]:
    names = list(allowed)
    if key not in names:
        yield f"{path}: unknown {word}{suggestion(key, names)}; allowed: {', '.join(names) or 'none'}"
        return
    for value in values:
        try:
            options_of(kind, {key: value})
        except ValueError as error:
            yield f"{path}: {error}"


def _normalizations(params: Params) -> Iterator[str]:
    for name, settings in params.normalize.items():
        path = f"normalize.{name}"
        unknown = _unknown(path, name, NORMALIZATIONS)
        yield from unknown
        if not unknown:
            yield from _own_options(path, settings, NORMALIZATIONS[name].options)
    if "reset" not in params.normalize:
        yield "normalize.reset: is missing; networks need it for their batch statistics"


def _own_options(path: str, settings: WithOptions, kind: type[Any]) -> Iterator[str]:
    fields = sorted({field.name for field in dataclasses.fields(kind)} | set(type(settings).model_fields))
    for key, value in settings.options.items():
        yield from _option(f"{path}.{key}", key, [value], kind, fields, "key")


def _registered(section: str, declared: Mapping[str, WithOptions], known: Mapping[str, type[Any]]) -> Iterator[str]:
    """A section that has options by method. ``known``: by method, the class of its options."""
    for name, settings in declared.items():
        unknown = _unknown(f"{section}.{name}", name, known)
        yield from unknown or _own_options(f"{section}.{name}", settings, known[name])


def _compression(params: Params, path: str, series: Compression, methods: Iterable[str]) -> Iterator[str]:
    """A series of pruned or narrowed models; ``methods``: those that there are."""
    architectures = series.architectures or params.architectures
    restoring = [name for name, entry in NORMALIZATIONS.items() if entry.restores or name == UNCHANGED]
    lists: dict[str, tuple[list[str], Iterable[str]]] = {
        "tasks": (series.tasks, params.tasks),
        "architectures": (series.architectures or [], ARCHITECTURES),
        "methods": (series.methods, methods),
        "normalize": (series.normalize, restoring),
    }
    yield from _unknown_names(path, lists)
    yield from _seeds(params, path, series.seeds or [])
    yield from _unfit(params, path, series.normalize, architectures)
    for index, name in enumerate(series.methods):
        targets = [adapter.target for adapter in _adapters(params, series.tasks).values()]
        if name in READ_LABELS and any(target in OF_PIXELS for target in targets):
            yield f"{path}.methods[{index}]: {name} reads a label of each image, and these tasks have one of each pixel"


def _narrowing(params: Params, path: str, series: Narrowing) -> Iterator[str]:
    yield from _compression(params, path, series, NARROWERS)
    for name in series.architectures or params.architectures:
        compares = ARCHITECTURES[name].compares if name in ARCHITECTURES else ""
        if compares:
            yield (
                f"{path}.architectures: {name} cannot be narrowed: its {compares} compares units with each other, which no other "
                "number of them commutes with"
            )


def _unknown_names(path: str, lists: dict[str, tuple[list[str], Iterable[str]]]) -> Iterator[str]:
    for key, (names, allowed) in lists.items():
        for index, name in enumerate(names):
            yield from _unknown(f"{path}.{key}[{index}]", name, allowed)


def _seeds(params: Params, path: str, seeds: list[int]) -> Iterator[str]:
    for index, seed in enumerate(seeds):
        if seed not in params.seeds:
            yield f"{path}.seeds[{index}]: {seed} is not one of seeds: {params.seeds}"


def _unfit(params: Params, path: str, normalize: list[str], architectures: list[str]) -> Iterator[str]:
    """Normalisations without images, and those that would do nothing."""
    for index, name in enumerate(normalize):
        if name in NORMALIZATIONS and NORMALIZATIONS[name].reads_images and name not in params.normalize:
            yield f"{path}.normalize[{index}]: {name} needs images; add normalize.{name}"
        for architecture in architectures:
            known = architecture in ARCHITECTURES and ARCHITECTURES[architecture].batch_norms is False
            if known and name in NORMALIZATIONS and NORMALIZATIONS[name].needs_batch_norms:
                yield (
                    f"{path}.normalize[{index}]: {name} would do nothing to {architecture}, which has no batch norms; "
                    "choose repair, rescale or none"
                )


def _series(params: Params, path: str, series: MergeSeries) -> Iterator[str]:
    for index, entry in enumerate(series.tasks):
        for name in [entry] if isinstance(entry, str) else entry:
            yield from _unknown(f"{path}.tasks[{index}]", name, params.tasks)
        if isinstance(entry, list) and len(set(entry)) != len(entry):
            yield f"{path}.tasks[{index}]: a task stands twice; name it alone to merge it with itself"
        size = len(entry) if isinstance(entry, list) else series.models or 2
        if series.weights is not None and len(series.weights) != size:
            yield f"{path}.weights: {len(series.weights)} weights for {size} models of {entry}"
    if series.weights is not None and abs(sum(series.weights) - 1) > 1e-6:
        yield f"{path}.weights: must sum to 1, sum to {sum(series.weights):g}"
    yield from _seeds(params, path, series.seeds or [])
    lists: dict[str, tuple[list[str], Iterable[str]]] = {
        "architectures": (series.architectures or [], ARCHITECTURES),
        "methods": (series.methods or [], params.methods),
        "normalize": (series.normalize, NORMALIZATIONS),
        "placements": (series.placements, PLACEMENTS),
    }
    yield from _unknown_names(path, lists)
    yield from _unfit(params, path, series.normalize, series.architectures or params.architectures)
    yield from _measures(params, path, series)
    yield from _sweep(params, path, series)
    if not series.homogeneous_only:
        yield from _pairs(path, series.architectures or params.architectures)
        yield from _widths(params, path, series)
        yield from _compared_blocks(params, path, series)


def _compared_blocks(params: Params, path: str, series: MergeSeries) -> Iterator[str]:
    """Placements that compare blocks need images enough to compare them on."""
    compares = [name for name in series.placements if name in PLACEMENTS and PLACEMENTS[name].compares]
    if not compares:
        return
    key = f"{path}.placements: {compares[0]} compares blocks"
    if params.statistics.images < SMALLEST_BATCH:
        yield f"{key} on {SMALLEST_BATCH} images at least; statistics.images is {params.statistics.images}"
    yield from _few_images(params, key, series)


def _few_images(params: Params, what: str, series: MergeSeries) -> Iterator[str]:
    """Tasks that are limited to fewer images than networks can be compared on. ``what``: the key, and what compares."""
    for name in _task_names(series):
        limit = params.tasks[name].max_train if name in params.tasks else None
        if limit is not None and limit < SMALLEST_BATCH:
            yield f"{what} on {SMALLEST_BATCH} images at least; tasks.{name}.max_train is {limit}"


def _task_names(series: MergeSeries) -> list[str]:
    """The tasks of a series, each once."""
    return list(dict.fromkeys(n for entry in series.tasks for n in ([entry] if isinstance(entry, str) else entry)))


def _sweep(params: Params, path: str, series: MergeSeries) -> Iterator[str]:
    started = sorted(
        task for task in _task_names(series) if task in params.tasks and params.tasks[task].pretrain is not None
    )
    allowed = [INITIALIZATION, *Training.model_fields]
    for key, values in (series.sweep or {}).items():
        place = f"{path}.sweep.{key}"
        if key not in allowed:
            yield f"{place}: unknown setting{suggestion(key, allowed)}; allowed: {', '.join(allowed)}"
        elif key == INITIALIZATION and started:
            yield f"{place}: {started[0]} is finetuned, its weights are not drawn; leave it out of {path}.tasks"
        for index, value in enumerate(values):
            if key == INITIALIZATION:
                yield from _unknown(f"{place}[{index}]", str(value), INITIALIZATIONS)
            elif key in allowed:
                yield from _training_value(f"{place}[{index}]", key, value)
    if "momentum" in (series.sweep or {}) and "optimizer" not in (series.sweep or {}):
        known = [name for name in series.architectures or params.architectures if name in ARCHITECTURES]
        yield from _idle_momentum(params, f"{path}.sweep.momentum", known)


def _training_value(path: str, key: str, value: Any) -> Iterator[str]:
    try:
        Training.model_validate({key: value})
    except ValidationError as error:
        yield f"{path}: {error.errors()[0]['msg']}, got {value!r}"


def _measures(params: Params, path: str, series: MergeSeries) -> Iterator[str]:
    """What the measures of a series cannot be taken of."""
    adapters = _adapters(params, _task_names(series))
    valued = [name for name, adapter in adapters.items() if adapter.target == "values"]
    for index, measure in enumerate(series.measures):
        if measure == "diagnosis":
            yield from _few_images(params, f"{path}.measures[{index}]: layers are compared", series)
            if "texts" in [adapter.kind for adapter in adapters.values()]:
                yield f"{path}.measures[{index}]: features are measured from those of a zero input, and there is no zero text"
            continue
        if measure == "examples":
            if "classes" in [adapter.target for adapter in adapters.values()]:
                yield f"{path}.measures[{index}]: examples are shown of tasks that tell the class of each pixel, or its value"
            continue
        if valued:
            yield f"{path}.measures[{index}]: a {measure} shows the loss of classes, and {valued[0]} tells values; leave it out"
        key, what = f"{path}.measures[{index}]", f"a {measure} lies between two models that become one network"
        several = [entry for entry in series.tasks if isinstance(entry, list)]
        if several and (measure == "curve" or params.targets.kind != "text"):
            yield f"{key}: {what}, and models of different tasks ({'+'.join(several[0])}) keep their heads"
        if (series.models or 2) != 2:
            yield f"{key}: {what}, not {series.models}"
        for setting in ("stops", "preserves"):
            if getattr(series, setting) != [None]:
                yield f"{key}: {what}, and with {setting} each model keeps layers; put {measure} into a series without"
        if measure == "curve" and series.weights is not None:
            yield f"{key}: a curve has all weights; leave {path}.weights out"
        for name in series.methods or params.methods:
            declared = params.methods.get(name)
            if measure == "landscape" and declared is not None and (declared.use or name) == "identity":
                yield (
                    f"{key}: no plane lies through two models and their plain average; "
                    f"leave {name!r} out of {path}.methods"
                )


def _width_pairs(params: Params, series: MergeSeries) -> list[tuple[str, ...]]:
    """The pairs of a series that differ in width."""
    counts = {len(entry) if isinstance(entry, list) else series.models or 2 for entry in series.tasks}
    lists = dict.fromkeys(names for count in sorted(counts) for names in architecture_lists(params, series, count))
    return [names for names in lists if len(set(map(multiplier, names))) > 1]


def _widths(params: Params, path: str, series: MergeSeries) -> Iterator[str]:
    """Pairs of different widths that nothing merges, and what cannot be measured of them."""
    pairs = _width_pairs(params, series)
    if not pairs:
        return
    pair = " and ".join(pairs[0])
    declared = {name: params.methods[name] for name in series.methods or params.methods if name in params.methods}
    used = [MATCHERS[method.use or name] for name, method in declared.items() if (method.use or name) in MATCHERS]
    if used and all(matcher.widths == "equal" for matcher in used):
        elastic = [name for name, matcher in MATCHERS.items() if matcher.widths != "equal"]
        yield (
            f"{path}.methods: none of {', '.join(declared)} merges {pair}, which differ in width; {' and '.join(elastic)} do, or "
            f"set {path}.homogeneous_only: true"
        )
    if "landscape" in series.measures:
        yield (
            f"{path}.measures[{series.measures.index('landscape')}]: no plane lies through networks of different widths "
            f"({pair}); put landscape into a series without"
        )


def _pairs(path: str, architectures: list[str]) -> Iterator[str]:
    if any(name not in ARCHITECTURES for name in architectures):
        return
    for index, first in enumerate(architectures):
        for second in architectures[index + 1 :]:
            try:
                deepest([first, second])
            except ValueError as error:
                yield f"{path}.architectures: {error}; set homogeneous_only: true to merge only equals"


def _report(params: Params) -> Iterator[str]:
    if params.report.method is not None:
        yield from _unknown("report.method", params.report.method, params.methods)
    if params.report.simplicity_reference is not None:
        yield from _unknown("report.simplicity_reference", params.report.simplicity_reference, params.architectures)
    for index, table in enumerate(params.report.papers):
        yield from _unknown(f"report.papers[{index}]", table, [name for paper in PAPERS for name in tables(paper)])


def _encoder(params: Params) -> Iterator[str]:
    try:
        describe_encoder(params.similarity.encoder)
    except ValueError as error:
        yield f"similarity.encoder: {error}"


def _pretrained(params: Params) -> Iterator[str]:
    series: list[MergeSeries | Compression] = [
        *params.merges.values(),
        *params.pruning.values(),
        *params.narrowing.values(),
    ]
    used = {name for own in series for name in own.architectures or params.architectures}
    for name in params.pretrained:
        unknown = _unknown(f"pretrained.{name}", name, ARCHITECTURES)
        yield from unknown
        if not unknown and name not in used:
            yield f"pretrained.{name}: nothing is made of {name}; there are: {', '.join(sorted(used))}"


def _adapters(params: Params, tasks: Iterable[str]) -> dict[str, Adapter]:
    """Those of the tasks that are known."""
    sources = {name: params.tasks[name].source or name for name in tasks if name in params.tasks}
    return {name: TASKS[source] for name, source in sources.items() if source in TASKS}


def _kinds(params: Params) -> Iterator[str]:
    """Networks, their tasks and the encoder that compares these fit each other: images or texts, classes or pixels."""
    adapters = _adapters(params, params.tasks)
    if not adapters:
        return
    first, adapter = next(iter(adapters.items()))
    for name, other in adapters.items():
        together = other.target == adapter.target or {other.target, adapter.target} <= set(OF_PIXELS)
        if other.kind != adapter.kind or not together:
            what = f"{other.kind} with {other.target}, and those of {first} are {adapter.kind} with {adapter.target}"
            yield f"tasks.{name}: are {what}; make a benchmark of each"
    wanted = (adapter.kind, OF_PIXELS[0] if adapter.target in OF_PIXELS else adapter.target)
    named = [*params.architectures, *(n for series in params.merges.values() for n in series.architectures or [])]
    for name in dict.fromkeys(name for name in named if name in ARCHITECTURES):
        design = ARCHITECTURES[name]
        if (design.reads, design.tells) != wanted:
            fitting = [o.name for o in ARCHITECTURES.values() if (o.reads, o.tells) == wanted and o.multiplier == 1]
            yield (
                f"architectures: {name} is for {design.reads} with {design.tells}, and the samples of {first} are "
                f"{' with '.join(wanted)}; allowed: {', '.join(fitting)}"
            )
    encoder, kind = params.similarity.encoder, adapter.kind
    if encoder_reads(encoder) != kind:
        choice = MINILM if kind == "texts" else LITE0
        yield f"similarity.encoder: the samples of {first} are {kind}, which {encoder} does not read; set {choice}"


def _mixing(params: Params, name: str, merges: Iterable[Merge]) -> Iterator[str]:
    """Methods whose maps mix units, for architectures whose norms compare these."""
    found: dict[tuple[str, str], str] = {}
    for merge in merges:
        method = resolve(params, merge.method)
        for architecture in {edge.architecture for edge in merge.edges}:
            compares = ARCHITECTURES[architecture].compares
            if compares and method.matcher.mixes is not None and method.matcher.mixes(method.options):
                found[str(merge.method), architecture] = compares
    for (cell, architecture), compares in found.items():
        yield (
            f"merges.{name}.methods: {cell} mixes units, which the {compares}s of {architecture} compare with each other; "
            "choose permute, weight, zip of two models or transport without regularization"
        )


SAFE = re.compile(r"[A-Za-z0-9_.+=-]+")
"""What the names of cells are made of: they stand in commands, which plain DVC gives to a shell."""


def _unsafe(path: str, cells: Iterable[object]) -> Iterator[str]:
    """Cells whose names would be more than names."""
    wrong = next((str(cell) for cell in cells if not SAFE.fullmatch(str(cell))), None)
    if wrong is not None:
        yield f"{path}: {wrong!r} cannot be a cell's name; in methods, options and stops use letters, digits and . _ + = - alone"


def _cells(params: Params) -> Iterator[str]:
    """Faults that only show once cells are made: too few seeds, recipes and imports of models that nothing uses."""
    compressed = (*pruned_cells(params), *narrowed_cells(params))
    yield from _unsafe("pruning and narrowing", compressed)
    used = {cell.edge for cell in compressed}
    for name, series in params.merges.items():
        merges = expand_cells(params, {name: series})
        used |= {edge for merge in merges for edge in merge.edges}
        yield from _mixing(params, name, merges)
        yield from _unsafe(f"merges.{name}", merges)
        if not merges:
            yield (
                f"merges.{name}: makes no merge at all; models of one task need two seeds at least "
                f"(seeds: {series.seeds or params.seeds})"
            )
    trained = sorted({edge.architecture for edge in used if edge.trained and str(edge) not in params.imports})
    for name in params.recipes:
        if name not in trained:
            yield f"recipes.{name}: no merge or pruning trains {name}; they train: {', '.join(trained) or 'none'}"
    names = {str(edge) for edge in used}
    for edge in params.imports:
        if edge not in names:
            hint = suggestion(edge, names)
            yield f"imports.{edge}: no merge, pruning or narrowing uses this edge{hint}; edges are named task.architecture.s0"
