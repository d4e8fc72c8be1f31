"""``mergeline.merge``: merge anyone's models in one call, without a benchmark around it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from mergeline.depth import PLACEMENTS, Placer
from mergeline.depth.alignment import Placed, to_one_depth
from mergeline.heads import cut, stop_space
from mergeline.maps import UnitMap, without_partner
from mergeline.matching import MATCHERS, Matcher, Matching, Problem
from mergeline.matching.problem import solve
from mergeline.merging import checked_weights
from mergeline.moments import Moments, collect_moments, cross_pairs, full_pairs
from mergeline.network import assemble, check_maps, check_normalization, normalise
from mergeline.normalization import NORMALIZATIONS, Normalizer
from mergeline.preserving import preserved_layers, stem_nodes
from mergeline.registry import entry_and_options
from mergeline.sources import Batches, first_samples, mixed_batches, prepared
from mergeline.spaces import Places, Spaces, seen_at, trace
from mergeline.spaces.verifying import check_spaces
from mergeline.width import Width, fitted

__all__ = ["MergeResult", "merge", "resolved_cuts"]


@dataclass(frozen=True)
class MergeResult:
    """A merged network, the maps that made it, and what the method says of them.

    ``model``: one network, or (for models of different tasks, or with ``stop``) a trunk with a head per model whose
    ``forward`` gives logits by head. ``report``: method, options, images, the matcher's objective by space.
    ``preserved``: the number of first layers that each model keeps. ``placed``: how models of fewer blocks were expanded.
    """

    model: nn.Module
    maps: tuple[Mapping[str, UnitMap], ...]
    report: dict[str, object]
    spaces: Spaces = field(repr=False)
    preserved: int = 0
    placed: Mapping[str, Placed] = field(default_factory=dict)


def merge(
    models: Sequence[nn.Module] | Mapping[str, nn.Module],
    data: Any,
    method: str = "permute",
    normalize: str = "reset",
    *,
    options: Mapping[str, object] | None = None,
    normalize_options: Mapping[str, object] | None = None,
    weights: Sequence[float] | None = None,
    stop: str | None = None,
    preserve: int | float | str | None = None,
    depth: str = "append",
    width: Width | None = None,
    places: Places = "all",
    seed: int = 0,
    check: bool = True,
) -> MergeResult:
    """Merge models of one architecture that were trained apart, without training.

    Parameters
    ----------
    models: a list (one task: everything is merged, the classifier too), or a mapping from names to models (several tasks:
        everything below the classifiers is merged, each keeps its own). Any network that ``mergeline.spaces.trace`` follows;
        models of different depth are expanded first (``depth``); "zip" and "transport" take different widths. They are copied.
    data: batches of inputs as the models take them: a tensor, or an iterable of tensors, of ``(inputs, labels)`` pairs (labels
        are not used), of tuples or of dicts of tensors; with several tasks, a mapping from the models' names to such.
    method: a key of ``mergeline.matching.MATCHERS``; ``options`` are its options.
    normalize: a key of ``mergeline.normalization.NORMALIZATIONS``, with ``normalize_options``: "reset" recomputes batch
        statistics on ``data``; "repair" gives outputs of layers the models' means and deviations; "none" changes nothing.
    weights: each model's; uniform by default.
    stop: the last space that is merged, or a share of the multiply-adds ("0.5"), as for ``mergeline.heads.cut``.
    preserve: how many of the first layers each model keeps, or a share of the multiply-adds (0.25).
    depth: where the blocks of shallower models stand, a key of ``mergeline.depth.PLACEMENTS`` ("sma", "lma" compare blocks).
    width: of the merged network, for "zip" (and "transport", where it is a model's): a share of the widest model's units, or
        units by space; by default each space is as wide as the widest model. With it, one model alone can be zipped.
    places: where units are seen: at "all" places that read them, or at the "last", as in the papers.
    seed: for methods that draw. check: prove the trace first, by random permutations of all units (``mergeline.spaces.verify``).

    Raises
    ------
    ValueError: an unknown name or option, models or weights that do not fit together, no data, or data that are not finite.
    SpaceError: an operation of the model is not known, or the trace is found wrong.
    """
    several = isinstance(models, Mapping)
    matcher, chosen = entry_and_options("method", method, MATCHERS, options)
    normalizer, settings = entry_and_options("normalisation", normalize, NORMALIZATIONS, normalize_options)
    placer, _ = entry_and_options("depth", depth, PLACEMENTS, None)
    networks = _networks(models, 2 if width is None else 1, normalize)
    weights, generator = checked_weights(weights, len(networks)), np.random.default_rng(seed)
    parts = _parts(data, list(networks), several, again=normalizer.reads_images or placer.compares)
    networks, reference, spaces, placed, verified = _aligned(networks, parts, matcher, placer, width, several, check)
    check_normalization(normalize, reference, spaces)
    cuts = resolved_cuts(reference, spaces, stop, preserve, several)
    problem = _problem(matcher, list(networks.values()), seen_at(places, spaces), parts, several, generator)
    matching = solve(matcher, problem, chosen)
    check_maps(spaces, matching.maps, normalize)
    merged = _finished(networks, reference, spaces, matching.maps, parts, several, *cuts, weights, normalizer, settings)
    _as_given(merged, next(iter(models.values() if isinstance(models, Mapping) else models)))
    said = {"method": method, "options": chosen, "normalize": normalize, "depth": depth, "places": places}
    return MergeResult(merged, matching.maps, said | _counted(matching, parts, verified), spaces, cuts[1], placed)


def _counted(matching: Matching, parts: Mapping[str, Batches], verified: float | None) -> dict[str, object]:
    """What a report says of the work that was done."""
    return {
        "verified": verified,
        "objective": matching.objective,
        "images": sum(part.images for part in parts.values()),
        "without_partner": without_partner(matching.maps),
    }


class _Aligned(NamedTuple):
    """Models of one depth, a network of the merged widths, and their spaces."""

    networks: dict[str, nn.Module]
    reference: nn.Module
    spaces: Spaces
    placed: dict[str, Placed]
    verified: float | None


def _aligned(
    networks: Mapping[str, nn.Module],
    parts: Mapping[str, Batches],
    matcher: Matcher,
    placer: Placer,
    width: Width | None,
    several: bool,
    check: bool,
) -> _Aligned:
    """Models of different depth brought to one, and their spaces, which they must have in common but for their sizes."""
    deep, placed = to_one_depth(networks, placer, parts)
    spaces, reference = fitted(deep, _traced(deep, parts), matcher, width, not several)
    verified = _verified([*deep.values(), reference], spaces) if check else None
    return _Aligned(deep, reference, spaces, placed, verified)


def _finished(
    networks: Mapping[str, nn.Module],
    reference: nn.Module,
    spaces: Spaces,
    maps: Sequence[Mapping[str, UnitMap]],
    parts: Mapping[str, Batches],
    several: bool,
    stop: str | None,
    kept: int,
    weights: Sequence[float] | None,
    normalizer: Normalizer,
    settings: Any,
) -> nn.Module:
    """The merged network with its statistics set."""
    batches = next(iter(parts.values())) if len(parts) == 1 else Batches(mixed_batches(list(parts.values())), True)
    merged = assemble(
        networks, spaces, maps, same_outputs=not several, stop=stop, weights=weights, preserve=kept, reference=reference
    )
    return normalise(
        merged, normalizer.name, settings, models=networks, spaces=spaces, maps=maps, weights=weights,
        mixed=batches, own={name: parts.get(name, batches) for name in networks},
    )  # fmt: skip


def resolved_cuts(
    reference: nn.Module, spaces: Spaces, stop: str | None, preserve: float | str | None, several: bool
) -> tuple[str | None, int]:
    """The last space that is merged, if not all are, and the number of layers that each model keeps.

    Raises
    ------
    ValueError: there is no such space, or there are not as many layers.
    """
    stop = stop_space(reference, spaces, stop)
    kept = preserved_layers(reference, spaces, preserve)
    if several or stop is not None:
        cut(reference, spaces, stop, stem_nodes(spaces, kept))
    return stop, kept


def _traced(networks: Mapping[str, nn.Module], parts: Mapping[str, Batches]) -> Spaces:
    """The spaces of the first network."""
    first = next(iter(next(iter(parts.values()))), None)
    if first is None:
        raise ValueError("merging needs data: there is no batch")
    return trace(next(iter(networks.values())), first_samples(first, 2))


def _verified(networks: Sequence[nn.Module], spaces: Spaces) -> float:
    """How well spaces were proved: the largest difference of all that were traced."""
    traced = {id(own.graph): (network, own) for network, own in zip(networks, [*spaces.models, spaces], strict=False)}
    found = [check_spaces(network, own, own.example) for network, own in traced.values()]
    return max((worst for differences in found for worst in differences.values()), default=0.0)


def _problem(
    matcher: Matcher,
    networks: list[nn.Module],
    spaces: Spaces,
    parts: Mapping[str, Batches],
    several: bool,
    generator: np.random.Generator,
) -> Problem:
    """What the matcher is to solve, with the moments that it needs, over all tasks' batches."""
    moments: dict[str, Moments] = {}
    if matcher.moments != "none":
        pairs = (cross_pairs if matcher.moments == "cross" else full_pairs)(len(networks))
        moments = collect_moments(networks, spaces, (batch for part in parts.values() for batch in part), pairs)
    states = [network.state_dict() for network in networks]
    return Problem(spaces, states, moments, generator, same_outputs=not several)


def _networks(
    models: Sequence[nn.Module] | Mapping[str, nn.Module], least: int, normalize: str
) -> dict[str, nn.Module]:
    """Copies by name, all in the widest type that one of them has, if they can be normalised so."""
    named = models if isinstance(models, Mapping) else {str(i): model for i, model in enumerate(models)}
    if len(named) < least:
        advice = "; one alone can be zipped to a smaller width" if least > len(named) == 1 else ""
        raise ValueError(f"merging needs two models at least, got {len(named)}{advice}")
    found = {name: prepared(model, name) for name, model in named.items()}
    networks = found.values()
    types = {t.dtype for network in networks for t in network.parameters() if t.is_floating_point()}
    if len(types) > 1:
        widest = torch.float64 if torch.float64 in types else torch.float32
        for network in networks:
            network.to(widest)
    check_normalization(normalize, next(iter(networks)))
    return found


def _as_given(merged: nn.Module, reference: nn.Module) -> None:
    """The merged tensors in the types that the first model's have."""
    types = {name: tensor.dtype for name, tensor in reference.state_dict().items()}
    common = {kind for kind in types.values() if kind.is_floating_point}
    if len(common) == 1:
        merged.to(common.pop())
        return
    for name, tensor in [*merged.named_parameters(), *merged.named_buffers()]:
        own = types.get(name.removeprefix("trunk.").partition("heads.")[0] or name, tensor.dtype)
        if tensor.is_floating_point() and own.is_floating_point:
            tensor.data = tensor.data.to(own)


def _parts(data: Any, names: list[str], several: bool, again: bool) -> dict[str, Batches]:
    """Each task's batches; those of all models under one name where they share them."""
    if isinstance(data, Mapping) and (several or set(data) == set(names)):
        if set(data) != set(names):
            raise ValueError(f"data must have the models' names {names}, got {sorted(map(str, data))}")
        return {name: Batches(data[name], again) for name in names}
    if isinstance(data, Mapping):
        raise ValueError("data by task needs models by task: give the models in a mapping with the same names")
    return {"all": Batches(data, again)}
