"""Weight matching against the loop of the public codes, which makes every product anew, and against its assignments alone."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from benchmarks.timing import in_turn, ratio
from mergeline.architectures import Architecture, build
from mergeline.heads import trace_network
from mergeline.matching.weight import AlignedWeights, descend, neighbours, panels
from mergeline.spaces import Axis, Spaces

NETWORKS = {
    "r50": Architecture("r50", 1000, 1.0, 224),
    "vgg16": Architecture("vgg16", 10, 1.0, 32),
    "r35 at a quarter of the width": Architecture("r35", 10, 0.25, 32),
}
TOLERANCE = 1e-6
Index = NDArray[np.int64]


class Recorded(AlignedWeights):
    """Keeps the similarities of a search, to solve them again."""

    def __init__(self, spaces: Spaces, reference: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
        self.seen: list[NDArray[np.float64]] = []
        super().__init__(spaces, reference, own)

    def similarity(self, space: str) -> NDArray[np.float64]:
        self.seen.append(super().similarity(space))
        return self.seen[-1]


class Loop:
    """Git Re-Basin's loop (App. A.1), as MuDSC and PLeaS have it: for each space in random order, the other network's tensors are
    permuted on all their other axes, multiplied with the reference's, and assigned, until a sweep gains nothing."""

    def __init__(self, spaces: Spaces, reference: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
        self.reference, self.own = reference, own
        counted = {name for panel in panels(spaces, [reference, own]) for name in panel.tensors}
        self.index: dict[str, Index] = {space.name: np.arange(space.size) for space in spaces.movable}
        self.axes = {
            name: [(s, axis) for s, axis in spaces.tensors[name] if s in self.index] for name in sorted(counted)
        }
        self.tensors: dict[str, list[tuple[str, Axis]]] = {space: [] for space in self.index}
        for name, entries in self.axes.items():
            for space, axis in entries:
                self.tensors[space].append((name, axis))

    def search(self, generator: np.random.Generator) -> None:
        names = list(self.index)
        changed = True
        while changed:
            changed = False
            for number in generator.permutation(len(names)).tolist():
                space = names[number]
                products = sum(self._product(name, axis, space) for name, axis in self.tensors[space]).double().numpy()
                _, found = linear_sum_assignment(products, maximize=True)
                rows = np.arange(len(found))
                before = products[rows, self.index[space]].sum()
                if products[rows, found].sum() > before + TOLERANCE * abs(before):
                    self.index[space] = found
                    changed = True

    def _product(self, name: str, axis: Axis, space: str) -> Tensor:
        own = self.own[name]
        for other, place in self.axes[name]:
            if other != space:
                own = own.index_select(place.axis, torch.from_numpy(_order(place, self.index[other])))
        units = torch.from_numpy(axis.index.reshape(len(axis.index), -1))
        first, second = (
            t.movedim(axis.axis, 0).flatten(1)[units].flatten(1) if t.ndim > 1 else t[units].reshape(len(units), -1)
            for t in (self.reference[name], own)
        )
        return first @ second.T


def _order(axis: Axis, step: Index) -> Index:
    """Where each entry of an axis comes from, if its units are permuted."""
    order = np.arange(axis.index.size)
    order[axis.index.reshape(-1)] = axis.index[step].reshape(-1)
    return order


def measure(quick: bool = False, threads: int = 1, rounds: int = 3) -> dict[str, float | str]:
    """Seconds of whole searches over two networks with random weights, from no permutation, to their local optima."""
    torch.set_num_threads(threads)
    found: dict[str, float | str] = {}
    for name, architecture in list(NETWORKS.items())[1 if quick else 0 :]:
        found |= {f"{name}: {key}": value for key, value in _measured(architecture, 1 if quick else rounds).items()}
    return found


def _measured(architecture: Architecture, rounds: int) -> dict[str, float]:
    states = [build(architecture, seed).state_dict() for seed in (0, 1)]
    spaces = trace_network(build(architecture), architecture.input_size)

    def run(kind: type[AlignedWeights]) -> AlignedWeights:
        weights = kind(spaces, *states)
        near = neighbours(weights.layout)
        descend(
            weights, spaces.together(), near, np.random.default_rng(0), max_sweeps=100, tolerance=TOLERANCE, patience=1
        )
        return weights

    def loop() -> None:
        Loop(spaces, *states).search(np.random.default_rng(0))

    recorded = run(Recorded)
    assert isinstance(recorded, Recorded)

    def assignments() -> None:
        for matrix in recorded.seen:
            linear_sum_assignment(matrix, maximize=True)

    ways = {"ours": lambda: run(AlignedWeights), "loop": loop, "assignments": assignments}
    seconds = in_turn(ways, rounds, warmup=0)
    return {
        "times as fast as the loop": ratio(seconds, "loop", "ours"),
        "times its assignments": ratio(seconds, "ours", "assignments"),
        "seconds": median(seconds["ours"]),
    }


def line(found: dict[str, float | str]) -> str:
    names = dict.fromkeys(key.partition(": ")[0] for key in found)
    said = [
        f"{name} {found[f'{name}: times as fast as the loop']:.1f} times as fast as the public codes' loop, "
        f"{found[f'{name}: times its assignments']:.1f} times its assignments alone"
        for name in names
    ]
    return f"weight: whole searches over two networks with random weights: {'; '.join(said)} (at least 2.5 wanted)"


def main() -> None:
    print(line(measure()))


if __name__ == "__main__":
    main()
