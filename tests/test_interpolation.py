"""Barriers by hand and of straight lines, curves between trained networks, and the plane through three models."""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import deepcopy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from mergeline.architectures import Architecture, build
from mergeline.barriers import ALPHAS, accuracy_barrier, barrier
from mergeline.evaluation import predict, score
from mergeline.interpolation import Curve, interpolate, landscape
from mergeline.maps import Permutation
from mergeline.network import assemble, normalise
from mergeline.normalization.reset import reset
from mergeline.normalization.targets import layer_statistics
from mergeline.spaces import Spaces, permute_state, random_permutations
from tests.conftest import Trained

ENDS = st.floats(-1e6, 1e6)


# -- barriers ---------------------------------------------------------------------------------------------------------


def test_alphas_are_21_points_from_0_to_1() -> None:
    np.testing.assert_allclose(ALPHAS, np.linspace(0, 1, 21), atol=1e-15)
    assert (ALPHAS[0], ALPHAS[-1]) == (0, 1)


@given(first=ENDS, last=ENDS, inner=st.sets(st.floats(0, 1), max_size=20))
def test_a_straight_line_has_no_barrier(first: float, last: float, inner: set[float]) -> None:
    alphas = sorted({0.0, 1.0, *inner})
    line = [(1 - alpha) * first + alpha * last for alpha in alphas]
    assert barrier(line, alphas) == accuracy_barrier(line, alphas) == 0


@given(first=ENDS, last=ENDS, height=st.floats(0, 1e3), place=st.integers(1, 19), seed=st.integers(0, 99))
def test_a_peak_is_a_barrier_of_its_height_in_any_order(
    first: float, last: float, height: float, place: int, seed: int
) -> None:
    line = [(1 - alpha) * first + alpha * last for alpha in ALPHAS]
    values = list(line)
    values[place] += height
    order = np.random.default_rng(seed).permutation(len(ALPHAS))
    shuffled, alphas = [values[i] for i in order], [ALPHAS[i] for i in order]
    assert barrier(shuffled, alphas) == values[place] - line[place] == pytest.approx(height, abs=1e-9)
    assert accuracy_barrier([-value for value in shuffled], alphas) == barrier(shuffled, alphas)
    assert accuracy_barrier(shuffled, alphas) == 0


@given(values=st.lists(ENDS, min_size=21, max_size=21))
def test_a_barrier_is_never_negative(values: list[float]) -> None:
    assert barrier(values) >= 0
    assert accuracy_barrier(values) >= 0


def test_a_parabola_has_the_barrier_of_its_top() -> None:
    assert barrier([1 + 4 * a * (1 - a) + 2 * a for a in ALPHAS]) == pytest.approx(1)


@pytest.mark.parametrize("measure", [barrier, accuracy_barrier])
@pytest.mark.parametrize(
    ("values", "alphas", "message"),
    [
        ([0, 1, 2], [0, 1], "3 values and 2 alphas"),
        ([0, math.nan, 1], [0, 0.5, 1], "finite"),
        ([0, math.inf, 1], [0, 0.5, 1], "finite"),
        ([0, 1], [0, 0.5], "both ends"),
        ([0, 1], [0.5, 1], "both ends"),
        ([], [], "both ends"),
        ([0, 1, 2], [0, 1, 1.5], "between 0 and 1"),
        ([0, 1, 2], [0, 1, 1], "each once"),
        ([0, 1, 2], [0, math.nan, 1], "between 0 and 1"),
    ],
)
def test_what_has_no_barrier_is_refused(
    measure: object, values: list[float], alphas: list[float], message: str
) -> None:
    assert callable(measure)
    with pytest.raises(ValueError, match=message):
        measure(values, alphas)


# -- the line between two models --------------------------------------------------------------------------------------


def identity(spaces: Spaces) -> dict[str, Permutation]:
    return {space.name: Permutation.identity(space.size) for space in spaces.free}


def images_of(trained: Trained) -> tuple[Sequence[Tensor], Tensor]:
    return trained.toy.inputs(48).split(16), torch.from_numpy(trained.toy.labels[:48])


def test_a_curve_has_its_sources_at_the_ends_and_merges_between(trained: Trained) -> None:
    images, labels = images_of(trained)
    models, maps = trained.models[:2], [identity(trained.spaces)] * 2
    alphas = (0, 0.25, 1)
    curve = interpolate(models, trained.spaces, maps, alphas, images, labels, statistics=images)
    named = dict(zip("ab", models, strict=True))
    weights = (0.75, 0.25)
    merged = assemble(named, trained.spaces, maps, same_outputs=True, weights=weights)
    normalise(merged, "reset", models=named, spaces=trained.spaces, maps=maps, weights=weights, mixed=images)
    for network, loss, accuracy in zip((models[0], merged, models[1]), curve.losses, curve.accuracies, strict=True):
        expected = score(predict(network, images), labels)  # type: ignore[arg-type]
        assert (loss, accuracy) == (expected["loss"], expected["accuracy"])
    assert curve.alphas == alphas
    assert curve.loss_barrier == barrier(curve.losses, alphas)
    assert curve.accuracy_barrier == accuracy_barrier(curve.accuracies, alphas)


def test_a_repaired_curve_looks_at_each_model_once(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    from mergeline.normalization import restoring

    seen: list[nn.Module] = []

    def counted(model: nn.Module, *given: object) -> object:
        seen.append(model)
        return layer_statistics(model, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(restoring, "layer_statistics", counted)
    images, labels = images_of(trained)
    models, maps = trained.models[:2], [identity(trained.spaces)] * 2
    curve = interpolate(models, trained.spaces, maps, (0, 0.25, 0.75, 1), images, labels, "repair", statistics=images)
    assert seen == list(models)
    named = dict(zip("ab", models, strict=True))
    weights = (0.75, 0.25)
    merged = assemble(named, trained.spaces, maps, same_outputs=True, weights=weights)
    normalise(merged, "repair", models=named, spaces=trained.spaces, maps=maps, weights=weights, mixed=images)
    assert curve.losses[1] == score(predict(merged, images), labels)["loss"]  # type: ignore[arg-type]


def test_a_model_has_no_barrier_to_itself_nor_to_its_reordered_copy(trained: Trained) -> None:
    images, labels = images_of(trained)
    model = trained.models[0]
    moved = random_permutations(trained.spaces, torch.Generator().manual_seed(0))
    copy = deepcopy(model)
    copy.load_state_dict(permute_state(trained.spaces, model.state_dict(), moved))
    back = {name: Permutation(order.numpy()).invert() for name, order in moved.items()}
    own = identity(trained.spaces)
    for other, maps in ((model, [own, own]), (copy, [own, back])):
        curve = interpolate([model, other], trained.spaces, maps, (0, 0.3, 0.5, 1), images, labels, "none")
        assert curve.loss_barrier == pytest.approx(0, abs=1e-5)
        assert curve.accuracy_barrier == 0
    assert (
        interpolate([model, copy], trained.spaces, [own, own], (0, 0.5, 1), images, labels, "none").loss_barrier > 0.05
    )


def test_images_that_can_be_read_once_serve_every_alpha(trained: Trained) -> None:
    images, labels = images_of(trained)
    maps = [identity(trained.spaces)] * 2
    given_once, again = (
        interpolate(trained.models[:2], trained.spaces, maps, (0, 0.5, 1), own, labels, statistics=also)
        for own, also in ((iter(images), iter(images)), (images, images))
    )
    assert given_once == again


def test_a_curve_leaves_its_models_alone(trained: Trained) -> None:
    images, labels = images_of(trained)
    before = trained.states()
    maps = [identity(trained.spaces)] * 2
    interpolate(trained.models[:2], trained.spaces, maps, (0, 0.5, 1), images, labels, statistics=images)
    for state, old in zip(trained.states(), before, strict=True):
        assert all(torch.equal(state[name], old[name]) for name in old)


def test_curves_that_cannot_be_are_refused(trained: Trained) -> None:
    images, labels = images_of(trained)
    maps = [identity(trained.spaces)] * 2

    def curve(models: Sequence[nn.Module] = trained.models[:2], alphas: Sequence[float] = (0, 1),
              shown: Sequence[Tensor] = images, normalize: str = "none") -> Curve:  # fmt: skip
        return interpolate(models, trained.spaces, maps, alphas, shown, labels, normalize)

    with pytest.raises(ValueError, match="between two models, got 3"):
        curve(models=trained.models)
    with pytest.raises(ValueError, match="both ends"):
        curve(alphas=(0, 0.5))
    with pytest.raises(ValueError, match="there are none"):
        curve(shown=[])
    with pytest.raises(ValueError, match="unknown normalisation 'lost'"):
        curve(normalize="lost")
    with pytest.raises(ValueError, match="needs images"):
        curve(alphas=(0, 0.5, 1), normalize="reset")
    plain = build(Architecture("vgg11", 4, 0.125, 32), 0)
    with pytest.raises(ValueError, match="would do nothing"):
        curve(models=[plain, plain], normalize="reset")


# -- the plane through three models -----------------------------------------------------------------------------------


def networks(norm: str = "-bn") -> list[nn.Module]:
    return [build(Architecture(f"vgg11{norm}", 4, 0.0625, 32), seed).eval() for seed in range(3)]


def floats(network: nn.Module) -> Tensor:
    """All floating-point tensors of a state dict in a row."""
    return torch.cat([t.double().flatten() for t in network.state_dict().values() if t.is_floating_point()])


def test_the_models_are_evaluated_at_their_own_coordinates(enliven: object) -> None:
    assert callable(enliven)
    models = [enliven(model, seed) for seed, model in enumerate(networks())]
    flat = [floats(model) for model in models]
    seen: list[Tensor] = []

    def evaluate(network: nn.Module) -> float:
        assert not network.training
        seen.append(floats(network))
        return float((seen[-1] - flat[1]).norm())

    found = landscape(models, 3, evaluate)
    assert found.values.shape == (3, 3)
    assert len(seen) == 9 + 3
    for state, own, value in zip(seen[-3:], flat, found.model_values, strict=True):
        assert (state - own).abs().max() < 1e-5
        assert value == pytest.approx(float((own - flat[1]).norm()), abs=1e-4)
    for i in range(3):
        for j in range(3):
            apart = np.linalg.norm(found.models[i] - found.models[j])
            assert apart == pytest.approx(float((flat[i] - flat[j]).norm()), rel=1e-5)
    assert tuple(found.models[0]) == (0, 0)
    assert found.models[1, 1] == 0


def test_the_loss_on_the_grid_is_that_of_its_coordinates() -> None:
    """The squared distance from the second model is one in the plane's coordinates."""
    models = networks("")
    target = floats(models[1])
    found = landscape(models, 4, lambda network: float((floats(network) - target).square().sum()), margin=0.5)
    u, v = np.meshgrid(found.u, found.v)
    expected = (u - found.models[1, 0]) ** 2 + (v - found.models[1, 1]) ** 2
    np.testing.assert_allclose(found.values, expected, rtol=1e-4)
    for axis, grid in enumerate((found.u, found.v)):
        low, high = found.models[:, axis].min(), found.models[:, axis].max()
        np.testing.assert_allclose(grid[[0, -1]], [low - (high - low) / 2, high + (high - low) / 2])


def test_each_point_is_prepared_before_it_is_evaluated() -> None:
    models = networks()
    images = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    before = floats(models[0])

    def loss(network: nn.Module) -> float:
        with torch.no_grad():
            return float(network(images).square().mean())

    prepared = deepcopy(models[2])
    reset(prepared, [images])
    found = landscape(models, 2, loss, prepare=lambda network: reset(network, [images]))
    assert found.model_values[2] == pytest.approx(loss(prepared), rel=1e-4)
    assert np.isfinite(found.values).all()
    assert torch.equal(floats(models[0]), before)


def test_running_variances_stay_variances_outside_of_the_triangle() -> None:
    models = networks()
    for model, level in zip(models, (0.01, 1.0, 0.01), strict=True):
        for name, tensor in model.state_dict().items():
            if name.endswith("running_var"):
                tensor.fill_(level)
    lowest: list[float] = []

    def evaluate(network: nn.Module) -> float:
        lowest.append(min(float(t.min()) for name, t in network.state_dict().items() if name.endswith("running_var")))
        return 0.0

    landscape(models, 3, evaluate, margin=1.0)
    assert min(lowest) == 0


def test_planes_that_cannot_be_are_refused() -> None:
    models = networks()
    middle = deepcopy(models[0])
    middle.load_state_dict({
        name: (tensor + models[1].state_dict()[name]) / 2 if tensor.is_floating_point() else tensor
        for name, tensor in models[0].state_dict().items()
    })  # fmt: skip
    for line in ([middle, *models[:2]], [models[0], models[0], models[1]], [models[0], models[1], models[0]]):
        with pytest.raises(ValueError, match="on one line"):
            landscape(line, 3, lambda network: 0.0)
    with pytest.raises(ValueError, match="three models, got 2"):
        landscape(models[:2], 3, lambda network: 0.0)
    with pytest.raises(ValueError, match="steps=1"):
        landscape(models, 1, lambda network: 0.0)
    other = build(Architecture("vgg11-bn", 5, 0.0625, 32), 0)
    with pytest.raises(ValueError, match=r"model 2 has other tensors than model 0: classifier\.bias"):
        landscape([*models[:2], other], 3, lambda network: 0.0)
