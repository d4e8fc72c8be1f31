"""``mergeline merge``, and lists of what there is: one's own checkpoints, and what there is to choose from."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.commands.console import DONE, Json, input_error, out

__all__ = ["merge", "methods", "normalizations", "placements", "tasks"]


def merge(
    files: Annotated[list[Path], typer.Argument(help="Checkpoints (.safetensors, .pth), the reference first.")],
    architecture: Annotated[
        list[str],
        typer.Option("--architecture", "-a", help="Of every checkpoint, in order; once if they are all the same."),
    ],
    data: Annotated[str, typer.Option(help="Images they were trained on: a task, or folder (see mergeline tasks).")],
    out_file: Annotated[Path, typer.Option("--out", help="Where the merged network goes (.safetensors).")],
    root: Annotated[Path | None, typer.Option(help="The data's folder, where the task needs one.")] = None,
    method: Annotated[str, typer.Option(help="See mergeline methods.")] = "permute",
    option: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="Options of the method.")] = None,
    normalize: Annotated[str, typer.Option(help="After merging; see mergeline normalizations.")] = "reset",
    normalize_option: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Options of the normalisation.")
    ] = None,
    preserve: Annotated[
        str | None,
        typer.Option(metavar="LAYERS", help="First layers that each model keeps, or a share (0.25) of the cost."),
    ] = None,
    depth: Annotated[
        str, typer.Option(help="Where the blocks of shallower networks stand; see mergeline placements.")
    ] = "append",
    input_size: Annotated[int, typer.Option(help="32, 64 or 224 pixels.")] = 224,
    width: Annotated[float, typer.Option(help="Width multiplier of the networks.")] = 1.0,
    images: Annotated[int, typer.Option(help="Training images for the statistics.")] = 1000,
    as_json: Json = False,
) -> int:
    """Merge your own checkpoints of one task, outside a benchmark.

    Example: [bold]mergeline merge a.pth b.pth -a r50 --data folder --root my/images --out merged.safetensors[/]
    Networks without batch norms need another normalisation: [bold]--normalize repair[/].
    """
    from mergeline.depth import PLACEMENTS
    from mergeline.matching import MATCHERS
    from mergeline.normalization import NORMALIZATIONS
    from stages.own_models import merge_files

    if len(files) < 2:
        raise input_error("name two checkpoints at least")
    if len(architecture) not in (1, len(files)):
        raise input_error(f"{len(architecture)} architectures for {len(files)} checkpoints: name one, or one for each")
    options = _options("method", MATCHERS, method, "--option", option or [])
    settings = _options("normalisation", NORMALIZATIONS, normalize, "--normalize-option", normalize_option or [])
    _options("depth", PLACEMENTS, depth, "--depth", [])
    names = architecture * len(files) if len(architecture) == 1 else architecture
    result = merge_files(
        files, names, data, root, out_file,
        method=method, options=options, input_size=input_size, width=width, images=images,
        normalize=normalize, normalize_options=settings, preserve=preserve, depth=depth,
    )  # fmt: skip
    if as_json:
        print(json.dumps(result, indent=2))
        return DONE
    for line in _told(result):
        out.print(line, highlight=False, soft_wrap=True)
    return DONE


def _told(result: Mapping[str, Any]) -> Iterator[str]:
    """What checkpoints and their merge score, in percent, and of what if that is no accuracy."""
    from mergeline.metrics import METRICS

    unit = "%" if result["metric"] == "accuracy" else f"% {METRICS[result['metric']].title}"
    yield from (f"{name}: {100 * value:.2f} {unit}" for name, value in result["sources"].items())
    made = f"merged by {result['method']} and {result['normalize']}"
    yield f"{made}: {100 * result['merged']:.2f} {unit}, in {result['out']}"


def _options(kind: str, registry: Mapping[str, Any], name: str, flag: str, entries: list[str]) -> dict[str, Any]:
    """The options of an entry of a registry from ``key=value`` entries."""
    from stages.formats import yaml12

    if name not in registry:
        raise input_error(f"unknown {kind} {name!r}; known: {', '.join(registry)}")
    options = {}
    for entry in entries:
        key, separator, value = entry.partition("=")
        if not separator:
            raise input_error(f"{flag} {entry}: expected key=value")
        options[key] = yaml12.load(value)
    try:
        registry[name].options(**options)
    except (TypeError, ValueError) as error:
        raise input_error(f"{flag}: {error}") from None
    return options


def tasks() -> None:
    """List the tasks that params.yaml may name, and where their data come from."""
    from mergeline.tasks import TASKS

    _list(TASKS)


def methods() -> None:
    """List the ways to match that params.yaml may name, with their options."""
    from mergeline.matching import MATCHERS

    _list(MATCHERS)


def normalizations() -> None:
    """List the normalisations that params.yaml may name, with their options."""
    from mergeline.normalization import NORMALIZATIONS

    _list(NORMALIZATIONS)


def placements() -> None:
    """List the placements of shallow blocks that params.yaml may name."""
    from mergeline.depth import PLACEMENTS

    _list(PLACEMENTS)


def _list(registry: Mapping[str, Any]) -> None:
    for name, entry in registry.items():
        out.print(f"[bold]{name:<14}[/] {entry.summary}", highlight=False, soft_wrap=True)
        kind = getattr(entry, "options", None)
        options = ", ".join(f"{field.name}={field.default}" for field in dataclasses.fields(kind)) if kind else ""
        if options:
            out.print(f"{'':<14} options: {options}", highlight=False, soft_wrap=True, markup=False)
