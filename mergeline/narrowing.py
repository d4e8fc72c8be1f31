"""One network made narrower, without training afterwards: fewer units in every space, and so fewer parameters and multiply-adds.

``zip`` joins the units that correlate most (zipit Sec. 3, of one model alone). Beside it stand what it has to be better than:
``largest`` keeps the units with the largest weights and drops the others, ``random`` keeps any.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from mergeline.maps import Dense, Permutation, UnitMap
from mergeline.matching.problem import Problem, solve
from mergeline.matching.zip import ZIP, ZipOptions
from mergeline.moments import collect_moments, full_pairs
from mergeline.narrowing_options import OPTIONS, JoinOptions, KeepOptions
from mergeline.network import assemble, check_maps, check_normalization, normalise
from mergeline.normalization import NORMALIZATIONS
from mergeline.registry import entry_and_options
from mergeline.sources import Batches, first_samples, prepared
from mergeline.spaces import Places, Space, Spaces, seen_at, take, trace
from mergeline.spaces.verifying import check_spaces
from mergeline.width import Width, fitted

__all__ = ["METHODS", "Narrowed", "Narrower", "narrow"]

Index = NDArray[np.int64]


@dataclass(frozen=True)
class Asked:
    """What a method is to map. ``spaces``: the narrower network's, with the network's own; ``data``: batches of inputs;
    ``seed``: for methods that draw."""

    network: nn.Module
    spaces: Spaces
    data: Batches
    seed: int


@dataclass(frozen=True)
class Narrower:
    """A method of narrowing. ``options``: a frozen dataclass; ``maps``: the units of every free space to those of the narrower
    network."""

    name: str
    summary: str
    options: type
    maps: Callable[[Asked, Any], dict[str, UnitMap]]


@dataclass(frozen=True, eq=False)
class Narrowed:
    """A narrower network, the map of each space's units to its own, and its spaces."""

    model: nn.Module
    maps: Mapping[str, UnitMap]
    spaces: Spaces = field(repr=False)

    @property
    def sizes(self) -> dict[str, int]:
        """Units by space."""
        return {space.name: space.size for space in self.spaces.movable}


def narrow(
    model: nn.Module,
    width: Width,
    method: str = "zip",
    data: Any = None,
    normalize: str = "reset",
    *,
    options: Mapping[str, object] | None = None,
    normalize_options: Mapping[str, object] | None = None,
    calibration: Any = None,
    places: Places = "all",
    seed: int = 0,
) -> Narrowed:
    """A network with fewer units in every space, made of a model's own.

    Parameters
    ----------
    model: any network that ``mergeline.spaces.trace`` follows; left as it is.
    width: a share of the units of every space (rounded, two at least), or units by space. At 1 the network is the model itself.
    method: a key of :data:`METHODS`, with its ``options``.
    data: batches of inputs, as for :func:`mergeline.merge`; "zip" reads all of them, the others their form.
    normalize: "none", or what brings back the model's statistics: "reset", "repair" or "rescale", with ``normalize_options``.
    calibration: the batches that it reads; ``data`` by default.
    places: where "zip" sees units, as for :func:`mergeline.merge`.
    seed: for methods that draw. The units that ``random`` keeps at one width are among those that it keeps at a larger one.

    Raises
    ------
    ValueError: an unknown method, option or normalisation, a width above the model's or one that a space does not allow, no data.
    SpaceError: an operation of the model is not known, or the trace is found wrong.
    """
    narrower, chosen = entry_and_options("narrowing method", method, METHODS, options)
    restoring = {name: entry for name, entry in NORMALIZATIONS.items() if entry.restores or name == "none"}
    normalizer, settings = entry_and_options("normalisation", normalize, restoring, normalize_options)
    if data is None:
        raise ValueError("narrowing needs data: batches of inputs")
    batches = Batches(data, again=True)
    first = next(iter(batches), None)
    if first is None:
        raise ValueError("narrowing needs data: there is no batch")
    network = prepared(model, type(model).__name__)
    own = trace(network, first_samples(first, 2))
    check_normalization(normalizer.name, network, own)
    check_spaces(network, own, own.example)
    spaces, reference = fitted({"": network}, own, ZIP, width)
    maps = narrower.maps(Asked(network, seen_at(places, spaces), batches, seed), chosen)
    check_maps(spaces, [maps], normalizer.name)
    made = assemble({"": network}, spaces, [maps], same_outputs=True, reference=reference)
    normalise(
        made, normalizer.name, settings, models={"": network}, spaces=spaces, maps=[maps],
        mixed=batches if calibration is None else Batches(calibration, again=True),
    )  # fmt: skip
    return Narrowed(made, maps, spaces)


def _joined(asked: Asked, options: JoinOptions) -> dict[str, UnitMap]:
    """Units that correlate are joined; all joins lie within the one model, so that there is nothing to budget."""
    moments = collect_moments([asked.network], asked.spaces, asked.data, full_pairs(1))
    problem = Problem(asked.spaces, [asked.network.state_dict()], moments, np.random.default_rng(asked.seed))
    return solve(ZIP, problem, ZipOptions(alpha=options.alpha, beta=1.0)).maps[0]


def _largest(asked: Asked, options: KeepOptions) -> dict[str, UnitMap]:
    """The units of the largest weights stay, of equal ones those that stand first."""
    state = asked.network.state_dict()
    own = asked.spaces.of(0)
    return {
        space.name: _keeping(np.argsort(-_magnitudes(own[space.name], state), kind="stable"), space.size)
        for space in asked.spaces.free
    }


def _magnitudes(space: Space, state: Mapping[str, Tensor]) -> NDArray[np.float64]:
    """Root of the sum of squares of all weights that make each unit, ``(units,)``: biases and norms are no weights.

    The units of a residual stream are made by all layers that add to it.
    """
    squares = np.zeros(space.size)
    for axis in space.outputs:
        weight = state[axis.tensor]
        if weight.dim() > 1:
            entries = take(weight.detach().double(), axis).movedim(axis.axis, 0)
            squares += entries.flatten(1).square().sum(1).cpu().numpy()
    return np.sqrt(squares)


def _random(asked: Asked, options: KeepOptions) -> dict[str, UnitMap]:
    """Any units stay, drawn space by space."""
    generator = np.random.default_rng(asked.seed)
    own = asked.spaces.of(0)
    return {
        space.name: _keeping(generator.permutation(own[space.name].size), space.size) for space in asked.spaces.free
    }


def _keeping(order: Index, size: int) -> UnitMap:
    """The map that keeps the first ``size`` units of an order, where they stand, and drops the others."""
    if size == len(order):
        return Permutation.identity(size)
    chosen = np.eye(len(order))[np.sort(order[:size])]
    return Dense(chosen, chosen.T.copy())


METHODS: dict[str, Narrower] = {
    narrower.name: narrower
    for narrower in (
        Narrower("zip", "units that correlate most are joined", OPTIONS["zip"], _joined),
        Narrower("largest", "the units with the largest weights stay", OPTIONS["largest"], _largest),
        Narrower("random", "any units stay: a control", OPTIONS["random"], _random),
    )
}
