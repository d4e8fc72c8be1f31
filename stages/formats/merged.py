"""Networks that were made of edge models: merged ones (one network, or a trunk with a head per model), pruned and
narrowed ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mergeline.architectures import Architecture, build
from mergeline.biases import add_missing_biases
from mergeline.depth.placer import Placement
from mergeline.foreign import learn
from mergeline.heads import multi_head_from_state, trace_architecture, trace_network
from mergeline.preserving import preserve_first_from_state
from mergeline.resizing import resized
from mergeline.width import as_widest
from stages.formats.models import load_strictly, read_model, save_model

__all__ = ["load_merged", "merged_architectures", "save_compressed", "save_merged", "units_without_partner"]


def save_merged(
    path: Path,
    model: nn.Module,
    architectures: Mapping[str, Architecture],
    stop: str | None,
    heads: bool,
    preserve: int = 0,
    stems: int = 0,
    placements: Sequence[Placement | None] = (),
    kept: Sequence[Architecture] = (),
    without_partner: Sequence[int] = (),
) -> None:
    """A merged network: one network where ``heads`` is false, else a trunk with a head per task.

    ``architectures``: each task's topology at its model's width; of one network the merged one's. ``preserve``: the first layers
    that each of ``stems`` models keeps. ``placements``: where each source's blocks stand, None for one of the topology; of none
    if empty. ``kept``: of one network the topology of each stem, where their widths differ. ``without_partner``: for each source,
    how many merged units it has no part in.
    """
    description: dict[str, Any] = {
        "kind": "multi-head" if heads else "merged",
        # A list: the tensors number the heads in this order, and a mapping would come back sorted.
        "heads": _heads(architectures),
        "stop": stop,
    } | ({"preserve": preserve, "stems": stems} if preserve else {})
    description |= {"placements": list(placements)} if any(placements) else {}
    description |= {"without_partner": list(without_partner)} if any(without_partner) else {}
    save_model(path, model, description | ({"kept": [asdict(own) for own in kept]} if kept else {}))


def save_compressed(
    path: Path,
    model: nn.Module,
    kind: str,
    task: str,
    architecture: Architecture,
    sizes: Mapping[str, int] | None = None,
) -> None:
    """A pruned or narrowed edge model, perhaps with biases that it had not; :func:`load_merged` reads it.

    ``sizes``: units by space where they are not the architecture's.
    """
    narrower = {} if sizes is None else {"sizes": dict(sizes)}
    save_model(path, model, {"kind": kind, "heads": _heads({task: architecture}), "stop": None} | narrower)


def _heads(architectures: Mapping[str, Architecture]) -> list[dict[str, Any]]:
    return [{"head": name, **asdict(architecture)} for name, architecture in architectures.items()]


def merged_architectures(description: Mapping[str, Any]) -> dict[str, Architecture]:
    """The topology of each head of a merged network, by the description in its file."""
    for entry in description["heads"]:
        learn(entry["name"], code=False)
    return {
        entry["head"]: Architecture(**{key: value for key, value in entry.items() if key != "head"})
        for entry in description["heads"]
    }


def units_without_partner(path: Path) -> int:
    """How many units of a merged network a source has no part in, summed over its sources."""
    return sum(read_model(path)[1].get("without_partner", ()))


def load_merged(path: Path) -> nn.Module:
    """A merged, pruned or narrowed network in eval mode, channels last: a plain network, or a ``MultiHead``."""
    tensors, description = read_model(path)
    architectures = merged_architectures(description)
    models = {task: build(architecture) for task, architecture in architectures.items()}
    model: nn.Module = next(iter(models.values()))
    whole = description["kind"] != "multi-head"
    if "sizes" in description:
        model, _ = resized(model, trace_architecture(next(iter(architectures.values()))), description["sizes"])
    if whole and "preserve" not in description:
        add_missing_biases(model, tensors)
        load_strictly(path, model, tensors)
        return model.eval().to(memory_format=torch.channels_last)
    if whole:
        kept = [build(Architecture(**own)) for own in description.get("kept", [])] or [model] * description["stems"]
        models = {str(index): own for index, own in enumerate(kept)}
    first = next(iter(architectures.values()))
    # A whole network's first may be another architecture's, or have fewer units.
    traced = (
        trace_network(next(iter(models.values())), first.input_size, first.reads)
        if whole
        else trace_architecture(first)
    )
    spaces, reference = as_widest(models, traced, same_outputs=whole)
    stop = description["stop"]
    if "preserve" in description:
        layers = description["preserve"]
        model = preserve_first_from_state(models, spaces, layers, tensors, stop=stop, whole=whole, reference=reference)
    else:
        model = multi_head_from_state(models, spaces, tensors, stop, reference)
    return model.eval().to(memory_format=torch.channels_last)
