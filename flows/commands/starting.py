"""``mergeline init``: a new benchmark."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.commands.console import DONE, input_error, out

if TYPE_CHECKING:
    from flows.init import Model

__all__ = ["init"]


def init(
    folder: Annotated[Path, typer.Argument(help="A new folder, or an empty one.")],
    images: Annotated[
        list[Path] | None,
        typer.Option(help="A folder of images, in it one for each class: becomes a task. May be given several times."),
    ] = None,
    checkpoint: Annotated[
        list[str] | None,
        typer.Option(
            help="A trained network of one of mergeline's architectures, in place of one that the benchmark trains; also several."
        ),
    ] = None,
    profile: Annotated[
        str | None, typer.Option(help="The parameters to start from: demo, or own where there are --images.")
    ] = None,
    input_size: Annotated[
        int | None,
        typer.Option(help="Pixels a side that networks read: 32, 64 or 224; by default by the images' sizes."),
    ] = None,
) -> int:
    """Make a benchmark in an empty folder: params.yaml, the pipeline, git and DVC. Then: cd FOLDER && mergeline run.

    Example: [bold]mergeline init birds-and-cars --images data/birds --images data/cars[/]
    """
    from flows.data import look
    from flows.init import Setup, folders_of, make_benchmark
    from flows.running import run as running
    from stages.plan import paths
    from stages.plan.loading import load_params
    from stages.plan.pipelines import make_plan

    models = _models(checkpoint or [], input_size)
    setup = Setup(profile or ("own" if images else "demo"), folders_of(images or []), models, input_size)
    notes = make_benchmark(folder, setup)
    for line in notes:
        out.print(line, highlight=False, soft_wrap=True, markup=False)
    root = folder.resolve()
    params = load_params(root / paths.PARAMS)
    running.plan_files(root, params)
    plan = make_plan(params)
    out.print(
        f"{folder}: {len(plan.edges)} models to train or import, {len(plan.merges)} merges; edit {folder}/params.yaml as you like",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
    seen = look(root, params, write=True)
    running.check_inputs(root, params, seen)
    out.print(f"next: cd {folder} && mergeline run", highlight=False, soft_wrap=True)
    return DONE


def _models(places: list[str], input_size: int | None) -> list[Model]:
    """What checkpoints are, found from their tensors."""
    if not places:
        return []
    from flows.init import Model
    from stages.own_models import own_model

    found = []
    for place in places:
        own = own_model(place, None, input_size, None).architecture
        if ":" in own.name:
            raise input_error(
                f"--checkpoint {place} is a {own.name}, and a benchmark's networks are of mergeline's architectures; merge it by "
                "itself: mergeline merge"
            )
        found.append(Model(place, own.name, own.num_classes, own.width, own.input_size))
    return found
