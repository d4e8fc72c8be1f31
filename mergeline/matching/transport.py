"""``transport``: optimal transport between the units of two models.

vanishing_feature App. A.8.4 ("OT-acts"), after Imfeld et al., "Transformer Fusion with Optimal Transport" (2024), and
Singh and Jaggi, "Model Fusion via Optimal Transport" (2020). Units weigh the same within a model; moving one to another
costs the distance of their activations. At equal widths an exact plan is a permutation; it earns its keep with unequal
widths and with entropic, soft plans.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mergeline.assignment import match_permutation
from mergeline.bundles import in_bundles
from mergeline.maps import Dense, Permutation, UnitMap
from mergeline.matching.problem import Matcher, Matching, Problem, per_space
from mergeline.matching.ties import settle

if TYPE_CHECKING:
    from mergeline.moments import Moments
    from mergeline.spaces import Space

__all__ = ["TRANSPORT", "TransportOptions", "transport_map", "transport_plan", "unit_distances"]

Float64 = NDArray[np.float64]
Distance = Literal["correlation", "euclidean"]

MAX_STEPS = 1000
"""Steps of a soft plan at most: with little entropy its margins are met ever more slowly, and the maps are normalised."""
MARGIN = 1e-6
"""How far the row sums of a soft plan may be off, relative."""
ABSORBED = 1e50
"""Scaling factors beyond this are taken into the kernel, long before floats overflow."""
TINY = 1e-300
"""Entries of the kernel below this are 0: they add nothing, and denormal floats are slow."""


def transport_plan(distances: ArrayLike, regularization: float = 0.0) -> Float64:
    """The cheapest plan that moves uniform mass from rows to columns.

    Parameters
    ----------
    distances: ``(C_reference, C)`` costs.
    regularization: weight of the plan's entropy, as a multiple of the largest distance; 0: exact.

    Returns
    -------
    ``(C_reference, C)`` masses that sum to 1; rows sum to ``1 / C_reference`` (for a soft plan to 1e-6 relative, or to
    what 1000 steps reach), columns to ``1 / C``.

    Raises
    ------
    ImportError: POT is not installed, which only exact plans between unequal widths need.
    ValueError: distances are not finite.
    """
    costs = np.ascontiguousarray(distances, dtype=np.float64)
    if costs.ndim != 2 or not np.isfinite(costs).all():
        raise ValueError(f"transport needs a finite matrix of distances, got shape {costs.shape}")
    if regularization > 0:
        return _soft_plan(costs, regularization * float(np.abs(costs).max()))
    n_rows, n_columns = costs.shape
    if n_rows == n_columns:
        plan = np.zeros_like(costs)
        plan[np.arange(n_rows), match_permutation(-costs)] = 1 / n_rows
        return plan
    try:
        import ot
    except ImportError as error:
        raise ImportError(
            "exact transport between unequal widths needs POT: pip install 'mergeline[transport]'"
        ) from error
    return ot.emd(np.full(n_rows, 1 / n_rows), np.full(n_columns, 1 / n_columns), costs, numItermax=10_000_000)


def _soft_plan(costs: Float64, strength: float) -> Float64:
    """Sinkhorn's algorithm, from strong to weak entropy, each solution the start of the next.

    The plan is ``exp((rows + columns - costs) / strength)`` for some potentials of rows and columns. Steps only scale
    the plan's rows and columns; factors that grow large are absorbed into the potentials, so that nothing over- or
    underflows at any strength.
    """
    # Potentials to begin with that leave a 0 in every row and column, and nothing below.
    rows = costs.min(axis=1)
    columns = (costs - rows[:, None]).min(axis=0)
    if strength == 0 or not (costs - rows[:, None] - columns).any():
        return np.full_like(costs, 1 / costs.size)
    strengths = [strength]
    while strengths[-1] < float((costs - rows[:, None] - columns).max()) / 2:
        strengths.append(strengths[-1] * 4)
    for step in reversed(strengths):
        rows, columns = _scale(costs, rows, columns, step, MAX_STEPS if step == strength else MAX_STEPS // 10)
    return np.exp((rows[:, None] + columns - costs) / strength)


def _scale(costs: Float64, rows: Float64, columns: Float64, strength: float, max_steps: int) -> tuple[Float64, Float64]:
    """Potentials of the plan of one strength, from others nearby."""
    n_rows, n_columns = costs.shape
    kernel = _kernel(costs, rows, columns, strength)
    u, v = np.ones(n_rows), np.ones(n_columns)
    sums = kernel @ v
    for _ in range(max_steps):
        u = 1 / (n_rows * sums)
        v = 1 / (n_columns * (u @ kernel))
        if max(u.max(), v.max(), 1 / u.min(), 1 / v.min()) > ABSORBED:
            rows, columns = rows + strength * np.log(u), columns + strength * np.log(v)
            kernel = _kernel(costs, rows, columns, strength)
            u, v = np.ones(n_rows), np.ones(n_columns)
        sums = kernel @ v
        if np.abs(n_rows * u * sums - 1).max() < MARGIN:
            break
    return rows + strength * np.log(u), columns + strength * np.log(v)


def _kernel(costs: Float64, rows: Float64, columns: Float64, strength: float) -> Float64:
    kernel = np.exp((rows[:, None] + columns - costs) / strength)
    kernel[kernel < TINY] = 0.0
    return kernel


def unit_distances(moments: Moments, model: int, distance: Distance = "correlation", reference: int = 0) -> Float64:
    """Distances ``(C_reference, C_model)`` between the activations of the reference's units and another model's.

    ``correlation``: 1 minus the correlation. ``euclidean``: root of the mean squared difference of activations.
    """
    if distance == "correlation":
        return 1 - moments.correlation(reference, model)
    power = [moments.variances[k] + moments.means[k] ** 2 for k in (reference, model)]
    cross = moments.covariance(reference, model) + np.outer(moments.means[reference], moments.means[model])
    return np.sqrt(np.maximum(power[0][:, None] + power[1] - 2 * cross, 0.0))


@dataclass(frozen=True)
class TransportOptions:
    """``regularization``: weight of the plan's entropy, as a multiple of the largest distance; 0: exact.
    ``distance``: ``correlation`` (1 minus it) or ``euclidean``, between activations."""

    regularization: float = 0.0
    distance: Distance = "correlation"

    def __post_init__(self) -> None:
        if not self.regularization >= 0:
            raise ValueError(f"regularization must not be negative, got {self.regularization}")
        if self.distance not in get_args(Distance):
            raise ValueError(f"unknown distance {self.distance!r}; allowed: {', '.join(get_args(Distance))}")


def _match(
    space: Space, moments: Moments, partners: Sequence[NDArray[np.int64]], options: TransportOptions
) -> tuple[list[UnitMap], float]:
    """Every model to the units of the first that has the merged width; the objective is minus the mean distance that mass is
    moved."""
    if space.size not in moments.sizes:
        raise ValueError(
            f"space {space.name!r}: transport maps units to those of a model, and none that has any has {space.size}; choose zip"
        )
    reference = moments.sizes.index(space.size)
    maps: list[UnitMap] = []
    total = 0.0
    for model, size in enumerate(moments.sizes):
        if model == reference:
            maps.append(Permutation.identity(size))
            continue
        distances = unit_distances(moments, model, options.distance, reference)
        unit_map, moved = transport_map(distances, options.regularization, partners[model])
        maps.append(unit_map)
        total -= moved
    return maps, total / max(1, len(maps) - 1)


def transport_map(distances: Float64, regularization: float, partners: NDArray[np.int64]) -> tuple[UnitMap, float]:
    """The map of another model's units to the reference's, and the mean distance over which it moves them.

    Units are moved inside assigned bundles (mudsc Sec. 3.3).

    Parameters
    ----------
    distances: ``(C_reference, C)``.
    partners: for each bundle of the reference the other model's.
    """
    width, own_width = distances.shape
    if len(partners) > 1 and width != own_width:
        raise ValueError(f"{width} and {own_width} units in {len(partners)} bundles have no plan")
    pairs = in_bundles((width, own_width), partners)
    if width == own_width and regularization == 0:
        index = np.empty(width, dtype=np.int64)
        for own, other in pairs:
            index[own] = other.start + match_permutation(-distances[own, other])
        return Permutation(index), float(distances[np.arange(width), index].mean())
    plan = np.zeros_like(distances)
    for own, other in pairs:
        plan[own, other] = transport_plan(distances[own, other], regularization) / len(partners)
    to_merged = plan / plan.sum(axis=1, keepdims=True)
    to_own = (plan / plan.sum(axis=0, keepdims=True)).T
    return Dense(to_merged, to_own), float((plan * distances).sum())


def _matched(problem: Problem, options: TransportOptions) -> Matching:
    def nearness(moments: Moments, model: int) -> Float64:
        distances = unit_distances(moments, model, options.distance)
        return -distances / max(float(distances.max()), 1e-300)

    return settle(problem, per_space(_match)(problem, options), nearness)


TRANSPORT = Matcher(
    "transport",
    "optimal transport between units: exact, or soft plans",
    "cross",
    TransportOptions,
    _matched,
    widths="models",
    mixes=lambda options: options.regularization > 0,
)
