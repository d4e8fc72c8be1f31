"""``dual_permute`` and ``dual_zip``: units that are alike in their weights and in their activations (mudsc Sec. 3.2).

The similarity of two units is ``balance * corr(weights) + (1 - balance) * corr(activations)``. A unit's weight vector
is everything that its space indexes, the rows that make the unit and the columns that read it, with the neighbouring
spaces mapped as they stand; running statistics are left out. The correlation of two such vectors is that of their
entries, centred and divided by the standard deviations, with the same convention for dead units as for activations.
The maps start from the matching of activations alone; then space after space, in random order, is matched anew.

With ``balance`` 0 the answer is that of ``permute`` and of ``zip``. With ``balance`` 1 ``dual_permute`` is the
coordinate descent of ``weight``, on correlations of weight vectors in place of their inner products and from the
matching of activations; where the vectors of all units have mean 0 and one length, it takes the same steps. In general
it is no descent on one number, since a tensor is normalised anew in each of its spaces: hence the patience.

The balance is a number, or is chosen: each of a grid is tried, and the merge with the best accuracy on training images
is kept (mudsc Sec. 4).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from mergeline.bundles import assign_bundles, match_bundled, moves
from mergeline.maps import Permutation, UnitMap
from mergeline.matching.problem import Matcher, Matching, Problem
from mergeline.matching.ties import settle
from mergeline.matching.weight import AlignedWeights, Panel, Together, arrange, descend, neighbours, panels
from mergeline.matching.zip import ZipOptions, fitting, group_maps, group_members, shared_similarity, zip_space

if TYPE_CHECKING:
    from torch import Tensor

    from mergeline.spaces import Space, Spaces

__all__ = ["DUAL_PERMUTE", "DUAL_ZIP", "GRID", "AlignedUnits", "DualOptions", "DualZipOptions", "ZippedWeights"]

Index = NDArray[np.int64]
Float64 = NDArray[np.float64]

DEAD = 1e-6
"""Share of a weight vector's mean square that its variance must exceed, or float32 cannot tell it from 0."""
GRID = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""The balances that are tried where it is chosen."""


@dataclass(frozen=True)
class DualOptions:
    """``balance``: share of the weights in the similarity, 0 to 1; ``grid``: the one of 0.1 to 0.9 whose merge is most
    accurate on training images. ``patience``: sweeps in a row without gain that end the search. ``max_sweeps``: sweeps
    at most."""

    balance: float | Literal["grid"] = 0.5
    patience: int = 5
    max_sweeps: int = 100

    def __post_init__(self) -> None:
        given: Any = self.balance  # from a file
        if given != "grid" and (isinstance(given, str) or not 0 <= given <= 1):
            raise ValueError(f"balance must lie in 0..1 or be grid, got {self.balance}")
        if self.patience < 1 or self.max_sweeps < 1:
            raise ValueError(f"patience and max_sweeps must be at least 1, got {self.patience} and {self.max_sweeps}")


@dataclass(frozen=True)
class DualZipOptions(DualOptions):
    """Those of ``dual_permute``, with ``alpha``, ``beta`` and ``compatible`` of ``zip``."""

    alpha: float = 0.3
    beta: float = 0.125
    compatible: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        ZipOptions(self.alpha, self.beta)


@dataclass(frozen=True)
class Spread:
    """Mean and variance of the ``length`` entries of each of some weight vectors, ``(vectors,)`` each."""

    length: int
    means: Float64
    variances: Float64

    @classmethod
    def of(cls, length: int, sums: Float64, squares: Float64) -> Spread:
        """From sums of entries and of squared entries."""
        means = sums / max(length, 1)
        return cls(length, means, np.maximum(squares / max(length, 1) - means**2, 0.0))

    @property
    def dead(self) -> NDArray[np.bool_]:
        """Vectors whose entries are all the same, to rounding: they correlate with nothing."""
        return self.variances <= DEAD * (self.variances + self.means**2)

    def take(self, index: Any) -> Spread:
        """Those of some of the vectors, as an index or a slice picks and shapes them."""
        return Spread(self.length, self.means[index], self.variances[index])


def _correlation(products: Float64, first: Spread, second: Spread) -> Float64:
    """Correlations of weight vectors from their inner products; the spreads broadcast against ``products``."""
    covariance = products / max(first.length, 1) - first.means * second.means
    with np.errstate(divide="ignore", invalid="ignore"):
        correlation = covariance / np.sqrt(first.variances * second.variances)
    return np.where(first.dead | second.dead, 0.0, correlation)


def _chosen(match: Callable[[Problem, Any, float], Matching]) -> Callable[[Problem, Any], Matching]:
    """A matcher whose balance is a number, or the best of the grid: the first among equals."""

    def matching(problem: Problem, options: DualOptions) -> Matching:
        if options.balance == 0:
            return settle(problem, match(problem, options, 0.0))
        if options.balance != "grid":
            return match(problem, options, float(options.balance))
        if problem.judge is None:
            raise ValueError("balance: grid needs labelled training images to choose by; set balance to a number")
        # Every balance draws what it would draw alone.
        tried = [match(replace(problem, generator=deepcopy(problem.generator)), options, own) for own in GRID]
        scores = [problem.judge(own.maps) for own in tried]
        best = max(range(len(GRID)), key=scores.__getitem__)
        report = {f"accuracy.balance{own:g}": score for own, score in zip(GRID, scores, strict=True)}
        return Matching(tried[best].maps, {"balance": GRID[best], **report, **tried[best].objective})

    return matching


# -- permutations ------------------------------------------------------------------------------------------------------


class AlignedUnits(AlignedWeights):
    """The weights and the activations of the reference and of one other model, permuted to it as far as is known.

    Parameters
    ----------
    activations: by space, the correlations ``(units, units)`` of activations.
    start: where to begin, by space.
    """

    def __init__(
        self,
        spaces: Spaces,
        reference: Mapping[str, Tensor],
        own: Mapping[str, Tensor],
        activations: Mapping[str, Float64],
        balance: float,
        start: Mapping[str, Index] | None = None,
    ) -> None:
        super().__init__(spaces, reference, own, start)
        self.activations = activations
        self.balance = balance
        self.spreads = {space: self._spread(space, self.reference) for space in self.index}
        # Permuting the entries of a vector changes neither of its sums.
        self.own_spreads = {space: self._spread(space, self.original) for space in self.index}

    def similarity(self, space: str) -> Float64:
        if space not in self.activations:  # bundles that no activation shows: their weights alone
            own = self.own_spreads[space].take(self.index[space])
            return self.balance * _correlation(self.product(space), self.spreads[space].take(np.s_[:, None]), own)
        activations = self.activations[space][:, self.index[space]]
        if self.balance == 0:
            return activations
        own = self.own_spreads[space].take(self.index[space])
        weights = _correlation(self.product(space), self.spreads[space].take(np.s_[:, None]), own)
        return self.balance * weights + (1 - self.balance) * activations

    def objective(self) -> float:
        """The mean similarity of matched units over all spaces."""
        total = sum(
            float(self.activations[space][np.arange(len(index)), index].sum()) * (1 - self.balance)
            for space, index in self.index.items()
            if space in self.activations
        )
        if self.balance:
            pairs = [a * self.own(number) for number, a in enumerate(self.reference)]
            for space, index in self.index.items():
                own = self.own_spreads[space].take(index)
                matched = _correlation(self._sums(space, pairs), self.spreads[space], own)
                total += self.balance * float(matched.sum())
        return total / sum(len(index) for index in self.index.values())

    def _sums(self, space: str, tensors: Sequence[Tensor]) -> Float64:
        """For each unit, the sum over all its entries in blocks."""
        import torch

        total = np.zeros(self.spaces[space].size)
        for number, side in self.places[space]:
            total += tensors[number].sum(dim=(0, 2 - side), dtype=torch.float64).cpu().numpy()
        return total

    def _spread(self, space: str, tensors: Sequence[Tensor]) -> Spread:
        entries = sum(tensors[number].numel() for number, _ in self.places.get(space, ()))
        squares = self._sums(space, [tensor.square() for tensor in tensors])
        return Spread.of(entries // self.spaces[space].size, self._sums(space, tensors), squares)


def _match_permutations(problem: Problem, options: DualOptions, balance: float) -> Matching:
    sets = problem.spaces.together()
    maps: list[dict[str, UnitMap]] = [
        {space.name: Permutation.identity(space.size) for space in problem.spaces.movable}
    ]
    objective = {}
    for model, generator in enumerate(problem.generator.spawn(problem.n_models - 1), start=1):
        activations = {s.name: problem.moments[s.name].correlation(0, model) for s in problem.spaces.free}
        start: dict[str, Index] = {}
        for together in sets:
            start |= _start(together, activations)
        units = AlignedUnits(
            problem.spaces, problem.comparable[0], problem.comparable[model], activations, balance, start
        )
        objective[f"model{model}.start"] = units.objective()
        objective[f"model{model}"] = descend(
            units, sets, neighbours(units.layout), generator, max_sweeps=options.max_sweeps, patience=options.patience
        )
        maps.append({name: Permutation(index) for name, index in units.index.items()})
    return Matching(tuple(maps), objective)


def _start(together: Together, activations: Mapping[str, Float64]) -> dict[str, Index]:
    """The matching of activations alone; bundles that no activation shows go with their members."""
    bundles = together[0][1]
    seen = [space for space, _ in together if space.name in activations]
    found = match_bundled([activations[s.name] for s in seen], bundles, bundles == 1 or moves(together))
    start = {space.name: index for space, index in zip(seen, found, strict=True)}
    for space, _ in together:
        if space.name not in start:
            start[space.name] = found[0].reshape(bundles, -1)[:, 0] // (len(found[0]) // bundles)
    return start


# -- groups ------------------------------------------------------------------------------------------------------------


class ZippedWeights:
    """The weights and the activations of several models, zipped as far as is known.

    The weights of a neighbour are taken as the merge will take them: what reads its units reads merged ones, and what
    makes its units is averaged over the members of a group (times the number of models, so that a group of one unit of
    each weighs as much as a unit).

    Parameters
    ----------
    activations: by space, the correlations ``(N, N)`` between the units of all models.
    solve: labels of all units of a space from their similarity and, for each model, its bundles' partners.
    """

    def __init__(
        self,
        spaces: Spaces,
        states: Sequence[Mapping[str, Tensor]],
        activations: Mapping[str, Float64],
        balance: float,
        solve: Callable[[Space, Float64, Sequence[Index]], Index],
    ) -> None:
        self.spaces = spaces
        self.n_models = len(states)
        self.device = next(iter(states[0].values())).device
        self.layout = panels(spaces, states)
        self.tensors = [[arrange(panel, spaces, state) for panel in self.layout] for state in states]
        self.activations = activations
        self.balance = balance
        self.solve = solve
        self.labels: dict[str, Index] = {}
        for together in spaces.together():
            self.labels |= self._solved(together, activations)

    def similarity(self, space: str) -> Float64:
        """``(N, N)`` between the units of all models, as the neighbours are mapped now."""
        activations = self.activations[space]
        if self.balance == 0:
            return activations
        vectors, spread = self._vectors(space)
        products = (vectors @ vectors.T).double().cpu().numpy()
        weights = _correlation(products, spread.take(np.s_[:, None]), spread)
        return self.balance * weights + (1 - self.balance) * activations

    def settle(self, together: Together) -> bool:
        """Zip a space, or several with common bundles, anew while all others stay; whether that changed anything."""
        seen = [space.name for space, _ in together if space.name in self.activations]
        labels = self._solved(together, {name: self.similarity(name) for name in seen})
        changed = any(not np.array_equal(own, self.labels[name]) for name, own in labels.items())
        self.labels |= labels
        return changed

    def _solved(self, together: Together, similarities: Mapping[str, Float64]) -> dict[str, Index]:
        bundles = together[0][1]
        partners = [np.arange(bundles)]
        for model in range(1, self.n_models):
            between = []
            for space, _ in together:
                if space.name in similarities:
                    begin = model * space.size
                    between.append(similarities[space.name][: space.size, begin : begin + space.size])
            partners.append(assign_bundles(between, bundles, moves(together)))
        return {
            space.name: self.solve(space, similarities[space.name], partners)
            for space, _ in together
            if space.name in similarities
        }

    def objective(self) -> float:
        """The mean over all units of their mean similarity to those they are merged with; a unit alone counts 0.

        The greedy solver does not maximise the summed similarity of pairs (mudsc Eq. 3), of which large groups have
        most.
        """
        total, n_units = 0.0, 0
        for space, labels in self.labels.items():
            vectors, spread = self._vectors(space) if self.balance else (None, None)
            for members in group_members(labels):
                rows, columns = members[:, :, None], members[:, None, :]
                similarity = (1 - self.balance) * self.activations[space][rows, columns]
                if vectors is not None and spread is not None:
                    chosen = vectors[members.reshape(-1)].unflatten(0, members.shape)
                    products = (chosen @ chosen.mT).double().cpu().numpy()
                    similarity += self.balance * _correlation(products, spread.take(rows), spread.take(columns))
                total += shared_similarity(similarity)
            n_units += len(labels)
        return total / n_units

    def snapshot(self) -> dict[str, Index]:
        """The labels of every space, for :meth:`restore`."""
        return dict(self.labels)

    def restore(self, labels: Mapping[str, Index]) -> None:
        """Go back to a snapshot."""
        self.labels = dict(labels)

    def _vectors(self, space: str) -> tuple[Tensor, Spread]:
        """The weight vectors of all units of all models, ``(N, entries)``."""
        import torch

        parts: list[list[Tensor]] = [[] for _ in range(self.n_models)]
        for number, panel in enumerate(self.layout):
            for side, name in enumerate(panel.spaces):
                if name == space:
                    for model in range(self.n_models):
                        parts[model].append(self._side(number, panel, side, model))
        size = self.spaces[space].size
        vectors = torch.cat([torch.cat(own, 1) if own else torch.zeros(size, 0, device=self.device) for own in parts])
        sums = vectors.sum(1, dtype=torch.float64).cpu().numpy()
        squares = vectors.square().sum(1, dtype=torch.float64).cpu().numpy()
        return vectors, Spread.of(vectors.shape[1], sums, squares)

    def _side(self, number: int, panel: Panel, side: int, model: int) -> Tensor:
        """One model's panel as vectors of the units on one side, the other side mapped, ``(units, entries)``."""
        import torch

        tensor = self.tensors[model][number]
        if len(panel.spaces) == 2 and panel.spaces[1 - side] in self.labels:
            other = panel.spaces[1 - side]
            maps = group_maps(self.labels[other], [self.spaces[other].size] * self.n_models)
            tensor = maps[model].merge(tensor, 2 - side)
            if panel.axes[0][1 - side].produces:
                mass = sum(unit_map.mass() for unit_map in maps)
                share = torch.from_numpy(self.n_models / mass).to(tensor)
                tensor = tensor * (share[:, None] if side else share)
        return tensor.movedim(1 + side, 0).flatten(1)


def _match_groups(problem: Problem, options: DualZipOptions, balance: float) -> Matching:
    spaces = problem.spaces.free
    zip_options = ZipOptions(options.alpha, options.beta, options.compatible)

    def solve(space: Space, similarity: Float64, partners: Sequence[Index]) -> Index:
        return zip_space(similarity, [space.size] * problem.n_models, partners, fitting(space, zip_options))

    activations = {space.name: problem.moments[space.name].joint_correlation() for space in spaces}
    weights = ZippedWeights(problem.spaces, problem.comparable, activations, balance, solve)
    objective = {"start": weights.objective()}
    objective["best"] = descend(
        weights, problem.spaces.together(), neighbours(weights.layout), problem.generator,
        max_sweeps=options.max_sweeps, patience=options.patience,
    )  # fmt: skip
    maps: list[dict[str, UnitMap]] = [{} for _ in problem.states]
    for space in spaces:
        found = group_maps(weights.labels[space.name], [space.size] * problem.n_models)
        for own, unit_map in zip(maps, found, strict=True):
            own[space.name] = unit_map
    return Matching(tuple(maps), objective)


def _by_accuracy(options: DualOptions) -> bool:
    return options.balance == "grid"


DUAL_PERMUTE = Matcher(
    "dual_permute",
    "the permutation with the largest correlation of weights and activations together (MuDSC)",
    "cross",
    DualOptions,
    _chosen(_match_permutations),
    judged=_by_accuracy,
)
DUAL_ZIP = Matcher(
    "dual_zip",
    "greedy joins by the correlation of weights and activations together (MuDSC)",
    "full",
    DualZipOptions,
    _chosen(_match_groups),
    judged=_by_accuracy,
)
