"""Spaces are derived from the network: a permuted network is the same function, whatever the architecture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from mergeline.architectures import ARCHITECTURES, Architecture, build
from mergeline.heads import trace_network
from mergeline.spaces import SpaceError, Walk, permute_state, random_permutation, random_permutations, trace, verify
from mergeline.spaces.verifying import check_spaces
from mergeline.tokens import VOCABULARY

Enliven = Callable[..., nn.Module]

R17_SPACES = {
    "input": 3,
    "conv1": 4,
    "layer1.0.conv1": 4,
    "layer1.0.conv2": 4,
    "layer1.0": 16,
    "layer2.0.conv1": 8,
    "layer2.0.conv2": 8,
    "layer2.0": 32,
    "layer3.0.conv1": 16,
    "layer3.0.conv2": 16,
    "layer3.1.conv1": 16,
    "layer3.1.conv2": 16,
    "layer3": 64,
    "layer4.0.conv1": 32,
    "layer4.0.conv2": 32,
    "layer4.0": 128,
    "output": 10,
}


def tiny(name: str = "r17", size: int = 32) -> nn.Module:
    width = 1 / 2 if name.endswith("-gn") else 1 / 16  # eight groups need eight channels
    return build(Architecture(name, 10, width, size), seed=0)


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def tokens(*shape: int) -> Tensor:
    return torch.randint(1, VOCABULARY, shape, generator=torch.Generator().manual_seed(1))


def permuted_difference(model: nn.Module, example: Tensor) -> float:
    """Permute all free spaces at once; the largest change of the output relative to its largest value."""
    spaces = trace(model, example)
    generator = torch.Generator().manual_seed(8)
    permutations = random_permutations(spaces, generator)
    assert any((index != torch.arange(len(index))).any() for index in permutations.values())
    original = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        expected = model(example)
        model.load_state_dict(permute_state(spaces, original, permutations))
        difference = (model(example) - expected).abs().max() / expected.abs().max()
        model.load_state_dict(original)
    return float(difference)


# -- a permuted network is the same function ------------------------------------------------------------------------


@pytest.mark.parametrize("size", [32, 64])
@pytest.mark.parametrize("name", [name for name, design in ARCHITECTURES.items() if design.multiplier == 1])
def test_a_permuted_network_is_the_same_function_in_every_space(name: str, size: int, enliven: Enliven) -> None:
    model = enliven(tiny(name, size))
    example = noise(2, 3, size, size) if ARCHITECTURES[name].reads == "images" else tokens(2, size)
    assert permuted_difference(model, example) < 1e-4
    assert set(verify(model, example)) == {space.name for space in trace(model, example).free}


def test_a_permuted_resnet_with_the_large_stem_is_the_same_function(enliven: Enliven) -> None:
    model = enliven(tiny("r17", 224))
    example = noise(1, 3, 224, 224)
    assert permuted_difference(model, example) < 1e-4
    assert len(verify(model, example)) == 15


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


@pytest.mark.parametrize(
    ("make", "shape", "n_free"),
    [
        (lambda: torchvision.models.resnet18(num_classes=10), (1, 3, 64, 64), 12),
        pytest.param(lambda: torchvision.models.resnet50(), (1, 3, 64, 64), 37, marks=pytest.mark.slow),
        pytest.param(lambda: torchvision.models.vgg11_bn(), (1, 3, 32, 32), 10, marks=pytest.mark.slow),
        (Mlp, (4, 6), 2),
    ],
    ids=["resnet18", "resnet50", "vgg11_bn", "mlp"],
)
def test_networks_of_others_work_without_a_change(
    make: Callable[[], nn.Module], shape: tuple[int, ...], n_free: int, enliven: Enliven
) -> None:
    torch.manual_seed(0)
    model = enliven(make())
    differences = verify(model, noise(*shape))
    assert len(differences) == n_free
    assert max(differences.values()) < 1e-4


class Bare(nn.Module):
    """No modules at all: what it gives is the only thing to see."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Parameter(torch.randn(6, 3)), nn.Parameter(torch.randn(2, 6))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.linear(x, self.first).relu(), self.second)


def test_a_network_without_modules_is_proved_by_what_it_gives() -> None:
    torch.manual_seed(0)
    model, example = Bare(), torch.randn(4, 3)
    spaces = trace(model, example)
    assert max(check_spaces(model, spaces, example).values()) < 1e-5
    short = {name: entries for name, entries in spaces.tensors.items() if name != "second"}
    with pytest.raises(SpaceError, match="its axes are incomplete"):
        check_spaces(model, replace(spaces, tensors=short), example)


class TwoNames(nn.Module):
    """A module under two names, and a weight that two modules hold."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.again = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Conv2d(6, 6, 3, padding=1)
        self.other = nn.Conv2d(6, 6, 3, padding=1)
        self.other.weight = self.again.weight
        self.also, self.too = self.norm, self.other
        self.fc = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.conv(x)))
        return self.fc(torch.relu(self.other(torch.relu(self.again(x)))).mean((2, 3)))


def test_tracing_and_verifying_give_modules_of_two_names_back_as_they_were(enliven: Enliven) -> None:
    model = enliven(TwoNames())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    verify(model, torch.randn(2, 3, 8, 8))
    after = model.state_dict()
    assert all(after[name].device.type == "cpu" and torch.equal(after[name], own) for name, own in before.items())
    assert model.other.weight is model.again.weight


def test_verify_gives_the_model_back_as_it_was(enliven: Enliven) -> None:
    model = enliven(tiny()).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    verify(model, noise(2, 3, 32, 32))
    assert model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


class Small(nn.Module):
    """A convolution with a norm, a shortcut and a classifier: every kind of axis once."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1)
        self.fc = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        x = torch.relu(x + self.conv2(x))
        return self.fc(x.mean((2, 3)))


def small_axes() -> list[tuple[str, int, str]]:
    """(tensor, axis, space) of every axis of a free space of :class:`Small`."""
    spaces = trace(Small(), torch.zeros(1, 3, 8, 8))
    return [(axis.tensor, axis.axis, space.name) for space in spaces.free for axis in space.axes]


def test_the_small_network_has_every_axis_once() -> None:
    axes = [(tensor, axis) for tensor, axis, _ in small_axes()]
    assert sorted(axes) == sorted(
        [("conv1.weight", 0), ("conv1.bias", 0), ("conv2.weight", 0), ("conv2.weight", 1), ("conv2.bias", 0)]
        + [(f"bn1.{name}", 0) for name in ("weight", "bias", "running_mean", "running_var")]
        + [("fc.weight", 1)]
    )


@pytest.mark.parametrize(("tensor", "axis", "space"), small_axes())
def test_verify_finds_a_missing_axis_and_names_the_space(tensor: str, axis: int, space: str) -> None:
    torch.manual_seed(0)
    model, example = Small(), noise(4, 3, 8, 8)
    found = trace(model, example)
    left = {
        name: tuple(entry for entry in entries if (name, entry[1].axis) != (tensor, axis))
        for name, entries in found.tensors.items()
    }
    with pytest.raises(SpaceError, match=rf"permuting space '{space}' \(4 units\) changes the output"):
        check_spaces(model, replace(found, tensors=left), example)


# -- names, order, where a space is observed ------------------------------------------------------------------------


def test_spaces_are_named_after_what_makes_them_in_forward_order() -> None:
    spaces = trace_network(tiny(), 32)
    assert {name: space.size for name, space in spaces.items()} == R17_SPACES
    assert [space.name for space in spaces.values() if space.fixed] == ["input", "output"]
    place = {node.name: index for index, node in enumerate(spaces.graph.nodes)}
    observed = [place[space.node] for space in spaces.free]
    assert observed == sorted(observed)


def test_a_residual_stream_is_one_space_named_after_its_stage() -> None:
    spaces = trace_network(tiny("r50"), 32)
    assert [name for name in spaces if "." not in name] == [
        "input", "conv1", "layer1", "layer2", "layer3", "layer4", "output",
    ]  # fmt: skip
    makers = {axis.tensor for axis in spaces["layer1"].outputs if axis.tensor.endswith(("conv3.weight", "0.weight"))}
    assert makers == {"layer1.0.downsample.0.weight", *(f"layer1.{block}.conv3.weight" for block in range(3))}
    readers = {axis.tensor for axis in spaces["layer1"].inputs}
    assert readers == {
        "layer1.1.conv1.weight", "layer1.2.conv1.weight", "layer2.0.conv1.weight", "layer2.0.downsample.0.weight",
    }  # fmt: skip


def test_every_axis_of_every_tensor_belongs_to_one_space_of_its_size() -> None:
    model = tiny("r35")
    spaces = trace_network(model, 32)
    state = model.state_dict()
    found = {(axis.tensor, axis.axis) for space in spaces.values() for axis in space.axes}
    channels = {(name, axis) for name, tensor in state.items() for axis in range(min(2, tensor.dim()))}
    assert found == channels
    for space in spaces.values():
        assert all(state[axis.tensor].shape[axis.axis] == space.size * axis.repeat for axis in space.axes)


def test_units_are_observed_as_layers_read_them(enliven: Enliven) -> None:
    model = enliven(tiny())
    images = noise(3, 3, 32, 32)
    read: dict[str, Tensor] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_pre_hook(
                lambda _, values, name=name: read.__setitem__(f"{name}.weight", values[0].detach().clone())
            )
    spaces = trace_network(model, 32)
    walked: dict[str, list[Tensor]] = {}
    with torch.no_grad():
        model(images)
        for space, values in Walk(spaces, model).activations(images):
            walked.setdefault(space.name, []).append(values.clone())
        ends = {space.name: values.clone() for space, values in Walk(spaces.at_ends(), model).activations(images)}
    assert list(ends) == [space.name for space in spaces.free]
    assert max(map(len, walked.values())) > 1
    for space in spaces.free[:-1]:
        seen = {values.data_ptr(): values for values in (read[axis.tensor] for axis in space.inputs)}
        expected = [values.movedim(1, -1).reshape(-1, space.size) for values in seen.values()]
        for one in walked[space.name]:
            assert any(
                one.shape == other.shape and torch.allclose(one, other, rtol=1e-4, atol=1e-4) for other in expected
            )
        for other in expected:
            assert any(
                one.shape == other.shape and torch.allclose(one, other, rtol=1e-4, atol=1e-4)
                for one in walked[space.name]
            )
        torch.testing.assert_close(ends[space.name], walked[space.name][-1], rtol=0, atol=0)


def test_the_last_stage_is_observed_before_pooling(enliven: Enliven) -> None:
    model = enliven(tiny())
    last = trace_network(model, 32).free[-1]
    walk = Walk(trace_network(model, 32), model)
    values = {space.name: value for space, value in walk.activations(noise(3, 3, 32, 32))}
    assert values[last.name].shape == (3 * 2 * 2, 128)


@pytest.mark.parametrize("groups", [1, 2])
def test_a_walk_gives_what_the_model_gives_behind_a_transposed_convolution(groups: int, enliven: Enliven) -> None:
    model = enliven(
        nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.ReLU(),
            nn.ConvTranspose2d(8, 16, 2, stride=2, groups=groups),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 4, 1),
        )
    )
    images = noise(2, 3, 8, 8)
    with torch.no_grad():
        *_, (_, walked) = Walk(trace(model, images), model).values(images)
        torch.testing.assert_close(walked, model(images), rtol=1e-4, atol=1e-4)


def test_a_network_without_finite_outputs_is_said_to_be_that() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    with torch.no_grad():
        for layer in (model[0], model[2], model[4]):
            layer.weight.fill_(1e30)  # type: ignore[union-attr, operator]
    spaces = trace(model, torch.ones(2, 4))
    with pytest.raises(SpaceError, match="outputs that are not finite"):
        check_spaces(model, spaces, spaces.example)


def test_spaces_of_one_model_serve_every_model_of_its_topology() -> None:
    first, second = trace_network(tiny(), 32), trace_network(tiny(), 32)
    assert first.spaces == second.spaces
    assert len(first) == len(R17_SPACES)


def test_tracing_leaves_the_mode_of_the_model() -> None:
    model = tiny().train()
    trace_network(model, 32)
    assert model.training


# -- group norm, depthwise, shared modules, layer norm, flatten -----------------------------------------------------


class Grouped(nn.Module):
    def __init__(self, groups: int = 4) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.norm = nn.GroupNorm(groups, 8)
        self.head = nn.Conv2d(8, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.norm(self.conv(x)))).mean((2, 3))


def test_group_norm_gives_a_space_its_groups(enliven: Enliven) -> None:
    model = enliven(Grouped())
    spaces = trace(model, torch.zeros(1, 3, 6, 6))
    assert spaces["conv"].bundles == 4
    assert verify(model, noise(2, 3, 6, 6))["conv"] < 1e-5


@pytest.mark.parametrize("groups", [1, 8])
def test_layer_and_instance_norm_leave_the_units_free(groups: int, enliven: Enliven) -> None:
    model = enliven(Grouped(groups))
    assert trace(model, torch.zeros(1, 3, 6, 6))["conv"].bundles == 1
    assert verify(model, noise(2, 3, 6, 6))["conv"] < 1e-5


def test_random_permutations_keep_groups_together() -> None:
    space = trace(Grouped(), torch.zeros(1, 3, 6, 6))["conv"]
    generator = torch.Generator().manual_seed(0)
    seen = set()
    for _ in range(20):
        index = random_permutation(space, generator)
        assert sorted(index.tolist()) == list(range(8))
        pairs = (index // 2).reshape(4, 2)
        assert torch.equal(pairs[:, 0], pairs[:, 1])
        seen.add(tuple(index.tolist()))
    assert len(seen) > 10


def test_breaking_a_bundle_is_refused(enliven: Enliven) -> None:
    model = enliven(Grouped())
    example = noise(2, 3, 6, 6)
    spaces = trace(model, example)
    swapped = torch.tensor([0, 2, 1, 3, 4, 5, 6, 7])
    with pytest.raises(SpaceError, match="'conv' tears its 4 bundles apart"):
        permute_state(spaces, model.state_dict(), {"conv": swapped})


def test_units_grouped_in_two_ways_move_only_as_both_allow(enliven: Enliven) -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 1)
            self.first, self.second = nn.GroupNorm(2, 8), nn.GroupNorm(4, 8)
            self.head = nn.Conv2d(8, 5, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.second(self.first(self.conv(x))))

    torch.manual_seed(0)
    model = enliven(Twice())
    assert max(verify(model, noise(2, 3, 4, 4)).values()) < 1e-5


def test_a_shared_module_ties_what_it_reads_and_makes(enliven: Enliven) -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 6, 1)
            self.block = nn.Conv2d(6, 6, 3, padding=1)
            self.fc = nn.Linear(6, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(self.stem(x))
            for _ in range(3):
                x = torch.relu(self.block(x))
            return self.fc(x.mean((2, 3)))

    torch.manual_seed(0)
    model = enliven(Shared())
    spaces = trace(model, torch.zeros(1, 3, 4, 4))
    assert len(spaces.free) == 1
    (space,) = spaces.free
    assert {(axis.tensor, axis.axis) for axis in space.axes} >= {("block.weight", 0), ("block.weight", 1)}
    assert max(verify(model, noise(2, 3, 4, 4)).values()) < 1e-5


def test_units_that_a_shared_module_groups_in_two_ways_move_only_as_both_allow(enliven: Enliven) -> None:
    class Clash(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 8, 1)
            self.halves, self.quarters = nn.GroupNorm(2, 8), nn.GroupNorm(4, 8)
            self.shared = nn.Conv2d(8, 5, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.shared(self.halves(self.first(x))) + self.shared(self.quarters(self.second(x)))

    torch.manual_seed(0)
    model = enliven(Clash())
    assert max(verify(model, noise(2, 3, 4, 4)).values()) < 1e-5


def test_a_depthwise_convolution_keeps_the_units(enliven: Enliven) -> None:
    class Separable(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 8, 1)
            self.deep = nn.Conv2d(8, 8, 3, padding=1, groups=8)
            self.point = nn.Conv2d(8, 5, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.point(F.relu6(self.deep(F.relu(self.stem(x))))).mean((2, 3))

    torch.manual_seed(0)
    model = enliven(Separable())
    spaces = trace(model, torch.zeros(1, 3, 6, 6))
    assert len(spaces.free) == 1
    assert ("deep.weight", 0) in {(axis.tensor, axis.axis) for axis in spaces.free[0].outputs}
    assert max(verify(model, noise(2, 3, 6, 6)).values()) < 1e-5


@pytest.mark.parametrize(("groups", "width"), [(2, 8), (4, 8), (8, 16), (8, 8)])
def test_a_grouped_convolution_moves_its_groups_and_what_is_in_them(groups: int, width: int, enliven: Enliven) -> None:
    torch.manual_seed(0)
    layers = nn.Conv2d(4, 8, 1), nn.ReLU(), nn.Conv2d(8, width, 3, groups=groups), nn.ReLU(), nn.Conv2d(width, 3, 1)
    model = enliven(nn.Sequential(*layers))
    spaces = trace(model, torch.zeros(1, 4, 6, 6))
    sizes = {space.name: (space.size, space.bundles) for space in spaces.free}
    assert sizes["0"] == (8, groups if groups < 8 else 1)
    assert max(verify(model, noise(2, 4, 6, 6)).values()) < 1e-5


def test_layer_norm_on_channels_last_belongs_to_the_units(enliven: Enliven) -> None:
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 2, 2)
            self.norm = nn.LayerNorm(8)
            self.up = nn.Linear(8, 12)
            self.down = nn.Linear(12, 8)
            self.fc = nn.Linear(8, 5)

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x).permute(0, 2, 3, 1)
            x = x + self.down(F.gelu(self.up(self.norm(x))))
            return self.fc(x.permute(0, 3, 1, 2).mean([2, 3]))

    torch.manual_seed(0)
    model = enliven(Last())
    spaces = trace(model, torch.zeros(1, 3, 8, 8))
    assert {space.size for space in spaces.free} == {8, 12}
    stream = next(space for space in spaces.free if space.size == 8)
    assert {"norm.weight", "norm.bias"} <= {axis.tensor for axis in stream.outputs}
    assert max(verify(model, noise(2, 3, 8, 8)).values()) < 1e-5


def test_flattening_repeats_a_unit_over_its_positions(enliven: Enliven) -> None:
    model = enliven(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 16, 5)))
    spaces = trace(model, torch.zeros(1, 3, 6, 6))
    (space,) = spaces.free
    assert [(axis.tensor, axis.repeat) for axis in space.inputs] == [("3.weight", 16)]
    assert verify(model, noise(2, 3, 6, 6))[space.name] < 1e-5


@pytest.mark.parametrize(
    "flatten",
    [
        lambda x: x.view(x.size(0), -1),
        lambda x: torch.flatten(x, 1),
        lambda x: x.reshape(2, -1),
        lambda x: x.flatten(1),
    ],
    ids=["view", "torch.flatten", "reshape", "flatten"],
)
def test_every_way_to_flatten_is_followed(flatten: Callable[[Tensor], Tensor]) -> None:
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(64, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(flatten(self.conv(x)))

    torch.manual_seed(0)
    assert verify(Flat(), noise(2, 3, 6, 6))["conv"] < 1e-5


def test_squeeze_and_excitation_ties_the_gate_to_its_units(enliven: Enliven) -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 1)
            self.down, self.up = nn.Conv2d(8, 2, 1), nn.Conv2d(2, 8, 1)
            self.fc = nn.Linear(8, 5)

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x)
            gate = torch.sigmoid(self.up(F.relu(self.down(F.adaptive_avg_pool2d(x, 1)))))
            return self.fc((x * gate).mean((2, 3)))

    torch.manual_seed(0)
    model = enliven(Gated())
    assert sorted(space.size for space in trace(model, torch.zeros(1, 3, 4, 4)).free) == [2, 8]
    assert max(verify(model, noise(2, 3, 4, 4)).values()) < 1e-5


# -- what cannot be described is an error that names the place -------------------------------------------------------


class Inside(nn.Module):
    """A convolution, an operation under test in a named submodule, and a convolution."""

    class Odd(nn.Module):
        def __init__(self, operation: Callable[[Tensor], Tensor]) -> None:
            super().__init__()
            self.operation = operation

        def forward(self, x: Tensor) -> Tensor:
            return self.operation(x)

    def __init__(self, operation: Callable[[Tensor], Tensor], channels: int = 8) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 1)
        self.odd = self.Odd(operation)
        self.head = nn.Conv2d(channels, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.odd(self.conv(x)))


@pytest.mark.parametrize(
    ("operation", "message"),
    [
        (lambda x: torch.cumsum(x, 1), r"operation cumsum \(in module 'odd'.*goes through units in order"),
        (lambda x: x.sort(1).values, r"operation sort \(in module 'odd'.*goes through units in order"),
        (lambda x: F.local_response_norm(x, 3), r"\(in module 'odd'"),
        (torch.linalg.matrix_exp, r"operation linalg_matrix_exp \(in module 'odd'.* is not known; add a rule"),
    ],
    ids=["function", "method", "composite", "unknown"],
)
def test_an_unknown_operation_is_named_with_its_module(operation: Callable[[Tensor], Tensor], message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        trace(Inside(operation), torch.zeros(1, 3, 4, 4))


def test_an_unknown_module_is_named() -> None:
    model = nn.Sequential(nn.Linear(3, 8), nn.LSTM(8, 4))
    with pytest.raises(SpaceError, match=r"operation lstm \(in module '1'.*not known"):
        trace(model, torch.zeros(2, 5, 3))


@pytest.mark.parametrize("other", [8, 5], ids=["equal sizes", "different sizes"])
def test_concatenating_along_the_units_keeps_them_apart(other: int) -> None:
    class Dense(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 8, 1), nn.Conv2d(3, other, 1)
            self.head = nn.Conv2d(8 + other, 5, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.cat([self.first(x), self.second(x)], dim=1))

    torch.manual_seed(0)
    spaces = trace(Dense(), torch.zeros(1, 3, 4, 4))
    assert {space.name: space.size for space in spaces.free} == {"first": 8, "second": other}
    (axis,) = spaces["second"].inputs
    assert axis.index.reshape(-1).tolist() == list(range(8, 8 + other))
    assert max(verify(Dense(), noise(2, 3, 4, 4)).values()) < 1e-5


def test_concatenating_along_positions_ties_the_units() -> None:
    class Beside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 8, 1)
            self.head = nn.Conv2d(8, 5, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.cat([self.first(x), self.second(x)], dim=2))

    torch.manual_seed(0)
    assert len(verify(Beside(), noise(2, 3, 4, 4))) == 1


@pytest.mark.parametrize("fill", [0.0, 1.0])
def test_padding_of_units_moves_none_of_what_is_padded(fill: float) -> None:
    torch.manual_seed(0)
    model = Inside(lambda x: F.pad(x, (0, 0, 0, 0, 2, 2), value=fill), channels=12)
    (axis,) = trace(model, torch.zeros(1, 3, 4, 4))["conv"].inputs
    assert axis.index.reshape(-1).tolist() == list(range(2, 10))
    assert verify(model, noise(2, 3, 4, 4))["conv"] < 1e-5


def test_padding_of_positions_is_followed() -> None:
    torch.manual_seed(0)
    assert verify(Inside(lambda x: F.pad(x, (1, 1, 1, 1))), noise(2, 3, 4, 4))["conv"] < 1e-5


def test_summing_over_the_units_is_the_same_in_any_order() -> None:
    torch.manual_seed(0)
    model = Inside(lambda x: torch.cat([x, x.mean(1, keepdim=True)], 1), channels=9)
    assert verify(model, noise(2, 3, 4, 4))["conv"] < 1e-5


def test_a_parameter_beside_the_layers_belongs_to_its_units() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.gamma = nn.Conv2d(3, 8, 1), nn.Parameter(torch.rand(8, 1, 1))
            self.head = nn.Conv2d(8, 5, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.conv(x) * self.gamma)

    assert ("gamma", 0) in {(a.tensor, a.axis) for a in trace(Scaled(), torch.zeros(1, 3, 4, 4))["conv"].outputs}
    assert verify(Scaled(), noise(2, 3, 4, 4))["conv"] < 1e-5


def test_a_model_that_cannot_be_traced_says_why() -> None:
    class Branch(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("no such path")

    with pytest.raises(SpaceError, match=r"Branch does not run on the example: RuntimeError: no such path"):
        trace(Branch(), torch.zeros(1, 3))


# -- torchvision's names --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("ours", "theirs"), [("r50", "resnet50"), ("r101", "resnet101"), ("r152", "resnet152")])
def test_our_resnets_have_torchvisions_names_and_shapes(ours: str, theirs: str) -> None:
    with torch.device("meta"):
        own = build(Architecture(ours, 1000, 1.0, 224))
        their = getattr(torchvision.models, theirs)()
    assert [(n, tuple(t.shape)) for n, t in own.state_dict().items()] == [
        (n, tuple(t.shape)) for n, t in their.state_dict().items()
    ]
    own.load_state_dict(their.state_dict(), strict=True, assign=True)


@pytest.mark.slow
def test_torchvisions_weights_give_the_same_function(enliven: Enliven) -> None:
    torch.manual_seed(0)
    their = enliven(torchvision.models.resnet50())
    own = build(Architecture("r50", 1000, 1.0, 224)).eval()
    own.load_state_dict(their.state_dict(), strict=True)
    example = noise(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(own(example), their(example))


def test_the_initial_weights_depend_on_the_seed_alone() -> None:
    architecture = Architecture("r17", 10, 1 / 16, 32)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first, second, other = build(architecture, 1), build(architecture, 1), build(architecture, 2)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not torch.equal(first.conv1.weight, other.conv1.weight)
