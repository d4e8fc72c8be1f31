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

from mergeline.maps import Permutation, UnitMap
from mergeline.matching.permute import match_grouped
from mergeline.matching.problem import Matcher, Matching, Problem

if TYPE_CHECKING:
    from torch import Tensor

    from mergeline.spaces import Axis, Space, Spaces

__all__ = [
    "WEIGHT",
    "AlignedWeights",
    "Block",
    "WeightOptions",
    "arrange",
    "blocks",
    "descend",
    "neighbours",
    "weight_objective",
]

Index = NDArray[np.int64]
Float64 = NDArray[np.float64]

STATISTICS = ("running_mean", "running_var")
"""State that a network measures and does not learn: it says nothing about which units are alike."""
ROUNDING = 1e-7
"""Gain, relative to what is matched already, that float32 products cannot tell from none."""


# -- the weights of a network, laid out for matrix products ------------------------------------------------------------


@dataclass(frozen=True)
class Block:
    """Weights of one network as an array ``(rest, rows, columns)``.

    With two ``spaces``: one tensor, whose two unit axes are the rows and the columns, and whose other axes (kernel
    positions, positions flattened before a linear layer) are ``rest``; so the products of either axis need no copy.
    With one: all tensors that only this free space indexes, side by side, ``(1, units, entries per unit)``.
    """

    tensors: tuple[str, ...]
    spaces: tuple[str, ...]
    axes: tuple[tuple[Axis, ...], ...]
    """For each tensor, its axes in ``spaces``."""


def blocks(spaces: Spaces, states: Sequence[Mapping[str, Tensor]]) -> tuple[Block, ...]:
    """The weights that are compared: all that a free space indexes, but no running statistics and no integers.

    A tensor that a model lacks or has in another shape (the classifiers of tasks with different numbers of classes) is
    left out: its rows have no counterpart.

    Raises
    ------
    ValueError: more than two axes of one tensor carry free units.
    """
    found: list[Block] = []
    alone: dict[str, list[tuple[str, Axis]]] = {}
    for name, entries in spaces.tensors.items():
        free = [(space, axis) for space, axis in entries if not spaces[space].fixed]
        shapes = {tuple(state[name].shape) if name in state else None for state in states}
        if (
            not free
            or len(shapes) > 1
            or None in shapes
            or name.endswith(STATISTICS)
            or not states[0][name].is_floating_point()
        ):
            continue
        if len(free) > 2:
            raise ValueError(f"{name!r} has {len(free)} axes of free units; weight matching knows tensors of up to two")
        if len(free) == 1:
            alone.setdefault(free[0][0], []).append((name, free[0][1]))
        else:
            found.append(Block((name,), tuple(space for space, _ in free), (tuple(axis for _, axis in free),)))
    found += [
        Block(tuple(name for name, _ in members), (space,), tuple((axis,) for _, axis in members))
        for space, members in alone.items()
    ]
    return tuple(found)


def arrange(block: Block, spaces: Spaces, state: Mapping[str, Tensor]) -> Tensor:
    """The block of one network, ``(rest, rows, columns)``, float32."""
    import torch

    sizes = [spaces[space].size for space in block.spaces]
    parts = []
    for name, axes in zip(block.tensors, block.axes, strict=True):
        tensor = state[name].detach().float()
        # From the last axis on, so that splitting one does not move those before it.
        for axis, size in sorted(zip(axes, sizes, strict=True), key=lambda entry: -entry[0].axis):
            tensor = tensor.unflatten(axis.axis, (size, axis.repeat))
        shift = [axis.axis + sum(other.axis < axis.axis for other in axes) for axis in axes]
        if len(axes) == 2:
            parts.append(tensor.movedim(shift, (-2, -1)).reshape(-1, *sizes))
        else:
            parts.append(tensor.movedim(shift[0], 0).reshape(1, sizes[0], -1))
    return torch.cat(parts, dim=2).contiguous()


def neighbours(layout: Sequence[Block]) -> dict[str, set[str]]:
    """The spaces whose maps change what a space is matched on; itself too where one tensor has it on both axes."""
    found: dict[str, set[str]] = {}
    for block in layout:
        for position, space in enumerate(block.spaces):
            found.setdefault(space, set()).update(block.spaces[:position] + block.spaces[position + 1 :])
    return found


class AlignedWeights:
    """The weights of the reference and those of one other model, permuted to it as far as is known.

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
        self.layout = blocks(spaces, [reference, own])
        self.reference = [arrange(block, spaces, reference) for block in self.layout]
        self.original = [arrange(block, spaces, own) for block in self.layout]
        self.own = list(self.original)
        self.index: dict[str, Index] = {space.name: np.arange(space.size) for space in spaces.free}
        self.places: dict[str, list[tuple[int, int]]] = {name: [] for name in self.index}
        for number, block in enumerate(self.layout):
            for side, space in enumerate(block.spaces):
                self.places[space].append((number, side))
        self.restore(start or {})

    def product(self, space: str) -> Float64:
        """``sum over axes of W_reference . W_own'``, ``(units, units)``, as the units are permuted now."""
        import torch

        total: Tensor | None = None
        for number, side in self.places[space]:
            a, b = self.reference[number], self.own[number]
            if total is None:
                total = torch.zeros(a.shape[1 + side], a.shape[1 + side], device=a.device)
            if side == 0:
                for rows, own_rows in zip(a, b, strict=True):
                    total.addmm_(rows, own_rows.T)
            else:
                total.addmm_(a.flatten(0, 1).T, b.flatten(0, 1))
        return np.zeros((self.spaces[space].size,) * 2) if total is None else total.double().cpu().numpy()

    def similarity(self, space: str) -> Float64:
        """What an assignment of the space's units should make large, ``(units, units)``, as they are permuted now."""
        return self.product(space)

    def objective(self) -> float:
        """The inner product of all weights of the two networks, each counted once."""
        import torch

        return sum(float((a * b).sum(dtype=torch.float64)) for a, b in zip(self.reference, self.own, strict=True))

    def settle(self, space: Space) -> bool:
        """Give a space the best assignment while all others stay; whether that changed it."""
        matrix = self.similarity(space.name)
        step = match_grouped(matrix, space.groups)
        now = np.diagonal(matrix)
        gain = float((matrix[np.arange(space.size), step] - now).sum())
        if gain <= ROUNDING * float(np.abs(now).sum()):
            return False
        self.move(space.name, step)
        return True

    def move(self, space: str, step: Index) -> None:
        """Permute the units of a space, as they are now, by ``step``."""
        import torch

        self.index[space] = self.index[space][step]
        for number, side in self.places[space]:
            own = self.own[number]
            self.own[number] = own.index_select(1 + side, torch.from_numpy(step).to(own.device))

    def snapshot(self) -> dict[str, Index]:
        """Where every space stands, for :meth:`restore`."""
        return dict(self.index)

    def restore(self, index: Mapping[str, Index]) -> None:
        """Go back to a snapshot."""
        for space, target in index.items():
            if not np.array_equal(target, self.index[space]):
                self.move(space, np.argsort(self.index[space])[target])


# -- sweeps ------------------------------------------------------------------------------------------------------------


class Coordinates(Protocol):
    """Maps of all spaces, improved one space at a time."""

    def settle(self, space: Space) -> bool:
        """Give one space its best map while the others stay; whether that changed it."""

    def objective(self) -> float:
        """What the maps are worth."""

    def snapshot(self) -> Any:
        """The maps, for :meth:`restore`."""

    def restore(self, snapshot: Any) -> None:
        """Go back to a snapshot."""


def descend(
    coordinates: Coordinates,
    spaces: Sequence[Space],
    near: Mapping[str, set[str]],
    generator: np.random.Generator,
    *,
    max_sweeps: int,
    tolerance: float = 0.0,
    patience: int = 1,
) -> float:
    """Sweep over the spaces in random order until it no longer gains; leave the best maps in ``coordinates``.

    A space is only looked at again when one of its neighbours has changed. A sweep that changes nothing ends the search
    (no other order would change anything either), and so do ``patience`` sweeps in a row without gain, each from the
    best maps so far.

    Parameters
    ----------
    near: the spaces that each space's best map depends on (:func:`neighbours`).
    tolerance: gain of a sweep, relative to the objective, that counts as none.

    Returns
    -------
    The best objective.
    """
    numbers = count(1)
    versions = {space.name: 0 for space in spaces}
    settled: dict[str, tuple[int, ...]] = {}

    def state(name: str) -> tuple[int, ...]:
        return (versions[name], *(versions[other] for other in sorted(near.get(name, ()))))

    best, best_maps, best_versions = coordinates.objective(), coordinates.snapshot(), dict(versions)
    idle = 0
    for _ in range(max_sweeps):
        changed = False
        for position in generator.permutation(len(spaces)):
            space = spaces[position]
            if settled.get(space.name) == state(space.name):
                continue
            moved = coordinates.settle(space)
            if moved:
                versions[space.name] = next(numbers)
                changed = True
            if not moved or space.name not in near.get(space.name, ()):
                settled[space.name] = state(space.name)
        if not changed:
            break
        value = coordinates.objective()
        idle = 0 if value > best + tolerance * abs(best) else idle + 1
        if value > best:
            best, best_maps, best_versions = value, coordinates.snapshot(), dict(versions)
        if idle >= patience:
            break
        if idle:
            coordinates.restore(best_maps)
            versions = dict(best_versions)
    coordinates.restore(best_maps)
    return best


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


def weight_objective(problem: Problem, permutations: Sequence[Mapping[str, Permutation]]) -> float:
    """The inner product of model 0's weights with those of every other model, permuted; each tensor counted once.

    ``permutations``: by model and space; unit ``i`` of model 0 goes with unit ``index[i]``.
    """
    import torch

    from mergeline.spaces import permute_state

    total = 0.0
    for model in range(1, problem.n_models):
        pair = [problem.states[0], problem.states[model]]
        layout = blocks(problem.spaces, [problem.comparable[0], problem.comparable[model]])
        compared = {name for block in layout for name in block.tensors}
        index = {space: torch.from_numpy(own.index) for space, own in permutations[model].items()}
        aligned = permute_state(problem.spaces, pair[1], index)
        total += sum(float((pair[0][name].double() * aligned[name].double()).sum()) for name in compared)
    return total


def random_start(spaces: Sequence[Space], generator: np.random.Generator) -> dict[str, Index]:
    """A random permutation of every space that keeps its groups together."""
    start = {}
    for space in spaces:
        per_group = space.size // space.groups
        inside = [group * per_group + generator.permutation(per_group) for group in generator.permutation(space.groups)]
        start[space.name] = np.concatenate(inside)
    return start


def _match(problem: Problem, options: WeightOptions) -> Matching:
    spaces = problem.spaces.free
    maps: list[dict[str, UnitMap]] = [{space.name: Permutation.identity(space.size) for space in spaces}]
    objective = {}
    # A stream for each search, so that one more restart changes none of those before it.
    for model, stream in enumerate(problem.generator.spawn(problem.n_models - 1), start=1):
        weights = AlignedWeights(problem.spaces, problem.comparable[0], problem.comparable[model])
        near = neighbours(weights.layout)
        found: list[tuple[float, dict[str, Index]]] = []
        for restart, generator in enumerate(stream.spawn(options.restarts)):
            if restart:
                weights.restore(random_start(spaces, generator))
            value = descend(
                weights, spaces, near, generator, max_sweeps=options.max_sweeps, tolerance=options.tolerance
            )
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
