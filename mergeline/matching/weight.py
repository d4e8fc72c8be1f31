"""``weight``: the permutation with the largest inner product of weights, by coordinate descent.

vanishing_feature ("WM") and mudsc ("Rebasin"). One space after the other, in random order, is given the best
assignment while all others stay; that can only raise the inner product of the two networks' weights, so that sweeps end
at a local optimum. Batch-norm weights and biases count; running statistics are permuted along but do not count.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mergeline.bundles import match_bundled, moves, random_bundled
from mergeline.maps import Permutation, UnitMap
from mergeline.matching.problem import Matcher, Matching, Problem

if TYPE_CHECKING:
    from torch import Tensor

    from mergeline.spaces import Axis, Space, Spaces

__all__ = [
    "WEIGHT",
    "AlignedWeights",
    "Panel",
    "WeightOptions",
    "arrange",
    "descend",
    "neighbours",
    "panels",
]

Index = NDArray[np.int64]
Float64 = NDArray[np.float64]
Together = Sequence[tuple["Space", int]]
"""Spaces with common bundles, and how many of them."""

STATISTICS = ("running_mean", "running_var")
"""State that a network measures and does not learn: it says nothing about which units are alike."""
ROUNDING = 1e-7
"""Gain, relative to what is matched already, that float32 products cannot tell from none."""


# -- the weights of a network, laid out for matrix products ------------------------------------------------------------


@dataclass(frozen=True)
class Panel:
    """Weights of one network as an array ``(rest, rows, columns)``.

    With two ``spaces``: a part of one tensor, whose two unit axes are the rows and the columns, and whose other axes (kernel
    positions, positions flattened before a linear layer) are ``rest``; so the products of either axis need no copy.
    With one: all that only this space indexes, side by side, ``(1, units, entries per unit)``.
    """

    tensors: tuple[str, ...]
    spaces: tuple[str, ...]
    axes: tuple[tuple[Axis, ...], ...]
    """For each tensor, its axes in ``spaces``."""
    others: tuple[tuple[tuple[int, Index], ...], ...] = ()
    """For each tensor of one space, entries of other axes that are counted, where not all are."""


def panels(spaces: Spaces, states: Sequence[Mapping[str, Tensor]]) -> tuple[Panel, ...]:
    """The weights that are compared: all that a space that may move indexes, but no running statistics and no integers.

    A tensor that a model lacks or has in another shape (the classifiers of tasks with different numbers of classes) is
    left out: its rows have no counterpart.

    Raises
    ------
    ValueError: more than two axes of one tensor carry units.
    """
    found: list[Panel] = []
    alone: dict[str, list[tuple[str, Axis, tuple[tuple[int, Index], ...]]]] = {}
    movable = {space.name for space in spaces.movable}
    for name, entries in spaces.tensors.items():
        free = [(space, axis) for space, axis in entries if space in movable]
        shapes = {tuple(state[name].shape) if name in state else None for state in states}
        if (
            not free
            or len(shapes) > 1
            or None in shapes
            or name.endswith(STATISTICS)
            or not states[0][name].is_floating_point()
        ):
            continue
        places = sorted({axis.axis for _, axis in free})
        if len(places) > 2:
            raise ValueError(f"{name!r} has {len(places)} axes of units; weight matching knows tensors of up to two")
        if len(places) == 1:
            for space, axis in free:
                alone.setdefault(space, []).append((name, axis, ()))
            continue
        first, second = ([entry for entry in free if entry[1].axis == place] for place in places)
        found += [Panel((name,), (one, other), ((axis, own),)) for one, axis in first for other, own in second]
        for mine, others in ((first, second), (second, first)):
            left = np.setdiff1d(np.arange(others[0][1].size), np.concatenate([a.index.reshape(-1) for _, a in others]))
            if len(left):
                for space, axis in mine:
                    alone.setdefault(space, []).append((name, axis, ((others[0][1].axis, left),)))
    found += [
        Panel(
            tuple(name for name, _, _ in members),
            (space,),
            tuple((axis,) for _, axis, _ in members),
            tuple(others for _, _, others in members),
        )
        for space, members in alone.items()
    ]
    return tuple(found)


def arrange(panel: Panel, spaces: Spaces, state: Mapping[str, Tensor]) -> Tensor:
    """The panel of one network, ``(rest, rows, columns)``, float32."""
    import torch

    from mergeline.spaces import spread, take

    sizes = [spaces[space].size for space in panel.spaces]
    parts = []
    for number, (name, axes) in enumerate(zip(panel.tensors, panel.axes, strict=True)):
        tensor = state[name].detach().float()
        if name in spaces.grouped:
            tensor = spread(tensor, *spaces.grouped[name])
        for place, chosen in panel.others[number] if panel.others else ():
            tensor = tensor.index_select(place, torch.from_numpy(chosen).to(tensor.device))
        # From the last axis on, so that splitting one does not move those before it.
        for axis in sorted(axes, key=lambda own: -own.axis):
            tensor = take(tensor, axis)
        shift = [axis.axis + sum(other.axis < axis.axis for other in axes) for axis in axes]
        if len(axes) == 2:
            parts.append(tensor.movedim(shift, (-2, -1)).reshape(-1, *sizes))
        else:
            parts.append(tensor.movedim(shift[0], 0).reshape(1, sizes[0], -1))
    return torch.cat(parts, dim=2).contiguous()


def neighbours(layout: Sequence[Panel]) -> dict[str, set[str]]:
    """The spaces whose maps change what a space is matched on; itself too where one tensor has it on both axes."""
    found: dict[str, set[str]] = {}
    for panel in layout:
        for position, space in enumerate(panel.spaces):
            found.setdefault(space, set()).update(panel.spaces[:position] + panel.spaces[position + 1 :])
    return found


class AlignedWeights:
    """The weights of the reference and those of one other model, permuted to it as far as is known.

    The products of a space's weights depend on where its neighbours stand, and on nothing else: they are kept, and when units of
    a neighbour have moved, the products of these units alone are put in place of what they were (a difference of as low a rank as
    units have moved). The objective is followed from gain to gain.

    Parameters
    ----------
    spaces: the spaces of both.
    reference, own: their state dicts.
    start: where to begin, by space (unit ``i`` of the reference goes with unit ``start[i]``); identity by default.
    """

    def __init__(
        self,
        spaces: Spaces,
        reference: Mapping[str, Tensor],
        own: Mapping[str, Tensor],
        start: Mapping[str, Index] | None = None,
    ) -> None:
        self.spaces = spaces
        self.layout = panels(spaces, [reference, own])
        self.reference = [arrange(panel, spaces, reference) for panel in self.layout]
        self.original = [arrange(panel, spaces, own) for panel in self.layout]
        self.index: dict[str, Index] = {space.name: np.arange(space.size) for space in spaces.movable}
        self.places: dict[str, list[tuple[int, int]]] = {name: [] for name in self.index}
        for number, panel in enumerate(self.layout):
            for side, space in enumerate(panel.spaces):
                self.places[space].append((number, side))
        self._stacks: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}
        self._kept: dict[str, _Products] = {}
        self._value: float | None = None
        self.restore(start or {})

    def own(self, number: int) -> Tensor:
        """A panel of the other model as its units are permuted now."""
        tensor = self.original[number]
        for side, space in enumerate(self.layout[number].spaces):
            tensor = _chosen(tensor, 1 + side, self.index[space])
        return tensor

    def stacks(self, number: int, side: int) -> tuple[Tensor, Tensor]:
        """A panel of the reference and of the other model's units in their own order, ``(rest, entries, units)`` each: its
        units last, so that entries of a neighbour are whole rows, and all ``rest`` make one product."""
        found = self._stacks.get((number, side))
        if found is None:
            found = self.reference[number], self.original[number]
            if side == 0:
                found = found[0].transpose(1, 2), found[1].transpose(1, 2)
                if len(self.layout[number].spaces) == 2:  # else there is one product in all, which needs no copy
                    found = found[0].contiguous(), found[1].contiguous()
            self._stacks[number, side] = found
        return found

    def product(self, space: str, among: Index | None = None) -> Float64:
        """``sum over axes of W_reference . W_own'``, ``(units, units)``, as the units are permuted now; ``among``: of these
        units alone."""
        if among is not None:
            return self._product_among(space, among)
        kept = self._kept.get(space)
        if kept is None or not kept.follow(self):
            kept = self._kept[space] = _Products.of(self, space)
        return np.take(kept.total, self.index[space], axis=1)

    def _product_among(self, space: str, among: Index) -> Float64:
        total: Tensor | None = None
        for number, side in self.places[space]:
            reference, original = self.stacks(number, side)
            a, b = _chosen(reference, 2, among), _chosen(original, 2, self.index[space][among])
            for name in _others(self.layout[number], side):
                b = _chosen(b, 1, self.index[name])
            total = _with_product(total, a, b)
        return np.zeros((len(among),) * 2) if total is None else total.double().cpu().numpy()

    def norms(self, space: str) -> tuple[Float64, Float64]:
        """The norms of the weights of the reference's units, and of the other's as they are permuted now, ``(units,)`` each."""
        import torch

        sums = [torch.zeros(self.spaces[space].size, dtype=torch.float64) for _ in range(2)]
        for number, side in self.places[space]:
            for total, panel in zip(sums, (self.reference[number], self.original[number]), strict=True):
                total += panel.double().square().sum((0, 2 - side)).cpu()
        first, second = (total.sqrt().numpy() for total in sums)
        return first, second[self.index[space]]

    def similarity(self, space: str) -> Float64:
        """What an assignment of the space's units should make large, ``(units, units)``, as they are permuted now."""
        return self.product(space)

    def objective(self) -> float:
        """The inner product of all weights of the two networks, each counted once."""
        import torch

        if self._value is None:
            self._value = sum(
                float((a * self.own(number)).sum(dtype=torch.float64)) for number, a in enumerate(self.reference)
            )
        return self._value

    def settle(self, together: Together) -> bool:
        """Give a space, or several with common bundles, the best assignment while all others stay; whether that changed
        anything."""
        if len(together) == 1:
            return self._settle_alone(*together[0], movable=moves(together))
        if not moves(together):
            return self._settle_each(together)
        before, kept = self.objective(), self.snapshot()
        similarities = [self.similarity(space.name) for space, _ in together]
        steps = match_bundled(similarities, together[0][1])
        if self._gain(similarities, steps):
            for (space, _), step in zip(together, steps, strict=True):
                self.move(space.name, step)
            # Spaces of one set may be neighbours: what is best for each is not always so for all.
            if self.objective() > before:
                return True
            self.restore(kept)
        return self._settle_each([(space, bundles) for space, bundles in together if space.size > bundles])

    def _settle_each(self, together: Together) -> bool:
        changed = False
        for space, bundles in together:
            changed |= self._settle_alone(space, bundles, movable=False)
        return changed

    def _settle_alone(self, space: Space, bundles: int, movable: bool) -> bool:
        matrix = self.similarity(space.name)
        steps = match_bundled([matrix], bundles, movable)
        if not self._gain([matrix], steps):
            return False
        before, step = self._value, steps[0]
        self.move(space.name, step)
        if before is not None and space.name not in _neighbours(self, space.name):
            # Its products are linear in its own map: the objective is known without multiplying all weights again.
            self._value = before + float((matrix[np.arange(len(step)), step] - np.diagonal(matrix)).sum())
        return True

    @staticmethod
    def _gain(similarities: Sequence[Float64], steps: Sequence[Index]) -> bool:
        gain = total = 0.0
        for matrix, step in zip(similarities, steps, strict=True):
            now = np.diagonal(matrix)
            gain += float((matrix[np.arange(len(step)), step] - now).sum())
            total += float(np.abs(now).sum())
        return gain > ROUNDING * total

    def move(self, space: str, step: Index) -> None:
        """Permute the units of a space, as they are now, by ``step``."""
        self.index[space] = self.index[space][step]
        self._value = None

    def snapshot(self) -> dict[str, Index]:
        """Where every space stands, for :meth:`restore`."""
        return dict(self.index)

    def restore(self, index: Mapping[str, Index]) -> None:
        """Go back to a snapshot."""
        for space, target in index.items():
            if not np.array_equal(target, self.index[space]):
                self.move(space, np.argsort(self.index[space])[target])


def _chosen(tensor: Tensor, axis: int, index: Index) -> Tensor:
    import torch

    return tensor.index_select(axis, torch.from_numpy(index).to(tensor.device))


def _with_product(total: Tensor | None, a: Tensor, b: Tensor) -> Tensor:
    """``total`` (changed) with the inner products of the last axes of two ``(rest, entries, units)``, ``(units, units)``."""
    first, second = a.flatten(0, 1).T, b.flatten(0, 1)
    return first @ second if total is None else total.addmm_(first, second)


def _others(panel: Panel, side: int) -> tuple[str, ...]:
    """The space on the other side of a panel, if there is one."""
    return panel.spaces[1 - side : 2 - side] if len(panel.spaces) == 2 else ()


@dataclass
class _Products:
    """The products of one space's weights, the other model's units in their own order, and where its neighbours stood for them."""

    space: str
    total: Float64
    stood: dict[str, Index]
    """By neighbour."""
    changed: float = 0.0
    """How often, all in all, a neighbour's products were exchanged: what rounding has added up."""

    @classmethod
    def of(cls, weights: AlignedWeights, space: str) -> _Products:
        """All of them, from the start."""
        size = weights.spaces[space].size
        stood = {name: weights.index[name] for name in _neighbours(weights, space)}
        total: Tensor | None = None
        for number, side in weights.places[space]:
            a, b = weights.stacks(number, side)
            for name in _others(weights.layout[number], side):
                b = _chosen(b, 1, stood[name])
            total = _with_product(total, a, b)
        return cls(space, np.zeros((size, size)) if total is None else total.double().cpu().numpy(), stood)

    def follow(self, weights: AlignedWeights) -> bool:
        """Exchange the products of what has moved; false where all of them had better be made again."""
        moved = {
            name: np.flatnonzero(weights.index[name] != then)
            for name, then in self.stood.items()
            if weights.index[name] is not then
        }
        moved = {name: units for name, units in moved.items() if len(units)}
        self.changed += sum(len(units) / len(self.stood[name]) for name, units in moved.items()) / max(
            1, len(self.stood)
        )
        if self.changed > MOST_CHANGES:
            return False
        difference: Tensor | None = None
        for number, side in weights.places[self.space] if moved else ():
            for other in _others(weights.layout[number], side):
                if other not in moved:
                    continue
                units, (reference, original) = moved[other], weights.stacks(number, side)
                both = np.concatenate([weights.index[other][units], self.stood[other][units]])
                now, then = _chosen(original, 1, both).split(len(units), 1)
                difference = _with_product(difference, _chosen(reference, 1, units), now - then)
        if difference is not None:
            self.total += difference.cpu().numpy()
        self.stood.update({name: weights.index[name] for name in moved})
        return True


MOST_CHANGES = 4.0
"""Exchanges of all products after which they are made anew, so that rounding does not add up."""


def _neighbours(weights: AlignedWeights, space: str) -> set[str]:
    return {name for number, side in weights.places[space] for name in _others(weights.layout[number], side)}


# -- sweeps ------------------------------------------------------------------------------------------------------------


class Coordinates(Protocol):
    """Maps of all spaces, improved one set of spaces at a time."""

    def settle(self, together: Together) -> bool:
        """Give one set its best maps while the others stay; whether that changed them."""

    def objective(self) -> float:
        """What the maps are worth."""

    def snapshot(self) -> Any:
        """The maps, for :meth:`restore`."""

    def restore(self, snapshot: Any) -> None:
        """Go back to a snapshot."""


def descend(
    coordinates: Coordinates,
    sets: Sequence[Together],
    near: Mapping[str, set[str]],
    generator: np.random.Generator,
    *,
    max_sweeps: int,
    tolerance: float = 0.0,
    patience: int = 1,
) -> float:
    """Sweep over the spaces in random order until it no longer gains; leave the best maps in ``coordinates``.

    A set is only looked at again when one of its neighbours has changed. A sweep that changes nothing ends the search
    (no other order would change anything either), and so do ``patience`` sweeps in a row without gain, each from the
    best maps so far.

    Parameters
    ----------
    sets: spaces with common bundles (:meth:`mergeline.spaces.Spaces.together`).
    near: the spaces that each space's best map depends on (:func:`neighbours`).
    tolerance: gain of a sweep, relative to the objective, that counts as none.

    Returns
    -------
    The best objective.
    """
    numbers = count(1)
    around = _around(sets, near)
    versions = [0] * len(sets)
    settled: dict[int, tuple[int, ...]] = {}

    def state(number: int) -> tuple[int, ...]:
        return (versions[number], *(versions[other] for other in sorted(around[number])))

    best, best_maps, best_versions = coordinates.objective(), coordinates.snapshot(), list(versions)
    idle = 0
    for _ in range(max_sweeps):
        changed = False
        for number in generator.permutation(len(sets)).tolist():
            if settled.get(number) == state(number):
                continue
            moved = coordinates.settle(sets[number])
            if moved:
                versions[number] = next(numbers)
                changed = True
            if not moved or number not in around[number]:
                settled[number] = state(number)
        if not changed:
            break
        value = coordinates.objective()
        idle = 0 if value > best + tolerance * abs(best) else idle + 1
        if value > best:
            best, best_maps, best_versions = value, coordinates.snapshot(), list(versions)
        if idle >= patience:
            break
        if idle:
            coordinates.restore(best_maps)
            versions = list(best_versions)
    coordinates.restore(best_maps)
    return best


def _around(sets: Sequence[Together], near: Mapping[str, set[str]]) -> list[set[int]]:
    """The numbers of the sets that each set's best maps depend on."""
    home = {space.name: number for number, together in enumerate(sets) for space, _ in together}
    return [
        {home[other] for space, _ in together for other in near.get(space.name, ()) if other in home}
        for together in sets
    ]


# -- the matcher -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class WeightOptions:
    """``restarts``: searches, of which the best is kept; the first starts from no permutation, the others from random
    ones. ``tolerance``: relative gain of a sweep that ends a search. ``max_sweeps``: sweeps at most."""

    restarts: int = 1
    tolerance: float = 1e-6
    max_sweeps: int = 100

    def __post_init__(self) -> None:
        if self.restarts < 1 or self.max_sweeps < 1:
            raise ValueError(f"restarts and max_sweeps must be at least 1, got {self.restarts} and {self.max_sweeps}")
        if self.tolerance < 0:
            raise ValueError(f"tolerance must not be negative, got {self.tolerance}")


def _match(problem: Problem, options: WeightOptions) -> Matching:
    sets = problem.spaces.together()
    maps: list[dict[str, UnitMap]] = [
        {space.name: Permutation.identity(space.size) for space in problem.spaces.movable}
    ]
    objective = {}
    # A stream for each search, so that one more restart changes none of those before it.
    for model, stream in enumerate(problem.generator.spawn(problem.n_models - 1), start=1):
        weights = AlignedWeights(problem.spaces, problem.comparable[0], problem.comparable[model])
        near = neighbours(weights.layout)
        found: list[tuple[float, dict[str, Index]]] = []
        for restart, generator in enumerate(stream.spawn(options.restarts)):
            if restart:
                weights.restore({k: v for together in sets for k, v in random_bundled(together, generator).items()})
            value = descend(weights, sets, near, generator, max_sweeps=options.max_sweeps, tolerance=options.tolerance)
            objective[f"model{model}.restart{restart}"] = value
            found.append((value, weights.snapshot()))
        best = max(found, key=lambda entry: entry[0])[1]
        maps.append({name: Permutation(index) for name, index in best.items()})
    return Matching(tuple(maps), objective)


WEIGHT = Matcher(
    "weight",
    "the permutation with the largest inner product of weights",
    "none",
    WeightOptions,
    _match,
)
