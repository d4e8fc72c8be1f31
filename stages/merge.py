"""Stage ``merge``: one network from a group's models and their maps, with its batch statistics set."""

from __future__ import annotations

import torch
from torch import nn

from mergeline.images import batches
from mergeline.merging import MultiHead, merge_network, multi_head, stop_space
from mergeline.models import build
from mergeline.normalization import NORMALIZATIONS, reset, reset_multi_head
from mergeline.seeds import numpy_generator
from stages.context import Context
from stages.errors import StageError
from stages.formats.maps import read_maps
from stages.formats.merged import save_merged
from stages.groups import head_names, load_group, training_images
from stages.plan import paths
from stages.plan.cells import Merge, known, parse_merge

__all__ = ["run"]


def run(context: Context, cell: str) -> None:
    """``cell``: a merge, ``digits+landcover.r35+r17.s0+s1.permute.reset``."""
    merge = parse_merge(cell)
    known("normalisation", merge.normalize, NORMALIZATIONS)
    loaded = load_group(context, merge.group)
    maps, description = read_maps(context.path(paths.match(merge.match)))
    if description["models"] != loaded.hashes:
        raise StageError(f"{paths.match(merge.match)} was made from other models; run again: mergeline run")
    names = head_names(merge.group)
    whole = merge.stop is None and (merge.group.same_task or context.outputs_are_text)
    network: nn.Module
    stop = None
    if whole:
        states = [model.state_dict() for model in loaded.models]
        network = merge_network(build(loaded.architectures[0]), loaded.spaces, states, maps, merge.weights)
    else:
        models = dict(zip(names, loaded.models, strict=True))
        stop = stop_space(loaded.models[0], loaded.spaces, merge.stop, loaded.architectures[0].input_size)
        network = multi_head(models, loaded.spaces, maps, merge.weights, stop)
    context.place(network)
    if merge.normalize == "reset":
        _reset(context, merge, network)
    save_merged(
        context.path(paths.merged_model(merge)),
        network,
        dict(zip(names[: 1 if whole else None], loaded.architectures, strict=False)),
        stop,
        heads=not whole,
    )


def _reset(context: Context, merge: Merge, network: nn.Module) -> None:
    """Batch statistics on a fixed set of training images, those of several tasks mixed in a fixed order."""
    options = context.params.normalize.reset
    parts = training_images(context, merge.group, "reset", options.images)
    mixed = mix(list(parts.values()), context.params.seed)
    if isinstance(network, MultiHead):
        own = {
            name: list(batches(parts[edge.task], options.batch_size))
            for name, edge in zip(network.names, merge.group.edges, strict=True)
        }
        reset_multi_head(network, batches(mixed, options.batch_size), own)
    else:
        reset(network, batches(mixed, options.batch_size))


def mix(parts: list[torch.Tensor], seed: int) -> torch.Tensor:
    """Images of several tasks in one fixed random order; gray ones get three channels where others have them."""
    channels = max(part.shape[3] for part in parts)
    whole = torch.cat([part.expand(-1, -1, -1, channels) for part in parts])
    order = numpy_generator(seed, "mix", len(whole)).permutation(len(whole))
    return whole[torch.from_numpy(order).to(whole.device)]
