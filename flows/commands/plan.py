"""``mergeline check`` and ``mergeline plan``: whether params.yaml is valid, and the cells it asks for."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.commands.console import DONE, out
from stages.plan import paths

__all__ = ["check", "plan"]


def check() -> int:
    """Check params.yaml, the data and the checkpoints it names, and that pipelines/ matches it. Changes nothing."""
    from flows.running import run as running
    from flows.workspace import find_root
    from stages.plan.loading import load_params
    from stages.plan.pipelines import make_plan

    root = find_root()
    params = load_params(root / paths.PARAMS)
    plan = make_plan(params)
    running.check_inputs(root, params, None, None)
    written, removed = running.plan_files(root, params, write=False)
    out.print(
        f"params.yaml is valid: {len(plan.edges)} edge models, {len(plan.ensembles)} sets of sources, {len(plan.merges)} merges, "
        f"{len(plan.pruned)} pruned networks, {len(plan.narrowed)} narrowed ones, {len(plan.stages)} cells",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
    if written or removed:
        out.print(
            f"pipelines/ differs ({len(written)} to write, {len(removed)} to remove): mergeline plan",
            highlight=False,
        )
    return DONE


def plan(
    show: Annotated[bool, typer.Option("--show", help="Print the cells, and write nothing.")] = False,
) -> int:
    """Write pipelines/ from params.yaml (mergeline run does it by itself)."""
    from flows.running import run as running
    from flows.workspace import find_root, run_lock
    from stages.plan.loading import load_params
    from stages.plan.pipelines import make_plan

    root = find_root()
    params = load_params(root / paths.PARAMS)
    if show:
        for stage in make_plan(params).stages:
            print(f"{stage.kind}@{stage.cell}")
        return DONE
    with run_lock(root):
        written, removed = running.plan_files(root, params)
    out.print(f"pipelines/: {len(written)} files written, {len(removed)} removed", highlight=False)
    return DONE
