"""dual_permute and dual_zip: from activations alone to weights alone, every step is that of plain code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mergeline.architectures import build
from mergeline.heads import multi_head
from mergeline.maps import Groups, Permutation, UnitMap
from mergeline.matching import MATCHERS, Matching, Problem
from mergeline.matching.dual import GRID, AlignedUnits, DualOptions, DualZipOptions, ZippedWeights
from mergeline.matching.judge import TrainingAccuracy
from mergeline.matching.permute import match_grouped
from mergeline.matching.weight import AlignedWeights, descend, neighbours
from mergeline.matching.zip import ZipOptions, group_similarity, zip_space
from mergeline.merging import merge_network, merge_states
from mergeline.moments import collect_moments, full_pairs
from mergeline.normalization.reset import reset
from mergeline.spaces import Space, Spaces, trace
from tests.conftest import Trained
from tests.test_matching_weight import Various, literal_descent, permuted, state_of

Index = NDArray[np.int64]
Float64 = NDArray[np.float64]
State = dict[str, Tensor]


def problem_of(states: list[State], network: type[nn.Module] = Various, shape: tuple[int, ...] = (3, 8, 8)) -> Problem:
    """The states' problem, with moments on random inputs."""
    inputs = torch.randn(64, *shape, generator=torch.Generator().manual_seed(0))
    models = [network().eval() for _ in states]
    for model, state in zip(models, states, strict=True):
        model.load_state_dict(state)
    spaces = trace(models[0], inputs[:2])
    moments = collect_moments(models, spaces, [inputs], full_pairs(len(models)))
    return Problem(spaces, states, moments, np.random.default_rng(0))


def various(n_models: int = 2) -> Problem:
    return problem_of([state_of(Various, seed) for seed in range(n_models)])


def correlate(first: Float64, second: Float64) -> Float64:
    """Correlations of rows, 0 for rows without variance."""
    sides = [rows - rows.mean(axis=1, keepdims=True) for rows in (first, second)]
    scale = np.outer(first.std(axis=1), second.std(axis=1))
    covariance = sides[0] @ sides[1].T / first.shape[1]
    return np.where(scale > 0, covariance / np.maximum(scale, 1e-7), 0.0)


def unit_vectors(spaces: Spaces, state: State, space: str) -> Float64:
    """All entries of each unit, ``(units, entries)``, as the state stands."""
    vectors = []
    for axis in spaces[space].axes:
        if not axis.tensor.endswith(("running_mean", "running_var")):
            tensor = state[axis.tensor].double().numpy()
            split = tensor.reshape(*tensor.shape[: axis.axis], -1, axis.repeat, *tensor.shape[axis.axis + 1 :])
            vectors.append(np.moveaxis(split, axis.axis, 0).reshape(spaces[space].size, -1))
    return np.concatenate(vectors, axis=1)


def indices(matching: Matching, model: int = 1) -> dict[str, list[int]]:
    found = {}
    for name, unit_map in matching.maps[model].items():
        assert isinstance(unit_map, Permutation | Groups)
        found[name] = (unit_map.index if isinstance(unit_map, Permutation) else unit_map.labels).tolist()
    return found


def aligned_units(problem: Problem, balance: float) -> AlignedUnits:
    """The two models of a problem, at the matching of their activations."""
    spaces = problem.spaces.free
    activations = {space.name: problem.moments[space.name].correlation(0, 1) for space in spaces}
    start = {space.name: match_grouped(activations[space.name], space.bundles) for space in spaces}
    return AlignedUnits(problem.spaces, *problem.states, activations, balance, start)


# -- permutations ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_models", [2, 3])
def test_balance_0_is_permute(n_models: int) -> None:
    problem = various(n_models)
    dual = MATCHERS["dual_permute"].match(problem, DualOptions(balance=0.0))
    plain = MATCHERS["permute"].match(problem, MATCHERS["permute"].options())
    for model in range(n_models):
        assert indices(dual, model) == indices(plain, model)


@pytest.mark.parametrize("balance", [0.3, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_the_steps_are_those_of_a_literal_descent_on_correlations(balance: float, seed: int) -> None:
    problem = various()
    units = aligned_units(problem, balance)

    def similarity(space: str, own: State, index: dict[str, Index]) -> Float64:
        reference = unit_vectors(problem.spaces, dict(problem.states[0]), space)
        weights = correlate(reference, unit_vectors(problem.spaces, own, space))
        return balance * weights + (1 - balance) * units.activations[space][:, index[space]]

    history = literal_descent(problem.spaces, dict(problem.states[1]), similarity, units.snapshot(), seed, sweeps=4)
    generator = np.random.default_rng(seed)
    for expected in history:
        for position in generator.permutation(len(problem.spaces.free)):
            units.settle(problem.spaces.together()[position])
        assert all(np.array_equal(units.index[name], own) for name, own in expected.items())


def test_the_objective_is_the_mean_similarity_of_matched_units() -> None:
    problem = various()
    units = aligned_units(problem, 0.4)
    matched = np.concatenate([np.diagonal(units.similarity(space.name)) for space in problem.spaces.free])
    assert units.objective() == pytest.approx(matched.mean(), abs=1e-6)


class Hidden(nn.Module):
    """One hidden layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 12, bias=False)
        self.second = nn.Linear(12, 6, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.relu(self.first(x)))


def test_balance_1_takes_the_steps_of_weight_where_vectors_are_normalised() -> None:
    states = []
    for seed in range(2):
        vectors = torch.randn(12, 12, generator=torch.Generator().manual_seed(seed))
        vectors = vectors - vectors.mean(1, keepdim=True)
        vectors = vectors / vectors.norm(dim=1, keepdim=True)
        states.append({"first.weight": vectors[:, :6].clone(), "second.weight": vectors[:, 6:].T.clone()})
    problem = problem_of(states, Hidden, (6,))
    dual = MATCHERS["dual_permute"].match(problem, DualOptions(balance=1.0))
    weights = AlignedWeights(problem.spaces, *states, start=aligned_units(problem, 1.0).snapshot())
    near = neighbours(weights.layout)
    value = descend(weights, problem.spaces.together(), near, np.random.default_rng(0), max_sweeps=100)
    assert indices(dual)["first"] == weights.index["first"].tolist()
    assert dual.objective["model1"] == pytest.approx(value / 12, abs=1e-6)


@pytest.mark.parametrize("balance", [0.0, 0.5, 1.0])
def test_the_objective_never_ends_below_the_matching_of_activations(balance: float) -> None:
    for matcher, options in (("dual_permute", DualOptions(balance)), ("dual_zip", DualZipOptions(balance))):
        objective = MATCHERS[matcher].match(various(3), options).objective
        starts = [value for name, value in objective.items() if name.endswith("start")]
        ends = [value for name, value in objective.items() if not name.endswith("start")]
        assert len(starts) == len(ends) == (2 if matcher == "dual_permute" else 1)
        assert all(end >= start for start, end in zip(starts, ends, strict=True))
        assert balance == 0 or ends > starts


@pytest.mark.parametrize("matcher", ["dual_permute", "dual_zip"])
@pytest.mark.parametrize("n_models", [2, 3])
def test_copies_of_one_model_merge_to_it(matcher: str, n_models: int) -> None:
    state = state_of(Various, 0)
    spaces = various().spaces
    problem = problem_of([state, *(permuted(spaces, state, seed)[0] for seed in range(1, n_models))])
    options = DualOptions() if matcher == "dual_permute" else DualZipOptions(alpha=1.0, beta=0.0)
    matching = MATCHERS[matcher].match(problem, options)
    merged = merge_states(problem.spaces, problem.states, matching.maps)
    assert all(torch.allclose(merged[name].float(), tensor.float(), atol=1e-5) for name, tensor in state.items())


# -- groups ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_models", [2, 3])
def test_balance_0_is_zip(n_models: int) -> None:
    problem = various(n_models)
    dual = MATCHERS["dual_zip"].match(problem, DualZipOptions(balance=0.0, alpha=0.1, beta=0.25))
    plain = MATCHERS["zip"].match(problem, ZipOptions(alpha=0.1, beta=0.25))
    for model in range(n_models):
        assert indices(dual, model) == indices(plain, model)


def zipped_weights(problem: Problem, balance: float) -> ZippedWeights:
    def solve(space: Space, similarity: Float64, partners: Sequence[Index]) -> Index:
        return zip_space(similarity, [space.size] * problem.n_models, partners, ZipOptions(beta=0.5))

    activations = {space.name: problem.moments[space.name].joint_correlation() for space in problem.spaces.free}
    return ZippedWeights(problem.spaces, problem.states, activations, balance, solve)


def test_vectors_are_those_that_the_merge_reads_and_writes() -> None:
    """Each model's share of the merged tensors, but for the space itself, whose units stay apart."""
    problem = various(3)
    weights = zipped_weights(problem, 1.0)
    for space in problem.spaces.free:
        maps = []
        for model in range(3):
            others = {s.name: s.size for s in problem.spaces.free if s.name != space.name}
            maps.append(
                {
                    name: Groups(weights.labels[name].reshape(3, size)[model], int(weights.labels[name].max()) + 1)
                    for name, size in others.items()
                }
            )
        vectors = []
        for model in range(3):
            # With the others' weights at 0 in value, the merge leaves this model's share.
            states = [
                {n: t if k == model else t * 0 for n, t in state.items()} for k, state in enumerate(problem.states)
            ]
            share = merge_states(problem.spaces, states, maps)
            vectors.append(
                unit_vectors(problem.spaces, {name: 3 * tensor for name, tensor in share.items()}, space.name)
            )
        joint = np.concatenate(vectors)
        assert np.allclose(weights.similarity(space.name), correlate(joint, joint), atol=1e-5)


def test_where_groups_are_pairs_the_similarity_is_that_of_permuted_weights() -> None:
    problem = various()
    units = aligned_units(problem, 0.6)
    zipped = zipped_weights(problem, 0.6)
    zipped.restore({name: np.concatenate([np.arange(len(own)), np.argsort(own)]) for name, own in units.index.items()})
    for space in problem.spaces.free:
        cross = zipped.similarity(space.name)[: space.size, space.size :]
        assert np.allclose(cross[:, units.index[space.name]], units.similarity(space.name), atol=1e-5)
    assert zipped.objective() == pytest.approx(units.objective(), abs=1e-5)


def test_the_objective_of_groups_is_their_mean_similarity() -> None:
    problem = various(3)
    weights = zipped_weights(problem, 0.5)
    total = sum(
        group_similarity(weights.similarity(name), labels) * len(labels) for name, labels in weights.labels.items()
    )
    expected = total / sum(len(labels) for labels in weights.labels.values())
    assert weights.objective() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("n_models", [2, 3])
def test_every_unit_has_a_group_and_every_group_a_unit(n_models: int) -> None:
    problem = various(n_models)
    matching = MATCHERS["dual_zip"].match(problem, DualZipOptions(beta=0.5))
    for space in problem.spaces.free:
        used: set[int] = set()
        for maps in matching.maps:
            own = maps[space.name]
            assert isinstance(own, Groups)
            assert own.merged == space.size
            used |= set(own.labels.tolist())
        assert used == set(range(space.size))


# -- the balance -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("matcher", "options"), [("dual_permute", DualOptions()), ("dual_zip", DualZipOptions())])
def test_a_grid_keeps_the_balance_that_is_judged_best(matcher: str, options: DualOptions) -> None:
    problem = various()
    seen: list[Sequence[Mapping[str, UnitMap]]] = []

    def judge(maps: Sequence[Mapping[str, UnitMap]]) -> float:
        seen.append(maps)
        return [0.1, 0.2, 0.7, 0.3, 0.7, 0.1, 0.1, 0.1, 0.1][len(seen) - 1]

    found = MATCHERS[matcher].match(replace(problem, judge=judge), replace(options, balance="grid"))
    assert len(seen) == len(GRID)
    assert found.maps is seen[2]
    assert found.objective["balance"] == 0.3
    assert found.objective["accuracy.balance0.3"] == 0.7
    fixed = MATCHERS[matcher].match(various(), replace(options, balance=0.3))
    assert indices(found) == indices(fixed)
    assert fixed.objective.items() <= found.objective.items()


def test_a_grid_without_labelled_images_is_refused() -> None:
    with pytest.raises(ValueError, match="set balance to a number"):
        MATCHERS["dual_permute"].match(various(), DualOptions(balance="grid"))


def test_merges_are_judged_by_their_accuracy_on_training_images(trained: Trained) -> None:
    images, labels = trained.toy.inputs(), trained.toy.tensors()[1]
    models = dict(zip("ab", trained.models[:2], strict=True))
    maps = [{space.name: Permutation.identity(space.size) for space in trained.spaces.free}] * 2
    one_task = TrainingAccuracy(models, trained.spaces, {"a": [(images, labels)]}, same_outputs=True)
    merged = merge_network(build(trained.architecture), trained.spaces, trained.states()[:2], maps)
    reset(merged, [images])
    assert one_task(maps) == pytest.approx(float((merged(images).argmax(1) == labels).float().mean()))
    whole = TrainingAccuracy(models, trained.spaces, {"a": [(images, labels)]}, same_outputs=True, weights=(1.0, 0.0))
    assert whole(maps) == pytest.approx(float((trained.models[0](images).argmax(1) == labels).float().mean()), abs=0.02)

    half = {name: [(images[part::2], labels[part::2])] for part, name in enumerate(models)}
    two_tasks = TrainingAccuracy(models, trained.spaces, half, readouts={"b": lambda outputs: -outputs})
    network = multi_head(models, trained.spaces, maps)
    reset(network.trunk, [images[0::2], images[1::2]])
    outputs = [network(images[part::2])[name] for part, name in enumerate(models)]
    right = [(outputs[0].argmax(1) == labels[0::2]), ((-outputs[1]).argmax(1) == labels[1::2])]
    assert two_tasks(maps) == pytest.approx(float(torch.stack(right).float().mean()), abs=1e-6)


@pytest.mark.parametrize(
    ("options", "values"),
    [
        (DualOptions, {"balance": 1.1}),
        (DualOptions, {"balance": "best"}),
        (DualOptions, {"patience": 0}),
        (DualZipOptions, {"max_sweeps": 0}),
        (DualZipOptions, {"alpha": 0.0}),
        (DualZipOptions, {"beta": 2.0}),
    ],
)
def test_options_out_of_range_are_refused(options: type, values: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(values))):
        options(**values)
