"""The plan: every cell of a benchmark as a DVC stage, with what it reads, writes and depends on.

``pipelines/`` is written from it, one small file for the edges of a task and one for each group of edges that is
merged; the root ``dvc.yaml`` holds what there is once. A stage depends on the files it reads, on the parameters it
uses, and on the hash of the code it runs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path, PurePosixPath

import yaml

from stages.plan import paths
from stages.plan.cells import Edge, Group, Merge, Prediction, base_edge, expand_cells
from stages.plan.methods import resolve
from stages.plan.params import Params

__all__ = [
    "HEADER",
    "Plan",
    "StageCell",
    "drift",
    "make_plan",
    "render",
    "write_pipelines",
]

GROUPS = (
    "targets",
    "import", "train", "finetune", "untrained", "predict", "evaluate-edge", "statistics", "match", "match-judged",
    "match-weights", "match-control", "merge", "merge-plain", "evaluate", "evaluate-ensemble", "similarity",
)  # fmt: skip
"""Names of the groups of stages in a pipeline file, in the order of the data."""
HEADER = "# Written by `mergeline plan` from params.yaml; edit that file instead.\n"


@dataclass(frozen=True)
class StageCell:
    """One DVC stage: ``group@cell`` in the file ``pipelines/<family>/dvc.yaml``; ``stage`` is what it runs."""

    group: str
    stage: str
    cell: str
    family: str
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
    groups: tuple[Group, ...]
    merges: tuple[Merge, ...]
    predictions: tuple[Prediction, ...]
    stages: tuple[StageCell, ...] = field(repr=False)


def make_plan(params: Params) -> Plan:
    """Expand ``params`` to cells; the same parameters give the same plan in the same order."""
    merges = expand_cells(params, params.merges)
    groups = list(dict.fromkeys(merge.group for merge in merges))
    edges = _all_edges(params, groups)
    predictions = list(
        dict.fromkeys(
            [Prediction(edge, edge.task) for edge in edges]
            + [Prediction(edge, task) for group in groups for edge in group.edges for task in group.tasks]
        )
    )
    used = [task for task in params.tasks if any(edge.task == task for edge in edges)]
    stages = [
        *(_targets_stage(task) for task in (used if params.targets.kind == "text" else [])),
        *(_edge_stage(params, edge) for edge in edges),
        *(_predict_stage(params, prediction) for prediction in predictions),
        *(_evaluate_edge_stage(edge) for edge in edges),
    ]
    stages += [_similarity_stage(first, second) for first, second in combinations(params.tasks, 2)]
    by_group: dict[Group, list[Merge]] = {}
    for merge in merges:
        by_group.setdefault(merge.group, []).append(merge)
    for group, own in by_group.items():
        stages += _group_stages(params, group, own)
    return Plan(tuple(edges), tuple(groups), tuple(merges), tuple(predictions), tuple(stages))


def _all_edges(params: Params, groups: Iterable[Group]) -> list[Edge]:
    """Every edge that a group needs, and the bases these are finetuned from."""
    found: dict[Edge, None] = {}

    def add(edge: Edge) -> None:
        base = base_edge(params, edge)
        if base is not None:
            add(base)
        found.setdefault(edge)

    for group in groups:
        for edge in group.edges:
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
        name, keys = "import", ["model", "targets", f"tasks.{edge.task}"]
        deps.append(params.imports[str(edge)])
        outs = outs[:2]
    elif base is not None:
        name = "finetune"
        deps.append(str(paths.edge_model(base)))
        keys += ["finetune", "seed"]
    else:
        name = "train"
        keys += ["train", "seed"]
    return _stage(name, edge, f"edges/{edge.task}", deps, keys, outs)


def _target_files(params: Params, tasks: Iterable[str]) -> list[str]:
    return [str(paths.targets(task)) for task in tasks] if params.targets.kind == "text" else []


def _targets_stage(task: str) -> StageCell:
    return _stage("targets", task, "targets", [str(paths.task(task))], ["targets"], [str(paths.targets(task))])


def _predict_stage(params: Params, prediction: Prediction) -> StageCell:
    deps = [
        str(paths.edge_model(prediction.edge)),
        str(paths.task(prediction.task)),
        *_target_files(params, [prediction.edge.task]),
    ]
    return _stage(
        "predict",
        prediction,
        f"predictions/{prediction.edge.task}",
        deps,
        ["compute", "evaluate", "targets"],
        [str(paths.prediction(prediction))],
    )


def _evaluate_edge_stage(edge: Edge) -> StageCell:
    deps = [
        str(paths.edge_model(edge)),
        str(paths.task(edge.task)),
        str(paths.prediction(Prediction(edge, edge.task))),
    ]
    return _stage("evaluate-edge", edge, f"edges/{edge.task}", deps, ["evaluate"], [str(paths.evaluation(edge))])


def _similarity_stage(first: str, second: str) -> StageCell:
    deps = [str(paths.embedding(first)), str(paths.embedding(second))]
    cell = f"{first}+{second}"
    return _stage("similarity", cell, "similarity", deps, ["similarity.tau"], [str(paths.similarity(first, second))])


def _group_stages(params: Params, group: Group, merges: list[Merge]) -> list[StageCell]:
    family = "/".join(str(group).split("."))
    models = [str(paths.edge_model(edge)) for edge in dict.fromkeys(group.edges)]
    tasks = [str(paths.task(task)) for task in group.tasks]
    predictions = [
        str(paths.prediction(Prediction(edge, task))) for edge in dict.fromkeys(group.edges) for task in group.tasks
    ]
    stages = [
        _stage(
            "statistics",
            group,
            family,
            [*models, *tasks],
            ["compute", "seed", "statistics"],
            [str(paths.statistics(group))],
        ),
        _stage(
            "evaluate-ensemble",
            group,
            family,
            [*models, *tasks, *predictions],
            ["evaluate"],
            [str(paths.evaluation(group))],
        ),
    ]
    if all(resolve(params, merge.method).moments == "none" for merge in merges):
        stages = stages[1:]
    seen: set[str] = set()
    for merge in merges:
        if merge.match not in seen:
            seen.add(merge.match)
            stages.append(_match_stage(params, merge, family, models))
        match_file = str(paths.match(merge.match))
        plain = merge.normalize == "none"  # a group of its own: the cells of a group have lists of one length
        stages.append(
            _stage(
                "merge",
                merge,
                family,
                [*models, match_file, *tasks],
                ["compute", "seed", "targets", *([] if plain else [f"normalize.{merge.normalize}"])],
                [str(paths.merged_model(merge))],
                group="merge-plain" if plain else "merge",
            )
        )
        stages.append(
            _stage(
                "evaluate",
                merge,
                family,
                [str(paths.merged_model(merge)), *models, *tasks, *predictions, *_target_files(params, group.tasks)],
                ["compute", "evaluate", "targets"],
                [str(paths.evaluation(merge))],
            )
        )
    return stages


def _match_stage(params: Params, merge: Merge, family: str, models: list[str]) -> StageCell:
    name = merge.method.name
    resolved = resolve(params, merge.method)
    method = resolved.declared
    keys = ["compute", "seed", "targets"]
    if method is not None:  # with a grid, what else stands in it is another cell's business
        keys.append(f"methods.{name}.options" if method.grid is not None else f"methods.{name}")
    deps = list(models)
    group = "match-control" if method is None else "match-weights"
    if resolved.moments != "none":
        deps.append(str(paths.statistics(merge.group)))
        group = "match"
    if resolved.judged:
        tasks = merge.group.tasks
        deps += [str(paths.task(task)) for task in tasks] + _target_files(params, tasks)
        keys.append("statistics")
        group = "match-judged"
    outs = [str(paths.match(merge.match))]
    return _stage("match", merge.match, family, deps, keys, outs, code=f"match-{resolved.matcher.name}", group=group)


def _stage(
    name: str,
    cell: object,
    family: str,
    deps: Iterable[str],
    params: Iterable[str],
    outs: Iterable[str],
    code: str | None = None,
    group: str | None = None,
) -> StageCell:
    all_deps = tuple(dict.fromkeys([str(paths.code(code or name)), *deps]))
    return StageCell(group or name, name, str(cell), family, all_deps, tuple(sorted(set(params))), tuple(outs))


# -- files --------------------------------------------------------------------------------------------------------


class _Dumper(yaml.SafeDumper):
    """Block style, lists indented under their key, nothing aliased."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)

    def ignore_aliases(self, data: object) -> bool:
        return True


def render(plan: Plan) -> dict[PurePosixPath, str]:
    """The text of every pipeline file, by its path."""
    families: dict[str, dict[str, dict[str, StageCell]]] = {}
    for stage in sorted(plan.stages, key=lambda stage: GROUPS.index(stage.group)):
        families.setdefault(stage.family, {}).setdefault(stage.group, {})[stage.cell] = stage
    return {
        PurePosixPath("pipelines") / family / "dvc.yaml": HEADER
        + yaml.dump({"stages": _family_stages(family, groups)}, Dumper=_Dumper, sort_keys=False, width=10_000)
        for family, groups in families.items()
    }


def _family_stages(family: str, groups: dict[str, dict[str, StageCell]]) -> dict[str, object]:
    """``foreach`` over a mapping, so that stages have readable names: ``merge@digits.r35+r17.s0+s1.permute.reset``.

    DVC takes lists only as written, so the cells of a group share one list of deps, params and outs, in which what
    differs from cell to cell is ``${key}`` or a field of the cell.
    """
    wdir = "/".join([".."] * (len(family.split("/")) + 1))
    stages: dict[str, object] = {}
    for name, cells in groups.items():
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
        raise ValueError(f"cells of one group differ in the length of a list: {', '.join(lists)}")
    common: list[str] = []
    for position, first in enumerate(next(iter(lists.values()))):
        templates = {values[position].replace(cell, "${key}") for cell, values in lists.items()}
        if len(templates) == 1:
            common.append(templates.pop())
            continue
        kind = re.sub(r"\W", "_", first.split("/")[1] if "/" in first else first.split(".")[0])
        field_name, number = kind, 1
        while any(field_name in fields for fields in items.values()):
            number += 1
            field_name = f"{kind}{number}"
        for cell, values in lists.items():
            items[cell][field_name] = values[position]
        common.append(f"${{item.{field_name}}}")
    return common


def drift(plan: Plan, root: Path) -> tuple[dict[Path, str], list[Path]]:
    """Pipeline files that differ from the plan (with the text they should have), and files that it no longer has."""
    wanted = {root / path: text for path, text in render(plan).items()}
    changed = {
        path: text for path, text in wanted.items() if not path.is_file() or path.read_text(encoding="utf-8") != text
    }
    existing = sorted((root / "pipelines").rglob("dvc.yaml")) if (root / "pipelines").is_dir() else []
    gone = [path for path in existing if path not in wanted and path.read_text(encoding="utf-8").startswith(HEADER)]
    return changed, gone


def write_pipelines(plan: Plan, root: Path) -> tuple[list[Path], list[Path]]:
    """Bring ``pipelines/`` up to date: the files written, and those removed (only files that a plan wrote)."""
    changed, gone = drift(plan, root)
    for path, text in changed.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(".dvc.yaml.new")
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    for path in gone:
        path.unlink()
        lock = path.with_suffix(".lock")
        lock.unlink(missing_ok=True)
        for folder in path.parents:
            if folder == root / "pipelines" or any(folder.iterdir()):
                break
            folder.rmdir()
    return list(changed), gone
