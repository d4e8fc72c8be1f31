"""Units that activations do not tell apart: weights choose, at no cost in correlation."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from mergeline.assignment import match_permutation
from mergeline.matching import MATCHERS, Problem
from mergeline.matching.ties import tied_units
from mergeline.moments import collect_moments, full_pairs
from mergeline.spaces import permute_state, trace


@given(st.integers(0, 2**32 - 1), st.integers(1, 6))
def test_an_exchange_inside_a_set_costs_nothing_and_any_other_costs(seed: int, units: int) -> None:
    rng = np.random.default_rng(seed)
    kinds = rng.integers(0, 3, size=(2, units))  # units of one kind have the same activations
    similarity = rng.uniform(-1, 1, size=(3, 3))[np.ix_(*kinds)]
    partners = match_permutation(similarity)
    sets = tied_units(similarity, partners)
    tied = {(a, b) for own in sets for a, b in permutations(own.tolist(), 2)}
    for a, b in permutations(range(units), 2):
        exchanged = partners.copy()
        exchanged[[a, b]] = partners[[b, a]]
        rows = np.arange(units)
        cost = similarity[rows, partners].sum() - similarity[rows, exchanged].sum()
        assert cost > -1e-9
        if (kinds[0, a] == kinds[0, b]) or (kinds[1, partners[a]] == kinds[1, partners[b]]):
            assert (a, b) in tied
        if (a, b) not in tied:
            assert cost > 1e-5


def test_units_without_a_partner_are_left_out() -> None:
    assert tied_units(np.ones((3, 3)), np.array([1, -1, -1])) == []
    assert [own.tolist() for own in tied_units(np.ones((3, 3)), np.array([1, -1, 0]))] == [[0, 2]]


@pytest.mark.parametrize("method", ["permute", "zip", "transport", "dual_permute", "dual_zip"])
@pytest.mark.parametrize("case", ["dead", "one image"])
def test_units_that_are_dead_or_active_on_one_image_alone_find_their_own(method: str, case: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 12), nn.ReLU(), nn.Linear(12, 10), nn.ReLU(), nn.Linear(10, 3)).eval()
    images = torch.randn(64, 4)
    with torch.no_grad():
        first = model[0]
        assert isinstance(first, nn.Linear)
        values = (images @ first.weight.T).sort(dim=0, descending=True).values
        # 6 of 12 units: off, or on for the image alone that moves them most: made to be one and the same
        first.weight[:6] = torch.randn(1, 4) * torch.rand(6, 1)
        values = (images @ first.weight[:6].T).sort(dim=0, descending=True).values
        first.bias[:6] = -values[0] * 1.5 if case == "dead" else -(values[0] + values[1]) / 2
    spaces = trace(model, images[:2])
    order = torch.randperm(12)
    states = [model.state_dict(), permute_state(spaces, model.state_dict(), {"0": order})]
    other = nn.Sequential(nn.Linear(4, 12), nn.ReLU(), nn.Linear(12, 10), nn.ReLU(), nn.Linear(10, 3)).eval()
    other.load_state_dict(states[1])
    moments = collect_moments([model, other], spaces, [images], full_pairs(2))
    options = {"alpha": 1.0, "beta": 0.0} if "zip" in method else {}
    options |= {"balance": 0.0} if "dual" in method else {}
    matcher = MATCHERS[method]
    problem = Problem(spaces, states, moments, np.random.default_rng(0))
    reference, own = (maps["0"] for maps in matcher.match(problem, matcher.options(**options)).maps)
    given_back = own.merge(states[1]["0.weight"], 0)
    torch.testing.assert_close(given_back, reference.merge(states[0]["0.weight"], 0))
