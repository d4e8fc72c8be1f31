"""The registry of matchers: what every entry keeps to, and what it takes to add one."""

from __future__ import annotations

import dataclasses
import importlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from mergeline.api import merge
from mergeline.architectures import build
from mergeline.matching import MATCHERS, Matcher, Problem
from mergeline.merging import merge_states
from mergeline.moments import collect_moments, cross_pairs, full_pairs
from mergeline.normalization.reset import reset
from tests.conftest import Trained
from tests.test_matching_weight import permuted

NAMES = {
    "identity", "random", "permute", "zip", "weight", "dual_permute", "dual_zip", "cca", "transport",
}  # fmt: skip


def problem_of(trained: Trained, matcher: Matcher, n_models: int = 2, seed: int = 0) -> Problem:
    """The trained networks' problem with just the moments that the matcher asks for."""
    models = trained.models[:n_models]
    moments = {}
    if matcher.moments != "none":
        pairs = cross_pairs(n_models) if matcher.moments == "cross" else full_pairs(n_models)
        moments = collect_moments(models, trained.spaces, [trained.toy.inputs(64)], pairs)
    return Problem(trained.spaces, trained.states()[:n_models], moments, np.random.default_rng(seed))


def test_every_method_is_registered_under_its_name() -> None:
    assert set(MATCHERS) >= NAMES
    assert all(matcher.name == name for name, matcher in MATCHERS.items())


@pytest.mark.parametrize("name", sorted(MATCHERS))
def test_an_entry_says_what_it_does_what_it_needs_and_its_options(name: str) -> None:
    matcher = MATCHERS[name]
    assert matcher.summary
    assert matcher.moments in ("none", "cross", "full")
    options = matcher.options()
    assert dataclasses.is_dataclass(options)
    assert options == matcher.options(**dataclasses.asdict(options))
    assert hash(options) == hash(matcher.options())
    with pytest.raises(TypeError):
        matcher.options(no_such_option=1)


@pytest.mark.parametrize("name", sorted(NAMES))
def test_every_method_merges_three_trained_networks(name: str, trained: Trained) -> None:
    matcher, n_models = MATCHERS[name], 3
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
    problem = problem_of(trained, matcher)
    again = dataclasses.replace(problem, generator=np.random.default_rng(0))
    first, second = (matcher.match(own, matcher.options()) for own in (problem, again))
    assert first.objective == second.objective
    for space in trained.spaces.free:
        sides = [matching.maps[1][space.name].merge(torch.eye(space.size), 0) for matching in (first, second)]
        assert torch.equal(*sides)


@pytest.mark.parametrize("name", sorted(NAMES - {"random"}))
def test_three_copies_of_one_model_merge_to_it(name: str, trained: Trained) -> None:
    state = trained.states()[0]
    # Copies with their units in another order, for all methods that align.
    states = [state, *(state if name == "identity" else permuted(trained.spaces, state, seed)[0] for seed in (1, 2))]
    models = []
    for own in states:
        models.append(build(trained.architecture))
        models[-1].load_state_dict(own)
    matcher = MATCHERS[name]
    # A joined pair must go on to correlate with its third copy by 1, more than with any other unit.
    options = matcher.options(**({"alpha": 1.0, "beta": 0.0} if "zip" in name else {}))
    moments = collect_moments(models, trained.spaces, [trained.toy.inputs(96)], full_pairs(3))
    matching = matcher.match(Problem(trained.spaces, states, moments, np.random.default_rng(0)), options)
    merged = build(trained.architecture)
    merged.load_state_dict(merge_states(trained.spaces, states, matching.maps))
    inputs = trained.toy.inputs(32)
    reference = build(trained.architecture)
    reference.load_state_dict(state)
    for model in (merged, reference):
        reset(model, [inputs])  # linear maps leave no variance as it was
    with torch.no_grad():
        difference = (merged(inputs) - reference(inputs)).abs().max() / reference(inputs).abs().max()
    assert float(difference) < (0.02 if name == "cca" else 1e-4)


NEW_METHOD = """
from dataclasses import dataclass

import numpy as np

from mergeline.maps import Permutation
from mergeline.matching.problem import Matcher, Matching


@dataclass(frozen=True)
class TurnOptions:
    steps: int = 1


def _match(problem, options):
    turned = {space.name: Permutation(np.roll(np.arange(space.size), options.steps)) for space in problem.spaces.free}
    same = {space.name: Permutation.identity(space.size) for space in problem.spaces.free}
    return Matching((same, *[turned] * (problem.n_models - 1)), {"steps": float(options.steps)})


TURN = Matcher("turn", "turns every space", "none", TurnOptions, _match)
"""


def test_a_new_method_takes_one_file_and_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trained: Trained
) -> None:
    (tmp_path / "turn_method.py").write_text(NEW_METHOD)
    monkeypatch.syspath_prepend(tmp_path)
    turn = importlib.import_module("turn_method").TURN
    monkeypatch.setitem(MATCHERS, turn.name, turn)  # the line

    found = merge(
        trained.models[:2],
        [trained.toy.inputs(32)],
        "turn",
        "none",
        options={"steps": 2},
        weights=(0.0, 1.0),
    )
    assert found.report["objective"] == {"steps": 2.0}
    inputs = trained.toy.inputs(16)
    with torch.no_grad():
        torch.testing.assert_close(found.model(inputs), trained.models[1](inputs), rtol=1e-3, atol=1e-3)


def test_reading_the_registry_loads_nothing_slow() -> None:
    program = (
        "import sys, mergeline.matching\n"
        "print(*(name for name in ('torch', 'scipy', 'numba', 'ot', 'pyarrow') if name in sys.modules))"
    )
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert shown.split() == []
