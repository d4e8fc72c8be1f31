"""REPAIR, RESCALE and the two treatments of biases: every output gets its goal, and nothing else changes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from mergeline import merge
from mergeline.api import MergeResult
from mergeline.maps import Groups, Permutation
from mergeline.merging import UnitMerger
from mergeline.network import assemble, normalise
from mergeline.normalization.rewriting import rewrite
from mergeline.normalization.targets import Goal, goals, layer_statistics, targets
from mergeline.spaces import Spaces, permute_state, random_permutations, trace
from mergeline.unit_statistics import pooled, unit_statistics
from tests.networks import images, network

NETWORKS = ("vgg11", "vgg11-bn", "vgg11-ln", "resnet20", "resnet20-gn", "vit")
PLAIN = [name for name in NETWORKS if name not in ("vgg11-bn", "resnet20")]


def pair(name: str) -> list[nn.Module]:
    return [network(name, seed) for seed in (1, 2)]


def merged(models: Sequence[nn.Module], normalize: str, method: str = "permute", **settings: Any) -> MergeResult:
    return merge(models, list(images().split(7)), method, normalize, check=False, **settings)


def statistics(model: nn.Module) -> Mapping[str, Any]:
    return layer_statistics(model, trace(model, images(2)), images().split(10))


def aligned_goals(
    models: Sequence[nn.Module], result: MergeResult, weights: Sequence[float] = (0.5, 0.5)
) -> Mapping[str, Goal]:
    return goals(result.spaces, [statistics(model) for model in models], result.maps, weights)


def assert_met(model: nn.Module, wanted: Mapping[str, Goal], means: bool = True, tolerance: float = 1e-4) -> None:
    found = statistics(model)
    assert set(found) == set(wanted)
    for name, goal in wanted.items():
        scale = float(goal.deviation.max()) + float(goal.mean.abs().max())
        torch.testing.assert_close(found[name].deviation, goal.deviation, rtol=1e-3, atol=tolerance * scale, msg=name)
        if means:
            torch.testing.assert_close(found[name].mean, goal.mean, rtol=1e-3, atol=tolerance * scale, msg=name)


# -- goals are met ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["permute", "zip"])
@pytest.mark.parametrize("name", NETWORKS)
def test_repair_gives_every_output_its_mean_and_deviation(name: str, method: str) -> None:
    models = pair(name)
    result = merged(models, "repair", method, weights=[0.3, 0.7])
    assert_met(result.model, aligned_goals(models, result, (0.3, 0.7)))


@pytest.mark.parametrize("name", PLAIN)
def test_rescale_gives_every_output_its_deviation(name: str) -> None:
    models = pair(name)
    result = merged(models, "rescale")
    assert_met(result.model, aligned_goals(models, result), means=False)


@pytest.mark.parametrize("name", ["vgg11", "vgg11-bn", "vit"])
@pytest.mark.parametrize("normalize", ["repair", "rescale"])
def test_one_pass_gives_what_the_sequential_variant_gives(name: str, normalize: str) -> None:
    models = pair(name)
    once = merged(models, normalize, "identity").model(images())
    layerwise = merged(models, normalize, "identity", normalize_options={"sequential": True}).model(images())
    torch.testing.assert_close(once, layerwise, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["vgg11", "vgg11-bn"])
def test_a_unit_that_is_dead_in_a_source_counts_with_deviation_zero(name: str) -> None:
    models = pair(name)
    weight, bias = models[1].features[0].weight, models[1].features[0].bias  # type: ignore[index, union-attr]
    with torch.no_grad():
        weight[3] = 0  # type: ignore[index]
        if bias is not None:
            bias[3] = -1  # type: ignore[index]
    result = merged(models, "repair", "identity")
    wanted = aligned_goals(models, result)
    assert_met(result.model, wanted)
    first = next(iter(wanted))
    alive = statistics(models[0])[first].deviation[3]
    assert float(wanted[first].deviation[3]) == pytest.approx(float(alive) / 2)


def test_a_unit_that_is_dead_in_both_stays_finite_and_gets_its_mean() -> None:
    models = pair("vgg11")
    with torch.no_grad():
        for model in models:
            model.features[0].weight[3] = 0  # type: ignore[index, union-attr]
            model.features[0].bias[3] = 2  # type: ignore[index, union-attr]
    result = merged(models, "repair", "identity")
    found = statistics(result.model)["features.0.weight"]
    assert float(found.deviation[3]) < 1e-6
    assert float(found.mean[3]) == pytest.approx(2)
    assert all(torch.isfinite(tensor).all() for tensor in result.model.state_dict().values())


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("normalize", ["repair", "rescale"])
def test_a_model_merged_with_itself_stays_the_same_function(name: str, normalize: str) -> None:
    model = network(name, 1)
    found = merged([model, model], normalize, "identity").model(images(8, seed=5))
    torch.testing.assert_close(found, model(images(8, seed=5)), rtol=1e-3, atol=1e-3)


def test_rescale_keeps_zero_at_zero() -> None:
    """Without biases the network is homogeneous: what it gives for nothing is nothing, whatever the scale."""
    models = pair("vgg11")
    with torch.no_grad():
        for model in models:
            for name, parameter in model.named_parameters():
                if name.endswith("bias"):
                    parameter.zero_()
    zero = torch.zeros(1, 3, 32, 32)
    assert float(merged(models, "rescale").model(zero).detach().abs().max()) == 0
    assert float(merged(models, "repair").model(zero).detach().abs().max()) > 0


class Unfused(nn.Module):
    """REPAIR with a step of its own behind every layer, on all images at once (vanishing_feature Algorithm 2)."""

    def __init__(self, model: nn.Module, wanted: Mapping[str, Goal], calibration: Tensor) -> None:
        super().__init__()
        self.model = model
        self.steps: dict[str, tuple[Tensor, Tensor]] = {}
        self.hooks = [
            module.register_forward_hook(self._hook(f"{name}.weight", wanted))
            for name, module in model.named_modules()
            if f"{name}.weight" in wanted
        ]
        with torch.no_grad():
            model(calibration)

    def _hook(self, name: str, wanted: Mapping[str, Goal]) -> Callable[..., Tensor]:
        def step(module: nn.Module, arguments: Any, output: Tensor) -> Tensor:
            last = output if isinstance(module, nn.Linear) else output.movedim(1, -1)
            if name not in self.steps:
                flat = last.reshape(-1, last.shape[-1]).double()
                scale = wanted[name].deviation / flat.std(0, correction=0)
                self.steps[name] = scale.float(), (wanted[name].mean - flat.mean(0) * scale).float()
            scale, offset = self.steps[name]
            last = last * scale + offset
            return last if isinstance(module, nn.Linear) else last.movedim(-1, 1)

        return step

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


@pytest.mark.parametrize("name", ["vgg11", "vgg11-ln", "resnet20-gn"])
def test_fused_equals_unfused(name: str) -> None:
    models = pair(name)
    result = merged(models, "repair", "identity")
    plain = merged(models, "none", "identity")
    assert [n for n, m in result.model.named_modules()] == [n for n, m in plain.model.named_modules()]
    unfused = Unfused(plain.model, aligned_goals(models, plain), images())
    with torch.no_grad():
        torch.testing.assert_close(result.model(images(8, 9)), unfused(images(8, 9)), rtol=1e-4, atol=1e-5)


def test_a_layer_without_a_bias_gets_one() -> None:
    models = pair("resnet20-gn")
    assert models[0].conv1.bias is None  # type: ignore[union-attr]
    result = merged(models, "repair", "identity")
    assert result.model.conv1.bias is not None  # type: ignore[union-attr]
    assert merged(models, "rescale", "identity").model.conv1.bias is None  # type: ignore[union-attr]


@pytest.mark.parametrize("normalize", ["repair", "rescale"])
def test_heads_of_tasks_are_set_right_on_their_own_images(normalize: str) -> None:
    models = dict(zip("ab", pair("vgg11"), strict=True))
    own = {"a": list(images(12, 1).split(4)), "b": list((images(12, 2) * 2).split(4))}
    result = merge(models, own, "permute", normalize, stop="features.16", check=False)
    spaces = result.spaces
    both = [pooled([layer_statistics(model, spaces, batches) for batches in own.values()]) for model in models.values()]
    trunk = goals(spaces, both, result.maps, (0.5, 0.5))
    mixed = torch.cat([torch.cat(batches) for batches in own.values()])
    for head, (task, batches) in enumerate(own.items()):
        alone = result.model.alone(task)  # type: ignore[operator]
        recorded = trace(alone, batches[0][:2])
        on_mixed, on_own = layer_statistics(alone, recorded, [mixed]), layer_statistics(alone, recorded, batches)
        single = layer_statistics(models[task], spaces, batches)
        assert {name.partition(".")[0] for name in on_own} == {"trunk", "head"}
        for name in on_own:
            part, _, tensor = name.partition(".")
            found = on_mixed[name] if part == "trunk" else on_own[name]
            goal = trunk[tensor] if part == "trunk" else Goal(single[tensor].mean, single[tensor].deviation)
            torch.testing.assert_close(found.deviation, goal.deviation, rtol=2e-3, atol=1e-4, msg=f"{head} {name}")
            if normalize == "repair":
                torch.testing.assert_close(found.mean, goal.mean, rtol=2e-3, atol=1e-3, msg=f"{head} {name}")


# -- statistics and goals ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
def test_statistics_are_those_of_the_modules_outputs(name: str) -> None:
    model = network(name, 1)
    found = statistics(model)
    seen: dict[str, Tensor] = {}
    for path, module in model.named_modules():
        key = f"{path}.running_var" if isinstance(module, nn.BatchNorm2d) else f"{path}.weight"
        if key in found:
            module.register_forward_hook(lambda m, a, output, key=key: seen.__setitem__(key, output.detach().clone()))
    with torch.no_grad():
        model(images())
    hidden = (
        8 if name == "vit" else 0
    )  # what torch computes in one piece: queries, keys, values and outputs of two attentions
    assert len(seen) == len(found) - hidden
    for key, output in seen.items():
        axis = -1 if output.dim() < 4 else 1
        last = output.movedim(axis, -1).reshape(-1, output.shape[axis]).double()
        torch.testing.assert_close(found[key].mean, last.mean(0), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found[key].deviation, last.std(0, correction=0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_statistics_of_a_permuted_model_are_the_permuted_statistics(name: str) -> None:
    model, twin = network(name, 1), network(name, 1)
    spaces = trace(model, images(2))
    orders = random_permutations(spaces, torch.Generator().manual_seed(3))
    twin.load_state_dict(permute_state(spaces, model.state_dict(), orders))
    maps = {space: Permutation(order.numpy()) for space, order in orders.items()}
    wanted = goals(spaces, [statistics(model)], [maps], (1.0,))
    found = statistics(twin)
    assert set(found) == set(wanted)
    for key, goal in wanted.items():
        torch.testing.assert_close(found[key].mean, goal.mean, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(found[key].deviation, goal.deviation, rtol=1e-3, atol=1e-4)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.integers(0, 100))
def test_statistics_do_not_depend_on_how_images_are_split(sizes: list[int], seed: int) -> None:
    values = torch.randn(sum(sizes), 4, 3, 3, generator=torch.Generator().manual_seed(seed)) * 3 + 50
    whole = unit_statistics([values], -3)
    parts = unit_statistics(values.split(sizes), -3)
    assert parts.n == whole.n == values.numel() // 4
    torch.testing.assert_close(parts.mean, whole.mean, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(parts.deviation, whole.deviation, rtol=1e-4, atol=1e-5)


def test_a_groups_goal_is_the_average_of_its_members() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.second(torch.relu(self.first(x)))

    spaces: Spaces = trace(Two().eval(), torch.zeros(2, 3))
    (space,) = spaces.free
    maps = [{space.name: Groups(np.array([0, 0, 1, 2]), 4)}, {space.name: Groups(np.array([1, 2, 3, 3]), 4)}]
    values = [torch.tensor([1.0, 2, 3, 4]).double(), torch.tensor([10.0, 20, 30, 40]).double()]
    for deviations in (False, True):
        found = UnitMerger(spaces, maps, (0.5, 0.5)).merge("first.weight", 0, values, deviations=deviations)
        assert found.tolist() == pytest.approx([1.5, (3 + 10) / 2, (4 + 20) / 2, 35])


def test_no_images_are_an_error_before_anything_changes() -> None:
    models = pair("vgg11")
    with pytest.raises(ValueError, match="no batch"):
        merge(models, [], "identity", "repair")
    spaces = trace(models[0], images(2))
    network_ = assemble(dict(zip("ab", models, strict=True)), spaces, [{}, {}], same_outputs=True)
    with pytest.raises(ValueError, match="needs images"):
        normalise(network_, "repair", models=dict(zip("ab", models, strict=True)), spaces=spaces, maps=[{}, {}])


# -- biases -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0, 1])
@pytest.mark.parametrize("method", ["permute", "zip"])
def test_bias_calibration_at_the_ends_gives_the_sources(alpha: int, method: str) -> None:
    models = pair("vgg11")
    result = merged(models, "bias_calibration", method, weights=[1 - alpha, alpha])
    if method == "permute":
        torch.testing.assert_close(result.model(images(6)), models[alpha](images(6)), rtol=1e-4, atol=1e-5)
    else:
        plain = merged(models, "none", method, weights=[1 - alpha, alpha])
        torch.testing.assert_close(result.model(images(6)), plain.model(images(6)))


def test_bias_calibration_weighs_biases_by_depth() -> None:
    models = pair("vgg11")
    result = merged(models, "bias_calibration", "identity", weights=[0.25, 0.75])
    names = [name for name, _ in models[0].named_parameters() if name.endswith("bias")]
    for depth, name in enumerate(names, 1):
        first, second = (model.get_parameter(name) for model in models)
        wanted = 0.25**depth * first + 0.75**depth * second
        torch.testing.assert_close(result.model.get_parameter(name), wanted)


def test_bias_removal_takes_the_last_biases_alone() -> None:
    models = pair("vgg11")
    plain = merged(models, "none", "identity").model.state_dict()
    result = merged(models, "bias_removal", "identity", normalize_options={"layers": 3}).model.state_dict()
    changed = [name for name, tensor in result.items() if not torch.equal(tensor, plain[name])]
    assert changed == [name for name in plain if name.endswith("bias")][-3:]
    assert all(float(result[name].detach().abs().max()) == 0 for name in changed)


# -- what cannot be done ----------------------------------------------------------------------------------------------


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.again, self.last = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.again(torch.relu(self.first(x))))
        return self.last(torch.relu(self.again(x)))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(9, 5)
        self.inner = nn.Linear(5, 5)

    def forward(self, tokens: Tensor) -> Tensor:
        return nn.functional.linear(torch.relu(self.inner(self.embedding(tokens))), self.embedding.weight)


class Computed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight, self.last = nn.Parameter(torch.randn(6, 4)), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(nn.functional.linear(x, self.weight * 2)))


class Bare(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.kernel, self.last = nn.Parameter(torch.randn(6, 4)), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(nn.functional.linear(x, self.kernel)))


@pytest.mark.parametrize(
    ("make", "data", "words"),
    [
        (Shared, torch.randn(8, 4), "again.weight.* is used 2 times"),
        (Tied, torch.arange(8).reshape(2, 4), "embedding.weight.* is read by embedding too"),
        (Computed, torch.randn(8, 4), "computes its weight anew"),
        (Bare, torch.randn(8, 4), "kernel.* has no bias, and its module Bare would not use one"),
        (lambda: nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6, affine=False), nn.ReLU(), nn.Linear(6, 2)),
         torch.randn(8, 4), "1.running_var.* has no weight and bias to set"),
    ],
    ids=["shared", "tied", "computed", "bare", "bare norm"],
)  # fmt: skip
def test_what_cannot_be_set_right_is_refused_by_name(make: Callable[[], nn.Module], data: Tensor, words: str) -> None:
    models = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        models.append(make().eval())
    with pytest.raises(ValueError, match=words):
        merge(models, [data], "identity", "repair")


@pytest.mark.parametrize("normalize", ["bias_removal", "bias_calibration"])
def test_a_network_without_biases_has_none_to_change(normalize: str) -> None:
    models = [nn.Sequential(nn.Linear(4, 6, bias=False), nn.ReLU(), nn.Linear(6, 2, bias=False)) for _ in range(2)]
    with pytest.raises(ValueError, match="no layer has a bias"):
        merge(models, [torch.randn(8, 4)], "identity", normalize)


def test_bias_removal_of_no_layer_is_an_error() -> None:
    with pytest.raises(ValueError, match="layers must be 1 at least, got 0"):
        merged(pair("vgg11"), "bias_removal", "identity", normalize_options={"layers": 0})


def test_goals_of_other_outputs_leave_the_rest_alone() -> None:
    model = network("vgg11", 1)
    spaces = trace(model, images(2))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    last = targets(spaces.recording)[-1].name
    goal = Goal(torch.arange(5.0).double(), torch.full((5,), 2.0).double())
    rewrite(model, spaces.recording, {last: goal}, [images()], shift=True)
    changed = [name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])]
    assert changed == ["classifier.weight", "classifier.bias"]
    found = model(images()).detach()
    torch.testing.assert_close(found.mean(0), torch.arange(5.0), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.std(0, correction=0), torch.full((5,), 2.0), rtol=1e-4, atol=1e-4)
