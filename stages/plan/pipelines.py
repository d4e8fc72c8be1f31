"""The plan: every cell of a benchmark as a DVC stage, with what it reads, writes and depends on.

``pipelines/`` is written from it, small files for the edges of a task and for the sources of merges; the root
``dvc.yaml`` holds what there is once. A stage depends on the files it reads, on the parameters it uses, and on the hash
of the code it runs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path, PurePosixPath

import yaml

from mergeline.checkpoint_names import split_part
from mergeline.depth import PLACEMENTS
from mergeline.kinds import Target
from mergeline.normalization import NORMALIZATIONS
from mergeline.pretrained_files import local_place
from mergeline.tasks import TASKS
from stages.fingerprints import places
from stages.formats.files import write_bytes
from stages.plan import paths
from stages.plan.code import installed_code
from stages.plan.expansion import base_edge, expand_cells, measured_merges, narrowed_cells, pruned_cells
from stages.plan.keys import Compressed, Edge, Merge, Narrowed, Prediction, Pruned, Sources, TaskPair
from stages.plan.methods import resolve
from stages.plan.params import Params
from stages.plan.recipes import recipe_keys
from stages.registry import STAGES, code_name

__all__ = [
    "HEADER",
    "Plan",
    "StageCell",
    "drift",
    "make_folders",
    "make_plan",
    "render",
    "write_pipelines",
]

HEADER = "# Written by `mergeline plan` from params.yaml; edit that file instead.\n"


@dataclass(frozen=True)
class StageCell:
    """One DVC stage: ``kind@cell`` in ``file``. ``stage`` is what it runs; the cells of one kind read lists of one length."""

    kind: str
    stage: str
    cell: str
    file: PurePosixPath
    deps: tuple[str, ...]
    params: tuple[str, ...]
    outs: tuple[str, ...]

    @property
    def command(self) -> str:
        return f"python -m stages {self.stage} {self.cell}"


@dataclass(frozen=True)
class Plan:
    """All cells of a benchmark."""

    edges: tuple[Edge, ...]
    ensembles: tuple[Sources, ...]
    merges: tuple[Merge, ...]
    predictions: tuple[Prediction, ...]
    measured: Mapping[str, tuple[Merge, ...]]
    """By measure, the merges that it is taken of."""
    pruned: tuple[Pruned, ...]
    narrowed: tuple[Narrowed, ...]
    block_pairs: tuple[Sources, ...]
    """Two edges of different depth, the deeper first, whose blocks are compared."""
    stages: tuple[StageCell, ...] = field(repr=False)
    targets: Mapping[str, Target] = field(default_factory=dict)
    """By task, what its labels are of."""


def make_plan(params: Params) -> Plan:
    """Expand ``params`` to cells; the same parameters give the same plan in the same order."""
    merges = expand_cells(params, params.merges)
    by_sources: dict[Sources, list[Merge]] = {}
    for merge in merges:
        by_sources.setdefault(merge.sources, []).append(merge)
    pruned, narrowed = pruned_cells(params), narrowed_cells(params)
    compressed: list[Compressed] = [*pruned, *narrowed]
    edges = _all_edges(params, [*by_sources, *(Sources((cell.edge,)) for cell in compressed)])
    predictions = list(
        dict.fromkeys(
            [Prediction(edge, edge.task) for edge in edges]
            + [Prediction(edge, task) for sources in by_sources for edge in sources.edges for task in sources.tasks]
        )
    )
    used = [task for task in params.tasks if any(edge.task == task for edge in edges)]
    stages = [
        *(_targets_stage(task) for task in (used if params.targets.kind == "text" else [])),
        *(_edge_stage(params, edge) for edge in edges),
        *(_predict_stage(params, prediction) for prediction in predictions),
        *(_evaluate_edge_stage(edge) for edge in edges),
    ]
    stages += [_similarity_stage(TaskPair(*pair)) for pair in combinations(params.tasks, 2)]
    ensembles = tuple(dict.fromkeys(sources.unplaced for sources in by_sources))
    stages += [_ensemble_stage(sources) for sources in ensembles]
    stages += [_layers_stage(cell) for cell in _compared(merges)]
    pairs = dict.fromkeys(pair for sources in by_sources for pair in _placed_by(sources))
    stages += [_blocks_stage(pair) for pair in pairs]
    for sources, own in by_sources.items():
        stages += _merging_stages(params, sources, own)
    measured = {measure: tuple(own) for measure, own in measured_merges(params).items()}
    stages += [MEASURED[measure](params, merge) for measure, own in measured.items() for merge in own]
    stages += [_compress_stage(params, cell) for cell in compressed]
    stages += [_evaluate_compressed_stage(params, cell) for cell in compressed]
    return Plan(
        tuple(edges), ensembles, tuple(merges), tuple(predictions), measured, tuple(pruned), tuple(narrowed), tuple(pairs),
        tuple(stages), {name: TASKS[task.source or name].target for name, task in params.tasks.items()},
    )  # fmt: skip


def _all_edges(params: Params, all_sources: Iterable[Sources]) -> list[Edge]:
    """Every edge that is merged or made smaller, and the bases these are finetuned from."""
    found: dict[Edge, None] = {}

    def add(edge: Edge) -> None:
        base = base_edge(params, edge)
        if base is not None:
            add(base)
        found.setdefault(edge)

    for sources in all_sources:
        for edge in sources.edges:
            add(edge)
    return sorted(found, key=lambda edge: (list(params.tasks).index(edge.task), edge))


# -- one function a kind of stage: what it reads, which parameters it uses, what it writes ----------------------


def _edge_stage(params: Params, edge: Edge) -> StageCell:
    outs: tuple[str, ...] = (
        str(paths.edge_model(edge)), str(paths.edge_metrics(edge)), str(paths.edge_history(edge)),
    )  # fmt: skip
    base = base_edge(params, edge)
    deps = [str(paths.task(edge.task)), *_target_files(params, [edge.task])]
    keys = ["compute", "model", "targets", f"tasks.{edge.task}"]
    if not edge.trained:
        name, keys = "untrained", ["compute", "model", "targets", "seed", "normalize.reset"]
        outs = (outs[0],)
    elif str(edge) in params.imports:
        name, keys = "import", ["model", "targets", f"tasks.{edge.task}", "imports"]  # which part of its file is meant
        deps.append(str(split_part(params.imports[str(edge)])[0]))
        outs = outs[:2]
    elif base is not None:
        name = "finetune"
        deps.append(str(paths.edge_model(base)))
        keys += [*recipe_keys(params, edge, name), "seed"]
    else:
        name = "train"
        if (place := params.pretrained.get(edge.architecture)) is not None:
            keys.append(f"pretrained.{edge.architecture}")
            deps += [file] if (file := local_place(place)) is not None else []
        keys += [*recipe_keys(params, edge, name), "seed"]
    # With settings or a start of its own an architecture reads other keys, and makes cells of another kind.
    apart = edge.architecture in params.recipes or (name == "train" and edge.architecture in params.pretrained)
    own = [edge.architecture] if name in ("train", "finetune") and apart else []
    kind = "-".join([name, *own, *(key for key, _ in edge.recipe)])
    return _stage(name, edge, paths.edge_pipeline(edge.task), deps, keys, outs, kind=kind)


def _target_files(params: Params, tasks: Iterable[str]) -> list[str]:
    return [str(paths.targets(task)) for task in tasks] if params.targets.kind == "text" else []


def _targets_stage(task: str) -> StageCell:
    file = paths.shared_pipeline("targets")
    deps = [str(paths.task(task)), str(places.TEXT_ENCODER)]
    return _stage("targets", task, file, deps, ["targets"], [str(paths.targets(task))])


def _predict_stage(params: Params, prediction: Prediction) -> StageCell:
    deps = [
        str(paths.edge_model(prediction.edge)),
        str(paths.task(prediction.task)),
        *_target_files(params, [prediction.edge.task]),
    ]
    return _stage(
        "predict",
        prediction,
        paths.prediction_pipeline(prediction.edge.task),
        deps,
        ["compute", "evaluate", "targets"],
        [str(paths.prediction(prediction))],
    )


def _compares(merge: Merge) -> bool:
    """Whether the normalisation reads the source models' statistics by layer."""
    return NORMALIZATIONS[merge.normalize.name].compares


def _compared(merges: Iterable[Merge]) -> list[Prediction]:
    """Every edge and task whose statistics by layer some merge reads."""
    sources = dict.fromkeys(merge.sources for merge in merges if _compares(merge))
    return list(dict.fromkeys(Prediction(edge, task) for own in sources for edge in own.edges for task in own.tasks))


def _layers_stage(cell: Prediction) -> StageCell:
    deps = [str(paths.edge_model(cell.edge)), str(paths.task(cell.task))]
    file = paths.layers_pipeline(cell.edge.task)
    return _stage("layers", cell, file, deps, ["compute", "seed", "statistics"], [str(paths.layers(cell))])


def _placed_by(sources: Sources) -> tuple[Sources, ...]:
    """The pairs of edges by the similarity of whose blocks those of the shallow ones are placed."""
    return sources.depth_pairs if PLACEMENTS[sources.placement].compares else ()


def _blocks_stage(pair: Sources) -> StageCell:
    deps = [*(str(paths.edge_model(edge)) for edge in pair.edges), *(str(paths.task(task)) for task in pair.tasks)]
    keys = ["compute", "seed", "statistics"]
    return _stage("blocks", pair, paths.sources_pipeline(pair), deps, keys, [str(paths.blocks(pair))])


def _source_files(sources: Sources) -> list[str]:
    """What it takes to load sources in one topology."""
    models = [str(paths.edge_model(edge)) for edge in dict.fromkeys(sources.edges)]
    return [*models, *(str(paths.blocks(pair)) for pair in _placed_by(sources))]


def _evaluate_edge_stage(edge: Edge) -> StageCell:
    deps = [
        str(paths.edge_model(edge)),
        str(paths.task(edge.task)),
        str(paths.prediction(Prediction(edge, edge.task))),
    ]
    file = paths.edge_pipeline(edge.task)
    return _stage("evaluate-edge", edge, file, deps, ["evaluate"], [str(paths.evaluation(edge))])


def _similarity_stage(pair: TaskPair) -> StageCell:
    deps = [str(paths.embedding(pair.first)), str(paths.embedding(pair.second))]
    file = paths.shared_pipeline("similarity")
    return _stage("similarity", pair, file, deps, ["similarity.tau"], [str(paths.similarity(pair))])


def _ensemble_files(sources: Sources) -> list[str]:
    edges = dict.fromkeys(sources.edges)
    return [
        *(str(paths.edge_model(edge)) for edge in edges),
        *(str(paths.task(task)) for task in sources.tasks),
        *(str(paths.prediction(Prediction(edge, task))) for edge in edges for task in sources.tasks),
    ]


def _ensemble_stage(sources: Sources) -> StageCell:
    file = paths.sources_pipeline(sources)
    outs = [str(paths.evaluation(sources))]
    return _stage("evaluate-ensemble", sources, file, _ensemble_files(sources), ["evaluate"], outs)


def _merging_stages(params: Params, sources: Sources, merges: list[Merge]) -> list[StageCell]:
    file = paths.sources_pipeline(sources)
    models = _source_files(sources)
    tasks = [str(paths.task(task)) for task in sources.tasks]
    stages = []
    if any(resolve(params, merge.method).moments != "none" for merge in merges):
        keys = ["compute", "seed", "statistics"]
        stages.append(_stage("statistics", sources, file, [*models, *tasks], keys, [str(paths.statistics(sources))]))
    matched = {merge.match: merge for merge in reversed(merges)}
    stages += [_match_stage(params, merge, file, models) for merge in reversed(matched.values())]
    for merge in merges:
        stages.append(_merge_stage(params, merge, file, models, tasks))
        model = str(paths.merged_model(merge))
        deps = [model, *_ensemble_files(sources), *_target_files(params, sources.tasks)]
        keys = ["compute", "evaluate", "targets"]
        stages.append(_stage("evaluate", merge, file, deps, keys, [str(paths.evaluation(merge))]))
    return stages


def _match_stage(params: Params, merge: Merge, file: PurePosixPath, models: list[str]) -> StageCell:
    resolved = resolve(params, merge.method)
    method = resolved.declared
    keys = ["compute", "seed", "targets"]
    if method is not None:  # with a grid, what else stands in it is another cell's business
        keys.append(f"methods.{merge.method.name}" + (".options" if method.grid is not None else ""))
    deps = list(models)
    stage, kind = "match", "match-control" if method is None else "match-weights"
    if resolved.moments != "none":
        deps.append(str(paths.statistics(merge.sources)))
        kind = "match"
    if resolved.judged:
        deps += [str(paths.task(task)) for task in merge.sources.tasks] + _target_files(params, merge.sources.tasks)
        keys.append("statistics")
        stage = kind = "match-judged"
    outs = [str(paths.match(merge.match))]
    return _stage(stage, merge.match, file, deps, keys, outs, resolved.matcher.name, kind)


def _merge_stage(params: Params, merge: Merge, file: PurePosixPath, models: list[str], tasks: list[str]) -> StageCell:
    deps, keys, suffix = _normalising(params, merge)
    deps = [*models, str(paths.match(merge.match)), *tasks, *deps]
    keys += ["compute", "seed", "targets"]
    outs = [str(paths.merged_model(merge))]
    return _stage("merge", merge, file, deps, keys, outs, merge.normalize.name, f"merge{suffix}")


def _normalising(params: Params, merge: Merge) -> tuple[list[str], list[str], str]:
    """What a merge's normalisation reads, the parameters it uses, and what sets such stages apart from others."""
    declared = merge.normalize.name in params.normalize
    keys = [f"normalize.{merge.normalize.name}"] if declared else []
    if not _compares(merge):
        return [], keys, "" if declared else "-plain"
    edges = dict.fromkeys(merge.edges)
    layers = [str(paths.layers(Prediction(edge, task))) for edge in edges for task in merge.sources.tasks]
    return layers, keys, "-compared"


def _compress_stage(params: Params, cell: Compressed) -> StageCell:
    """An edge is pruned, or narrowed."""
    stage, section, options = COMPRESSING[cell.kind]
    deps = [str(paths.edge_model(cell.edge)), str(paths.task(cell.edge.task)), *_target_files(params, [cell.edge.task])]
    sections = {"plain": f"normalize.{cell.normalize}", "usual": f"{section}.{cell.method}"}
    declared = {"plain": cell.normalize in params.normalize, "usual": cell.method in options(params)}
    keys = ["compute", "seed", "targets", *(key for word, key in sections.items() if declared[word])]
    kind = "-".join([stage, *(word for word in sections if not declared[word])])
    outs = [str(paths.compressed_model(cell))]
    return _stage(stage, cell, paths.compressed_pipeline(cell), deps, keys, outs, cell.normalize, kind)


COMPRESSING: dict[str, tuple[str, str, Callable[[Params], Mapping[str, object]]]] = {
    Pruned.kind: ("prune", "pruners", lambda params: params.pruners),
    Narrowed.kind: ("narrow", "narrowers", lambda params: params.narrowers),
}
"""By kind of smaller network, the stage that makes it, and the section that has its methods' options."""


def _evaluate_compressed_stage(params: Params, cell: Compressed) -> StageCell:
    deps = [
        str(paths.compressed_model(cell)),
        str(paths.edge_model(cell.edge)),
        str(paths.task(cell.edge.task)),
        *_target_files(params, [cell.edge.task]),
    ]
    keys = ["compute", "evaluate", "targets"]
    file = paths.compressed_pipeline(cell)
    return _stage(f"evaluate-{cell.kind}", cell, file, deps, keys, [str(paths.evaluation(cell))])


def _curve_stage(params: Params, merge: Merge) -> StageCell:
    deps, keys, suffix = _normalising(params, merge)
    models = _source_files(merge.sources)
    tasks = merge.sources.tasks
    deps = [*models, str(paths.match(merge.match)), *(str(paths.task(task)) for task in tasks),
            *_target_files(params, tasks), *deps]  # fmt: skip
    keys += ["compute", "evaluate", "seed", "targets", *_section(params, "curve")]
    outs = [str(paths.measurement("curve", merge))]
    return _stage(
        "curve", merge, paths.sources_pipeline(merge.sources), deps, keys, outs, merge.normalize.name, f"curve{suffix}"
    )


def _landscape_stage(params: Params, merge: Merge) -> StageCell:
    tasks = merge.sources.tasks
    deps = [
        str(paths.merged_model(merge)),
        *_source_files(merge.sources),
        *(str(paths.task(task)) for task in tasks),
        *_target_files(params, tasks),
    ]
    keys = ["compute", "evaluate", "normalize.reset", "seed", "targets", *_section(params, "landscape")]
    outs = [str(paths.measurement("landscape", merge))]
    return _stage("landscape", merge, paths.sources_pipeline(merge.sources), deps, keys, outs)


def _diagnosis_stage(params: Params, merge: Merge) -> StageCell:
    deps = [
        str(paths.merged_model(merge)),
        str(paths.match(merge.match)),
        *_source_files(merge.sources),
        *(str(paths.task(task)) for task in merge.sources.tasks),
    ]
    keys = ["compute", "seed", "targets", *_section(params, "diagnosis")]
    outs = [str(paths.measurement("diagnosis", merge))]
    return _stage("diagnosis", merge, paths.sources_pipeline(merge.sources), deps, keys, outs)


def _examples_stage(params: Params, merge: Merge) -> StageCell:
    deps = [
        str(paths.merged_model(merge)),
        *(str(paths.edge_model(edge)) for edge in dict.fromkeys(merge.edges)),
        *(str(paths.task(task)) for task in merge.sources.tasks),
        *_target_files(params, merge.sources.tasks),
    ]
    outs = [str(paths.measurement("examples", merge))]
    return _stage("examples", merge, paths.sources_pipeline(merge.sources), deps, ["compute", "targets"], outs)


def _section(params: Params, name: str) -> list[str]:
    """The key of a section that may be left out: DVC knows no parameter that params.yaml does not have."""
    return [name] if name in params.model_fields_set else []


MEASURED: dict[str, Callable[[Params, Merge], StageCell]] = {
    "curve": _curve_stage,
    "landscape": _landscape_stage,
    "diagnosis": _diagnosis_stage,
    "examples": _examples_stage,
}
"""By measure, the stage that takes it of a merge."""


def _stage(
    name: str,
    cell: object,
    file: PurePosixPath,
    deps: Iterable[str],
    params: Iterable[str],
    outs: Iterable[str],
    variant: str = "",
    kind: str = "",
) -> StageCell:
    """``variant``: the one entry of a registry that it runs; ``kind``: by default the stage's name."""
    code = str(paths.code(code_name(name, variant)))
    all_deps = tuple(dict.fromkeys([code, *deps]))
    return StageCell(kind or name, name, str(cell), file, all_deps, tuple(sorted(set(params))), tuple(outs))


# -- files --------------------------------------------------------------------------------------------------------


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
    """Block style, nothing aliased."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def render(plan: Plan) -> dict[PurePosixPath, str]:
    """The text of every pipeline file, by its path."""
    order = list(STAGES)
    files: dict[PurePosixPath, dict[str, dict[str, StageCell]]] = {}
    for stage in sorted(plan.stages, key=lambda stage: (order.index(stage.stage), stage.kind)):
        files.setdefault(stage.file, {}).setdefault(stage.kind, {})[stage.cell] = stage
    return {file: HEADER + _text({"stages": _foreach_stages(file, kinds)}) for file, kinds in files.items()}


def _text(values: object) -> str:
    """YAML with lists indented under their key, whichever of PyYAML's two writers there is."""
    written = yaml.dump(values, Dumper=_Dumper, sort_keys=False, width=10_000)
    return re.sub(r"^( +- )", r"  \1", written, flags=re.MULTILINE)


def _foreach_stages(file: PurePosixPath, kinds: dict[str, dict[str, StageCell]]) -> dict[str, object]:
    """``foreach`` over a mapping, so that stages have readable names: ``merge@digits.r35+r17.s0+s1.permute.reset``.

    DVC takes lists only as written, so the cells of a kind share one list of deps, params and outs, in which what
    differs from cell to cell is ``${key}`` or a field of the cell.
    """
    wdir = "/".join([".."] * len(file.parent.parts))
    stages: dict[str, object] = {}
    for name, cells in kinds.items():
        items: dict[str, dict[str, str]] = {cell: {} for cell in cells}
        lists = {
            part: _common_list(items, {cell: getattr(stage, part) for cell, stage in cells.items()})
            for part in ("deps", "params", "outs")
        }
        commands = {cell: (stage.command,) for cell, stage in cells.items()}
        stages[name] = {
            "foreach": items,
            "do": {"wdir": wdir, "cmd": _common_list(items, commands)[0], **lists},
        }
    return stages


def _common_list(items: dict[str, dict[str, str]], lists: Mapping[str, tuple[str, ...]]) -> list[str]:
    """One list for all cells; fields that it needs are added to the cells' items."""
    if len({len(values) for values in lists.values()}) > 1:
        raise ValueError(f"cells of one kind differ in the length of a list: {', '.join(lists)}")
    common: list[str] = []
    for position, first in enumerate(next(iter(lists.values()))):
        templates = {values[position].replace(cell, "${key}") for cell, values in lists.items()}
        if len(templates) == 1:
            common.append(templates.pop())
            continue
        parts = PurePosixPath(first).parts  # artifacts/statistics/...: a field is called by its folder
        base = re.sub(r"\W", "_", parts[1] if len(parts) > 1 else parts[0].partition(".")[0])
        field_name, number = base, 1
        while any(field_name in fields for fields in items.values()):
            number += 1
            field_name = f"{base}{number}"
        for cell, values in lists.items():
            items[cell][field_name] = values[position]
        common.append(f"${{item.{field_name}}}")
    return common


def drift(plan: Plan, root: Path) -> tuple[dict[Path, str], list[Path]]:
    """Pipeline files that differ from the plan (with the text they should have), and files that it no longer has."""
    wanted = {root / path: text for path, text in render(plan).items()}
    cells: dict[PurePosixPath, Iterable[object]] = {
        paths.PLANNED_PRUNED: plan.pruned,
        paths.PLANNED_NARROWED: plan.narrowed,
    }
    wanted |= {root / file: HEADER + "".join(f"{cell}\n" for cell in own) for file, own in cells.items()}
    if (note := installed_code(root)) is not None:
        wanted[root / paths.CODE] = note
    changed = {
        path: text for path, text in wanted.items() if not path.is_file() or path.read_text(encoding="utf-8") != text
    }
    existing = sorted((root / paths.PIPELINES).rglob(paths.PIPELINE_FILE))
    gone = [path for path in existing if path not in wanted and path.read_text(encoding="utf-8").startswith(HEADER)]
    return changed, gone


def make_folders(root: Path) -> None:
    """The tables of results read these folders, which a benchmark of one task, or of scores alone, would not have."""
    for made in (paths.SIMILARITY, paths.BLOCKS, paths.MEASUREMENTS):
        (root / made).mkdir(parents=True, exist_ok=True)


def write_pipelines(plan: Plan, root: Path) -> tuple[list[Path], list[Path]]:
    """Bring ``pipelines/`` up to date: the files written, and those removed (only files that a plan wrote)."""
    changed, gone = drift(plan, root)
    make_folders(root)
    for path, text in changed.items():
        write_bytes(path, text.encode())
    for path in gone:
        path.unlink()
        lock = path.with_suffix(".lock")
        lock.unlink(missing_ok=True)
        for folder in path.parents:
            if folder == root / paths.PIPELINES or any(folder.iterdir()):
                break
            folder.rmdir()
    return list(changed), gone
