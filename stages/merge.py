"""Stage ``merge``: one network from some models and their maps, with its batch statistics set."""

from __future__ import annotations

import torch

from mergeline.heads import stop_space
from mergeline.images import batches
from mergeline.network import assemble, check_maps, is_whole, normalise
from mergeline.normalization import NORMALIZATIONS
from mergeline.seeds import numpy_generator
from stages.context import Context
from stages.errors import StageError
from stages.formats.maps import read_maps
from stages.formats.merged import save_merged
from stages.plan import paths
from stages.plan.keys import Merge, parse_merge
from stages.plan.methods import normalization_options
from stages.sources import head_names, load_sources, training_images

__all__ = ["run"]


def run(context: Context, cell: str) -> None:
    """``cell``: a merge, ``digits+landcover.r35+r17.s0+s1.permute.reset``."""
    merge = parse_merge(cell)
    options = normalization_options(context.params, merge.normalize)
    loaded = load_sources(context, merge.sources)
    maps, description = read_maps(context.path(paths.match(merge.match)))
    if description["models"] != loaded.hashes:
        raise StageError(f"{paths.match(merge.match)} was made from other models; run again: mergeline run")
    models = dict(zip(head_names(merge.sources), loaded.models, strict=True))
    stop = stop_space(loaded.models[0], loaded.spaces, merge.stop, loaded.architectures[0].input_size)
    network = assemble(models, loaded.spaces, maps, same_outputs=loaded.same_outputs, stop=stop, weights=merge.weights)
    mixed, own = _images(context, merge)
    check_maps(loaded.spaces, maps, merge.normalize.name)
    normalise(
        context.place(network), merge.normalize.name, options,
        models={name: context.place(model) for name, model in models.items()}, spaces=loaded.spaces,
        maps=maps, weights=merge.weights, mixed=mixed, own=own,
    )  # fmt: skip
    whole = is_whole(loaded.same_outputs, stop)
    save_merged(
        context.path(paths.merged_model(merge)),
        network,
        dict(zip(list(models)[: 1 if whole else None], loaded.architectures, strict=False)),
        stop,
        heads=not whole,
    )


def _images(context: Context, merge: Merge) -> tuple[list[torch.Tensor], dict[str, list[torch.Tensor]]]:
    """Batches of a fixed set of training images: of all tasks, mixed in a fixed order, and of each head's own."""
    if not NORMALIZATIONS[merge.normalize.name].reads_images:
        return [], {}
    options = context.params.normalize[merge.normalize.name]
    parts = training_images(context, merge.sources, "reset", options.images)
    mixed = mix(list(parts.values()), context.params.seed)
    heads = zip(head_names(merge.sources), merge.sources.edges, strict=True)
    own = {name: list(batches(parts[edge.task], options.batch_size)) for name, edge in heads}
    return list(batches(mixed, options.batch_size)), own


def mix(parts: list[torch.Tensor], seed: int) -> torch.Tensor:
    """Images of several tasks in one fixed random order; gray ones get three channels where others have them."""
    channels = max(part.shape[3] for part in parts)
    whole = torch.cat([part.expand(-1, -1, -1, channels) for part in parts])
    order = numpy_generator(seed, "mix", len(whole)).permutation(len(whole))
    return whole[torch.from_numpy(order).to(whole.device)]
