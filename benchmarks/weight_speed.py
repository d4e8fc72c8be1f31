"""One sweep of weight matching against its assignments and matrix products alone."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from benchmarks.timing import in_turn, ratio
from mergeline.architectures import Architecture, build
from mergeline.heads import trace_network
from mergeline.matching.weight import AlignedWeights, descend, neighbours


class Recorded(AlignedWeights):
    """Keeps the similarities of a sweep, to solve them again."""

    def __init__(self, *args: object) -> None:
        self.seen: list[NDArray[np.float64]] = []
        super().__init__(*args)  # type: ignore[arg-type]

    def similarity(self, space: str) -> NDArray[np.float64]:
        self.seen.append(super().similarity(space))
        return self.seen[-1]


def measure(device: str = "cpu", threads: int = 1, rounds: int = 5) -> dict[str, float | str]:
    """Seconds of the first sweep over two r50 of width 1 with random weights, from no permutation.

    Alone: every assignment of that sweep, and every matrix product with both factors laid out as the product wants
    them. The sweep has on top what permuting the weights and the objective take.
    """
    torch.set_num_threads(threads)
    architecture = Architecture("r50", 1000, 1.0, 224)
    states = []
    for seed in (0, 1):
        state = build(architecture, seed).state_dict()
        states.append({name: tensor.to(device) for name, tensor in state.items()})
    spaces = trace_network(build(architecture), 224)
    weights = AlignedWeights(spaces, *states)
    near = neighbours(weights.layout)
    start = weights.snapshot()

    def run(matched: AlignedWeights) -> None:
        descend(matched, spaces.together(), near, np.random.default_rng(0), max_sweeps=1)

    recorded = Recorded(spaces, *states)
    run(recorded)
    factors = [_factors(recorded, space.name) for space in spaces.free]

    def sweep() -> None:
        run(weights)

    def again() -> None:
        """What putting the weights back costs, which a sweep is not charged for."""
        weights.restore(start)

    def alone() -> None:
        for matrix in recorded.seen:
            linear_sum_assignment(matrix, maximize=True)
        for pairs in factors:
            for left, right in pairs:
                _ = left @ right
        if device == "cuda":
            torch.cuda.synchronize()

    seconds = in_turn({"sweep": sweep, "again": again, "alone": alone}, rounds)
    return {
        "times the work alone": ratio(seconds, "sweep", "alone"),
        "sweep seconds": sorted(seconds["sweep"])[rounds // 2],
        "alone seconds": sorted(seconds["alone"])[rounds // 2],
    }


def _factors(weights: AlignedWeights, space: str) -> list[tuple[Tensor, Tensor]]:
    """Both factors of each product of a space, ``(units, entries)`` and ``(entries, units)``."""
    sides = []
    for number, side in weights.places[space]:
        a, b = (t[number].movedim(1 + side, 0).flatten(1).contiguous() for t in (weights.reference, weights.own))
        sides.append((a, b.T.contiguous()))
    return sides


def line(found: dict[str, float | str]) -> str:
    return (
        f"weight: a sweep over two r50 takes {found['times the work alone']:.2f} times its assignments and matrix "
        f"products alone ({found['sweep seconds']:.2f} s against {found['alone seconds']:.2f} s; at most 2 wanted)"
    )


def main() -> None:
    print(line(measure()))


if __name__ == "__main__":
    main()
