"""Stage ``diagnosis``: a merged network beside its source models, layer by layer (:mod:`mergeline.comparison`).

All networks see the same training images of a task. A network with heads is looked at once for each of them, with its head alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from mergeline.comparison import batch_norm_readings, by_head, compare
from mergeline.readings import BEFORE, Reading, source_names
from stages.assembling import assembled, matched_maps
from stages.context import Context, Progress
from stages.errors import StageError
from stages.formats.files import file_hash
from stages.formats.measurements import write_measurement
from stages.formats.merged import load_merged
from stages.plan import paths
from stages.plan.keys import Merge, parse_merge
from stages.sources import comparable_batches, head_names, load_sources, training_images

__all__ = ["diagnosis_rows", "run"]


def run(context: Context, cell: str) -> None:
    """``cell``: a merge, ``digits.r35+r17.s0+s1.permute.reset``."""
    merge = parse_merge(cell)
    loaded = load_sources(context, merge.sources)
    before = assembled(merge, loaded, matched_maps(context, merge, loaded)).network
    path = context.path(paths.merged_model(merge))
    merged = by_head(context.place(load_merged(path)))
    names = source_names(len(loaded.models))
    sources = {name: context.place(model) for name, model in zip(names, loaded.models, strict=True)}
    options = context.params.diagnosis
    images = training_images(context, merge.sources.tasks, "diagnosis", options.images)
    progress = Progress(f"diagnosis {cell}")
    rows: list[dict[str, Any]] = []
    scopes = list(_scopes(merge, merged, names))
    for done, (scope, task, head, own) in enumerate(scopes, start=1):
        try:
            found = [
                *compare(
                    merged[head], sources, loaded.spaces, comparable_batches(images[task], options.batch_size), own
                ),
                *batch_norm_readings(BEFORE, by_head(before)[head], loaded.spaces),
            ]
        except ValueError as error:
            raise StageError(f"{cell} on {scope}: {error}") from error
        rows += diagnosis_rows(found, scope)
        progress(done, len(scopes))
    made_from = {"cell": cell, "models": [file_hash(path), *loaded.hashes]}
    write_measurement(context.path(paths.measurement("diagnosis", merge)), "diagnosis", rows, made_from)


def _scopes(
    merge: Merge, merged: Mapping[str, nn.Module], names: list[str]
) -> Iterator[tuple[str, str, str, str | None]]:
    """What is looked at: its name, the task whose images are shown, the head, and the source whose own that is."""
    if list(merged) == [""]:
        for task in merge.sources.tasks:
            yield task, task, "", None
        return
    for head, edge, own in zip(head_names(merge.sources), merge.edges, names, strict=True):
        yield head, edge.task, head, own


def diagnosis_rows(readings: list[Reading], scope: str) -> Iterator[dict[str, Any]]:
    """Rows of the table ``diagnosis``."""
    for reading in readings:
        yield {**reading._asdict(), "scope": scope}
