"""weight: planted permutations are found, every step is the best one, and the objective is what it says."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mergeline.bundles import random_bundled
from mergeline.maps import Permutation
from mergeline.matching import MATCHERS, Matching, Problem
from mergeline.matching.permute import match_grouped
from mergeline.matching.weight import (
    AlignedWeights,
    WeightOptions,
    descend,
    neighbours,
    panels,
)
from mergeline.merging import merge_states
from mergeline.spaces import Spaces, permute_state, random_permutation, trace
from tests.conftest import Trained
from tests.weight_objective import weight_objective

Index = NDArray[np.int64]
State = dict[str, Tensor]
Similarity = Callable[[str, State, dict[str, Index]], NDArray[np.float64]]
"""Of a space, another model's weights as they are permuted now, and where its units stand."""


class Various(nn.Module):
    """Biases, both kinds of norm, a residual stream, groups, and positions that are flattened into a linear layer."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 12, 3, padding=1)
        self.gn2 = nn.GroupNorm(3, 12)
        self.conv3 = nn.Conv2d(12, 8, 1)
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.fc1 = nn.Linear(8 * 4, 10)
        self.fc2 = nn.Linear(10, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        x = torch.relu(x + self.conv3(torch.relu(self.gn2(self.conv2(x)))))
        return self.fc2(torch.relu(self.fc1(torch.flatten(self.pool(x), 1))))


class Recurrent(nn.Module):
    """A residual stream that one tensor reads and writes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(6, 9)
        self.update = nn.Linear(9, 9)
        self.head = nn.Linear(9, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        return self.head(torch.relu(x + self.update(x)))


class Perceptron(nn.Module):
    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.fc1 = nn.Linear(10, width)
        self.fc2 = nn.Linear(width, width)
        self.fc3 = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc3(torch.relu(self.fc2(torch.relu(self.fc1(x)))))


def state_of(build: Callable[[], nn.Module], seed: int) -> State:
    """Random weights, with norms and statistics away from their equal starts."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        state = {name: tensor.clone() for name, tensor in build().state_dict().items()}
        return {
            name: tensor + 0.3 * torch.rand_like(tensor) if tensor.is_floating_point() else tensor
            for name, tensor in state.items()
        }


def various(n_models: int = 2) -> tuple[Spaces, list[State]]:
    return trace(Various(), torch.zeros(2, 3, 8, 8)), [state_of(Various, seed) for seed in range(n_models)]


def permuted(spaces: Spaces, state: State, seed: int) -> tuple[State, dict[str, Index]]:
    """A copy with its units in random order, and the permutations that undo it."""
    generator = torch.Generator().manual_seed(seed)
    order = {space.name: random_permutation(space, generator) for space in spaces.free}
    undo = {name: np.argsort(index.numpy()) for name, index in order.items()}
    return permute_state(spaces, state, order), undo


def random_start(spaces: Spaces, generator: np.random.Generator) -> dict[str, Index]:
    return {name: own for together in spaces.together() for name, own in random_bundled(together, generator).items()}


def match(spaces: Spaces, states: list[State], seed: int = 0, **options: float) -> Matching:
    problem = Problem(spaces, states, {}, np.random.default_rng(seed))
    return MATCHERS["weight"].match(problem, WeightOptions(**options))  # type: ignore[arg-type]


def literal_product(spaces: Spaces, reference: State, own: State, space: str) -> NDArray[np.float64]:
    """The inner products of weight vectors, tensor by tensor, ``own`` being permuted as it stands."""
    total = np.zeros((spaces[space].size,) * 2)
    for axis in spaces[space].axes:
        if axis.tensor.endswith(("running_mean", "running_var")):
            continue
        sides = []
        for state in (reference, own):
            tensor = state[axis.tensor].double().numpy()
            split = tensor.reshape(*tensor.shape[: axis.axis], -1, axis.repeat, *tensor.shape[axis.axis + 1 :])
            sides.append(np.moveaxis(split, axis.axis, 0).reshape(spaces[space].size, -1))
        total += sides[0] @ sides[1].T
    return total


def literal_descent(
    spaces: Spaces, own: State, similarity: Similarity, start: dict[str, Index], seed: int, sweeps: int
) -> list[dict[str, Index]]:
    """Coordinate descent that recomputes everything at every step; the permutations after each sweep."""
    index = dict(start)
    history = []
    generator = np.random.default_rng(seed)
    for _ in range(sweeps):
        for position in generator.permutation(len(spaces.free)):
            space = spaces.free[position]
            aligned = permute_state(spaces, own, {name: torch.from_numpy(units) for name, units in index.items()})
            matrix = similarity(space.name, aligned, index)
            step = match_grouped(matrix, space.bundles)
            if matrix[np.arange(space.size), step].sum() > np.trace(matrix) + 1e-6:
                index[space.name] = index[space.name][step]
        history.append(dict(index))
    return history


# -- planted permutations --------------------------------------------------------------------------------------------


def test_a_planted_permutation_of_a_trained_network_is_found(trained: Trained) -> None:
    state = trained.states()[0]
    shuffled, _ = permuted(trained.spaces, state, 5)
    matching = match(trained.spaces, [state, shuffled], restarts=3)
    merged = merge_states(trained.spaces, [state, shuffled], matching.maps)
    assert all(torch.equal(merged[name], tensor) for name, tensor in state.items())


def test_a_planted_permutation_of_a_trained_perceptron_is_found() -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(512, 10, generator=generator)
    labels = (inputs @ torch.randn(10, 5, generator=generator)).argmax(1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Perceptron()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
    assert (model(inputs).argmax(1) == labels).float().mean() > 0.9
    spaces = trace(model, inputs)
    state = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    shuffled, undo = permuted(spaces, state, 1)
    matching = match(spaces, [state, shuffled])
    for name, index in undo.items():
        found = matching.maps[1][name]
        assert isinstance(found, Permutation)
        assert np.array_equal(found.index, index)


def test_groups_stay_together() -> None:
    spaces, (state, _) = various()
    shuffled, undo = permuted(spaces, state, 2)
    matching = match(spaces, [state, shuffled], restarts=3)
    grouped = next(space for space in spaces.free if space.bundles == 3)
    found = matching.maps[1][grouped.name]
    assert isinstance(found, Permutation)
    assert np.array_equal(found.index, undo[grouped.name])
    other = match(spaces, [state, state_of(Various, 9)]).maps[1][grouped.name]
    assert isinstance(other, Permutation)
    assert all(len(set(own // 4)) == 1 for own in other.index.reshape(3, 4))


def test_three_copies_of_one_model_merge_to_it(trained: Trained) -> None:
    state = trained.states()[0]
    states = [state, *(permuted(trained.spaces, state, seed)[0] for seed in (1, 2))]
    matching = match(trained.spaces, states, restarts=3)
    merged = merge_states(trained.spaces, states, matching.maps)
    assert all(torch.allclose(merged[name].float(), tensor.float(), atol=1e-6) for name, tensor in state.items())


# -- the objective ---------------------------------------------------------------------------------------------------


def test_the_objective_is_the_inner_product_of_the_aligned_weights() -> None:
    spaces, states = various(3)
    matching = match(spaces, states)
    total = 0.0
    for state, maps in zip(states[1:], matching.maps[1:], strict=True):
        merged = merge_states(spaces, [states[0], state], [matching.maps[0], maps], (0.0, 1.0))
        names = [name for name in spaces.tensors if not name.endswith(("running_mean", "running_var"))]
        names = [name for name in names if name != "fc2.bias"]  # no free unit indexes it
        total += sum(float((states[0][name].double() * merged[name].double()).sum()) for name in names)
    problem = Problem(spaces, states, {}, np.random.default_rng(0))
    assert weight_objective(problem, matching.maps) == pytest.approx(total, rel=1e-6)  # type: ignore[arg-type]
    assert sum(matching.objective.values()) == pytest.approx(total, rel=1e-6)


def test_every_sweep_raises_the_objective_and_no_single_space_can_raise_it_further() -> None:
    spaces, states = various()
    values = [next(iter(match(spaces, states, max_sweeps=sweeps).objective.values())) for sweeps in (1, 2, 3, 100)]
    identity = AlignedWeights(spaces, *states).objective()
    assert identity < values[0] <= values[1] <= values[2] <= values[3]
    weights = AlignedWeights(spaces, *states)
    descend(weights, spaces.together(), neighbours(weights.layout), np.random.default_rng(0), max_sweeps=100)
    final = weights.objective()
    assert not any(weights.settle(together) for together in spaces.together())
    assert weights.objective() == final


def test_the_best_restart_is_kept_and_a_restart_more_changes_none_before_it() -> None:
    spaces, states = various(3)
    few, many = match(spaces, states, restarts=2), match(spaces, states, restarts=5)
    assert list(many.objective) == [f"model{m}.restart{r}" for m in (1, 2) for r in range(5)]
    assert all(many.objective[name] == value for name, value in few.objective.items())
    assert len(set(many.objective.values())) > 2
    problem = Problem(spaces, states, {}, np.random.default_rng(0))
    best = sum(max(v for name, v in many.objective.items() if name.startswith(f"model{m}.")) for m in (1, 2))
    assert weight_objective(problem, many.maps) == pytest.approx(best, rel=1e-6)  # type: ignore[arg-type]


def test_running_statistics_have_no_say() -> None:
    spaces, states = various()
    other = {
        name: tensor + 100 * torch.rand_like(tensor) if "running" in name else tensor
        for name, tensor in states[1].items()
    }
    first, second = match(spaces, states), match(spaces, [states[0], other])
    assert first.objective == second.objective
    assert all(
        np.array_equal(own.index, second.maps[1][name].index)  # type: ignore[attr-defined]
        for name, own in first.maps[1].items()
    )


def test_classifiers_of_different_tasks_are_left_out() -> None:
    spaces, (state, _) = various()
    with torch.random.fork_rng():
        torch.manual_seed(3)
        other = Various(classes=7).state_dict()
    names = {name for panel in panels(spaces, [state, other]) for name in panel.tensors}
    assert "fc2.weight" not in names
    assert "fc1.weight" in names
    assert set(match(spaces, [state, other]).maps[1]) == {space.name for space in spaces.free}


# -- the steps -------------------------------------------------------------------------------------------------------


def test_products_are_those_of_the_weight_vectors() -> None:
    spaces, states = various()
    start = random_start(spaces, np.random.default_rng(4))
    weights = AlignedWeights(spaces, *states, start=start)
    aligned = permute_state(spaces, states[1], {name: torch.from_numpy(own) for name, own in start.items()})
    for space in spaces.free:
        expected = literal_product(spaces, states[0], aligned, space.name)
        assert np.allclose(weights.product(space.name), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("seed", range(4))
def test_the_descent_is_the_literal_one(seed: int) -> None:
    """Cached tensors and spaces that are passed over change no step."""
    spaces, states = various()
    start = random_start(spaces, np.random.default_rng(seed + 10))
    history = literal_descent(
        spaces, states[1], lambda space, own, _: literal_product(spaces, states[0], own, space), start, seed, 8
    )
    for sweeps in (1, 2, 8):
        weights = AlignedWeights(spaces, *states, start=start)
        descend(weights, spaces.together(), neighbours(weights.layout), np.random.default_rng(seed), max_sweeps=sweeps)
        assert all(np.array_equal(weights.index[name], own) for name, own in history[sweeps - 1].items())


def test_a_space_on_both_axes_of_a_tensor_never_ends_below_its_start() -> None:
    spaces = trace(Recurrent(), torch.zeros(2, 6))
    assert neighbours(panels(spaces, [state_of(Recurrent, 0)])) == {"stem": {"stem"}}
    for seed in range(5):
        states = [state_of(Recurrent, seed), state_of(Recurrent, seed + 50)]
        start = AlignedWeights(spaces, *states).objective()
        assert next(iter(match(spaces, states).objective.values())) >= start
        shuffled, _ = permuted(spaces, states[0], seed)
        matching = match(spaces, [states[0], shuffled], restarts=4)
        merged = merge_states(spaces, [states[0], shuffled], matching.maps)
        assert torch.allclose(merged["update.weight"], states[0]["update.weight"], atol=1e-6)


def test_a_space_on_both_axes_of_a_tensor_is_looked_at_until_it_rests() -> None:
    spaces = trace(Recurrent(), torch.zeros(2, 6))
    longest = 0
    for seed in range(20):
        states = [state_of(Recurrent, seed), state_of(Recurrent, seed + 50)]
        start: dict[str, Index] = {"stem": np.arange(9)}
        history = literal_descent(
            spaces,
            states[1],
            lambda space, own, _, reference=states[0]: literal_product(spaces, reference, own, space),
            start,
            seed,
            6,
        )
        values = [AlignedWeights(spaces, *states, start=index).objective() for index in (start, *history)]
        rises = next((n for n in range(6) if values[n + 1] <= values[n]), 6)
        weights = AlignedWeights(spaces, *states)
        descend(weights, spaces.together(), neighbours(weights.layout), np.random.default_rng(seed), max_sweeps=6)
        assert np.array_equal(weights.index["stem"], (start, *history)[rises]["stem"])
        longest = max(longest, rises)
    assert longest > 1


def test_going_back_to_a_snapshot_gives_the_same_weights() -> None:
    spaces, states = various()
    weights = AlignedWeights(spaces, *states)
    numbers = range(len(weights.layout))
    before = [weights.own(number).clone() for number in numbers]
    snapshot = weights.snapshot()
    weights.restore(random_start(spaces, np.random.default_rng(0)))
    assert not all(torch.equal(before[number], weights.own(number)) for number in numbers)
    weights.restore(snapshot)
    assert all(torch.equal(before[number], weights.own(number)) for number in numbers)


def test_kept_products_and_the_followed_objective_are_those_made_anew() -> None:
    """Whatever moved since: few units, all of them, many times over, or back to where they were."""
    spaces, states = various()
    weights = AlignedWeights(spaces, *states)
    rng = np.random.default_rng(3)
    start = weights.snapshot()
    for turn in range(40):
        for together in spaces.together():
            if rng.random() < 0.5:
                weights.settle(together)
        if turn % 5 == 4:
            weights.restore(random_start(spaces, rng) if turn % 2 else start)
        fresh = AlignedWeights(spaces, *states, start=weights.index)
        assert weights.objective() == pytest.approx(fresh.objective(), rel=1e-5)
        for space in spaces.movable:
            assert np.allclose(weights.product(space.name), fresh.product(space.name), rtol=1e-4, atol=1e-4)
            few = np.sort(rng.permutation(space.size)[: max(1, space.size // 3)])
            assert np.allclose(
                weights.product(space.name, few), fresh.product(space.name)[np.ix_(few, few)], rtol=1e-4, atol=1e-4
            )


def test_the_states_are_left_alone() -> None:
    spaces, states = various()
    before = copy.deepcopy(states)
    match(spaces, states, restarts=2)
    assert all(torch.equal(a[name], b[name]) for a, b in zip(before, states, strict=True) for name in a)


@pytest.mark.parametrize("options", [{"restarts": 0}, {"max_sweeps": 0}, {"tolerance": -1.0}])
def test_options_out_of_range_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must"):
        WeightOptions(**options)  # type: ignore[arg-type]


def test_classifiers_of_different_tasks_are_not_compared(trained: Trained) -> None:
    states = trained.states()[:2]
    problem = Problem(trained.spaces, states, {}, np.random.default_rng(0), same_outputs=False)
    found = MATCHERS["weight"].match(problem, MATCHERS["weight"].options()).maps
    for state in states:
        state["fc.weight"] = torch.randn_like(state["fc.weight"]) * 100
    again = Problem(trained.spaces, states, {}, np.random.default_rng(0), same_outputs=False)
    other = MATCHERS["weight"].match(again, MATCHERS["weight"].options()).maps
    assert all((found[1][space].index == other[1][space].index).all() for space in found[1])
