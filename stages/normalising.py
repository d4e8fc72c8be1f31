"""What a normalisation after merging looks at: training images of the merge's tasks, and its sources' layers' statistics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch

from mergeline.architectures import stage_blocks
from mergeline.depth.expansion import expand_statistics
from mergeline.inputs import batches
from mergeline.normalization import NORMALIZATIONS
from mergeline.seeds import numpy_generator
from mergeline.unit_statistics import LayerStatistics
from stages.context import Context
from stages.errors import StageError
from stages.formats.layers import read_layers
from stages.plan import paths
from stages.plan.keys import Merge, Prediction
from stages.plan.params import Normalization
from stages.sources import LoadedSources, head_names, training_images

__all__ = ["mix", "normalization_images", "source_layers", "task_batches"]


def normalization_images(context: Context, merge: Merge) -> tuple[list[torch.Tensor], dict[str, list[torch.Tensor]]]:
    """Batches of a fixed set of training images: of all tasks, mixed in a fixed order, and of each head's own."""
    if not NORMALIZATIONS[merge.normalize.name].reads_images:
        return [], {}
    options = context.params.normalize[merge.normalize.name]
    parts = training_images(context, merge.sources.tasks, "reset", options.images)
    mixed = mix(list(parts.values()), context.params.seed)
    by_task = {name: list(batches(part, options.batch_size)) for name, part in parts.items()}
    heads = zip(head_names(merge.sources), merge.sources.edges, strict=True)
    return list(batches(mixed, options.batch_size)), {name: by_task[edge.task] for name, edge in heads}


def task_batches(context: Context, task: str, settings: Normalization) -> list[torch.Tensor]:
    """Batches of the training images that merges of one task are normalised on."""
    images = training_images(context, [task], "reset", settings.images)[task]
    return list(batches(mix([images], context.params.seed), settings.batch_size))


def source_layers(context: Context, merge: Merge, loaded: LoadedSources) -> list[Mapping[str, LayerStatistics]]:
    """Of each source, its layers' statistics by task, under the first head of each, with the blocks that are merged, at its own
    width."""
    sources = merge.sources
    if not NORMALIZATIONS[merge.normalize.name].compares:
        return []
    first_heads: dict[str, str] = {}
    for head, edge in zip(head_names(sources), sources.edges, strict=True):
        first_heads.setdefault(edge.task, head)
    found = []
    for edge, model_hash in zip(sources.edges, loaded.hashes, strict=True):
        by_head = {}
        for task, head in first_heads.items():
            path = context.path(paths.layers(Prediction(edge, task)))
            own, description = read_layers(path)
            if description["model"] != model_hash:
                raise StageError(f"{path} was made from another model; run again: mergeline run")
            by_head[head] = own
        found.append((edge.architecture, by_head))
    blocks = stage_blocks(sources.topology)
    deep = next(by_head for architecture, by_head in found if stage_blocks(architecture) == blocks)
    result: list[Mapping[str, LayerStatistics]] = []
    for (name, by_head), topology, similarity in zip(found, loaded.architectures, loaded.similarity, strict=True):
        expanded = {
            head: own if name == topology.name
            else expand_statistics(own, deep[head], replace(topology, name=name), topology, sources.placement, similarity)
            for head, own in by_head.items()
        }  # fmt: skip
        known = {head: own for head, own in expanded.items() if own is not None}
        if len(known) < len(expanded):
            return []  # the normalisation takes them itself, of the expanded networks
        result.append(known)
    return result


def mix(parts: list[torch.Tensor], seed: int) -> torch.Tensor:
    """Images of several tasks in one fixed random order; gray ones get three channels where others have them."""
    channels = max(part.shape[3] for part in parts)
    whole = torch.cat([part.expand(-1, -1, -1, channels) for part in parts])
    order = numpy_generator(seed, "mix", len(whole)).permutation(len(whole))
    return whole[torch.from_numpy(order).to(whole.device)]
