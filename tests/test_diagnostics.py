"""Diagnostics of networks against literal references: hooks for layers' outputs, formulas for CKA."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from mergeline.api import merge
from mergeline.architectures import Architecture, build
from mergeline.comparison import by_head, compare
from mergeline.diagnostics import (
    batch_norm_statistics,
    cka_map,
    feature_norms,
    layer_variances,
    magnitudes,
    vanishing,
)
from mergeline.models.linear import LinearNetwork
from mergeline.spaces import trace
from mergeline.training import Recipe, train
from tests.conftest import Toy, Trained
from tests.planted import permuted

ARCHITECTURES = ("vgg11", "vgg11-bn", "vgg11-ln", "resnet20", "r17")
Enliven = Callable[..., nn.Module]


def images(count: int = 12, seed: int = 0) -> Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def network(name: str, enliven: Enliven, seed: int = 0) -> nn.Module:
    width = {"r17": 1 / 16, "resnet20": 0.5}.get(name, 0.125)
    return enliven(build(Architecture(name, 10, width, 32), seed), seed)


class NormedLinear(nn.Module):
    """Batch norms behind linear layers, a layer that is used twice, one without a bias and one that reads a table."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(3 * 32 * 32, 12, bias=False), nn.BatchNorm1d(12)
        self.twice, self.head = nn.Linear(12, 12), nn.Linear(12, 5)
        self.lookup = nn.Linear(4, 12)
        self.register_buffer("table", torch.linspace(-1, 1, 4)[None])

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.first(x.flatten(1))).relu_()
        x = self.twice(x).relu_()
        x = self.twice(x).relu_() + self.lookup(self.table)
        return self.head(x)


@torch.no_grad()
def hooked(model: nn.Module, batch: Tensor) -> dict[str, list[Tensor]]:
    """Outputs of layers by weight, in place of which those of batch norms right behind them; one for each use."""
    found: dict[str, list[Tensor]] = {}
    last: list[str] = []

    def keep(name: str, module: nn.Module) -> Callable[..., None]:
        def hook(_: nn.Module, __: object, output: Tensor) -> None:
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                found[last[-1]][-1] = output.clone()
            else:
                last.append(f"{name}.weight")
                found.setdefault(last[-1], []).append(output.clone())

        return hook

    kinds = (nn.Conv2d, nn.Linear, nn.BatchNorm1d, nn.BatchNorm2d)
    handles = [m.register_forward_hook(keep(name, m)) for name, m in model.named_modules() if isinstance(m, kinds)]
    model.eval()(batch)
    for handle in handles:
        handle.remove()
    return {name: outputs for name, outputs in found.items() if len(outputs[0]) == len(batch)}


def rows_of(outputs: Sequence[Tensor]) -> Tensor:
    return torch.cat([output.flatten(1) for output in outputs], 1).double()


# -- vanishing features -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_feature_norms_are_those_of_the_hooked_outputs_whatever_the_batches(name: str, enliven: Enliven) -> None:
    model, batch = network(name, enliven), images()
    spaces = trace(model, batch[:2])
    found = feature_norms(model, spaces, batch.split(5))
    values, zeros = hooked(model, batch), hooked(model, torch.zeros_like(batch[:1]))
    assert list(found) == list(values)
    for layer, norm in found.items():
        expected = (rows_of(values[layer]) - rows_of(zeros[layer])).norm(dim=1).mean()
        assert norm == pytest.approx(float(expected), rel=1e-4)


def test_a_layer_counts_with_all_its_uses_and_one_without_samples_not(enliven: Enliven) -> None:
    model, batch = enliven(NormedLinear()), images()
    spaces = trace(model, batch[:2])
    values, zeros = hooked(model, batch), hooked(model, torch.zeros_like(batch[:1]))
    found = feature_norms(model, spaces, [batch])
    assert list(found) == ["first.weight", "twice.weight", "head.weight"]
    for layer, norm in found.items():
        expected = (rows_of(values[layer]) - rows_of(zeros[layer])).norm(dim=1).mean()
        assert norm == pytest.approx(float(expected), rel=1e-4)
    variances = layer_variances(model, spaces, [batch])
    for layer, variance in variances.items():
        expected = torch.cat(values[layer]).double().var(0, correction=0).mean()
        assert variance == pytest.approx(float(expected), rel=1e-4)


def test_samples_are_found_where_they_are_not_the_first_axis() -> None:
    class Sequence(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.head = nn.Linear(96, 6), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = x.permute(2, 0, 1, 3).flatten(2)  # (positions, samples, entries)
            return self.head(torch.relu(self.inner(x)).mean(0))

    torch.manual_seed(0)
    model, batch = Sequence().eval(), images(6)
    spaces = trace(model, batch[:2])
    with torch.no_grad():
        inner = model.inner(batch.permute(0, 2, 1, 3).flatten(2)) - model.inner(torch.zeros(96))  # type: ignore[operator]
    expected = float(inner.flatten(1).norm(dim=1).mean())
    assert feature_norms(model, spaces, [batch])["inner.weight"] == pytest.approx(expected, rel=1e-5)
    names, _, matrix = cka_map(model, model, spaces, spaces, [batch])
    reference = literal_cka([[inner.flatten(1).double()]], [[inner.flatten(1).double()]])
    assert names[0] == "inner.weight"
    assert matrix[0, 0] == pytest.approx(reference, rel=1e-5)


def test_the_features_of_a_linear_network_are_products_with_the_input() -> None:
    torch.manual_seed(0)
    model, batch = LinearNetwork(4, 10, 3 * 32 * 32), images()
    found = feature_norms(model, trace(model, batch[:2]), [batch])
    product = torch.eye(3 * 32 * 32)
    for layer in model.layers:
        assert isinstance(layer, nn.Linear)
        product = layer.weight.detach() @ product
        expected = (batch.flatten(1) @ product.T).norm(dim=1).mean()
        assert found.pop(next(iter(found))) == pytest.approx(float(expected), rel=1e-4)


def test_what_has_no_zero_input_or_no_images_is_refused() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.head = nn.Embedding(7, 4), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.table(x).mean(1))

    model, tokens = Tokens(), torch.arange(12).reshape(2, 6) % 7
    spaces = trace(model, tokens)
    with pytest.raises(ValueError, match="whole numbers"):
        feature_norms(model, spaces, [tokens])
    for measure in (feature_norms, layer_variances):
        with pytest.raises(ValueError, match="there are none"):
            measure(model, spaces, [])


NORMS = st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=12)


@given(norms=NORMS, gamma=st.sampled_from([1.0, 1.4, 2.0]))
def test_the_bound_is_the_papers_recursion(norms: list[float], gamma: float) -> None:
    merged = {str(i): norm for i, norm in enumerate(norms)}
    sources = [dict.fromkeys(merged, 3.0) | {"more": 1.0}, dict.fromkeys(merged, 1.0)]
    relative, bound = vanishing(merged, sources, gamma)
    g, L = [norm / 2 for norm in norms], len(norms)
    e = {L: g[L - 1]}
    for l in range(L - 1, 0, -1):  # noqa: E741
        e[l] = max(gamma * e[l + 1] + (1 - gamma) * (1 - 1 / (L + 1 - l)) * e[l + 1], g[l - 1])
    assert list(relative.values()) == g
    assert list(bound) == list(merged)
    assert list(bound.values()) == pytest.approx([e[layer] for layer in range(1, L + 1)])
    values = list(bound.values())
    assert all(later <= earlier * (1 + 1e-12) for earlier, later in pairwise(values))
    assert all(own >= value for own, value in zip(values, g, strict=True))


def test_nothing_vanishes_where_nothing_was() -> None:
    assert vanishing({"a": 0.0, "b": 2.0}, [{"a": 0.0, "b": 4.0}]).relative == {"a": 1.0, "b": 0.5}
    assert vanishing({"a": 1.0}, [{"a": 0.0}]).relative == {"a": float("inf")}


def test_vanishing_needs_sources_with_the_same_layers_and_a_bound() -> None:
    with pytest.raises(ValueError, match="there are none"):
        vanishing({"a": 1.0}, [])
    with pytest.raises(ValueError, match="source 1 has no layer b"):
        vanishing({"a": 1.0, "b": 1.0}, [{"a": 1.0, "b": 1.0}, {"a": 1.0}])
    with pytest.raises(ValueError, match="at least 1"):
        vanishing({"a": 1.0}, [{"a": 1.0}], 0.9)


# -- scales -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_layer_variances_are_those_of_the_hooked_outputs(name: str, enliven: Enliven) -> None:
    model, batch = network(name, enliven), images()
    found = layer_variances(model, trace(model, batch[:2]), batch.split(5))
    values = hooked(model, batch)
    assert list(found) == list(values)
    for layer, variance in found.items():
        (output,) = values[layer]
        units = output.double().movedim(1, 0).flatten(1)
        assert variance == pytest.approx(float(units.var(1, correction=0).mean()), rel=1e-4)


def test_magnitudes_are_roots_of_mean_squares_or_mean_absolute_values(enliven: Enliven) -> None:
    model = enliven(NormedLinear())
    spaces = trace(model, images(2))
    found, absolute = magnitudes(model, spaces), magnitudes(model, spaces, order=1)
    assert set(found) == {"first.weight", "twice.weight", "head.weight", "lookup.weight"}
    state = {name: tensor.double() for name, tensor in model.state_dict().items()}
    assert found["first.weight"].bias == absolute["first.weight"].bias == 0
    for layer in found:
        assert found[layer].weight == pytest.approx(float(state[layer].square().mean().sqrt()))
        assert absolute[layer].weight == pytest.approx(float(state[layer].abs().mean()))
    bias = state["head.bias"]
    assert found["head.weight"].bias == pytest.approx(float(bias.square().mean().sqrt()))


def test_layers_of_one_tensor_have_their_own_rows_magnitudes() -> None:
    class Packed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.bias = nn.Parameter(torch.ones(8, 96)), nn.Parameter(torch.zeros(8))
            with torch.no_grad():
                self.weight[4:] = 2
                self.bias[4:] = -3

        def forward(self, x: Tensor) -> Tensor:
            x = x.flatten(1)[:, :96]
            one = nn.functional.linear(x, self.weight[:4], self.bias[:4])
            return one * nn.functional.linear(x, self.weight[4:8], self.bias[4:8])

    model = Packed()
    found = magnitudes(model, trace(model, images(2)))
    assert found == {"weight[0:4]": (1, 0), "weight[4:8]": (2, 3)}


def test_batch_norm_statistics_are_copies_by_name(enliven: Enliven) -> None:
    model = network("vgg11-bn", enliven)
    found = batch_norm_statistics(model)
    state = model.state_dict()
    assert len(found) == 8
    for name, own in found.items():
        np.testing.assert_array_equal(own.mean, state[f"{name}.running_mean"].double().numpy())
        np.testing.assert_array_equal(own.variance, state[f"{name}.running_var"].double().numpy())
    before = {name: own.mean.copy() for name, own in found.items()}
    for name, tensor in state.items():
        if name.endswith("running_mean"):
            tensor.add_(1)
    assert all(np.array_equal(found[name].mean, before[name]) for name in found)
    assert batch_norm_statistics(network("vgg11", enliven)) == {}


# -- CKA --------------------------------------------------------------------------------------------------------------


def literal_hsic(K: Tensor, L: Tensor) -> float:
    """The unbiased estimator, term by term."""
    n = len(K)
    K, L = K - torch.diag(K.diagonal()), L - torch.diag(L.diagonal())
    one = torch.ones(n, dtype=K.dtype)
    first = torch.trace(K @ L)
    second = (one @ K @ one) * (one @ L @ one) / ((n - 1) * (n - 2))
    third = 2 * (one @ K @ L @ one) / (n - 2)
    return float((first + second - third) / (n * (n - 3)))


def literal_cka(first: Sequence[Sequence[Tensor]], second: Sequence[Sequence[Tensor]]) -> float:
    """From each batch's outputs of one layer of either model, one for each use."""
    grams = [[rows_of(batch) @ rows_of(batch).T for batch in side] for side in (first, second)]
    pairs = [(0, 1), (0, 0), (1, 1)]
    cross, a, b = (sum(map(literal_hsic, grams[i], grams[j])) / len(first) for i, j in pairs)
    return cross / (a**0.5 * b**0.5)


@pytest.mark.parametrize(("one", "two"), [("vgg11", "vgg11-bn"), ("resnet20", "vgg11-ln")])
def test_cka_is_the_literal_one_between_all_layers(one: str, two: str, enliven: Enliven) -> None:
    models, batches = [network(one, enliven), network(two, enliven, 1)], images(21).split(8)
    spaces = [trace(model, images(2)) for model in models]
    names_a, names_b, matrix = cka_map(*models, *spaces, batches)
    a, b = ([hooked(model, batch) for batch in batches] for model in models)
    assert (names_a, names_b) == (list(a[0]), list(b[0]))
    expected = [[literal_cka([v[i] for v in a], [v[j] for v in b]) for j in names_b] for i in names_a]
    np.testing.assert_allclose(matrix, expected, atol=1e-4)


def test_cka_counts_all_uses_of_a_layer(enliven: Enliven) -> None:
    model, batch = enliven(NormedLinear()), images()
    spaces, values = trace(model, batch[:2]), hooked(model, batch)
    names, _, matrix = cka_map(model, model, spaces, spaces, [batch])
    assert names == ["first.weight", "twice.weight", "head.weight"]
    expected = [[literal_cka([values[i]], [values[j]]) for j in names] for i in names]
    np.testing.assert_allclose(matrix, expected, atol=1e-4)


def test_cka_of_a_model_with_itself_is_symmetric_with_a_diagonal_of_1(enliven: Enliven) -> None:
    model = network("resnet20", enliven)
    spaces = trace(model, images(2))
    _, _, matrix = cka_map(model, model, spaces, spaces, images(16).split(8))
    np.testing.assert_allclose(np.diagonal(matrix), 1, atol=1e-6)
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-6)
    assert matrix.min() < 0.9


@pytest.mark.parametrize("name", ["vgg11-bn", "resnet20"])
def test_cka_does_not_see_the_order_of_units(name: str, enliven: Enliven) -> None:
    model = network(name, enliven)
    spaces = trace(model, images(2))
    moved = permuted(model, spaces)
    batches = images(16).split(8)
    _, _, own = cka_map(model, model, spaces, spaces, batches)
    _, _, matrix = cka_map(model, moved, spaces, spaces, batches)
    np.testing.assert_allclose(matrix, own, atol=1e-4)  # float32 sums in another order, layer upon layer


def test_cka_keeps_its_digits_beside_a_large_mean_and_is_0_for_dead_layers(enliven: Enliven) -> None:
    model = network("vgg11", enliven)
    spaces = trace(model, images(2))
    shifted, dead = deepcopy(model), deepcopy(model)
    head, cut = shifted.get_submodule("classifier"), dead.get_submodule("classifier")
    with torch.no_grad():
        head.bias.add_(100)  # type: ignore[operator, union-attr]
        cut.weight.zero_()  # type: ignore[operator, union-attr]
    batches = images(16).split(8)
    _, _, own = cka_map(model, model, spaces, spaces, batches)
    _, _, far = cka_map(model, shifted, spaces, spaces, batches)
    np.testing.assert_allclose(far, own, atol=1e-3)
    _, _, none = cka_map(model, dead, spaces, spaces, batches)
    assert (none[:, -1] == 0).all()
    assert np.isfinite(none).all()


def test_cka_refuses_small_batches_and_none(enliven: Enliven) -> None:
    model = network("vgg11", enliven)
    spaces = trace(model, images(2))
    with pytest.raises(ValueError, match="at least 4 images, got one of 3"):
        cka_map(model, model, spaces, spaces, images(11).split(8))
    with pytest.raises(ValueError, match="there are none"):
        cka_map(model, model, spaces, spaces, [])


# -- linear networks --------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_a_linear_network_is_the_product_of_its_matrices() -> None:
    torch.manual_seed(0)
    model, batch = LinearNetwork(5, 10, 3 * 32 * 32, width=16), images(4)
    product, offset = torch.eye(3 * 32 * 32).double(), torch.zeros(3 * 32 * 32).double()
    for layer in model.layers:
        assert isinstance(layer, nn.Linear)
        product, offset = layer.weight.double() @ product, layer.weight.double() @ offset + layer.bias.double()
    torch.testing.assert_close(model(batch).double(), batch.flatten(1).double() @ product.T + offset, rtol=0, atol=1e-5)
    assert [layer.weight.shape[0] for layer in model.layers] == [16, 16, 16, 16, 10]  # type: ignore[index, union-attr]


@torch.no_grad()
def test_residual_connections_are_around_every_layer_but_the_first_and_the_last() -> None:
    torch.manual_seed(0)
    model, batch = LinearNetwork(4, 10, 3 * 32 * 32, residual=True), images(4)
    one, two, three, four = model.layers
    x = one(batch.flatten(1))
    x = x + two(x)
    x = x + three(x)
    torch.testing.assert_close(model(batch), four(x))
    with pytest.raises(ValueError, match="depth=1"):
        LinearNetwork(1, 10, 12)


@pytest.mark.parametrize("residual", [False, True])
def test_linear_networks_are_traced(residual: bool) -> None:
    model = LinearNetwork(4, 10, 3 * 32 * 32, residual=residual)
    spaces = trace(model, images(2))
    assert [space.size for space in spaces.free] == ([32] if residual else [32, 32, 32])
    assert torch.equal(permuted(model, spaces)(images(2)).argmax(1), model(images(2)).argmax(1))


# -- a merged network beside its sources -------------------------------------------------------------------------------


@pytest.mark.parametrize(("architecture", "rate"), [("linear5", 0.01), ("linear5-res", 0.002), ("linear8", 0.01)])
def test_features_vanish_in_merged_linear_networks_and_alignment_keeps_more(
    architecture: str, rate: float, toy: Toy
) -> None:
    made = Architecture(architecture, toy.classes, 1.0, 32)
    models, recipe = [], Recipe(epochs=4, batch_size=32, learning_rate=rate, shift=0)
    for seed in range(2):
        models.append(build(made, seed))
        train(models[-1], *toy.tensors(), recipe, torch.Generator().manual_seed(seed))
    logits = models[0].eval()(toy.inputs())
    assert float((logits.argmax(1) == torch.from_numpy(toy.labels)).double().mean()) > 1.5 / toy.classes
    last = {}
    for method in ("identity", "permute"):
        result = merge(models, toy.inputs(), method, "none")
        assert len(result.spaces.free) == (1 if "res" in architecture else len(models[0].layers) - 1)  # type: ignore[arg-type]
        found = compare(result.model, {"first": models[0], "second": models[1]}, result.spaces, [toy.inputs(64)])
        relative = [reading.value for reading in found if reading.quantity == "relative"]
        assert relative[-2] < relative[0]
        last[method] = relative[-2]
    assert last["identity"] < min(0.6, last["permute"])


@pytest.mark.parametrize("settings", [{}, {"stop": "0.5"}, {"preserve": 3}, {"stop": "0.6", "preserve": 2}])
@pytest.mark.parametrize("method", ["permute", "zip", "cca"])
def test_networks_of_parts_are_measured_by_their_sources_names(
    settings: dict[str, Any], method: str, trained: Trained
) -> None:
    models, shown = dict(zip("ab", trained.models[:2], strict=True)), trained.toy.inputs(24)
    result = merge(models, dict.fromkeys(models, shown), method, "repair", check=False, **settings)
    order = list(magnitudes(models["a"], trained.spaces))
    for head, network in by_head(result.model).items():
        readings = list(compare(network, models, result.spaces, [shown], own=head))
        relative = [reading for reading in readings if reading.quantity == "relative"]
        assert [reading.layer for reading in relative] == order
        assert relative[-1].part == "head"
        assert all(reading.value == pytest.approx(1, rel=1e-4) for reading in relative if reading.part == "stem")
        assert ("stem" in {reading.part for reading in relative}) == ("preserve" in settings)
        norms = {reading.network: reading.value for reading in readings
                 if (reading.quantity, reading.layer) == ("features", "fc.weight")}  # fmt: skip
        assert relative[-1].value == pytest.approx(norms["merged"] / norms[head])
        variances = {reading.layer for reading in readings
                     if (reading.quantity, reading.network) == ("running_variance", "merged")}  # fmt: skip
        assert variances == set(batch_norm_statistics(models["a"]))


def test_a_network_beside_itself_has_lost_nothing(trained: Trained) -> None:
    model = trained.models[0]
    readings = list(compare(model, {"first": model, "second": model}, trained.spaces, [trained.toy.inputs(24)]))
    for reading in readings:
        if reading.quantity == "relative" or (reading.quantity == "cka" and reading.place == reading.other_place):
            assert reading.value == pytest.approx(1, rel=1e-4)
    with pytest.raises(ValueError, match="there are none"):
        list(compare(model, {"first": model}, trained.spaces, []))
