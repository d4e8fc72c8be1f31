"""``mergeline diagnose MERGED A B``: a merged network beside the checkpoints it was made from, outside a benchmark."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from mergeline.architectures import Architecture, build
from mergeline.comparison import compare
from mergeline.depth import Placement
from mergeline.depth.expansion import expand, noise
from mergeline.heads import trace_network
from mergeline.readings import source_names
from mergeline.width import as_widest
from stages.diagnosis import diagnosis_rows
from stages.errors import InputError, StageError
from stages.formats.files import file_hash, writing
from stages.formats.measurements import MEASURES, write_measurement
from stages.formats.merged import load_merged, merged_architectures
from stages.formats.models import read_model
from stages.own_models import check_architectures, check_target, load_checkpoint, own_task, some_images
from stages.sources import comparable_batches

__all__ = ["check_table", "diagnose_files", "write_rows"]

TABLES = (".csv", ".json", ".parquet")


def diagnose_files(
    merged: Path,
    files: Sequence[Path],
    architectures: Sequence[str],
    source: str,
    root: Path | None,
    *,
    images: int,
    batch_size: int = 125,
) -> list[dict[str, Any]]:
    """The rows of a diagnosis (:data:`stages.formats.measurements.MEASURES`), on training images of one's own.

    Parameters
    ----------
    merged: a network that ``mergeline merge`` or a benchmark wrote, of one task; it says its input size and width.
    files: the checkpoints it was made from, in that order. architectures: of each; the merged one's where there are none.

    Raises
    ------
    InputError: an unknown name, a file that does not fit, a merged network with heads, too few images.
    """
    check_architectures(architectures)
    topology, placements = _topology(merged)
    if placements and len(placements) != len(files):
        raise InputError(f"{merged} was made from {len(placements)} networks, not {len(files)}")
    task = own_task(source, root, topology.input_size)
    models = [
        _expanded(path, name, topology, placement)
        for path, name, placement in zip(
            files, architectures or [topology.name] * len(files), placements or [None] * len(files), strict=True
        )
    ]
    sources = dict(zip(source_names(len(models)), models, strict=True))
    try:
        spaces, _ = as_widest(sources, trace_network(models[0], topology.input_size, topology.reads))
        inputs = comparable_batches(some_images(task, images), batch_size)
        return list(diagnosis_rows(list(compare(load_merged(merged), sources, spaces, inputs)), source))
    except (ValueError, StageError) as error:
        raise InputError(str(error)) from None


def _topology(merged: Path) -> tuple[Architecture, list[Placement | None]]:
    """What a merged network's file says of it, and where its sources' blocks stand in it (nothing, if it says nothing)."""
    wanted = "name a network that mergeline merge wrote"
    if not merged.is_file():
        raise InputError(f"{merged} is missing; {wanted}")
    try:
        _, description = read_model(merged)
    except StageError:
        raise InputError(f"{merged} is no merged network of mergeline's; {wanted}") from None
    if description.get("kind") == "multi-head":
        raise InputError(
            f"{merged} has a head for each model; diagnose it in its benchmark, with measures: [diagnosis]"
        )
    if description.get("kind") != "merged":
        raise InputError(f"{merged} is no merged network but one of kind {description.get('kind')!r}; {wanted}")
    architecture = next(iter(merged_architectures(description).values()))
    placements = description.get("placements") or []
    return architecture, [None if own is None else tuple(map(tuple, own)) for own in placements]


def _expanded(path: Path, name: str, topology: Architecture, placement: Placement | None) -> nn.Module:
    architecture = Architecture(name, topology.num_classes, topology.width, topology.input_size)
    try:
        model = load_checkpoint(path, architecture).eval()
        return expand(model, build(topology), noise(topology.input_size, topology.reads), placement)
    except ValueError as error:
        raise InputError(f"{path}: {error}") from None


def check_table(target: Path) -> None:
    """Refuse a table that cannot be written (InputError), before any work."""
    if target.suffix not in TABLES:
        raise InputError(f"{target}: a table ends in {', '.join(TABLES)}")
    check_target(target)


def write_rows(target: Path, rows: Sequence[dict[str, Any]], made_from: Sequence[Path]) -> None:
    """All rows as CSV, JSON or Parquet, by the file's ending; a number that is not finite is empty in JSON."""
    columns = MEASURES["diagnosis"].names
    if target.suffix == ".parquet":
        write_measurement(target, "diagnosis", rows, {"models": [file_hash(path) for path in made_from]})
        return
    with writing(target) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
        if target.suffix == ".csv":
            table = csv.DictWriter(stream, columns, lineterminator="\n")
            table.writeheader()
            table.writerows(rows)
        else:
            plain = [{**row, "value": row["value"] if math.isfinite(row["value"]) else None} for row in rows]
            json.dump([{name: row[name] for name in columns} for row in plain], stream, indent=1)
