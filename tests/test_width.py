"""Networks of different widths: widened by copies of units, they merge back to the function that they are copies of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck, ResNet

from mergeline import merge
from mergeline.architectures import Architecture, build
from mergeline.heads import MultiHead
from mergeline.matching import MATCHERS, Problem
from mergeline.merging import counterparts, merge_folded
from mergeline.moments import collect_moments, full_pairs
from mergeline.resizing import resized
from mergeline.spaces import Spaces, trace, transferred
from mergeline.width import merged_sizes
from tests.test_merge_anything import Block

ELASTIC = [name for name, matcher in MATCHERS.items() if matcher.widths != "equal"]


class Residual(nn.Module):
    """A residual stream, a projection shortcut, batch norms, a concatenation, a depthwise convolution and a view."""

    def __init__(self, width: int = 4, inner: int = 5, classes: int = 4) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.up, self.norm1 = nn.Conv2d(width, inner, 3, 2, 1, bias=False), nn.BatchNorm2d(inner)
        self.down, self.norm2 = nn.Conv2d(inner, 2 * width, 3, padding=1, bias=False), nn.BatchNorm2d(2 * width)
        self.short, self.norm3 = nn.Conv2d(width, 2 * width, 1, 2, bias=False), nn.BatchNorm2d(2 * width)
        self.depth = nn.Conv2d(2 * width, 2 * width, 3, padding=1, groups=2 * width)
        self.fc = nn.Linear(2 * width + inner, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.norm(self.stem(x)))
        inner = F.silu(self.norm1(self.up(x)))
        x = F.silu(self.norm3(self.short(x)) + self.norm2(self.down(inner)))
        x = torch.cat([F.silu(self.depth(x)), inner], 1).mean((2, 3))
        return self.fc(x.view(-1, x.shape[1]))


def mlp(first: int = 6, second: int = 5, classes: int = 3) -> nn.Module:
    return nn.Sequential(
        nn.Linear(4, first), nn.SiLU(), nn.Linear(first, second), nn.PReLU(second), nn.Linear(second, classes)
    ).eval()


def trained(model: nn.Module, seed: int) -> nn.Module:
    """Weights and statistics away from where they start."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            noise = torch.randn(tensor.shape, generator=generator)
            tensor.copy_(0.5 + noise.abs() if tensor.dim() == 1 and not name.endswith("bias") else noise / 2)
    return model.eval()


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "residual": (Residual, torch.randn(24, 3, 8, 8, generator=torch.Generator().manual_seed(1))),
    "mlp": (mlp, torch.randn(160, 4, generator=torch.Generator().manual_seed(1))),
}


def network(name: str, seed: int = 0) -> nn.Module:
    return trained(NETWORKS[name][0](), seed)


def widened(model: nn.Module, spaces: Spaces, copies: Mapping[str, np.ndarray], seed: int = 0) -> nn.Module:
    """The same function with copies of units, which share among them what the unit gives to the next layer.

    ``copies``: by space, the unit that each unit of the wider network is a copy of.
    """
    generator = np.random.default_rng(seed)
    wide, its = resized(model, spaces, {name: len(units) for name, units in copies.items()})
    shares = {name: generator.uniform(0.5, 1, len(units)) for name, units in copies.items()}
    for name, units in copies.items():
        shares[name] /= np.bincount(units, shares[name])[units]
    state = dict(wide.state_dict())
    for name, tensor in model.state_dict().items():
        entries = []
        for space, before, after in counterparts(its, spaces, name):
            if space in copies:
                index = torch.from_numpy(copies[space])
                share = torch.ones(len(index)) if after.produces else torch.from_numpy(shares[space]).float()
                entries.append((before, after, copied(index, share)))
        state[name] = transferred(tensor, entries)
    wide.load_state_dict(state)
    return wide.eval()


def copied(index: Tensor, share: Tensor) -> Callable[[Tensor, int], Tensor]:
    def change(tensor: Tensor, axis: int) -> Tensor:
        return tensor.index_select(axis, index) * share.view([-1 if a == axis else 1 for a in range(tensor.dim())])

    return change


def copies_of(spaces: Spaces, generator: np.random.Generator, most: int) -> dict[str, np.ndarray]:
    """Of every unit 1 to ``most`` copies, in any order, at least one more than the units in every space."""
    found = {}
    for space in spaces.free:
        counts = generator.integers(1, most, space.size, endpoint=True)
        counts[0] = most
        found[space.name] = generator.permutation(np.repeat(np.arange(space.size), counts))
    return found


@torch.no_grad()
def difference(first: nn.Module, second: nn.Module, inputs: Tensor) -> float:
    expected, found = first(inputs), second(inputs)
    return float((expected - found).abs().max() / expected.abs().max())


def sizes(model: nn.Module, inputs: Tensor) -> dict[str, int]:
    return {space.name: space.size for space in trace(model, inputs[:2]).movable}


@pytest.mark.parametrize("name", NETWORKS)
@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 1000), first=st.booleans())
def test_a_network_and_its_widened_copy_merge_to_the_function(name: str, seed: int, first: bool) -> None:
    inputs, model = NETWORKS[name][1], network(name, seed)
    spaces = trace(model, inputs[:2])
    wide = widened(model, spaces, copies_of(spaces, np.random.default_rng(seed), 3), seed)
    assert difference(model, wide, inputs) < 1e-5
    merged = merge([model, wide] if first else [wide, model], inputs, "zip", "none").model
    assert difference(model, merged, inputs) < 1e-4
    assert sizes(merged, inputs) == sizes(wide, inputs)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("regularization", [0.0, 0.001])
def test_transport_to_copies_of_all_units_keeps_the_function(name: str, regularization: float) -> None:
    inputs, model = NETWORKS[name][1], network(name)
    spaces = trace(model, inputs[:2])
    wide = widened(model, spaces, {space.name: np.tile(np.arange(space.size), 2) for space in spaces.free})
    options = {"regularization": regularization, "distance": "euclidean"}
    merged = merge([model, wide], inputs, "transport", "none", options=options).model
    assert difference(model, merged, inputs) < 1e-4
    assert sizes(merged, inputs) == sizes(wide, inputs)


@pytest.mark.parametrize("name", NETWORKS)
@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 1000))
def test_one_network_loses_nothing_with_the_copies_of_its_units(name: str, seed: int) -> None:
    inputs, model = NETWORKS[name][1], network(name, seed)
    spaces = trace(model, inputs[:2])
    wide = widened(model, spaces, copies_of(spaces, np.random.default_rng(seed), 2), seed)
    merged = merge([wide], inputs, "zip", "none", width=sizes(model, inputs)).model
    assert difference(model, merged, inputs) < 1e-4
    assert sizes(merged, inputs) == sizes(model, inputs)


@pytest.mark.parametrize("name", NETWORKS)
def test_models_of_one_width_merge_the_same_whether_or_not_each_has_its_own_spaces(name: str) -> None:
    models, inputs = [network(name, seed) for seed in range(2)], NETWORKS[name][1]
    shared = trace(models[0], inputs[:2])
    own = replace(trace(models[0], inputs[:2]), models=tuple(trace(model, inputs[:2]) for model in models))
    states = [model.state_dict() for model in models]
    found = []
    for spaces in (shared, own):
        moments = collect_moments(models, spaces, [inputs], full_pairs(2))
        zip_ = MATCHERS["zip"]
        problem = Problem(spaces, states, moments, np.random.default_rng(0))
        found.append(merge_folded(spaces, states, zip_.match(problem, zip_.options(compatible=True)).maps))
    assert all(torch.equal(found[0][key], found[1][key]) for key in states[0])
    plain, asked = (merge(models, inputs, "zip", "none", width=width).model.state_dict() for width in (None, 1.0))
    assert all(torch.equal(plain[key], asked[key]) for key in plain)


@pytest.mark.parametrize("method", ELASTIC)
@pytest.mark.parametrize("normalize", ["reset", "repair", "rescale"])
def test_residual_networks_of_two_widths_are_normalised(method: str, normalize: str) -> None:
    inputs = NETWORKS["residual"][1]
    narrow, wide = trained(Residual(3, 4), 0), trained(Residual(6, 7), 1)
    merged = merge([narrow, wide], inputs, method, normalize).model
    assert sizes(merged, inputs) == sizes(wide, inputs)
    assert isinstance(merged, Residual)
    assert merged.depth.groups == 12
    assert merged(inputs).isfinite().all()
    assert merged.norm1.num_batches_tracked == (1 if normalize == "reset" else 0)


@pytest.mark.parametrize("normalize", ["reset", "repair"])
def test_a_widened_copy_with_sound_statistics_keeps_the_function_when_they_are_set_anew(normalize: str) -> None:
    inputs, model = NETWORKS["residual"][1], network("residual")
    model.train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    model(inputs)
    model.eval()
    spaces = trace(model, inputs[:2])
    wide = widened(model, spaces, copies_of(spaces, np.random.default_rng(0), 2))
    merged = merge([model, wide], inputs, "zip", normalize).model
    assert difference(model, merged, inputs) < (
        1e-3 if normalize == "repair" else 1e-1
    )  # variances without Bessel's n / (n - 1)


@pytest.mark.parametrize("method", ELASTIC)
def test_each_space_is_as_wide_as_the_widest_model(method: str) -> None:
    inputs = NETWORKS["mlp"][1]
    models = [trained(mlp(*shape), seed) for seed, shape in enumerate([(9, 3), (4, 8), (5, 5)])]
    result = merge(models, inputs, method, "none")
    assert list(sizes(result.model, inputs).values()) == [9, 8]
    assert [layer.in_features for layer in result.model if isinstance(layer, nn.Linear)] == [4, 9, 8]
    assert [result.spaces.of(model)["0"].size for model in range(3)] == [9, 4, 5]
    assert result.model(inputs).isfinite().all()


@pytest.mark.parametrize(
    ("width", "expected"),
    [(0.5, [4, 4]), (1.5, [14, 12]), ({"0": 7}, [7, 8]), ({"0": 13, "2": 11}, [13, 11])],
)
def test_other_widths_can_be_asked_for(width: Any, expected: Sequence[int]) -> None:
    inputs = NETWORKS["mlp"][1]
    models = [trained(mlp(9, 3), 0), trained(mlp(4, 8), 1)]
    if width == 1.5:
        models = [trained(mlp(9, 8), 0), trained(mlp(5, 4), 1)]
    merged = merge(models, inputs, "zip", "repair", width=width).model
    assert list(sizes(merged, inputs).values()) == expected
    assert merged(inputs).isfinite().all()


def test_all_units_of_both_models_stay_where_the_width_is_their_sum() -> None:
    inputs = NETWORKS["mlp"][1]
    models = [trained(mlp(6, 4), 0), trained(mlp(3, 5), 1)]
    merged = merge(models, inputs, "zip", "none", width={"0": 9, "2": 9}).model
    expected = torch.stack([model(inputs) for model in models]).mean(0)
    assert torch.allclose(merged(inputs), expected, atol=1e-5)


def test_one_network_is_zipped_to_half_its_width() -> None:
    inputs, model = NETWORKS["residual"][1], trained(Residual(8, 10), 0)
    merged = merge([model], inputs, "zip", "reset", width=0.5).model
    assert sizes(merged, inputs) == {name: size // 2 for name, size in sizes(model, inputs).items()}
    assert merged(inputs).isfinite().all()


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("wide", [0, 1])
def test_a_model_of_all_the_weight_keeps_its_function_where_none_of_its_units_are_joined(name: str, wide: int) -> None:
    inputs = NETWORKS[name][1]
    makes = (
        [lambda: mlp(4, 5), lambda: mlp(7, 6)] if name == "mlp" else [lambda: Residual(3, 4), lambda: Residual(5, 7)]
    )
    models = [trained(make(), seed) for seed, make in enumerate(makes if wide else reversed(makes))]
    merged = merge(models, inputs, "zip", "none", options={"beta": 0.0}, weights=(1.0, 0.0)).model
    assert difference(models[0], merged, inputs) < 1e-4


def test_biases_of_models_of_different_widths_are_calibrated_and_removed() -> None:
    inputs, models = NETWORKS["mlp"][1], [trained(mlp(4, 8), 0), trained(mlp(7, 6), 1)]
    plain, calibrated, removed = (
        merge(models, inputs, "zip", normalize).model for normalize in ("none", "bias_calibration", "bias_removal")
    )
    assert torch.allclose(calibrated[0].bias, plain[0].bias)  # of depth 1: as it was
    assert torch.allclose(calibrated[4].bias, sum(model[4].bias / 8 for model in models))  # of depth 3: 1/2 to the 3rd
    assert not any(removed[layer].bias.any() for layer in (0, 2, 4))


# -- heads, stops, stems -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ELASTIC)
@pytest.mark.parametrize("choice", [{}, {"stop": "stem"}, {"preserve": 1}, {"preserve": 1, "stop": "stem"}])
def test_heads_of_models_of_different_widths_get_their_own_units_back(method: str, choice: dict[str, Any]) -> None:
    inputs, model = NETWORKS["residual"][1], network("residual")
    other = deepcopy(model)
    other.fc = trained(nn.Linear(13, 7), 5)
    spaces = trace(other, inputs[:2])
    wide = widened(other, spaces, {space.name: np.tile(np.arange(space.size), 2) for space in spaces.free})
    merged = merge({"a": model, "b": wide}, {"a": inputs, "b": inputs.flip(0)}, method, "none", **choice).model
    with torch.no_grad():
        found = merged(inputs)
    assert torch.allclose(found["a"], model(inputs), rtol=1e-3, atol=1e-4)
    assert torch.allclose(found["b"], wide(inputs), rtol=1e-3, atol=1e-4)
    assert isinstance(merged, MultiHead) != ("preserve" in choice)


@pytest.mark.parametrize("normalize", ["reset", "repair"])
@pytest.mark.parametrize("choice", [{}, {"stop": "stem"}, {"preserve": 1}])
def test_models_of_several_tasks_and_widths_are_normalised(normalize: str, choice: dict[str, Any]) -> None:
    inputs = NETWORKS["residual"][1]
    models = {
        "a": trained(Residual(3, 4, 4), 0),
        "b": trained(Residual(5, 6, 2), 1),
        "c": trained(Residual(4, 9, 3), 2),
    }
    found = merge(models, inputs, "zip", normalize, **choice).model(inputs)
    assert {name: values.shape[1] for name, values in found.items()} == {"a": 4, "b": 2, "c": 3}
    assert all(values.isfinite().all() for values in found.values())


def test_one_model_of_a_task_gets_a_trunk_of_another_width_and_its_head() -> None:
    inputs, model = NETWORKS["residual"][1], network("residual")
    spaces = trace(model, inputs[:2])
    wide = widened(model, spaces, copies_of(spaces, np.random.default_rng(0), 2))
    merged = merge({"a": wide}, {"a": inputs}, "zip", "none", width=sizes(model, inputs)).model
    with torch.no_grad():
        assert torch.allclose(merged(inputs)["a"], model(inputs), rtol=1e-3, atol=1e-4)
    assert sum(p.numel() for p in merged.parameters()) == sum(p.numel() for p in model.parameters())


# -- what people have --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ELASTIC)
def test_a_wide_resnet_of_torchvision_merges_with_a_plain_one(method: str) -> None:
    torch.manual_seed(0)
    plain, wide = (ResNet(Bottleneck, [1, 1, 1, 1], num_classes=3, width_per_group=width) for width in (8, 16))
    images = torch.randn(4, 3, 32, 32)
    merged = merge([plain, wide], images, method).model
    assert merged.layer1[0].conv1.out_channels == wide.layer1[0].conv1.out_channels == 16
    assert merged(images).shape == (4, 3)


@pytest.mark.parametrize(("name", "normalize"), [("resnet20", "reset"), ("r17", "reset"), ("vgg11", "repair")])
def test_architectures_of_the_benchmark_merge_at_two_widths(name: str, normalize: str) -> None:
    narrow, wide = (build(Architecture(name, 3, width, 32), seed=0).eval() for width in (0.125, 0.1875))
    images = torch.randn(4, 3, 32, 32)
    merged = merge([narrow, wide], images, "zip", normalize).model
    assert [p.shape for p in merged.parameters()] == [p.shape for p in wide.parameters()]
    assert merged(images).isfinite().all()


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [name for name in MATCHERS if name not in ELASTIC])
def test_methods_that_need_one_width_name_those_that_do_not(method: str) -> None:
    inputs = NETWORKS["mlp"][1]
    with pytest.raises(ValueError, match=r"shape \(8, 4\), that of '0' \(6, 4\).*zip and transport, not by"):
        merge([mlp(6), mlp(8)], inputs, method, "none")
    with pytest.raises(ValueError, match=f"{method!r} keeps the models' width; width is for zip, transport"):
        merge([mlp(6), mlp(6)], inputs, method, "none", width=0.5)


@pytest.mark.parametrize(
    ("width", "message"),
    [
        (0, "width must be a share.*got 0"),
        (-0.5, "width must be a share"),
        (True, "width must be a share"),
        ("half", "width must be a share.*'half'"),
        (2.5, r"space '0' cannot have 20 units: 2 at least, and at most the 6 \+ 8"),
        ({"0": 0}, "space '0' cannot have 0 units"),
        ({"0": 1}, "space '0' cannot have 1 units"),
        ({"0": 15}, r"cannot have 15 units.*6 \+ 8"),
        ({"0": 7.5}, "'0' must have a whole number"),
        ({"conv": 8}, "unknown space 'conv'; this network's are: 0, 2"),
        ({"output": 8}, "unknown space 'output'"),
    ],
)
def test_widths_that_cannot_be_are_refused(width: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        merge([mlp(6), mlp(8)], NETWORKS["mlp"][1], "zip", "none", width=width)


def test_transport_needs_the_width_of_a_model() -> None:
    with pytest.raises(
        ValueError, match="space '0' is to have 7 units and the models have 6, 8; choose one of them, or zip"
    ):
        merge([mlp(6), mlp(8)], NETWORKS["mlp"][1], "transport", "none", width={"0": 7})
    merged = merge([mlp(6), mlp(8)], NETWORKS["mlp"][1], "transport", "none", width={"0": 6}).model
    assert sizes(merged, NETWORKS["mlp"][1]) == {"0": 6, "2": 5}


def test_one_model_alone_needs_a_width() -> None:
    with pytest.raises(ValueError, match="two models at least, got 1; one alone can be zipped"):
        merge([mlp()], NETWORKS["mlp"][1], "zip", "none")


def test_more_than_widths_that_differ_is_refused() -> None:
    inputs = NETWORKS["mlp"][1]
    with pytest.raises(ValueError, match=r"model '1' has 4 units in 'output', '0' 3; models of\s+different outputs"):
        merge([mlp(6), mlp(8, classes=4)], inputs, "zip", "none")
    with pytest.raises(
        ValueError, match=r"one of them has a space '0' that the other has not \(one unit alone is none"
    ):
        merge([mlp(6), mlp(1)], inputs, "zip", "none")
    relu = mlp(8)
    relu[1] = nn.ReLU()
    with pytest.raises(ValueError, match="model '1' differs from '0' in more than its widths: in '1' relu stands in"):
        merge([mlp(6), relu], inputs, "zip", "none")
    images = NETWORKS["residual"][1]
    large = Residual(6)
    large.up = nn.Conv2d(6, 5, 5, 2, 2, bias=False)
    with pytest.raises(ValueError, match=r"model '1'.*(up.weight.*do not bring|more than its widths)"):
        merge([Residual(4), large], images, "zip")


class Tokens(nn.Module):
    """A transformer block between linear maps."""

    def __init__(self, width: int, heads: int, hidden: int = 0) -> None:
        super().__init__()
        self.embed, self.block, self.fc = nn.Linear(4, width), Block(width, heads), nn.Linear(width, 3)
        if hidden:
            self.block.up, self.block.down = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.block(self.embed(x)).mean(1))


def test_units_that_are_compared_or_bundled_keep_their_number() -> None:
    inputs = torch.randn(16, 5, 4)
    with pytest.raises(
        ValueError, match=r"has 8, 16 units in the models and is to have 16, but its units stay in 2 bundles"
    ):
        merge([Tokens(8, 2), Tokens(16, 2)], inputs, "zip", "none")
    with pytest.raises(ValueError, match=r"but .*(compares|bundles).*given by their names"):
        merge([Tokens(8, 2), Tokens(8, 2)], inputs, "zip", "none", width=0.5)


def test_units_of_a_norm_over_channels_keep_their_number() -> None:
    models = [nn.Sequential(nn.Linear(4, width), nn.LayerNorm(width), nn.Linear(width, 3)) for width in (6, 8)]
    with pytest.raises(ValueError, match=r"space '0' has 6, 8 units.*LayerNorm compares its units"):
        merge(models, NETWORKS["mlp"][1], "zip", "none")


def test_a_cut_through_a_concatenation_of_other_widths_is_refused() -> None:
    inputs = NETWORKS["residual"][1]
    with pytest.raises(ValueError, match="cannot cut at 'cat', which holds units of several spaces"):
        merge([Residual(3), Residual(4)], inputs, "zip", stop="up")


@pytest.mark.parametrize("method", ELASTIC)
def test_the_hidden_layer_of_a_transformer_may_have_another_width(method: str) -> None:
    inputs = torch.randn(16, 5, 4)
    models = [trained(Tokens(8, 2, hidden), hidden) for hidden in (10, 20)]
    merged = merge(models, inputs, method, "none").model
    assert merged.block.up.out_features == 20
    units = 6 if method == "zip" else 10
    narrow = merge(models, inputs, method, "none", width={"block.up": units}).model
    assert narrow.block.up.out_features == narrow.block.down.in_features == units
    assert narrow(inputs).isfinite().all()


class Own(nn.Module):
    """Holds its width in a way of its own."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.scale = nn.Parameter(torch.rand(width))

    def forward(self, x: Tensor) -> Tensor:
        return x.view(-1, self.width) * self.scale


def test_a_network_that_cannot_be_resized_is_refused_by_the_names_of_its_modules() -> None:
    inputs = NETWORKS["mlp"][1]

    def made(first: int, second: int) -> nn.Module:
        return nn.Sequential(
            nn.Linear(4, first), Own(first), nn.Tanh(), nn.Linear(first, second), nn.Tanh(), nn.Linear(second, 2)
        )

    assert merge([made(4, 3), made(8, 9)], inputs, "zip", "none").model(inputs).shape == (160, 2)
    with pytest.raises(
        ValueError, match=r"Sequential of the merged widths cannot be made.*ways of their own: 1 \(Own\)"
    ):
        merge([made(4, 9), made(8, 3)], inputs, "zip", "none", width={"0": 6})


# -- sizes -------------------------------------------------------------------------------------------------------------


def test_sizes_of_a_share_are_rounded_and_two_at_least() -> None:
    spaces = trace(mlp(7, 3), NETWORKS["mlp"][1][:2])
    assert merged_sizes(spaces, {"0": [7, 5], "2": [3, 3]}, 0.5) == {"0": 4, "2": 2}
    assert merged_sizes(spaces, {"0": [7, 5], "2": [3, 3]}, 0.1) == {"0": 2, "2": 2}
    assert merged_sizes(spaces, {"0": [7, 5], "2": [3, 9]}) == {"0": 7, "2": 9}
