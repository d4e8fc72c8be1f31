"""The registry of matchers: what every entry keeps to, and what it takes to add one."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from dataclasses import dataclass

import numpy as np
import pytest
import torch

import mergeline.matching
from mergeline.maps import Permutation, UnitMap
from mergeline.matching import MATCHERS, Matcher, Matching, Problem
from mergeline.merging import merge_states
from mergeline.models import build
from mergeline.moments import collect_moments, cross_pairs, full_pairs
from mergeline.normalization import reset
from tests.conftest import Trained

NAMES = {
    "identity", "random", "permute", "zip", "weight", "dual_permute", "dual_zip", "cca", "transport",
}  # fmt: skip


def problem_of(trained: Trained, matcher: Matcher, n_models: int = 2, seed: int = 0) -> Problem:
    """The trained networks' problem with just the moments that the matcher asks for."""
    models = trained.models[:n_models]
    moments = {}
    if matcher.blocks != "none":
        pairs = cross_pairs(n_models) if matcher.blocks == "cross" else full_pairs(n_models)
        moments = collect_moments(models, trained.spaces, [trained.toy.inputs()], pairs)
    return Problem(trained.spaces, trained.states()[:n_models], moments, np.random.default_rng(seed))


def test_every_method_is_registered_under_its_name() -> None:
    assert set(MATCHERS) >= NAMES
    assert all(matcher.name == name for name, matcher in MATCHERS.items())


@pytest.mark.parametrize("name", sorted(MATCHERS))
def test_an_entry_says_what_it_does_what_it_needs_and_its_options(name: str) -> None:
    matcher = MATCHERS[name]
    assert matcher.summary
    assert matcher.blocks in ("none", "cross", "full")
    options = matcher.options()
    assert dataclasses.is_dataclass(options)
    assert options == matcher.options(**dataclasses.asdict(options))
    assert hash(options) == hash(matcher.options())
    with pytest.raises(TypeError):
        matcher.options(no_such_option=1)


@pytest.mark.parametrize("name", sorted(NAMES))
@pytest.mark.parametrize("n_models", [2, 3])
def test_every_method_merges_trained_networks(name: str, n_models: int, trained: Trained) -> None:
    matcher = MATCHERS[name]
    problem = problem_of(trained, matcher, n_models)
    matching = matcher.match(problem, matcher.options())
    assert len(matching.maps) == n_models
    for space in trained.spaces.free:
        for own in matching.maps:
            assert (own[space.name].size, own[space.name].merged) == (space.size, space.size)
    assert all(np.isfinite(value) for value in matching.objective.values())
    merged = build(trained.architecture)
    merged.load_state_dict(merge_states(trained.spaces, problem.states, matching.maps))
    reset(merged, [trained.toy.inputs(64)])
    assert torch.isfinite(merged(trained.toy.inputs(16))).all()


@pytest.mark.parametrize("name", sorted(NAMES))
def test_the_same_seed_gives_the_same_maps(name: str, trained: Trained) -> None:
    matcher = MATCHERS[name]
    first, second = (matcher.match(problem_of(trained, matcher), matcher.options()) for _ in range(2))
    assert first.objective == second.objective
    for space in trained.spaces.free:
        sides = [matching.maps[1][space.name].merge(torch.eye(space.size), 0) for matching in (first, second)]
        assert torch.equal(*sides)


@dataclass(frozen=True)
class TurnOptions:
    """``steps``: by how many units to turn every space."""

    steps: int = 1


def turn(problem: Problem, options: TurnOptions) -> Matching:
    """A method that a test makes up."""

    def maps(model: int) -> dict[str, UnitMap]:
        return {
            space.name: Permutation(np.roll(np.arange(space.size), model * options.steps))
            for space in problem.spaces.free
        }

    return Matching(tuple(maps(model) for model in range(problem.n_models)), {"steps": float(options.steps)})


def test_a_new_method_takes_one_entry(monkeypatch: pytest.MonkeyPatch, trained: Trained) -> None:
    monkeypatch.setitem(MATCHERS, "turn", Matcher("turn", "turns every space", "none", TurnOptions, turn))
    matcher = mergeline.matching.MATCHERS["turn"]
    matching = matcher.match(problem_of(trained, matcher), matcher.options(steps=2))
    state = trained.states()[0]
    merged = merge_states(trained.spaces, [state, state], matching.maps, (0.0, 1.0))
    model = build(trained.architecture)
    model.load_state_dict(merged)
    inputs = trained.toy.inputs(16)
    assert torch.allclose(model.eval()(inputs), trained.models[0](inputs), atol=1e-4)


def test_reading_the_registry_loads_nothing_slow() -> None:
    program = (
        "import sys, mergeline.matching\n"
        "print(*(name for name in ('torch', 'scipy', 'numba', 'ot', 'pyarrow') if name in sys.modules))"
    )
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert shown.split() == []
