"""Planted merges: a network and its copy with all units in another order must merge back to the function."""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from torch import nn

from mergeline.matching import MATCHERS, Problem
from mergeline.moments import collect_moments, cross_pairs, full_pairs
from mergeline.network import assemble, check_maps
from mergeline.spaces import Spaces, permute_state, random_permutations

__all__ = ["ACTIVATION_MATCHERS", "output", "permuted", "planted_differences", "within_reach"]

ACTIVATION_MATCHERS = ("permute", "zip", "transport", "cca")
"""Matchers that look at activations alone (but for ties)."""
OPTIONS: dict[str, dict[str, Any]] = {"zip": {"alpha": 1.0, "beta": 0.0}}
"""Without joins within a model, which a planted order has no use for."""
LARGEST = {"cca": 600, "zip": 3200, "transport": 3200}
"""Units of the largest space up to which a matcher takes seconds."""


def within_reach(spaces: Spaces) -> list[str]:
    """The matchers of :data:`ACTIVATION_MATCHERS` that take no more than seconds for a network."""
    largest = max(space.size for space in spaces.free)
    return [name for name in ACTIVATION_MATCHERS if largest <= LARGEST.get(name, largest)]


@torch.no_grad()
def permuted(model: nn.Module, spaces: Spaces, seed: int = 1) -> nn.Module:
    """A copy of the network with all its units in another order."""
    moved = random_permutations(spaces, torch.Generator().manual_seed(seed))
    copy = deepcopy(model)
    state = permute_state(spaces, model.state_dict(), moved)
    for name, tensor in [*copy.named_parameters(), *copy.named_buffers()]:
        if name in state:  # buffers that are made anew are not
            tensor.copy_(state[name])
    return copy


@torch.no_grad()
def planted_differences(
    model: nn.Module, spaces: Spaces, inputs: Any, methods: Iterable[str] = ACTIVATION_MATCHERS
) -> dict[str, float | str]:
    """By method, how far the merge of a network and its permuted copy is from the network, relative; or the refusal."""
    models = [model, permuted(model, spaces)]
    methods = list(methods)
    full = any(MATCHERS[method].moments == "full" for method in methods)
    moments = collect_moments(models, spaces, [inputs], (full_pairs if full else cross_pairs)(2))
    states = [own.state_dict() for own in models]
    expected = output(model, inputs)
    found: dict[str, float | str] = {}
    for method in methods:
        matcher = MATCHERS[method]
        problem = Problem(spaces, states, moments, np.random.default_rng(0))
        maps = matcher.match(problem, matcher.options(**OPTIONS.get(method, {}))).maps
        try:
            check_maps(spaces, maps, "none")
        except ValueError as refusal:
            found[method] = str(refusal)
            continue
        merged = assemble(dict(enumerate(models)), spaces, maps, same_outputs=True)  # type: ignore[arg-type]
        own = output(merged, inputs)
        found[method] = float((expected - own).abs().max() / expected.abs().max().clamp_min(1e-12))
    return found


def output(model: nn.Module, inputs: Any) -> torch.Tensor:
    """The first tensor that a network gives."""
    value = model(**inputs) if isinstance(inputs, dict) else model(inputs)
    while not isinstance(value, torch.Tensor):
        value = next(iter(value.values() if isinstance(value, dict) else value))
    return value
