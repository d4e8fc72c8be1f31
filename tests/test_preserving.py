"""Preserve-first merging: from the plain merge to the ensemble, with features averaged once in between."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mergeline import merge
from mergeline.architectures import Architecture, build
from mergeline.evaluation import flops, parameters
from mergeline.maps import UnitMap
from mergeline.network import assemble
from mergeline.preserving import PreserveFirst, preserve_first_from_state, preserved_layers
from mergeline.spaces import Spaces, trace
from mergeline.spaces.layers import node_depths
from stages.formats.merged import load_merged, save_merged
from tests.networks import images, network

METHODS = ("permute", "zip", "cca")
Maps = Sequence[Mapping[str, UnitMap]]


def pair(name: str) -> dict[str, nn.Module]:
    return {key: network(name, seed) for key, seed in (("a", 1), ("b", 2))}


def matched(models: Mapping[str, nn.Module], method: str) -> tuple[Spaces, Maps]:
    result = merge(list(models.values()), [images(32)], method, "none", check=False)
    return result.spaces, result.maps


@torch.no_grad()
def run(model: nn.Module, x: Tensor) -> Any:
    return model(x)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["vgg11", "resnet20"])
def test_with_all_layers_kept_it_is_the_ensemble_and_with_none_the_merge(name: str, method: str) -> None:
    models = pair(name)
    spaces, maps = matched(models, method)
    most = max(node_depths(spaces.graph).values())
    weights = (0.3, 0.7)
    x = images(8, 1)
    kept = assemble(models, spaces, maps, same_outputs=True, weights=weights, preserve=most)
    averaged = sum(weight * run(model, x) for weight, model in zip(weights, models.values(), strict=True))
    torch.testing.assert_close(run(kept, x), averaged, rtol=1e-4, atol=1e-5)
    plain = assemble(models, spaces, maps, same_outputs=True, weights=weights)
    none = assemble(models, spaces, maps, same_outputs=True, weights=weights, preserve=0)
    assert torch.equal(run(none, x), run(plain, x))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("layers", [1, 3, 6])
def test_features_are_mapped_and_averaged_once(method: str, layers: int) -> None:
    """Against the parts of a plain VGG, by hand."""
    models = pair("vgg11")
    spaces, maps = matched(models, method)
    weights = (0.4, 0.6)
    x = images(4, 2)
    found = run(assemble(models, spaces, maps, same_outputs=True, weights=weights, preserve=layers), x)
    merged = assemble(models, spaces, maps, same_outputs=True, weights=weights)
    starts = [place for place, module in enumerate(merged.features) if isinstance(module, nn.Conv2d)]  # type: ignore[arg-type]
    end = starts[layers] if layers < len(starts) else len(merged.features)  # type: ignore[arg-type]
    space = list(spaces.free)[layers - 1].name
    masses = [own[space].mass() for own in maps]
    total = sum(weight * mass for weight, mass in zip(weights, masses, strict=True))
    features = torch.zeros(())
    for model, own, weight in zip(models.values(), maps, weights, strict=True):
        mapped = own[space].merge(run(model.features[:end], x), 1)  # type: ignore[index, operator]
        features = features + mapped * torch.from_numpy(weight / total).float().view(1, -1, 1, 1)
    rest = run(merged.features[end:], features)  # type: ignore[index, operator]
    expected = run(merged.classifier, torch.flatten(merged.avgpool(rest), 1))  # type: ignore[operator, arg-type]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["vgg11", "vgg11-ln", "resnet20"])
def test_a_planted_order_merges_back_whatever_is_kept(name: str) -> None:
    from mergeline.spaces import permute_state, random_permutations

    models = pair(name)
    spaces = trace(models["a"], images(2))
    orders = random_permutations(spaces, torch.Generator().manual_seed(4))
    models["b"].load_state_dict(permute_state(spaces, models["a"].state_dict(), orders))
    expected = run(models["a"], images(4, 3))
    for layers in (2, 5, 8):
        result = merge(list(models.values()), [images(32)], "permute", "none", preserve=layers, check=False)
        assert isinstance(result.model, PreserveFirst)
        torch.testing.assert_close(run(result.model, images(4, 3)), expected, rtol=1e-3, atol=1e-4)


def test_more_kept_costs_more() -> None:
    models = pair("resnet20")
    spaces, maps = matched(models, "permute")
    x = images(1)
    costs = [
        (flops(found, x), parameters(found))
        for layers in (0, 1, 7, 13, 20)
        for found in [assemble(models, spaces, maps, same_outputs=True, preserve=layers)]
    ]
    assert costs == sorted(costs)
    assert costs[0] == (flops(models["a"], x), parameters(models["a"]))
    assert costs[-1][0] == 2 * costs[0][0]


@pytest.mark.parametrize("method", METHODS)
def test_preserve_and_stop_leave_the_middle_merged(method: str) -> None:
    models = pair("vgg11")
    spaces, maps = matched(models, method)
    stop = spaces.free[5].name
    found = assemble(models, spaces, maps, same_outputs=True, preserve=2, stop=stop)
    outputs = run(found, images(4))
    assert set(outputs) == {"a", "b"}
    names = set(found.state_dict())
    assert {"stems.0.features.0.weight", "stems.1.features.3.weight"} <= names
    assert any(name.startswith("rest.trunk.features.6.") for name in names)
    assert {"rest.heads.0.classifier.weight", "rest.heads.1.classifier.weight"} <= names
    same = assemble(
        {"a": models["a"], "b": models["a"]}, spaces, [maps[0], maps[0]], same_outputs=True, preserve=2, stop=stop
    )
    if method == "permute":
        for output in run(same, images(4)).values():
            torch.testing.assert_close(output, run(models["a"], images(4)), rtol=1e-4, atol=1e-5)


def test_models_of_different_tasks_keep_their_heads() -> None:
    models = {"a": network("vgg11", 1), "b": build(Architecture("vgg11", 7, 0.125, 32), seed=2).eval()}
    data = {"a": [images(16)], "b": [images(16, 1)]}
    for normalize in ("none", "repair", "rescale"):
        result = merge(models, data, "permute", normalize, preserve=3, check=False)
        found = run(result.model, images(4))
        assert {key: tuple(value.shape) for key, value in found.items()} == {"a": (4, 5), "b": (4, 7)}
        kept = result.model.state_dict()["stems.0.features.0.weight"]
        assert torch.equal(kept, models["a"].state_dict()["features.0.weight"])  # a model's own layers stay as they are


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("normalize", ["none", "repair"])
@pytest.mark.parametrize(("preserve", "stop"), [(3, None), (2, "features.11")])
def test_it_is_saved_and_loaded(tmp_path: Path, method: str, normalize: str, preserve: int, stop: str | None) -> None:
    architecture = Architecture("vgg11", 5, 0.125, 32)
    models = pair("vgg11")
    result = merge(list(models.values()), [images(32)], method, normalize, preserve=preserve, stop=stop, check=False)
    heads = dict.fromkeys(["0", "1"] if stop else ["0"], architecture)
    path = tmp_path / "model.safetensors"
    save_merged(path, result.model, heads, stop, heads=stop is not None, preserve=preserve, stems=2)
    again = load_merged(path)
    expected, found = run(result.model, images(4)), run(again, images(4))
    if isinstance(expected, dict):
        for head in expected:
            torch.testing.assert_close(found[head], expected[head], rtol=1e-5, atol=1e-5)
    else:
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_a_repaired_network_without_biases_is_loaded_with_them(tmp_path: Path) -> None:
    architecture = Architecture("vgg11-ln", 5, 0.125, 32)
    models = pair("vgg11-ln")
    for preserve, stop in ((0, None), (0, "features.11"), (2, None)):
        result = merge(
            list(models.values()), [images(16)], "permute", "repair", preserve=preserve, stop=stop, check=False
        )
        heads = dict.fromkeys(["0", "1"] if stop else ["0"], architecture)
        path = tmp_path / f"{preserve}.{stop}.safetensors"
        save_merged(
            path, result.model, heads, stop, heads=stop is not None, preserve=preserve, stems=2 if preserve else 0
        )
        again = load_merged(path)
        expected, found = run(result.model, images(4)), run(again, images(4))
        for key in expected if isinstance(expected, dict) else [slice(None)]:
            torch.testing.assert_close(found[key], expected[key], rtol=1e-5, atol=1e-5)


def test_another_networks_state_is_refused() -> None:
    models = pair("vgg11")
    spaces, maps = matched(models, "permute")
    state = assemble(models, spaces, maps, same_outputs=True, preserve=3).state_dict()
    with pytest.raises(ValueError, match="another network"):
        preserve_first_from_state(models, spaces, 2, state)


def test_layers_are_counted_or_given_as_a_share() -> None:
    model = network("vgg11", 1)
    spaces = trace(model, images(2))
    assert [preserved_layers(model, spaces, value) for value in (None, 0, 3, "3", 9)] == [0, 0, 3, 3, 9]
    shares = [preserved_layers(model, spaces, share) for share in (0.01, 0.3, "0.6", 0.99)]
    assert shares == sorted(shares)
    assert shares[0] == 1
    assert shares[-1] == 8


@pytest.mark.parametrize(
    ("preserve", "words"),
    [
        (10, "the network has 9"),
        (-1, "the network has 9"),
        (1.5, "neither a whole number"),
        ("many", "neither a number"),
        (float("inf"), "neither a whole number"),
        ("nan", "neither a whole number"),
    ],
)
def test_what_cannot_be_kept_is_an_error(preserve: Any, words: str) -> None:
    models = pair("vgg11")
    with pytest.raises(ValueError, match=words):
        merge(list(models.values()), [images(4)], "identity", "none", preserve=preserve, check=False)


def test_keeping_more_than_is_merged_is_an_error_that_names_both() -> None:
    models = pair("vgg11")
    with pytest.raises(ValueError, match=r"preserve keeps layers apart that lie above 'features\.0'"):
        merge(list(models.values()), [images(4)], "identity", "none", preserve=4, stop="features.0", check=False)


@pytest.mark.parametrize("layers", [1, 2, 3, 4, 6])
def test_a_transformer_keeps_its_first_layers(layers: int) -> None:
    """With queries, keys and values what an attention makes of them is kept, too; a planted order merges back."""
    from mergeline.spaces import permute_state, random_permutations

    model = network("vit", 1)
    twin = copy.deepcopy(model)
    spaces = trace(model, images(2))
    orders = random_permutations(spaces, torch.Generator().manual_seed(4))
    twin.load_state_dict(permute_state(spaces, model.state_dict(), orders))
    result = merge([model, twin], [images(64)], "permute", "none", preserve=layers, check=False)
    torch.testing.assert_close(run(result.model, images(4, 3)), run(model, images(4, 3)), rtol=1e-3, atol=1e-3)


class InPlace(nn.Module):
    """Changes its input, and a feature that passes on, in place."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 1), nn.Conv2d(6, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x.mul_(2)
        x = torch.relu(self.first(x))
        x += self.second(x)
        return self.last(torch.tanh_(x))


@pytest.mark.parametrize(("preserve", "stop"), [(0, "first"), (1, None), (3, None), (0, "input")])
def test_parts_do_not_see_what_others_change_in_place(preserve: int, stop: str | None) -> None:
    models = {}
    for seed, key in enumerate("ab"):
        torch.manual_seed(seed)
        models[key] = InPlace().eval()
    same = dict.fromkeys(models, models["a"])
    spaces = trace(models["a"], torch.randn(2, 3, 4, 4))
    inputs = torch.randn(3, 3, 4, 4)
    expected = {key: run(model, inputs.clone()) for key, model in models.items()}
    if stop == "first":
        found = assemble(same, spaces, [{}, {}], same_outputs=True, stop=stop)
        for output in run(found, inputs.clone()).values():
            torch.testing.assert_close(output, expected["a"])
        return
    found = assemble(models, spaces, [{}, {}], same_outputs=True, stop=stop, preserve=preserve)
    outputs = run(found, inputs.clone())
    if stop == "input":
        for key, output in outputs.items():
            torch.testing.assert_close(output, expected[key])
    elif preserve == 3:
        torch.testing.assert_close(outputs, (expected["a"] + expected["b"]) / 2)
    else:
        found = assemble(same, spaces, [{}, {}], same_outputs=True, preserve=preserve)
        torch.testing.assert_close(run(found, inputs.clone()), expected["a"])


class Flattening(nn.Module):
    """Reads the length of the batch before its first layer, and uses it after the last that is kept."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.hidden, self.last = nn.Linear(8 * 16, 12), nn.Linear(12, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        count = len(x)
        x = torch.relu(self.second(torch.relu(self.first(x))))
        return self.last(torch.relu(self.hidden(nn.functional.adaptive_avg_pool2d(x, 4).view(count, -1))))


@pytest.mark.parametrize("stop", [None, "hidden"])
def test_several_tasks_keep_layers_of_a_network_that_uses_the_length_of_a_batch(stop: str | None) -> None:
    models = {name: Flattening(classes) for name, classes in (("a", 3), ("b", 4))}
    data = {name: [torch.randn(16, 3, 16, 16)] for name in models}
    found = merge(models, data, normalize="repair", preserve=1, stop=stop).model
    for count in (5, 1):
        outputs = found(torch.randn(count, 3, 16, 16))
        assert {name: output.shape for name, output in outputs.items()} == {"a": (count, 3), "b": (count, 4)}
