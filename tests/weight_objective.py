"""What weight matching maximises, literally."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from mergeline.maps import Permutation
from mergeline.matching import Problem
from mergeline.matching.weight import panels
from mergeline.spaces import permute_state

__all__ = ["weight_objective"]


def weight_objective(problem: Problem, permutations: Sequence[Mapping[str, Permutation]]) -> float:
    """The inner product of model 0's weights with those of every other model, permuted; each tensor counted once.

    ``permutations``: by model and space; unit ``i`` of model 0 goes with unit ``index[i]``.
    """
    total = 0.0
    for model in range(1, problem.n_models):
        pair = [problem.states[0], problem.states[model]]
        layout = panels(problem.spaces, [problem.comparable[0], problem.comparable[model]])
        compared = {name for panel in layout for name in panel.tensors}
        index = {space: torch.from_numpy(own.index) for space, own in permutations[model].items()}
        aligned = permute_state(problem.spaces, pair[1], index)
        total += sum(float((pair[0][name].double() * aligned[name].double()).sum()) for name in compared)
    return total
