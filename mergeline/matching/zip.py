"""``zip``: units that correlate are joined greedily, within a model as well as between models.

zipit (Sec. 3): all units of all models are joined, best pair first, until as many groups are left as the merged
network has units. The groups are those of the authors' public code for two models; the cost is quadratic in the number
of units where the public code's is cubic.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mergeline.maps import Groups, UnitMap
from mergeline.matching.problem import Matcher, Matching, Problem, per_space
from mergeline.matching.ties import settle

if TYPE_CHECKING:
    from mergeline.moments import Moments
    from mergeline.spaces import Space

__all__ = [
    "ZIP",
    "ZipOptions",
    "fitting",
    "group_maps",
    "group_members",
    "group_similarity",
    "match_groups",
    "shared_similarity",
    "zip_space",
]

Values = NDArray[np.floating[Any]]
Index = NDArray[np.int64]
OptionsT = TypeVar("OptionsT", bound="ZipOptions")

JOINED = -1
"""In ``owners``: the unit was joined into another and is no longer a row of its own."""


def match_groups(
    correlation: ArrayLike,
    sizes: Sequence[int],
    n_groups: int,
    alpha: float = 0.3,
    beta: float = 0.125,
    compatible: bool = False,
) -> Index:
    """Join units greedily until ``n_groups`` groups are left (zipit Sec. 3).

    Again and again the largest entry of the correlation matrix, the first in row-major order among equals, joins its
    two groups; the joined group correlates with every other by ``alpha`` times the smaller of the two correlations. A
    group belongs to the model of its first unit; joining two groups of one model costs that model one of its budget.
    When the budget is spent, groups of that model may no longer join each other, nor what either of them is joined to.

    The budget of a model is its share of the joins by its number of units, times ``beta``, rounded down. It is tested
    after it is spent, as in the public code: where it rounds to 0, one join passes. Without ``compatible``, ``beta=0``
    means none. Where only forbidden pairs are left (three models or more, or fewer groups than the widest model has
    units), every model gets an even share of the joins still to be made, and no pair is forbidden until that is spent:
    no unit is ever lost.

    Parameters
    ----------
    correlation: ``(N, N)``, the units of all models in order; float32 is computed in float32, all else in float64.
        The diagonal is not read.
    sizes: units of each model; their sum is N. Any number of models, of any widths.
    n_groups: groups to keep.
    alpha: factor of a joined group's correlations, in (0, 1].
    beta: share of the joins that may lie within models, 0 to 1.
    compatible: let one within-model join of each model pass at ``beta=0``, as the public code does.

    Returns
    -------
    ``(N,)`` group label of every unit, all of 0..n_groups-1; groups are numbered by their first unit, so that those
    with units of model 0 come first, in its order.

    Raises
    ------
    ValueError: shapes do not fit, values are not finite, or an option is out of its range.

    >>> match_groups([[1, 0.9, 0.2, 0.8], [0.9, 1, 0.7, 0.1], [0.2, 0.7, 1, 0.3], [0.8, 0.1, 0.3, 1]], [2, 2], 2, beta=0)
    array([0, 1, 1, 0])
    """
    values: Values = np.array(correlation, dtype=np.float32 if _is_float32(correlation) else np.float64, order="C")
    n_units = len(values)
    _check(values, sizes, n_groups, alpha, beta)
    owners = np.repeat(np.arange(len(sizes)), sizes)
    budgets = _budgets(sizes, n_units - n_groups, beta)
    _fill_diagonal(values)
    if beta == 0 and not compatible:
        values[owners[:, None] == owners[None, :]] = -np.inf
    joins = np.empty((n_units - n_groups, 2), dtype=np.int64)
    join = _compiled() or join_rows
    done = 0
    while True:
        done = join(values, owners, budgets, joins, done, values.dtype.type(alpha))
        if done == len(joins):
            return _labels(joins, n_units)
        budgets[:] = np.maximum(budgets, 0) + math.ceil((len(joins) - done) / len(sizes))
        values = _without_ban(np.array(correlation, dtype=values.dtype, order="C"), joins[:done], alpha)


def _is_float32(correlation: ArrayLike) -> bool:
    return str(getattr(correlation, "dtype", "")).endswith("float32")


def _check(values: Values, sizes: Sequence[int], n_groups: int, alpha: float, beta: float) -> None:
    n_units = len(values)
    if values.ndim != 2 or values.shape[1] != n_units:
        raise ValueError(f"zip needs a square correlation matrix, got shape {values.shape}")
    if not sizes or min(sizes) < 1 or sum(sizes) != n_units:
        raise ValueError(
            f"the correlation has {n_units} units, but the models' sizes {list(sizes)} sum to {sum(sizes)}"
        )
    if not 1 <= n_groups <= n_units:
        raise ValueError(f"{n_units} units cannot form {n_groups} groups")
    ZipOptions(alpha, beta)


def _budgets(sizes: Sequence[int], removed: int, beta: float) -> Index:
    """How many joins within itself each model may make (the public code's integers where widths are equal)."""
    total = sum(sizes)
    shares = (
        [removed // len(sizes)] * len(sizes) if len(set(sizes)) == 1 else [removed * size / total for size in sizes]
    )
    # The small term keeps a product such as 0.29 * 100, which floats make 28.999..., at its integer.
    return np.array([int(share * beta + 1e-4) for share in shares], dtype=np.int64)


def _fill_diagonal(values: Values) -> None:
    """Let no unit join itself; all else must be finite."""
    np.fill_diagonal(values, 0.0)
    if not np.isfinite(values.sum()) and not np.isfinite(values).all():  # the sum alone is quicker
        raise ValueError("the correlation matrix has values that are not finite")
    np.fill_diagonal(values, -np.inf)


def _labels(joins: Index, n_units: int) -> Index:
    """Group labels from joins ``(i, j)``, in each of which ``j`` went into the earlier unit ``i``."""
    first = np.arange(n_units)
    for i, j in joins[::-1]:
        first[j] = first[i]
    return np.unique(first, return_inverse=True)[1].astype(np.int64)


def _without_ban(values: Values, joins: Index, alpha: float) -> Values:
    """The matrix after ``joins`` as it would be had no pair been forbidden."""
    np.fill_diagonal(values, -np.inf)
    scale = values.dtype.type(alpha)
    for i, j in joins:
        values[i] = np.minimum(values[i], values[j]) * scale
        values[:, i] = np.minimum(values[:, i], values[:, j]) * scale
        values[j] = values[:, j] = -np.inf
    return values


# -- the loop: once for numpy, once for numba --------------------------------------------------------------------------
#
# Both keep for every row its largest value and where it first stands. A join changes two columns, so that a row's
# largest value is either still known, or the changed value, or stale: then the old value stays as an upper bound, and
# the row is only searched again when its bound comes first among all rows.


def join_rows(values: Values, owners: Index, budgets: Index, joins: Index, done: int, alpha: Any) -> int:
    """Join until ``joins`` is full or only forbidden pairs are left; in numpy.

    Parameters
    ----------
    values: ``(N, N)`` correlations, ``-inf`` for what may not join; changed in place.
    owners: ``(N,)`` model of each unit, or ``JOINED``; changed in place.
    budgets: ``(models,)`` within-model joins left; changed in place.
    joins: ``(joins, 2)`` the pairs ``i < j``, of which the first ``done`` are filled; filled here.

    Returns
    -------
    How many pairs are filled.
    """
    where = values.argmax(axis=1)
    bound = values[np.arange(len(values)), where]
    fresh = np.ones(len(values), dtype=bool)
    gone = np.where(owners == JOINED, -np.inf, 0.0).astype(values.dtype)  # what to add to leave joined units out
    while done < len(joins):
        row = int(bound.argmax())
        while not fresh[row]:
            candidates = values[row] + gone
            where[row] = candidates.argmax()
            bound[row] = candidates[where[row]]
            fresh[row] = True
            row = int(bound.argmax())
        if bound[row] == -np.inf:
            return done
        i, j = sorted((row, int(where[row])))
        joins[done] = i, j
        done += 1
        gone[j] = -np.inf
        joined = np.minimum(values[i], values[j]) * alpha
        values[i] = joined
        changed = np.minimum(values[:, i], values[:, j]) * alpha  # columns are slow to read: once
        values[:, i] = changed
        changed += gone
        lost = (where == j) | ((where == i) & (changed < bound))
        higher = (changed > bound) | (fresh & ~lost & (changed == bound) & (i < where))
        fresh[lost] = False
        where[higher] = i
        fresh[higher] = True
        np.maximum(bound, changed, out=bound)
        joined += gone
        where[i] = joined.argmax()
        bound[i], bound[j] = joined[where[i]], -np.inf
        fresh[i] = fresh[j] = True
        model = owners[i]
        within = model == owners[j]
        owners[j] = JOINED
        if within:
            budgets[model] -= 1
            if budgets[model] <= 0:
                rows = np.flatnonzero(owners == model)
                values[np.ix_(rows, rows)] = -np.inf
                fresh[rows] = False
    return done


def _join_scalars(values: Values, owners: Index, budgets: Index, joins: Index, done: int, alpha: Any) -> int:
    """:func:`join_rows` in scalar steps, to be compiled."""
    n_units = len(owners)
    where = np.zeros(n_units, np.int64)
    bound = np.full(n_units, -np.inf)
    fresh = np.zeros(n_units, np.bool_)
    for row in range(n_units):
        bound[row] = np.inf if owners[row] != JOINED else -np.inf
        fresh[row] = owners[row] == JOINED
    while done < len(joins):
        while True:
            row = 0
            for k in range(1, n_units):
                if bound[k] > bound[row]:
                    row = k
            if fresh[row]:
                break
            best = 0
            for k in range(1, n_units):
                if values[row, k] > values[row, best]:
                    best = k
            where[row], bound[row], fresh[row] = best, values[row, best], True
        if bound[row] == -np.inf:
            return done
        i, j = min(row, where[row]), max(row, where[row])
        joins[done, 0], joins[done, 1] = i, j
        done += 1
        best = i
        for k in range(n_units):
            if owners[k] == JOINED or k in (i, j):
                continue
            values[i, k] = min(values[i, k], values[j, k]) * alpha
            if values[i, k] > values[i, best]:
                best = k
            value = min(values[k, i], values[k, j]) * alpha
            values[k, i] = value
            values[k, j] = -np.inf
            if value > bound[k]:
                where[k], bound[k], fresh[k] = i, value, True
            elif where[k] == j or (where[k] == i and value < bound[k]):
                fresh[k] = False
            elif fresh[k] and value == bound[k] and i < where[k]:
                where[k] = i
        values[i, j] = -np.inf
        where[i], bound[i], fresh[i] = best, values[i, best], True
        bound[j], fresh[j] = -np.inf, True
        model = owners[i]
        within = model == owners[j]
        owners[j] = JOINED
        if within:
            budgets[model] -= 1
            if budgets[model] <= 0:
                for row in range(n_units):
                    if owners[row] == model:
                        fresh[row] = False
                        for k in range(n_units):
                            if owners[k] == model:
                                values[row, k] = -np.inf
    return done


@cache
def _compiled() -> Callable[..., int] | None:
    """The compiled loop; None where numba is not installed."""
    try:
        from numba import njit
    except ImportError:
        return None
    try:
        return njit(cache=True)(_join_scalars)
    except RuntimeError:  # no folder to keep the machine code in can be written
        return njit(_join_scalars)


# -- spaces ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ZipOptions:
    """``alpha``: factor of a joined group's correlations, in (0, 1]. ``beta``: share of the joins that may lie within
    models. ``compatible``: at ``beta=0`` let one such join of each model pass, as the public code does."""

    alpha: float = 0.3
    beta: float = 0.125
    compatible: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.alpha <= 1:
            raise ValueError(f"alpha must be above 0 and at most 1, got {self.alpha}")
        if not 0 <= self.beta <= 1:
            raise ValueError(f"beta must lie in 0..1, got {self.beta}")


def zip_space(
    similarity: Values,
    sizes: Sequence[int],
    partners: Sequence[Index],
    options: ZipOptions,
    width: int | None = None,
) -> Index:
    """Zip the units of a space down to a width (heterogeneous_merging Sec. III-C where models differ in theirs).

    Where the units stay in equal, consecutive bundles, units are zipped only inside assigned bundles (mudsc Sec. 3.3).

    Parameters
    ----------
    similarity: ``(N, N)`` between the units of all models in order.
    sizes: units of each model.
    partners: for each model, which of its bundles goes with each of model 0's; one of one bundle where there are none.
    width: units that are left, at most as many as all models have; by default as many as the widest model has.

    Returns
    -------
    ``(N,)`` labels; with bundles, the labels of a bundle are consecutive too.

    Raises
    ------
    ValueError: units in several bundles, and the models' widths and the width that is left are not one.
    """
    bundles = len(partners[0])
    width = max(sizes) if width is None else width
    if bundles == 1:
        return match_groups(similarity, sizes, width, options.alpha, options.beta, options.compatible)
    if set(sizes) != {width} or width % bundles:
        raise ValueError(f"models of {list(sizes)} units do not fall into {bundles} bundles that can be assigned")
    per_bundle = width // bundles
    labels = np.empty(len(similarity), dtype=np.int64)
    for bundle in range(bundles):
        starts = [model * width + own[bundle] * per_bundle for model, own in enumerate(partners)]
        units = np.concatenate([np.arange(start, start + per_bundle) for start in starts])
        inside = match_groups(
            similarity[np.ix_(units, units)], [per_bundle] * len(sizes), per_bundle, options.alpha, options.beta,
            options.compatible,
        )  # fmt: skip
        labels[units] = bundle * per_bundle + inside
    return labels


def fitting(space: Space, options: OptionsT) -> OptionsT:
    """The options as a space allows them: units that the network compares with each other (a norm over channels) are only
    joined between models, since no map but a permutation commutes with that."""
    return replace(options, beta=0.0, compatible=False) if space.compared else options


def group_members(labels: Index) -> list[Index]:
    """The units of each group of two or more: ``(groups, size)`` for every size of group that there is."""
    order = np.argsort(labels, kind="stable")
    sizes = np.bincount(labels)
    starts = np.cumsum(sizes) - sizes
    return [order[starts[sizes == size][:, None] + np.arange(size)] for size in np.unique(sizes) if size > 1]


def shared_similarity(blocks: Values) -> float:
    """Summed over units, their mean similarity to the others of their group: ``blocks`` is ``(groups, size, size)``."""
    others = float(blocks.sum() - np.einsum("gii->", blocks))
    return others / (blocks.shape[1] - 1)


def group_similarity(similarity: Values, labels: Index) -> float:
    """The mean over all units of their mean similarity to the others of their group; a unit alone counts 0."""
    members = group_members(labels)
    total = sum(shared_similarity(similarity[units[:, :, None], units[:, None, :]]) for units in members)
    return total / len(labels)


def group_maps(labels: Index, sizes: Sequence[int]) -> list[UnitMap]:
    """Each model's map from the labels of all units."""
    merged = int(labels.max()) + 1
    return [Groups(own, merged) for own in np.split(labels, np.cumsum(sizes)[:-1])]


def _match(
    space: Space, moments: Moments, partners: Sequence[Index], options: ZipOptions
) -> tuple[list[UnitMap], float]:
    correlation = moments.joint_correlation()
    labels = zip_space(correlation, moments.sizes, partners, fitting(space, options), space.size)
    return group_maps(labels, moments.sizes), group_similarity(correlation, labels)


def _matched(problem: Problem, options: ZipOptions) -> Matching:
    """Ties are left as they fall where the groups of the public code are wanted."""
    matching = per_space(_match)(problem, options)
    return matching if options.compatible else settle(problem, matching)


ZIP = Matcher(
    "zip",
    "greedy joins within and between models (ZipIt!)",
    "full",
    ZipOptions,
    _matched,
    widths="any",
)
