"""``mergeline diagnose``: what happens inside of a merged network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from flows.commands.console import DONE, Json, input_error, out

__all__ = ["diagnose"]


def diagnose(
    merged: Annotated[Path, typer.Argument(help="A network that mergeline merge wrote (.safetensors).")],
    files: Annotated[list[Path], typer.Argument(help="The checkpoints it was made from, in the same order.")],
    data: Annotated[str, typer.Option(help="Images they were trained on: a task, or folder (see mergeline tasks).")],
    architecture: Annotated[
        list[str] | None,
        typer.Option("--architecture", "-a", help="Of every checkpoint, in order; by default the merged network's."),
    ] = None,
    root: Annotated[Path | None, typer.Option(help="The data's folder, where the task needs one.")] = None,
    images: Annotated[int, typer.Option(min=4, help="Training images that all networks are shown.")] = 500,
    out_file: Annotated[
        Path | None,
        typer.Option("--out", help="A table of all numbers (.csv, .json, .parquet), CKA of all layers too."),
    ] = None,
    as_json: Json = False,
) -> int:
    """Look into a merged network, layer by layer, beside the models it was made from.

    Features: how much of a layer's output comes from its input, in percent of the models' (less than 100 % has vanished);
    variance, weight and bias: of the merged network, and the mean of the models; CKA: likeness to the first model's layer.

    Example: [bold]mergeline diagnose merged.safetensors a.pth b.pth --data folder --root my/images --out layers.csv[/]
    In a benchmark, [bold]measures: \\[diagnosis][/] in a series of merges does the same for each of them.
    """
    from stages.diagnose_models import check_table, diagnose_files, write_rows
    from stages.report.diagnosed import layer_lines

    if len(files) < 2:
        raise input_error("name the merged network, then the checkpoints it was made from, two at least")
    given = architecture or []
    if len(given) not in (0, 1, len(files)):
        raise input_error(f"{len(given)} architectures for {len(files)} checkpoints: name one, or one for each")
    if out_file is not None:
        check_table(out_file)
    names = given * len(files) if len(given) == 1 else given
    rows = diagnose_files(merged, files, names, data, root, images=images)
    if out_file is not None:
        write_rows(out_file, rows, [merged, *files])
    lines = layer_lines(rows)
    if as_json:
        print(json.dumps(lines, indent=2))
        return DONE
    _print(lines)
    if out_file is not None:
        out.print(f"all numbers: {out_file}", highlight=False, soft_wrap=True)
    return DONE


def _print(lines: list[dict[str, Any]]) -> None:
    from rich.table import Table

    table = Table(box=None, header_style="bold", padding=(0, 1))
    table.add_column("layer", no_wrap=True)
    for name in ("features", "bound", "variance", "of models", "weight", "of models", "bias", "of models", "CKA"):
        table.add_column(name, justify="right", no_wrap=True)
    for line in lines:
        shares = ["" if line[name] is None else f"{100 * line[name]:.1f} %" for name in ("relative", "bound")]
        sizes = [line[f"{name}{of}"] for name in ("variance", "weight", "bias") for of in ("", "_of_sources")]
        table.add_row(
            line["layer"], *shares, *("" if value is None else f"{value:.3g}" for value in (*sizes, line["cka"]))
        )
    (out if out.is_terminal else Console(width=160)).print(table)
