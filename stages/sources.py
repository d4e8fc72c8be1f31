"""Loading the sources of a merge in one topology, and choosing the images they are merged on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from mergeline.architectures import Architecture
from mergeline.depth import PLACEMENTS
from mergeline.depth.expansion import Similarity, expand_to
from mergeline.heads import trace_architecture
from mergeline.inputs import batches, to_device
from mergeline.readings import SMALLEST_BATCH
from mergeline.seeds import numpy_generator
from mergeline.spaces import Spaces
from mergeline.width import as_widest
from stages.context import Context
from stages.errors import StageError
from stages.formats.blocks import read_similarity
from stages.formats.files import file_hash
from stages.formats.models import load_edge
from stages.plan import paths
from stages.plan.keys import Edge, Sources, known

__all__ = ["LoadedSources", "comparable_batches", "head_names", "load_sources", "training_images", "training_samples"]


@dataclass(frozen=True)
class LoadedSources:
    """The models of some sources, expanded to one topology, each at its own width, on the CPU in eval mode.

    ``architectures``: of each, expanded; ``topology``: of their merge. ``spaces``: those of their merge, with each model's own
    where widths differ. ``reference``: a network of the merged widths, whose weights are of no account.
    """

    models: list[nn.Module]
    architectures: list[Architecture]
    topology: Architecture
    spaces: Spaces
    reference: nn.Module
    hashes: list[str]
    similarity: list[Similarity]
    """Of each model's blocks with those of the topology; empty where it was not expanded by it."""
    same_outputs: bool
    """Whether the models' outputs mean the same: one task, or text embeddings that any task's classes have."""


def load_sources(context: Context, sources: Sources) -> LoadedSources:
    """Load the edges, expand the shallow ones to the deepest topology, and find the spaces that all widths have in common.

    Raises
    ------
    StageError: input sizes or the benchmark's width differ, an edge cannot be expanded, or widths cannot be brought together.
    """
    models, architectures, hashes, compared = [], [], [], []
    placement = known("placement", sources.placement, PLACEMENTS)
    similarity = _similarities(context, sources)
    for edge in sources.edges:
        path = context.path(paths.edge_model(edge))
        model, architecture = load_edge(path)
        compared.append(similarity.get(edge, ()))
        try:
            expanded, topology = expand_to(model, architecture, sources.topology, placement, compared[-1])
        except ValueError as error:
            raise StageError(f"{sources}: {edge} cannot be expanded by {placement!r}: {error}") from error
        models.append(expanded.to(memory_format=torch.channels_last))
        architectures.append(topology)
        hashes.append(file_hash(path))
    first = architectures[0]
    for edge, other in zip(sources.edges, architectures, strict=True):
        if (other.width, other.input_size) != (first.width, first.input_size):
            raise StageError(
                f"{sources}: {edge} has width {other.width} and input size {other.input_size}, {sources.edges[0]} has "
                f"{first.width} and {first.input_size}; models of one merge must agree in both, and differ in width by their "
                "architecture alone"
            )
    same_outputs = sources.same_task or context.outputs_are_text
    named = dict(zip(head_names(sources), models, strict=True))
    try:
        spaces, reference = as_widest(named, trace_architecture(first), same_outputs)
    except ValueError as error:
        raise StageError(f"{sources}: {error}") from error
    topology = replace(first, name=sources.topology)
    return LoadedSources(models, architectures, topology, spaces, reference, hashes, compared, same_outputs)


def _similarities(context: Context, sources: Sources) -> dict[Edge, Similarity]:
    """Of the blocks of each edge that is expanded, if the placement reads it."""
    if not PLACEMENTS[sources.placement].compares:
        return {}
    found: dict[Edge, Similarity] = {}
    for pair in sources.depth_pairs:
        path = context.path(paths.blocks(pair))
        similarity, description = read_similarity(path)
        if description["models"] != [file_hash(context.path(paths.edge_model(edge))) for edge in pair.edges]:
            raise StageError(f"{path} was made from other models; run again: mergeline run")
        found[pair.edges[1]] = similarity
    return found


def training_images(context: Context, tasks: Iterable[str], purpose: str, count: int) -> dict[str, torch.Tensor]:
    """``count`` training images of each task, a fixed random choice by purpose and task: ``(n, S, S, C)`` uint8.

    The choice does not depend on the sources, so that all merges on a task see the same images.
    """
    return {name: images for name, (images, _) in training_samples(context, tasks, purpose, count).items()}


def training_samples(
    context: Context, tasks: Iterable[str], purpose: str, count: int
) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """The same with their labels, ``(n,)`` int64."""
    chosen = {}
    for name in tasks:
        images, labels = context.task(name).part("train")
        order = np.sort(numpy_generator(context.params.seed, purpose, name).permutation(len(images))[:count])
        chosen[name] = to_device(images[order], context.device), to_device(labels[order], context.device)
    return chosen


def head_names(sources: Sources) -> list[str]:
    """A name per model: its task, or task and place where several models have one task."""
    if len(sources.tasks) == len(sources.edges):
        return list(sources.tasks)
    return [f"{edge.task}#{index}" for index, edge in enumerate(sources.edges)]


def comparable_batches(images: torch.Tensor, size: int) -> list[torch.Tensor]:
    """Normalised batches of nearly ``size`` images, as many in each: none is too small to compare networks on.

    ``images``: ``(N, H, W, C)`` uint8.
    """
    number = max(1, min(-(-len(images) // size), len(images) // SMALLEST_BATCH))
    return [batch for part in images.tensor_split(number) for batch in batches(part, max(1, len(part)))]
