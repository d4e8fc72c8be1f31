"""Networks that are merged up to a stop and keep their own layers above it, from the input to the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, fx, nn

from mergeline.api import merge
from mergeline.architectures import build
from mergeline.evaluation import flops, parameters
from mergeline.heads import MultiHead, cut, multi_head, multi_head_from_state, stop_space
from mergeline.maps import UnitMap
from mergeline.matching import MATCHERS, Problem
from mergeline.merging import merge_network
from mergeline.moments import collect_moments, full_pairs
from mergeline.normalization.reset import reset, reset_multi_head
from stages.formats.merged import load_merged, save_merged
from tests.conftest import TINY, Trained

Maps = Sequence[Mapping[str, UnitMap]]

METHODS = {"permute": {}, "zip": {"beta": 0.5}, "cca": {}, "transport": {"regularization": 0.05}}
"""A method for each kind of map."""


@pytest.fixture(scope="module", params=METHODS)
def maps(request: pytest.FixtureRequest, trained: Trained) -> Maps:
    """The first two trained models, matched."""
    matcher = MATCHERS[request.param]
    models = trained.models[:2]
    moments = collect_moments(models, trained.spaces, [trained.toy.inputs(64)], full_pairs(2))
    problem = Problem(trained.spaces, trained.states()[:2], moments, np.random.default_rng(0))
    return matcher.match(problem, matcher.options(**METHODS[request.param])).maps


def pair(trained: Trained) -> dict[str, nn.Module]:
    return dict(zip("ab", trained.models[:2], strict=True))


def outputs(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    with torch.no_grad():
        found = model.eval()(images)
    return found if isinstance(found, dict) else {"": found}


def stops(trained: Trained) -> list[str]:
    return ["input", *(space.name for space in trained.spaces.free)]


# -- from the input to the end ----------------------------------------------------------------------------------------


def test_at_the_input_the_heads_are_the_ensemble(trained: Trained, maps: Maps) -> None:
    images = trained.toy.inputs(16)
    network = multi_head(pair(trained), trained.spaces, maps, stop="input")
    assert parameters(network.trunk) == 0
    for name, model in pair(trained).items():
        assert torch.equal(outputs(network, images)[name], outputs(model, images)[""])


@pytest.mark.parametrize("weights", [(0.5, 0.5), (0.3, 0.7)])
def test_at_the_end_the_heads_average_to_the_full_merge(
    weights: tuple[float, float], trained: Trained, maps: Maps
) -> None:
    """Only the classifiers are left, and a classifier that averages others gives the average of their logits."""
    images = trained.toy.inputs(32)
    partial = multi_head(pair(trained), trained.spaces, maps, weights)
    full = merge_network(build(TINY), trained.spaces, trained.states()[:2], maps, weights)
    reset(partial.trunk, [images])
    reset(full, [images])
    found = outputs(partial, images)
    expected = outputs(full, images)[""]
    scale = float(expected.abs().max())
    torch.testing.assert_close(
        weights[0] * found["a"] + weights[1] * found["b"], expected, rtol=1e-3, atol=1e-3 * scale
    )
    trunk = {name for name, _ in partial.trunk.named_parameters()}
    assert trunk == {name for name, _ in full.named_parameters() if not name.startswith("fc.")}


def test_a_trunk_has_the_full_merges_weights(trained: Trained, maps: Maps) -> None:
    full = merge_network(build(TINY), trained.spaces, trained.states()[:2], maps).state_dict()
    for stop in stops(trained)[::4]:
        trunk = multi_head(pair(trained), trained.spaces, maps, stop=stop).trunk.state_dict()
        assert all(torch.equal(tensor, full[name]) for name, tensor in trunk.items())


def test_copies_are_the_same_function_at_every_stop(trained: Trained) -> None:
    images = trained.toy.inputs(8)
    model = trained.models[0]
    for stop in stops(trained):
        network = multi_head({"a": model, "b": model}, trained.spaces, stop=stop)
        assert torch.equal(outputs(network, images)["b"], outputs(model, images)[""])


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 1.0])
def test_a_stop_may_be_a_share_of_the_multiply_adds(share: float, trained: Trained) -> None:
    model, example = trained.models[0], trained.toy.inputs(1)
    stop = stop_space(model, trained.spaces, str(share))
    assert stop is not None
    network = multi_head(pair(trained), trained.spaces, stop=stop)
    done = flops(network.trunk, example) / flops(model, example)
    names = stops(trained)
    assert stop == "input" if share == 0 else stop != "input"
    assert stop == names[-1] or done >= share
    if share > 0:
        before = multi_head(pair(trained), trained.spaces, stop=names[names.index(stop) - 1])
        assert flops(before.trunk, example) / flops(model, example) < share
    assert stop_space(model, trained.spaces, "layer2.0") == "layer2.0"
    assert stop_space(model, trained.spaces, None) is None


def test_a_share_out_of_range_is_refused(trained: Trained) -> None:
    with pytest.raises(ValueError, match=r"stop 1\.5: a share of the multiply-adds must lie between 0 and 1"):
        stop_space(trained.models[0], trained.spaces, "1.5")


# -- what it costs ----------------------------------------------------------------------------------------------------


def calls(network: nn.Module, images: Tensor) -> dict[str, int]:
    """How often the trunk, each head and each batch norm runs in one forward pass."""
    counts: dict[str, int] = {}
    handles = []
    for name, module in network.named_modules():
        if isinstance(module, nn.BatchNorm2d | fx.GraphModule):
            counts[name] = 0

            def hook(_module: nn.Module, _inputs: object, _output: object, name: str = name) -> None:
                counts[name] += 1

            handles.append(module.register_forward_hook(hook))
    outputs(network, images)
    for handle in handles:
        handle.remove()
    return counts


def test_the_trunk_runs_once_for_all_heads(trained: Trained, maps: Maps) -> None:
    network = multi_head(pair(trained), trained.spaces, maps, stop="layer2.0")
    counts = calls(network, trained.toy.inputs(4))
    assert set(counts.values()) == {1}
    plan = cut(trained.models[0], trained.spaces, "layer2.0")
    norms = {name.rpartition(".")[0] for name in plan.trunk_tensors if name.endswith("running_mean")}
    assert {name.removeprefix("trunk.") for name in counts if name.startswith("trunk.")} == norms
    own = {name.partition(".")[2].partition(".")[2] for name in network.state_dict() if name.startswith("heads.")}
    assert not own & plan.trunk_tensors


def test_the_cost_lies_between_the_merged_network_and_the_ensemble(trained: Trained, maps: Maps) -> None:
    example = trained.toy.inputs(1)
    alone = flops(trained.models[0], example)
    extra = 0 if all(own.is_permutation for own in maps[1].values()) else alone  # linear maps are run at the boundary
    costs = []
    for stop in ("input", "layer1.0", "layer3", None):
        network = multi_head(pair(trained), trained.spaces, maps, stop=stop)
        costs.append(flops(network, example))
    assert costs[0] == 2 * alone
    assert all(alone < cost < 2 * alone + extra for cost in costs[1:])
    assert costs[-1] == alone + 128 * 4  # one more classifier


# -- statistics, and kept on disk -------------------------------------------------------------------------------------


@pytest.mark.parametrize("stop", ["layer2.0.conv1", None])
def test_it_is_saved_and_loaded(
    stop: str | None, trained: Trained, maps: Maps, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    check_saved(multi_head(pair(trained), trained.spaces, maps, stop=stop), stop, trained)


def test_the_ensemble_at_the_input_is_saved_and_loaded(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    check_saved(multi_head(pair(trained), trained.spaces, stop="input"), "input", trained)


def check_saved(network: MultiHead, stop: str | None, trained: Trained) -> None:
    """Here, a network is the same from its file and from its state dict."""
    images = trained.toy.inputs(8)
    reset_multi_head(network, [images], {"a": [images], "b": [images]})
    save_merged(Path("model.safetensors"), network, {"a": TINY, "b": TINY}, stop, heads=True)
    again = load_merged(Path("model.safetensors"))
    assert isinstance(again, MultiHead)
    assert list(outputs(again, images)) == ["a", "b"]
    for name, value in outputs(network, images).items():
        torch.testing.assert_close(outputs(again, images)[name], value, rtol=1e-4, atol=1e-4)
    rebuilt = multi_head_from_state(pair(trained), trained.spaces, network.state_dict(), stop)
    for name, value in outputs(network, images).items():
        assert torch.equal(outputs(rebuilt, images)[name], value)


def test_statistics_are_recomputed_in_the_trunk_and_in_the_heads(trained: Trained) -> None:
    """At the input, each head's are those of its own model on its own images."""
    first, second = trained.toy.inputs(64), trained.toy.inputs()[64:]
    network = multi_head(pair(trained), trained.spaces, stop="input")
    reset_multi_head(network, [first, second], {"a": [first], "b": [second]})
    for (name, own), images in zip(pair(trained).items(), (first, second), strict=True):
        alone = build(TINY)
        alone.load_state_dict(own.state_dict())
        reset(alone, [images])
        assert torch.equal(outputs(network, images)[name], outputs(alone, images)[""])


def test_one_call_merges_partially(trained: Trained) -> None:
    images = trained.toy.inputs(48)
    data = {"a": [images], "b": [images]}
    none = merge(pair(trained), data, "permute", "none", stop="input")
    for name, model in pair(trained).items():
        assert torch.equal(outputs(none.model, images)[name], outputs(model, images)[""])
    found = merge(list(trained.models[:2]), [images], "zip", stop="layer2.0")
    assert isinstance(found.model, MultiHead)
    assert list(outputs(found.model, images)) == ["0", "1"]
