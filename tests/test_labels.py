"""Moving operations need no rule: whatever is composed of them, permuting the units agrees with running the network."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations, product
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from mergeline.bundles import match_bundled
from mergeline.spaces import permute_state, random_permutation, trace
from mergeline.spaces.verifying import check_spaces

UNITS = 6
Step = tuple[str, tuple[Any, ...]]
MOVES: dict[str, Callable[..., Tensor]] = {
    "permute": lambda x, order: x.permute(0, *(axis + 1 for axis in order)),
    "merge": lambda x, axis: x.flatten(axis, axis + 1),
    "split": lambda x, axis, size: x.unflatten(axis, (size, -1)),
    "squeeze": lambda x, axis: x.unsqueeze(axis).transpose(axis, axis + 1).squeeze(axis + 1),
    "roll": lambda x, axis, by: x.roll(by, axis),
    "flip": lambda x, axis: x.flip(axis),
    "halves": lambda x, axis: torch.cat(x.chunk(2, axis)[::-1], axis),
    "stack": lambda x, axis: torch.stack([x, x.relu()], axis),
    "index": lambda x, axis, order: x.index_select(axis, torch.tensor(order)),
    "repeat": lambda x, axis: x.repeat_interleave(2, axis),
    "relu": lambda x: x.relu(),
    "scale": lambda x: 0.5 * x + x.tanh(),
}
"""Each moves entries or works on each alone; none compares units with each other."""


@st.composite
def steps(draw: st.DrawFn) -> list[Step]:
    """A chain of moves that fits an output of ``(B, UNITS, 2, 2)``."""
    shape = [UNITS, 2, 2]
    chain: list[Step] = []
    for _ in range(draw(st.integers(1, 6))):
        axis = draw(st.integers(1, len(shape)))
        size = shape[axis - 1]
        options: dict[str, tuple[Any, ...]] = {
            "permute": (draw(st.permutations(range(len(shape)))),), "roll": (axis, draw(st.integers(-3, 3))),
            "squeeze": (axis,), "flip": (axis,), "halves": (axis,), "relu": (), "scale": (),
            "index": (axis, draw(st.permutations(range(size)))),
        }  # fmt: skip
        if axis < len(shape):
            options["merge"] = (axis,)
        if divisors := [d for d in range(2, size) if size % d == 0]:
            options["split"] = (axis, draw(st.sampled_from(divisors)))
        if int(np.prod(shape)) <= 100 and len(shape) < 5:
            options |= {"stack": (axis,), "repeat": (axis,)}
        name = draw(st.sampled_from(sorted(options)))
        chain.append((name, options[name]))
        shape = list(MOVES[name](torch.zeros(2, *shape), *options[name]).shape[1:])
    return chain


class Moved(nn.Module):
    """Units, a chain of moves, and a layer that reads every entry."""

    def __init__(self, chain: list[Step]) -> None:
        super().__init__()
        self.chain = chain
        self.make = nn.Conv2d(2, UNITS, 1)
        self.read = nn.Linear(self.moved(torch.zeros(1, 2, 2, 2)).shape[1], 3)

    def moved(self, x: Tensor) -> Tensor:
        x = self.make(x)
        for name, options in self.chain:
            x = MOVES[name](x, *options)
        return x.flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        return self.read(self.moved(x))


@settings(max_examples=60, deadline=None)
@given(steps(), st.integers(0, 99))
def test_any_chain_of_moves_agrees_with_permuting_the_tensors(chain: list[Step], seed: int) -> None:
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(seed)
    model, inputs = Moved(chain).eval(), torch.randn(3, 2, 2, 2)
    spaces = trace(model, inputs)
    (space,) = (space for space in spaces.free if any(axis.tensor == "make.weight" for axis in space.axes))
    assert max(check_spaces(model, spaces, inputs).values()) < 1e-5
    with torch.no_grad():
        before, units = model(inputs), model.moved(inputs)
        model.load_state_dict(
            permute_state(spaces, model.state_dict(), {space.name: random_permutation(space, generator)})
        )
        assert torch.allclose(model(inputs), before, atol=1e-5)
        assert torch.allclose(model.moved(inputs).sort(1).values, units.sort(1).values, atol=1e-6)


def brute_force(similarities: list[np.ndarray], bundles: int) -> float:
    """The best summed similarity over all orders of the bundles and of the units inside them."""
    best = -np.inf
    inner = len(similarities[0]) // bundles
    for heads in permutations(range(bundles)):
        total = 0.0
        for similarity, (a, b) in product(similarities, enumerate(heads)):
            block = similarity[a * inner : (a + 1) * inner, b * inner : (b + 1) * inner]
            total += max(sum(block[i, j] for i, j in enumerate(order)) for order in permutations(range(inner)))
        best = max(best, total)
    return best


@given(st.integers(0, 2**32 - 1), st.integers(2, 4), st.integers(1, 3))
def test_attention_is_matched_as_well_as_by_brute_force(seed: int, heads: int, inner: int) -> None:
    rng = np.random.default_rng(seed)
    similarities = [rng.normal(size=(heads * inner, heads * inner)) for _ in range(2)]  # of q and k together, and of v
    found = match_bundled(similarities, heads)
    rows = np.arange(heads * inner)
    gained = sum(s[rows, index].sum() for s, index in zip(similarities, found, strict=True))
    assert gained == pytest.approx(brute_force(similarities, heads))
    partners = [index.reshape(heads, inner) // inner for index in found]
    assert all((own == own[:, :1]).all() for own in partners)  # heads stay together
    assert (partners[0][:, 0] == partners[1][:, 0]).all()  # one order of heads for both
