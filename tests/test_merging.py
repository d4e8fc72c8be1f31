"""Merging: what a merge is, tensor by tensor, and networks that share a trunk and keep their own heads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mergeline.architectures import Architecture, build
from mergeline.evaluation import flops, parameters
from mergeline.heads import MultiHead, cut, multi_head, multi_head_from_state, trace_network
from mergeline.maps import Dense, Groups, Permutation, UnitMap
from mergeline.matching import MATCHERS, Problem
from mergeline.merging import merge_folded, merge_network, merge_states
from mergeline.moments import collect_moments
from mergeline.spaces import Spaces, permute_state, random_permutation, trace
from stages.formats.merged import load_merged, save_merged
from tests.conftest import TINY, Trained

Enliven = Callable[..., nn.Module]
State = dict[str, Tensor]
Maps = dict[str, UnitMap]
KINDS = ("permutation", "groups", "dense")
R17_STOPS = [space.name for space in trace_network(build(TINY), 32).free]


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def scramble(spaces: Spaces, state: State, seed: int = 5) -> tuple[State, dict[str, np.ndarray]]:
    """The state with every space permuted, and the index by space that takes it back."""
    generator = torch.Generator().manual_seed(seed)
    planted = {space.name: random_permutation(space, generator) for space in spaces.free}
    return permute_state(spaces, state, planted), {name: np.argsort(index.numpy()) for name, index in planted.items()}


def identity_maps(spaces: Spaces) -> Maps:
    return {space.name: Permutation.identity(space.size) for space in spaces.free}


def as_kind(kind: str, index: np.ndarray) -> UnitMap:
    """A permutation, written as a map of another kind."""
    if kind == "groups":
        return Groups(np.argsort(index), len(index))
    matrix = np.eye(len(index))[index]
    return Dense(matrix, matrix.T) if kind == "dense" else Permutation(index)


def load(architecture: Architecture, state: Mapping[str, Tensor]) -> nn.Module:
    model = build(architecture)
    model.load_state_dict(state)
    return model.eval()


def outputs(model: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        return model.eval()(images)


def head_outputs(network: MultiHead, images: Tensor) -> dict[str, Tensor]:
    with torch.no_grad():
        return network(images)


def equal(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    return set(first) == set(second) and all(torch.equal(first[name], second[name]) for name in first)


# -- a planted permutation ------------------------------------------------------------------------------------------


def test_a_planted_permutation_of_a_trained_model_is_recovered_exactly(trained: Trained) -> None:
    spaces, images = trained.spaces, trained.toy.inputs()
    state = trained.states()[0]
    scrambled, back = scramble(spaces, state)
    assert not equal(scrambled, state)
    other = load(TINY, scrambled)
    torch.testing.assert_close(outputs(other, images), outputs(trained.models[0], images), rtol=1e-4, atol=1e-4)

    moments = collect_moments([trained.models[0], other], spaces, images.split(64))
    problem = Problem(spaces, [state, scrambled], moments, np.random.default_rng(0))
    matching = MATCHERS["permute"].match(problem, MATCHERS["permute"].options())
    reference, aligned = matching.maps
    assert all(unit_map.is_identity for unit_map in reference.values())
    for name, index in back.items():
        np.testing.assert_array_equal(aligned[name].index, index)

    merged = merge_network(build(TINY), spaces, [state, scrambled], matching.maps)
    assert equal(merged.state_dict(), state)
    assert torch.equal(outputs(merged, images), outputs(load(TINY, state), images))


@pytest.mark.parametrize("kind", KINDS)
def test_merging_with_the_planted_maps_gives_the_model_back(kind: str, trained: Trained) -> None:
    state = trained.states()[0]
    scrambled, back = scramble(trained.spaces, state)
    maps = [identity_maps(trained.spaces), {name: as_kind(kind, index) for name, index in back.items()}]
    if kind != "permutation":
        maps[0] = {name: as_kind(kind, np.arange(len(index))) for name, index in back.items()}
    assert equal(merge_states(trained.spaces, [state, scrambled], maps), state)


def test_the_objective_of_a_perfect_match_is_one_in_every_space(trained: Trained) -> None:
    spaces, images = trained.spaces, trained.toy.inputs(64)
    moments = collect_moments([trained.models[0]] * 2, spaces, [images])
    problem = Problem(spaces, trained.states()[:1] * 2, moments, np.random.default_rng(0))
    matching = MATCHERS["permute"].match(problem, MATCHERS["permute"].options())
    assert list(matching.objective) == [space.name for space in spaces.free]
    assert list(matching.objective.values()) == pytest.approx([1.0] * len(spaces.free), abs=1e-4)


# -- what a merge is ------------------------------------------------------------------------------------------------


def test_merging_a_model_with_itself_is_the_model_bit_for_bit(trained: Trained) -> None:
    state = trained.states()[0]
    maps = [identity_maps(trained.spaces)] * 2
    assert equal(merge_states(trained.spaces, [state, state], maps), state)
    assert equal(merge_states(trained.spaces, [state, state], [{}, {}]), state)


def test_all_the_weight_on_one_model_gives_that_model(trained: Trained) -> None:
    states = trained.states()[:2]
    _, back = scramble(trained.spaces, states[1])
    maps = [identity_maps(trained.spaces), {name: Permutation(index) for name, index in back.items()}]
    assert equal(merge_states(trained.spaces, states, maps, (1, 0)), states[0])
    second = permute_state(trained.spaces, states[1], {name: torch.from_numpy(i) for name, i in back.items()})
    assert equal(merge_states(trained.spaces, states, maps, (0, 1)), second)


def test_weights_interpolate_every_tensor(trained: Trained) -> None:
    first, second = trained.states()[:2]
    merged = merge_states(trained.spaces, [first, second], [identity_maps(trained.spaces)] * 2, (0.25, 0.75))
    for name, tensor in merged.items():
        if tensor.is_floating_point():
            torch.testing.assert_close(tensor, 0.25 * first[name] + 0.75 * second[name])


def test_three_models_are_averaged(trained: Trained) -> None:
    states = trained.states()
    merged = merge_states(trained.spaces, states, [identity_maps(trained.spaces)] * 3)
    torch.testing.assert_close(merged["conv1.weight"], sum(s["conv1.weight"] for s in states) / 3)
    torch.testing.assert_close(merged["fc.bias"], sum(s["fc.bias"] for s in states) / 3)


class Chain(nn.Module):
    """Two convolutions with norms and a linear layer after flattening: output, input, norm and repeated axes."""

    def __init__(self, classes: int = 4, flatten: bool = True) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 5, 3, padding=1), nn.BatchNorm2d(5)
        self.conv2, self.bn2 = nn.Conv2d(5, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.pool = nn.AdaptiveAvgPool2d(2 if flatten else 1)
        self.fc = nn.Linear(6 * (4 if flatten else 1), classes)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        x = torch.relu(self.bn2(self.conv2(x)))
        return self.fc(torch.flatten(self.pool(x), 1))


CHAIN_LABELS = [
    {"conv1": ([0, 0, 1, 2, 3], 5), "conv2": ([0, 1, 1, 2, 4, 5], 6)},
    {"conv1": ([0, 1, 1, 4, 4], 5), "conv2": ([3, 3, 3, 0, 2, 1], 6)},
]
"""Group labels of two models: groups of several sizes, some with units of one model only."""


def chains(enliven: Enliven, classes: Sequence[int] = (4, 4)) -> list[nn.Module]:
    torch.manual_seed(0)
    return [enliven(Chain(count), seed) for seed, count in enumerate(classes)]


def below_classifier(model: nn.Module) -> set[str]:
    return {name for name in model.state_dict() if not name.startswith("fc.")}


def chain_maps() -> list[Maps]:
    return [{name: Groups(np.array(labels), n) for name, (labels, n) in own.items()} for own in CHAIN_LABELS]


def chain_matrices(weights: Sequence[float]) -> tuple[list[dict[str, Tensor]], list[dict[str, Tensor]]]:
    """M (merged, C), which averages a group's members by weight, and U (C, merged), which copies, of both models."""
    merges: list[dict[str, Tensor]] = [{}, {}]
    unmerges: list[dict[str, Tensor]] = [{}, {}]
    for space in ("conv1", "conv2"):
        n_groups = CHAIN_LABELS[0][space][1]
        total = [0.0] * n_groups
        for own, weight in zip(CHAIN_LABELS, weights, strict=True):
            for label in own[space][0]:
                total[label] += weight
        for i, own in enumerate(CHAIN_LABELS):
            labels = own[space][0]
            merges[i][space] = torch.zeros(n_groups, len(labels))
            unmerges[i][space] = torch.zeros(len(labels), n_groups)
            for unit, label in enumerate(labels):
                merges[i][space][label, unit] = weights[i] / total[label]
                unmerges[i][space][unit, label] = 1
    return merges, unmerges


@pytest.mark.parametrize("weights", [(0.5, 0.5), (0.3, 0.7), (0.9, 0.1)])
def test_merged_tensors_are_the_sum_of_mapped_ones(weights: tuple[float, float], enliven: Enliven) -> None:
    models = chains(enliven)
    states = [model.state_dict() for model in models]
    merged = merge_states(trace(models[0], torch.zeros(1, 3, 8, 8)), states, chain_maps(), weights)
    merges, unmerges = chain_matrices(weights)

    def mapped(expression: str, name: str, spaces: str, inputs: str = "") -> Tensor:
        parts = []
        for state, m, u in zip(states, merges, unmerges, strict=True):
            factors = [m[spaces]] if spaces else []
            parts.append(torch.einsum(expression, *factors, state[name], *([u[inputs]] if inputs else [])))
        return parts[0] + parts[1]

    def own(name: str) -> list[Tensor]:
        return [weight * state[name] for weight, state in zip(weights, states, strict=True)]

    expected = {
        "conv1.weight": mapped("gi,iahw->gahw", "conv1.weight", "conv1"),
        "conv2.weight": mapped("gi,iahw,ab->gbhw", "conv2.weight", "conv2", "conv1"),
        "fc.bias": sum(own("fc.bias")),
    }
    for layer, space in (("conv1", "conv1"), ("conv2", "conv2"), ("bn1", "conv1"), ("bn2", "conv2")):
        leaves = ["bias"] if layer.startswith("conv") else ["weight", "bias", "running_mean", "running_var"]
        expected |= {f"{layer}.{leaf}": mapped("gi,i->g", f"{layer}.{leaf}", space) for leaf in leaves}
    spread = [part.unflatten(1, (6, 4)) for part in own("fc.weight")]
    expected["fc.weight"] = sum(
        torch.einsum("oip,ig->ogp", part, u["conv2"]).flatten(1) for part, u in zip(spread, unmerges, strict=True)
    )
    floating = {name for name, tensor in merged.items() if tensor.is_floating_point()}
    assert floating == set(expected)
    for name, tensor in expected.items():
        torch.testing.assert_close(merged[name], tensor, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["groups", "linear"])
@pytest.mark.parametrize("weights", [(0.5, 0.5), (0.3, 0.7)])
def test_merged_units_behind_a_norm_are_the_mapped_units_of_the_models(
    kind: str, weights: tuple[float, float], enliven: Enliven
) -> None:
    models, images = chains(enliven), noise(8, 3, 8, 8)
    with torch.no_grad():
        for model in models:
            model.bn1.weight[1] *= -1  # type: ignore[union-attr,operator,index]
            model.bn1.weight[2] = 1e-4  # type: ignore[union-attr,operator,index]
    spaces = trace(models[0], images[:2])
    maps, (merges, _) = chain_maps(), chain_matrices(weights)
    matrices = [own["conv1"] for own in merges]
    if kind == "linear":
        matrices = [torch.from_numpy(np.random.default_rng(seed).normal(size=(5, 5))).float() for seed in range(2)]
        maps = [{"conv1": Dense(m.double().numpy(), np.linalg.inv(m.double().numpy()))} for m in matrices]
        matrices = [weight * m for weight, m in zip(weights, matrices, strict=True)]
    merged = chains(enliven)[0]
    merged.load_state_dict(merge_folded(spaces, [model.state_dict() for model in models], maps, weights))

    def units(model: nn.Module) -> Tensor:
        with torch.no_grad():
            return model.eval().bn1(model.conv1(images))  # type: ignore[operator]

    expected = sum(torch.einsum("gi,bihw->bghw", m, units(model)) for m, model in zip(matrices, models, strict=True))
    torch.testing.assert_close(units(merged), expected, rtol=1e-4, atol=1e-4)
    assert (merged.bn1.weight > 0).all()  # type: ignore[union-attr,operator]


def test_a_folded_norm_is_the_same_under_all_its_names(enliven: Enliven) -> None:
    def named_twice(model: nn.Module) -> nn.Module:
        model.also = model.bn1
        return model

    models, images = [named_twice(model) for model in chains(enliven)], noise(4, 3, 8, 8)
    spaces = trace(models[0], images[:2])
    merged = merge_folded(spaces, [model.state_dict() for model in models], chain_maps())
    for leaf in ("weight", "bias", "running_mean", "running_var"):
        assert torch.equal(merged[f"also.{leaf}"], merged[f"bn1.{leaf}"])
    plain = merge_folded(spaces, [model.state_dict() for model in chains(enliven)], chain_maps())
    assert all(torch.equal(merged[name], tensor) for name, tensor in plain.items())


def test_no_weight_on_a_models_own_groups_leaves_no_trace_of_it(enliven: Enliven) -> None:
    models = chains(enliven)
    spaces = trace(models[0], torch.zeros(1, 3, 8, 8))
    states = [model.state_dict() for model in models]
    maps = chain_maps()
    maps[0] = identity_maps(spaces)
    merged = merge_states(spaces, states, maps, (1, 0))
    assert equal(merged, states[0])
    merged = merge_states(spaces, states, maps[::-1], (1, 0))
    assert all(torch.isfinite(tensor).all() for tensor in merged.values())


def test_linear_maps_merge_by_their_matrices(enliven: Enliven) -> None:
    models = chains(enliven)
    spaces = trace(models[0], torch.zeros(1, 3, 8, 8))
    rng = np.random.default_rng(0)
    maps: list[Maps] = [{}, {}]
    for own in maps:
        for space in spaces.free:
            matrix = rng.normal(size=(space.size, space.size))
            own[space.name] = Dense(matrix, np.linalg.inv(matrix))
    states = [model.state_dict() for model in models]
    merged = merge_states(spaces, states, maps)
    expected = sum(
        0.5
        * torch.einsum(
            "gi,iahw,ab->gbhw",
            torch.from_numpy(own["conv2"].to_merged),
            state["conv2.weight"].double(),
            torch.from_numpy(own["conv1"].to_own),
        )
        for own, state in zip(maps, states, strict=True)
    )
    torch.testing.assert_close(merged["conv2.weight"].double(), expected, rtol=1e-4, atol=1e-4)


def test_only_the_named_tensors_are_merged(trained: Trained) -> None:
    states = trained.states()[:2]
    merged = merge_states(trained.spaces, states, [{}, {}], only={"conv1.weight", "bn1.bias"})
    assert set(merged) == {"conv1.weight", "bn1.bias"}


@pytest.mark.parametrize(
    ("maps", "weights", "message"),
    [
        ([{}], None, "2 models need as many maps, got 1"),
        ([{}, {}], (1.0,), "as many weights, got 1"),
        ([{}, {}], (float("nan"), 0.5), "be finite"),
        ([{}, {}], (0.5, 0.6), "must sum to 1"),
    ],
)
def test_numbers_that_do_not_fit_are_an_error(
    maps: list[Maps], weights: tuple[float, ...] | None, message: str, trained: Trained
) -> None:
    with pytest.raises(ValueError, match=message):
        merge_states(trained.spaces, trained.states()[:2], maps, weights)


# -- a trunk and heads ----------------------------------------------------------------------------------------------


def rehead(trained: Trained, classes: int = 7) -> tuple[nn.Module, dict[str, np.ndarray]]:
    """The first trained model with its units permuted and a classifier of its own, and the maps that take it back."""
    state = trained.states()[0]
    generator = torch.Generator().manual_seed(9)
    state["fc.weight"] = torch.randn(classes, 128, generator=generator)
    state["fc.bias"] = torch.randn(classes, generator=generator)
    scrambled, back = scramble(trained.spaces, state)
    return load(Architecture("r17", classes, TINY.width, TINY.input_size), scrambled), back


def planted_maps(trained: Trained, back: Mapping[str, np.ndarray], kind: str) -> list[Maps]:
    first = {name: as_kind(kind, np.arange(len(index))) for name, index in back.items()}
    return [first, {name: as_kind(kind, index) for name, index in back.items()}]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stop", [*R17_STOPS, None])
def test_a_model_and_its_permutation_keep_their_functions_at_every_stop(
    stop: str | None, kind: str, trained: Trained
) -> None:
    first, images = trained.models[0], trained.toy.inputs(8)
    second, back = rehead(trained)
    network = multi_head({"a": first, "b": second}, trained.spaces, planted_maps(trained, back, kind), stop=stop)
    found = head_outputs(network, images)
    assert [tuple(part.shape) for part in found.values()] == [(8, 4), (8, 7)]
    torch.testing.assert_close(found["a"], outputs(first, images), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(found["b"], outputs(second, images), rtol=1e-3, atol=1e-3)


def test_a_model_beside_itself_is_the_same_function_bit_for_bit(trained: Trained) -> None:
    model, images = trained.models[0], trained.toy.inputs(8)
    for stop in R17_STOPS:
        found = head_outputs(multi_head({"a": model, "b": model}, trained.spaces, stop=stop), images)
        assert torch.equal(found["a"], outputs(model, images))
        assert torch.equal(found["b"], found["a"])


def test_at_the_last_space_it_is_the_merged_trunk_with_own_classifiers(trained: Trained) -> None:
    first, second = trained.models[:2]
    images = trained.toy.inputs(8)
    _, back = scramble(trained.spaces, trained.states()[1])
    maps: list[Maps] = [
        identity_maps(trained.spaces),
        {name: Permutation(index) for name, index in back.items()},
    ]
    network = multi_head({"a": first, "b": second}, trained.spaces, maps, weights=(0.4, 0.6))
    found = head_outputs(network, images)
    merged = merge_states(trained.spaces, trained.states()[:2], maps, (0.4, 0.6))
    for name, model, own in zip("ab", (first, second), maps, strict=True):
        state = dict(merged)
        state["fc.weight"] = own["layer4.0"].unmerge(model.state_dict()["fc.weight"], 1)
        state["fc.bias"] = model.state_dict()["fc.bias"]
        torch.testing.assert_close(found[name], outputs(load(TINY, state), images), rtol=1e-4, atol=1e-4)
    assert [name for name, _ in network.heads[0].named_parameters()] == ["fc.weight", "fc.bias"]


def test_at_an_early_stop_the_heads_run_their_own_layers_on_merged_units(enliven: Enliven) -> None:
    models, maps = chains(enliven, (4, 3)), chain_maps()
    spaces = trace(models[0], torch.zeros(1, 3, 8, 8))
    images = noise(4, 3, 8, 8)
    found = head_outputs(multi_head(dict(zip("ab", models, strict=True)), spaces, maps, stop="conv1"), images)
    merged = merge_folded(spaces, [model.state_dict() for model in models], maps, only=below_classifier(models[0]))
    with torch.no_grad():
        x = nn.functional.conv2d(images, merged["conv1.weight"], merged["conv1.bias"], padding=1)
        norm = [merged[f"bn1.{leaf}"] for leaf in ("running_mean", "running_var", "weight", "bias")]
        trunk = torch.relu(nn.functional.batch_norm(x, *norm))
        for name, model, own in zip("ab", models, CHAIN_LABELS, strict=True):
            units = trunk[:, own["conv1"][0]]
            expected = model.fc(torch.flatten(model.pool(torch.relu(model.bn2(model.conv2(units)))), 1))
            torch.testing.assert_close(found[name], expected, rtol=1e-4, atol=1e-4)


def test_a_flattened_boundary_is_read_by_the_right_units(enliven: Enliven) -> None:
    models, maps = chains(enliven, (4, 3)), chain_maps()
    spaces = trace(models[0], torch.zeros(1, 3, 8, 8))
    images = noise(4, 3, 8, 8)
    late = multi_head(dict(zip("ab", models, strict=True)), spaces, maps)
    assert parameters(late.heads) == sum(6 * 4 * count + count for count in (4, 3))
    merged = merge_folded(spaces, [model.state_dict() for model in models], maps, only=below_classifier(models[0]))
    shared = enliven(Chain())
    shared.load_state_dict(merged, strict=False)
    with torch.no_grad():
        units = torch.relu(shared.bn2(shared.conv2(torch.relu(shared.bn1(shared.conv1(images))))))
        found = late(images)
        for name, model, own in zip("ab", models, CHAIN_LABELS, strict=True):
            expected = model.fc(torch.flatten(model.pool(units[:, own["conv2"][0]]), 1))
            torch.testing.assert_close(found[name], expected, rtol=1e-4, atol=1e-4)


def test_more_merged_units_than_a_model_has_are_read_by_its_head(enliven: Enliven) -> None:
    models = chains(enliven)
    spaces = trace(models[0], torch.zeros(1, 3, 8, 8))
    apart: list[Maps] = [
        {s.name: Groups(np.arange(s.size) + shift * s.size, 2 * s.size) for s in spaces.free} for shift in range(2)
    ]
    images = noise(4, 3, 8, 8)
    for stop in ("conv1", "conv2"):
        network = multi_head(dict(zip("ab", models, strict=True)), spaces, apart, (0.5, 0.5), stop)
        found = head_outputs(network, images)
        assert network.trunk.conv1.weight.shape[0] == 10
        if stop == "conv1":  # nothing was averaged yet
            for name, model in zip("ab", models, strict=True):
                torch.testing.assert_close(found[name], outputs(model, images), rtol=1e-4, atol=1e-4)


def test_a_multi_head_network_shares_no_memory_with_its_sources(trained: Trained) -> None:
    before = trained.states()[0]
    network = multi_head({"a": trained.models[0], "b": trained.models[0]}, trained.spaces, stop="layer2.0")
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(3.0)
    assert equal(before, trained.models[0].state_dict())


@pytest.mark.parametrize("stop", ["layer9", "output", "layer1"])
def test_an_unknown_stop_lists_the_spaces(stop: str, trained: Trained) -> None:
    with pytest.raises(ValueError, match=rf"unknown space '{stop}'.*spaces are: conv1, layer1.0.conv1, .*, layer4.0$"):
        cut(trained.models[0], trained.spaces, stop)


def test_each_cut_has_every_node_once_and_later_cuts_have_larger_trunks(trained: Trained) -> None:
    nodes = [node.name for node in trained.spaces.graph.nodes]
    sizes = []
    for stop in R17_STOPS:
        plan = cut(trained.models[0], trained.spaces, stop)
        assert [*plan.trunk, *plan.head] == nodes
        assert set(plan.boundary) <= set(plan.trunk)
        assert stop in plan.trunk_spaces
        sizes.append(len(plan.trunk_tensors))
    assert sizes == sorted(sizes)
    assert not any(name.startswith("fc") for name in plan.trunk_tensors)


def test_the_cost_of_a_cut_network_lies_between_merged_and_ensemble(trained: Trained) -> None:
    first, second = trained.models[:2]
    example = trained.toy.inputs(1)
    merged, ensemble = flops(first, example), flops(first, example) + flops(second, example)
    costs = [flops(multi_head({"a": first, "b": second}, trained.spaces, stop=stop), example) for stop in R17_STOPS]
    sizes = [parameters(multi_head({"a": first, "b": second}, trained.spaces, stop=stop)) for stop in R17_STOPS]
    assert all(merged < cost < ensemble for cost in costs)
    assert all(parameters(first) < size < 2 * parameters(first) for size in sizes)
    assert costs == sorted(costs, reverse=True)
    assert sizes == sorted(sizes, reverse=True)
    assert costs[-1] == merged + 128 * 4


# -- kept and read again --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stop", ["layer1.0.conv1", "layer1.0", "layer3.0.conv2", None])
def test_a_multi_head_network_is_the_same_from_its_state_dict(stop: str | None, kind: str, trained: Trained) -> None:
    second, back = rehead(trained)
    models = {"a": trained.models[0], "b": second}
    network = multi_head(models, trained.spaces, planted_maps(trained, back, kind), stop=stop)
    blank = {
        name: build(Architecture("r17", classes, TINY.width, TINY.input_size), 3)
        for name, classes in (("a", 4), ("b", 7))
    }
    again = multi_head_from_state(blank, trained.spaces, network.state_dict(), stop)
    assert equal(network.state_dict(), again.state_dict())
    images = trained.toy.inputs(4)
    for name, value in head_outputs(network, images).items():
        assert torch.equal(head_outputs(again, images)[name], value)


@pytest.mark.parametrize("stop", ["layer2.0.conv1", None])
def test_a_multi_head_network_with_resized_spaces_is_the_same_from_its_state_dict(
    stop: str | None, trained: Trained
) -> None:
    rng = np.random.default_rng(0)
    maps: list[Maps] = [{}, {}]
    for space in trained.spaces.free:
        n_groups = space.size + 1
        for own in maps:
            own[space.name] = Groups(rng.integers(0, n_groups, space.size), n_groups)
        maps[0][space.name] = Groups(np.arange(space.size) + rng.integers(0, 2), n_groups)
    models = dict(zip("ab", trained.models[:2], strict=True))
    network = multi_head(models, trained.spaces, maps, stop=stop)
    again = multi_head_from_state(models, trained.spaces, network.state_dict(), stop)
    images = trained.toy.inputs(4)
    for name, value in head_outputs(network, images).items():
        assert torch.isfinite(value).all()
        assert torch.equal(head_outputs(again, images)[name], value)


def test_a_state_dict_of_another_cut_is_refused(trained: Trained) -> None:
    models = {"a": trained.models[0], "b": trained.models[1]}
    state = multi_head(models, trained.spaces, stop="layer1.0").state_dict()
    with pytest.raises(ValueError, match=r"of another network; tensors that differ: "):
        multi_head_from_state(models, trained.spaces, state, "layer2.0")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stop", ["layer2.0.conv1", None])
def test_a_multi_head_file_gives_the_network_back(
    stop: str | None, kind: str, trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    second, back = rehead(trained)
    network = multi_head(
        {"a": trained.models[0], "b": second}, trained.spaces, planted_maps(trained, back, kind), stop=stop
    )
    architectures = {"a": TINY, "b": Architecture("r17", 7, TINY.width, TINY.input_size)}
    save_merged(tmp_path / "one.safetensors", network, architectures, stop, heads=True)
    save_merged(tmp_path / "two.safetensors", network, architectures, stop, heads=True)
    assert (tmp_path / "one.safetensors").read_bytes() == (tmp_path / "two.safetensors").read_bytes()
    again = load_merged(tmp_path / "one.safetensors")
    images = trained.toy.inputs(4)
    for name, value in head_outputs(network, images).items():
        torch.testing.assert_close(head_outputs(again, images)[name], value, rtol=1e-5, atol=1e-5)


def test_a_merged_file_gives_the_network_back(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "model.safetensors"
    save_merged(path, trained.models[0], {"digits": TINY}, None, heads=False)
    again = load_merged(path)
    assert equal(again.state_dict(), trained.models[0].state_dict())
