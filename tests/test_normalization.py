"""Batch statistics after merging: recomputed exactly, and nothing else is touched."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from mergeline.api import merge
from mergeline.architectures import build
from mergeline.heads import multi_head
from mergeline.merging import merge_network
from mergeline.normalization import NORMALIZATIONS, Finished, Normalizer
from mergeline.normalization.reset import batch_norms, reset, reset_multi_head
from stages.plan.loading import ParamsError, parse_params
from tests.conftest import Trained, bench_values

State = dict[str, Tensor]


def merged_model(trained: Trained) -> nn.Module:
    """Two trained networks averaged as they are: batch statistics far from what its activations have."""
    return merge_network(build(trained.architecture), trained.spaces, trained.states()[:2], [{}, {}])


def statistics(model: nn.Module) -> State:
    return {name: tensor.clone() for name, tensor in model.state_dict().items() if "running" in name}


def equal(first: State, second: State) -> bool:
    return set(first) == set(second) and all(torch.equal(first[name], second[name]) for name in first)


def test_two_resets_give_the_same_statistics_bit_for_bit(trained: Trained) -> None:
    model = merged_model(trained)
    batches = trained.toy.inputs(96).split(24)
    before = statistics(model)
    assert reset(model, batches) == 96
    first = statistics(model)
    assert reset(model, batches) == 96
    assert equal(first, statistics(model))
    assert not equal(first, before)


def test_statistics_do_not_depend_on_those_before(trained: Trained, enliven: Callable[..., nn.Module]) -> None:
    batches = trained.toy.inputs(48).split(24)
    first, second = merged_model(trained), merged_model(trained)
    for layer in batch_norms(second):
        layer.running_mean.fill_(7)
        layer.running_var.fill_(0.1)
        layer.num_batches_tracked.fill_(99)
    reset(first, batches)
    reset(second, batches)
    assert equal(statistics(first), statistics(second))


def test_statistics_are_the_means_of_the_batches_statistics(trained: Trained) -> None:
    model = merged_model(trained)
    batches = trained.toy.inputs(72).split(24)
    reset(model, batches)
    with torch.no_grad():
        values = [model.conv1(batch) for batch in batches]
    mean = torch.stack([value.mean((0, 2, 3)) for value in values]).mean(0)
    variance = torch.stack([value.var((0, 2, 3), unbiased=True) for value in values]).mean(0)
    torch.testing.assert_close(model.bn1.running_mean, mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model.bn1.running_var, variance, rtol=1e-4, atol=1e-5)
    assert int(model.bn1.num_batches_tracked) == 3


def test_deeper_layers_are_measured_behind_batch_statistics(trained: Trained) -> None:
    """While the images pass, every norm uses its batch's own statistics, as in training."""
    model = merged_model(trained)
    (batch,) = trained.toy.inputs(24).split(24)
    reset(model, [batch])
    twin = merged_model(trained).train()
    for layer in batch_norms(twin):
        layer.momentum = 1.0
    with torch.no_grad():
        twin(batch)
    for name, tensor in statistics(model).items():
        torch.testing.assert_close(tensor, statistics(twin)[name], rtol=1e-5, atol=1e-6)


def test_a_reset_makes_a_merged_network_better_on_its_images(trained: Trained) -> None:
    model = merged_model(trained)
    images, labels = trained.toy.inputs(), torch.from_numpy(trained.toy.labels)

    def loss() -> float:
        with torch.no_grad():
            return float(nn.functional.cross_entropy(model(images), labels))

    before = loss()
    reset(model, images.split(48))
    assert loss() < before


def test_only_statistics_change(trained: Trained) -> None:
    model = merged_model(trained)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    reset(model, [trained.toy.inputs(16)])
    assert all(torch.equal(before[name], parameter) for name, parameter in model.named_parameters())
    assert not any(module.training for module in model.modules())


def test_dropout_stays_off() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Dropout(0.9), nn.BatchNorm2d(4))
    images = torch.randn(8, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    before = torch.get_rng_state()
    reset(model, [images])
    assert torch.equal(torch.get_rng_state(), before)
    with torch.no_grad():
        torch.testing.assert_close(model[2].running_mean, model[0](images).mean((0, 2, 3)))


def test_the_momentum_is_restored_even_after_an_error(trained: Trained) -> None:
    model = merged_model(trained)
    layers = batch_norms(model)
    for index, layer in enumerate(layers):
        layer.momentum = 0.01 * (index + 1)
    with pytest.raises(RuntimeError):
        reset(model, [trained.toy.inputs(4), torch.zeros(2, 5, 8, 8)])
    assert [layer.momentum for layer in layers] == [0.01 * (index + 1) for index in range(len(layers))]
    assert not any(module.training for module in model.modules())
    reset(model, [trained.toy.inputs(4)])
    assert [layer.momentum for layer in layers] == [0.01 * (index + 1) for index in range(len(layers))]


def test_a_network_without_batch_norm_is_left_alone() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.GroupNorm(2, 4), nn.BatchNorm2d(4, track_running_stats=False))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert batch_norms(model) == []
    assert reset(model, [torch.zeros(3, 3, 2, 2)]) == 3
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_heads_are_reset_on_their_own_images_and_the_trunk_on_all(trained: Trained) -> None:
    models = dict(zip("ab", trained.models[:2], strict=True))
    network = multi_head(models, trained.spaces, stop="layer2.0")
    images = trained.toy.inputs(96)
    bright = images * 2 + 1
    mixed = torch.cat([images, bright])[torch.randperm(192, generator=torch.Generator().manual_seed(0))]
    own = {"a": list(images.split(32)), "b": list(bright.split(32))}
    assert reset_multi_head(network, mixed.split(32), own) == 192

    trunk = multi_head(models, trained.spaces, stop="layer2.0").trunk
    reset(trunk, mixed.split(32))
    assert equal(statistics(network.trunk), statistics(trunk))
    for name, head in zip("ab", network.heads, strict=True):
        alone = multi_head(models, trained.spaces, stop="layer2.0")
        alone.trunk.load_state_dict(trunk.state_dict())
        chosen = alone.heads["ab".index(name)]
        for layer in batch_norms(chosen):
            layer.reset_running_stats()
            layer.momentum = None
            layer.train()
        with torch.no_grad():
            for batch in own[name]:
                chosen(*alone.trunk(batch))
        assert equal(statistics(head), statistics(chosen))
    assert not equal(statistics(network.heads[0]), statistics(network.heads[1]))


def test_the_registry_is_what_merge_and_params_may_say() -> None:
    assert {"none", "reset"} <= set(NORMALIZATIONS)
    values = bench_values()
    values["normalize"]["rest"] = {"images": 5}
    with pytest.raises(
        ParamsError, match=r"normalize.rest: unknown 'rest' \(did you mean 'reset'\?\); allowed: none, reset"
    ):
        parse_params(values)
    values = bench_values(normalize={"reset": {"imges": 5}})
    with pytest.raises(ParamsError, match=r"normalize.reset.imges: unknown key \(did you mean 'images'\?\)"):
        parse_params(values)


def test_an_entry_added_at_run_time_is_a_normalisation_like_any(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    @dataclass(frozen=True)
    class Options:
        factor: float = 2.0

    def run(finished: Finished, options: Options) -> None:
        with torch.no_grad():
            finished.network.fc.bias.mul_(options.factor)  # type: ignore[operator, union-attr]

    monkeypatch.setitem(NORMALIZATIONS, "louder", Normalizer("louder", "a test", Options, run))
    plain, louder = (merge(trained.models[:2], [trained.toy.inputs(16)], normalize=name) for name in ("none", "louder"))
    torch.testing.assert_close(louder.model.fc.bias, 2 * plain.model.fc.bias)  # type: ignore[operator]
