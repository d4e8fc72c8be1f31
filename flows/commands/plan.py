"""``mergeline check`` and ``mergeline plan``: whether params.yaml is valid, and the cells it asks for."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.commands.console import DONE, out
from stages.formats import yaml12
from stages.plan import paths

if TYPE_CHECKING:
    from stages.plan.params import Params
    from stages.plan.pipelines import Plan

__all__ = ["check", "plan"]


def check() -> int:
    """Check params.yaml, the data and the checkpoints it names, and that pipelines/ matches it. Changes nothing."""
    from flows.data import data_lines, look
    from flows.dvc.pipeline import Pipeline
    from flows.running import run as running
    from flows.workspace import find_root
    from stages.plan.loading import load_params
    from stages.plan.pipelines import make_plan

    root = find_root()
    params = load_params(root / paths.PARAMS)
    plan = make_plan(params)
    seen = look(root, params, write=False)
    notes = running.check_inputs(root, params, seen)
    written, removed = running.plan_files(root, params, write=False)
    out.print(
        f"params.yaml is valid: {len(plan.edges)} edge models, {len(plan.ensembles)} sets of sources, {len(plan.merges)} merges, "
        f"{len(plan.pruned)} pruned networks, {len(plan.narrowed)} narrowed ones, "
        f"{len(plan.stages) + sum(map(len, _standing(root, params).values()))} stages",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
    if written or removed:
        out.print(
            f"pipelines/ differs ({len(written)} to write, {len(removed)} to remove): mergeline plan",
            highlight=False,
        )
    for line in notes:
        out.print(line, highlight=False, soft_wrap=True, markup=False)
    for line in data_lines(root, seen, Pipeline(root)):
        out.print(f"{line}: mergeline run", highlight=False, soft_wrap=True)
    return DONE


def plan(
    show: Annotated[bool, typer.Option("--show", help="Print the cells, and write nothing.")] = False,
    profile: Annotated[
        str | None, typer.Option(help="Count the cells of this profile by kind, and write nothing; see profiles/.")
    ] = None,
) -> int:
    """Write pipelines/ from params.yaml and the data (mergeline run does it by itself)."""
    from flows.data import look
    from flows.editing import profile_path
    from flows.refusal import restored_if_refused
    from flows.running import run as running
    from flows.workspace import find_root, run_lock
    from stages.plan.loading import load_params
    from stages.plan.pipelines import make_plan

    root = find_root()
    params = load_params(root / paths.PARAMS if profile is None else profile_path(root, profile))
    if show or profile is not None:
        _print_cells(root, params, make_plan(params), by_name=show)
        return DONE
    with run_lock(root), restored_if_refused(root):
        written, removed = running.plan_files(root, params)
        seen = look(root, params, write=True)
    out.print(f"pipelines/: {len(written)} files written, {len(removed)} removed", highlight=False)
    for place in seen.changed:
        out.print(f"the data of {seen.found[place][0].label} are noted in {place}", highlight=False, soft_wrap=True)
    for missing in seen.missing.values():
        out.print(f"[yellow]missing[/] {missing}", highlight=False, soft_wrap=True)
    return DONE


def _print_cells(root: Path, params: Params, plan: Plan, by_name: bool) -> None:
    standing = _standing(root, params)
    if by_name:
        for kind, cells in standing.items():
            print("\n".join(f"{kind}@{cell}" if cell else kind for cell in cells))
        for stage in plan.stages:
            print(f"{stage.kind}@{stage.cell}")
        return
    counts = Counter({kind: len(cells) for kind, cells in standing.items()})
    counts.update(stage.kind for stage in plan.stages)
    for kind, count in counts.items():
        out.print(f"{kind}: {count}", highlight=False)
    out.print(f"{counts.total()} stages, {len(plan.edges)} edge models, {len(plan.merges)} merges", highlight=False)


def _standing(root: Path, params: Params) -> dict[str, list[str]]:
    """The stages of dvc.yaml itself, by name their cells: one without a name, or one for each task."""
    stages = yaml12.load((root / paths.PIPELINE_FILE).read_text(encoding="utf-8"))["stages"]
    return {name: list(params.tasks) if "foreach" in stage else [""] for name, stage in stages.items()}
