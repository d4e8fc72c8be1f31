"""``mergeline merge``: one's own checkpoints into one network, with its card; and ``mergeline show``, which prints a card."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from flows.commands.console import DONE, Json, err, input_error, out

if TYPE_CHECKING:
    from stages.merge_files import Data, Merged, Prepared

__all__ = ["merge", "show"]

Files = Annotated[
    list[str],
    typer.Argument(
        help="Checkpoints, the reference first: .safetensors, .pth, .ckpt; FILE#PART takes one network of several."
    ),
]
Names = Annotated[
    list[str] | None,
    typer.Option(
        "--architecture", "-a",
        help="Of every checkpoint, in order; once if they are all the same: r50, torchvision:resnet18, timm:NAME, "
        "package.module:function. By default what the tensors say.",
    ),
]  # fmt: skip
Sources = Annotated[
    list[str],
    typer.Option(
        "--data",
        help="Images they were trained on: a task, or folder (see mergeline tasks). Once, or for each checkpoint: models of "
        "different data keep their classifiers.",
    ),
]
Roots = Annotated[
    list[Path] | None, typer.Option("--root", help="The data's folder, where the task needs one; as --data.")
]
Out = Annotated[
    Path, typer.Option("--out", help="Where the merged network goes: .safetensors, or .pth. Its card lies beside it.")
]
KeyValue = Annotated[list[str] | None, typer.Option("--option", metavar="KEY=VALUE", help="Options of the method.")]
NormalizeKeyValue = Annotated[
    list[str] | None, typer.Option("--normalize-option", metavar="KEY=VALUE", help="Options of the normalisation.")
]
Method = Annotated[str, typer.Option(help="See mergeline methods.")]
Normalize = Annotated[
    str | None,
    typer.Option(
        help="After merging; see mergeline normalizations. By default reset, or repair of networks without batch norms."
    ),
]
Weights = Annotated[
    list[float] | None, typer.Option("--weight", help="Of each checkpoint, in order; by default all the same.")
]
Stop = Annotated[
    str | None, typer.Option(help="The last layer (space) that is merged, or a share of the cost; each keeps the rest.")
]
Preserve = Annotated[
    str | None,
    typer.Option(metavar="LAYERS", help="First layers that each model keeps, or a share (0.25) of the cost."),
]
Depth = Annotated[str, typer.Option(help="Where the blocks of shallower networks stand; see mergeline placements.")]
Places = Annotated[
    str, typer.Option(help="Where units are seen: at all places that read them, or at the last, as in the papers.")
]
InputSize = Annotated[
    int | None, typer.Option(help="Pixels a side: 32, 64 or 224 of our own networks; 224 of others by default.")
]
Width = Annotated[
    float | None, typer.Option(help="Width multiplier of our own networks; by default what the tensors say.")
]
Channels = Annotated[
    str | None,
    typer.Option(
        metavar="R,G,B",
        help="Of each channel's values, 0 to 1, in training; one number stands for all three. By default ImageNet's.",
    ),
]
Images = Annotated[int, typer.Option(min=1, help="Training images of each task for the statistics.")]
Exports = Annotated[
    list[Path] | None,
    typer.Option("--export", help="Also write it as FILE.onnx, or FILE.pt2 (torch.export): it runs without its class."),
]
Dry = Annotated[bool, typer.Option("--dry", help="Only say what would be merged, from what, and how long it takes.")]


def merge(
    files: Files,
    data: Sources,
    out_file: Out,
    architecture: Names = None,
    root: Roots = None,
    method: Method = "permute",
    option: KeyValue = None,
    normalize: Normalize = None,
    normalize_option: NormalizeKeyValue = None,
    weight: Weights = None,
    stop: Stop = None,
    preserve: Preserve = None,
    depth: Depth = "append",
    places: Places = "all",
    seed: Annotated[int, typer.Option(min=0, help="For methods that draw.")] = 0,
    input_size: InputSize = None,
    width: Width = None,
    mean: Channels = None,
    std: Channels = None,
    images: Images = 1000,
    export: Exports = None,
    dry: Dry = False,
    as_json: Json = False,
) -> int:
    """Merge your own checkpoints, outside a benchmark, and write the result with its card.

    Example: [bold]mergeline merge a.pth b.ckpt --data folder --root my/images --out merged.safetensors[/]
    Of two tasks: [bold]mergeline merge a.pth b.pth --data folder --root birds --root cars --out both.safetensors[/]
    """
    from mergeline.images import MEAN, STD
    from stages.merge_files import Request, check_request, merge_files, prepare_merge
    from stages.model_card import card_files, card_of, write_card
    from stages.own_models import check_target

    _check_choices(method, normalize, depth, places)
    request = Request(
        tuple(files), _data(data, root or [], len(files)), out_file, _each("architectures", architecture or [], len(files)),
        method, _options("method", method, "--option", option or []), normalize,
        _options("normalisation", normalize, "--normalize-option", normalize_option or []), _weights(weight, len(files)),
        stop, preserve, depth, places, seed, input_size, width,  # type: ignore[arg-type]
        _channels("--mean", mean) or MEAN, _channels("--std", std) or STD, images, exports=tuple(export or ()),
    )  # fmt: skip
    for path in card_files(out_file):
        check_target(path)
    prepared = prepare_merge(request)
    _say_prepared(prepared, quiet=as_json)
    if dry:
        check_request(prepared)
        return _say_plan(prepared, as_json)
    with err.status("reading", spinner="dots") as status:
        merged = merge_files(prepared, lambda text: status.update(text))
    card = card_of(merged)
    markdown, _ = write_card(out_file, card)
    _say_merged(merged, card, markdown, as_json)
    return DONE


def show(file: Annotated[Path, typer.Argument(help="A network that mergeline merge wrote, or its card.")]) -> int:
    """Print the card of a merged network: what made it, how well it does, how to load it and how to make it again."""
    from rich.markdown import Markdown

    from stages.model_card import read_card

    text = read_card(file)
    if out.is_terminal:
        out.print(Markdown(text))
    else:
        print(text)
    return DONE


T = TypeVar("T")


def _each(what: str, given: Sequence[T], count: int) -> tuple[T, ...]:
    """One for each checkpoint."""
    if len(given) not in (0, 1, count):
        raise input_error(f"{len(given)} {what} for {count} checkpoints: name one, or one for each")
    return tuple(given) * count if len(given) == 1 else tuple(given)


def _data(sources: Sequence[str], roots: Sequence[Path], count: int) -> tuple[Data, ...]:
    from stages.merge_files import Data

    if count < 2:
        raise input_error("name two checkpoints at least")
    both = max(len(sources), len(roots))
    names = list(sources) * both if len(sources) == 1 else list(sources)
    folders: list[Path | None] = [*roots] * both if len(roots) == 1 else [*roots] or [None] * both
    if len(names) != len(folders):
        raise input_error(
            f"{len(names)} --data and {len(folders)} --root: name one of each, or one for each checkpoint"
        )
    return _each("--data", [Data(name, folder) for name, folder in zip(names, folders, strict=True)], count)


def _weights(given: Sequence[float] | None, count: int) -> tuple[float, ...] | None:
    if not given:
        return None
    if len(given) != count:
        raise input_error(f"{len(given)} --weight for {count} checkpoints: name one for each")
    return tuple(given)


def _channels(flag: str, given: str | None) -> tuple[float, ...] | None:
    """A number for each of the three channels."""
    if given is None:
        return None
    try:
        numbers = tuple(float(part) for part in given.split(","))
    except ValueError:
        raise input_error(f"{flag} {given}: expected numbers with commas between them: 0.5,0.5,0.5") from None
    if len(numbers) not in (1, 3):
        raise input_error(f"{flag} {given}: {len(numbers)} numbers; name one for all channels, or three")
    return numbers * (3 // len(numbers))


def _check_choices(method: str, normalize: str | None, depth: str, places: str) -> None:
    """Refuse names that are in no registry, with the nearest that are."""
    from mergeline.depth import PLACEMENTS
    from mergeline.matching import MATCHERS
    from mergeline.normalization import NORMALIZATIONS

    known: list[tuple[str, str | None, Mapping[str, Any] | Sequence[str]]] = [
        ("method", method, MATCHERS), ("normalisation", normalize, NORMALIZATIONS), ("depth", depth, PLACEMENTS),
        ("places", places, ("all", "last")),
    ]  # fmt: skip
    for kind, name, registry in known:
        if name is not None and name not in registry:
            raise input_error(f"unknown {kind} {name!r}; known: {', '.join(registry)}")


def _options(kind: str, name: str | None, flag: str, entries: list[str]) -> dict[str, Any]:
    """The options of an entry of a registry from ``key=value`` entries."""
    from mergeline.matching import MATCHERS
    from mergeline.normalization import NORMALIZATIONS
    from mergeline.registry import options_of
    from stages.formats import yaml12

    options: dict[str, Any] = {}
    for entry in entries:
        key, separator, value = entry.partition("=")
        if not separator:
            raise input_error(f"{flag} {entry}: expected key=value")
        options[key] = yaml12.load(value)
    if name is None:
        if options:
            raise input_error(f"{flag}: name the {kind} that it is an option of")
        return {}
    registry: Mapping[str, Any] = MATCHERS if kind == "method" else NORMALIZATIONS
    try:
        options_of(registry[name].options, options)
    except ValueError as error:
        raise input_error(f"{flag}: {error}") from None
    return options


def _say_prepared(prepared: Prepared, quiet: bool) -> None:
    """What was read, and what is odd of it."""
    for warning in prepared.warnings:
        err.print(f"[bold yellow]warning:[/] {warning}", highlight=False, soft_wrap=True)
    if quiet:
        return
    for own in prepared.models:
        architecture = own.architecture
        said = f"{own.place}: {architecture.name}, {architecture.num_classes} classes, {architecture.input_size} pixels"
        out.print("; ".join([said, *own.notes]), highlight=False, soft_wrap=True, markup=False)
    for head, task in prepared.tasks.items():
        counts = f"{task.n_train} training and {task.n_test} test images, {task.n_classes} classes"
        for said in (f"{task.source}, {counts}", *task.notes):
            out.print(f"{head}: {said}", highlight=False, soft_wrap=True, markup=False)


def _say_plan(prepared: Prepared, as_json: bool) -> int:
    from stages.model_card import command_of

    request = prepared.request
    seconds = prepared.seconds()
    if as_json:
        print(
            json.dumps(
                {"command": command_of(request), "normalize": prepared.normalize, "seconds": round(seconds)}, indent=2
            )
        )
        return DONE
    what = "each model keeps its classifier" if prepared.several else "one network, classifier and all"
    out.print(
        f"would merge {len(prepared.models)} networks by {request.method} and {prepared.normalize} ({what}) into "
        f"{request.target}, in about {max(1, round(seconds))} s; nothing was written",
        highlight=False, soft_wrap=True, markup=False,
    )  # fmt: skip
    return DONE


def _say_merged(merged: Merged, card: Mapping[str, Any], markdown: Path, as_json: bool) -> None:
    if as_json:
        print(json.dumps(dict(card), indent=2))
        return
    from rich.table import Table

    for doubt in merged.doubts:
        err.print(f"[bold yellow]warning:[/] {doubt}", highlight=False, soft_wrap=True)
    heads = list(merged.prepared.tasks)
    table = Table("", *(f"{own['head']}, {own['metric']}" for own in card["data"]))
    table.columns[0].overflow = "fold"
    for row in card["scores"]:
        cells = [f"{100 * row['score'][head]:.2f} %" if head in row["score"] else "" for head in heads]
        table.add_row(row["network"], *cells, style="bold" if row["kind"] == "merged" else "")
    out.print(table)
    out.print(
        f"wrote {merged.prepared.request.target} and its card, {markdown}",
        highlight=False,
        soft_wrap=True,
        markup=False,
    )
