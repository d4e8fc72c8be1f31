"""Stage ``merge``: one network from some models and their maps, with its statistics set."""

from __future__ import annotations

from mergeline.heads import stop_space
from mergeline.network import assemble, check_maps, check_normalization, is_whole, normalise
from mergeline.preserving import preserved_layers
from stages.context import Context
from stages.errors import StageError
from stages.formats.maps import read_maps
from stages.formats.merged import save_merged
from stages.normalising import normalization_images, source_layers
from stages.plan import paths
from stages.plan.keys import parse_merge
from stages.plan.methods import normalization_options
from stages.sources import head_names, load_sources

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
    reference, size = loaded.models[0], loaded.architectures[0].input_size
    try:
        check_normalization(merge.normalize.name, reference, loaded.spaces)
    except ValueError as error:
        raise StageError(f"{cell}: {error}") from error
    stop = stop_space(reference, loaded.spaces, merge.stop, size)
    kept = preserved_layers(reference, loaded.spaces, merge.preserve, size)
    network = assemble(
        models, loaded.spaces, maps, same_outputs=loaded.same_outputs, stop=stop, weights=merge.weights, preserve=kept
    )
    mixed, own = normalization_images(context, merge)
    check_maps(loaded.spaces, maps, merge.normalize.name)
    normalise(
        context.place(network), merge.normalize.name, options,
        models={name: context.place(model) for name, model in models.items()}, spaces=loaded.spaces,
        maps=maps, weights=merge.weights, mixed=mixed, own=own, statistics=source_layers(context, merge, loaded),
    )  # fmt: skip
    whole = is_whole(loaded.same_outputs, stop)
    save_merged(
        context.path(paths.merged_model(merge)),
        network,
        dict(zip(list(models)[: 1 if whole else None], loaded.architectures, strict=False)),
        stop,
        heads=not whole,
        preserve=kept,
        stems=len(models) if kept else 0,
    )
