"""Stage ``merge``: one network from some models and their maps, with its statistics set."""

from __future__ import annotations

from mergeline.maps import without_partner
from mergeline.network import check_maps, check_normalization, is_whole, normalise
from stages.assembling import assembled, matched_maps
from stages.context import Context
from stages.errors import StageError
from stages.formats.merged import save_merged
from stages.normalising import normalization_images, source_layers
from stages.plan import paths
from stages.plan.keys import parse_merge
from stages.plan.methods import normalization_options
from stages.sources import load_sources

__all__ = ["run"]


def run(context: Context, cell: str) -> None:
    """``cell``: a merge, ``digits+landcover.r35+r17.s0+s1.permute.reset``."""
    merge = parse_merge(cell)
    options = normalization_options(context.params, merge.normalize)
    loaded = load_sources(context, merge.sources)
    maps = matched_maps(context, merge, loaded)
    try:
        check_normalization(merge.normalize.name, loaded.reference, loaded.spaces)
    except ValueError as error:
        raise StageError(f"{cell}: {error}") from error
    made = assembled(merge, loaded, maps)
    mixed, own = normalization_images(context, merge)
    check_maps(loaded.spaces, maps, merge.normalize.name)
    normalise(
        context.place(made.network), merge.normalize.name, options,
        models={name: context.place(model) for name, model in made.models.items()}, spaces=loaded.spaces,
        maps=maps, weights=merge.weights, mixed=mixed, own=own, statistics=source_layers(context, merge, loaded),
    )  # fmt: skip
    whole = is_whole(loaded.same_outputs, made.stop)
    save_merged(
        context.path(paths.merged_model(merge)),
        made.network,
        {next(iter(made.models)): loaded.topology}
        if whole
        else dict(zip(made.models, loaded.architectures, strict=True)),
        made.stop,
        heads=not whole,
        preserve=made.kept,
        stems=len(made.models) if made.kept else 0,
        kept=loaded.architectures if whole and made.kept and loaded.spaces.models else (),
        without_partner=without_partner(maps),
    )
