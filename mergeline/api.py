"""``mergeline.merge``: merge anyone's models in one call, without a benchmark around it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor, nn

from mergeline.maps import UnitMap
from mergeline.matching import MATCHERS, Problem
from mergeline.moments import collect_moments, cross_pairs, full_pairs
from mergeline.network import assemble, normalise
from mergeline.normalization import NORMALIZATIONS
from mergeline.spaces import Spaces, trace

__all__ = ["MergeResult", "merge"]


@dataclass(frozen=True)
class MergeResult:
    """A merged network, the maps that made it, and what the method says of them.

    ``model``: one network, or (for models of different tasks, or with ``stop``) a trunk with a head per model whose
    ``forward`` gives logits by head. ``report``: method, options, images, the matcher's objective by space.
    """

    model: nn.Module
    maps: tuple[Mapping[str, UnitMap], ...]
    report: dict[str, object]
    spaces: Spaces = field(repr=False)


def merge(
    models: Sequence[nn.Module] | Mapping[str, nn.Module],
    data: Iterable[Tensor] | Mapping[str, Iterable[Tensor]],
    method: str = "permute",
    normalize: str = "reset",
    *,
    options: Mapping[str, object] | None = None,
    normalize_options: Mapping[str, object] | None = None,
    weights: Sequence[float] | None = None,
    stop: str | None = None,
    seed: int = 0,
) -> MergeResult:
    """Merge models of one architecture that were trained apart, without training.

    Parameters
    ----------
    models: a list (one task: everything is merged, the classifier too), or a mapping from names to models (several
        tasks: everything below the classifiers is merged, each keeps its own). Any architecture that
        ``mergeline.spaces.trace`` follows; models of different depth are first expanded (``mergeline.depth``).
    data: batches of normalised images ``(B, C, H, W)``; with several tasks, a mapping from the same names.
    method: a key of ``mergeline.matching.MATCHERS``; ``options`` are its options.
    normalize: a key of ``mergeline.normalization.NORMALIZATIONS``, with ``normalize_options``: "reset" recomputes batch
        statistics on ``data``; "none" leaves them as merged.
    weights: each model's weight; uniform by default.
    stop: the last space that is merged, as for ``mergeline.merging.cut``.
    seed: for methods that draw.

    Raises
    ------
    ValueError: an unknown method, option or normalisation, models that do not fit together, no data.
    SpaceError: an operation of the model is not known.
    """
    names = list(models) if isinstance(models, Mapping) else [str(index) for index in range(len(models))]
    networks = [deepcopy(m).eval() for m in (models.values() if isinstance(models, Mapping) else models)]
    if len(networks) < 2:
        raise ValueError(f"merging needs two models at least, got {len(networks)}")
    if method not in MATCHERS:
        raise ValueError(f"unknown method {method!r}; known: {', '.join(MATCHERS)}")
    if normalize not in NORMALIZATIONS:
        raise ValueError(f"unknown normalisation {normalize!r}; known: {', '.join(NORMALIZATIONS)}")
    normalize_settings = NORMALIZATIONS[normalize].options(**(normalize_options or {}))
    parts = _batches(data, names, isinstance(models, Mapping))
    batches = [batch for part in parts.values() for batch in part]
    matcher = MATCHERS[method]
    chosen = matcher.options(**(options or {}))
    spaces = trace(networks[0], batches[0][:2])
    _check_same_topology(networks, spaces, names)
    moments = {}
    if matcher.moments != "none":
        pairs = (cross_pairs if matcher.moments == "cross" else full_pairs)(len(networks))
        moments = collect_moments(networks, spaces, batches, pairs)
    states = [network.state_dict() for network in networks]
    matching = matcher.match(
        Problem(spaces, states, moments, np.random.default_rng(seed), same_outputs=not isinstance(models, Mapping)),
        chosen,
    )
    sources = dict(zip(names, networks, strict=True))
    merged = assemble(
        sources, spaces, matching.maps, same_outputs=not isinstance(models, Mapping), stop=stop, weights=weights
    )
    normalise(
        merged, normalize, normalize_settings, models=sources, spaces=spaces, maps=matching.maps, weights=weights,
        mixed=batches, own={name: parts.get(name, batches) for name in names},
    )  # fmt: skip
    report = {
        "method": method,
        "options": chosen,
        "normalize": normalize,
        "images": sum(len(batch) for batch in batches),
        "objective": matching.objective,
    }
    return MergeResult(merged, matching.maps, report, spaces)


def _batches(data: object, names: list[str], several: bool) -> dict[str, list[Tensor]]:
    if isinstance(data, Mapping):
        if not several or set(data) != set(names):
            raise ValueError(f"data must have the models' names {names}, got {sorted(data)}")
        parts = {name: list(data[name]) for name in names}
    else:
        parts = {"all": list(data)}  # type: ignore[call-overload]
    if not all(parts.values()):
        raise ValueError("merging needs images: a part of the data has no batches")
    return parts


def _check_same_topology(networks: Sequence[nn.Module], spaces: Spaces, names: list[str]) -> None:
    """Every tensor below the classifier must have the same shape."""
    reference = {name: tensor.shape for name, tensor in networks[0].state_dict().items()}
    output = {axis.tensor for space in spaces.values() if space.name == "output" for axis in space.axes}
    for name, network in zip(names[1:], networks[1:], strict=True):
        state = network.state_dict()
        odd = sorted(set(reference) ^ set(state))
        odd += [
            key for key, shape in reference.items() if key in state and key not in output and state[key].shape != shape
        ]
        if odd:
            raise ValueError(
                f"model {name!r} has another topology than {names[0]!r}: {', '.join(odd[:3])}; expand the shallower one "
                "first (mergeline.depth.expand_to)"
            )
