"""Folding norms for evaluation: the outputs are the same, and the network is left alone."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from mergeline.architectures import Architecture, build
from mergeline.fusing import fused
from mergeline.heads import multi_head, stop_space, trace_network


def with_statistics(network: nn.Module, generator: torch.Generator) -> nn.Module:
    """The network with norms that do something."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.running_mean, module.weight, module.bias):
                tensor.data.normal_(generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
    return network


def norms_of(network: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())


@pytest.mark.parametrize("name", ["r17", "resnet20", "vgg11-bn", "vgg11", "resnet20-gn", "r17-seg"])
def test_a_folded_network_gives_the_same_outputs(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    network = with_statistics(build(Architecture(name, 5, 0.5, 32), 0), generator)
    before = copy.deepcopy(network.state_dict())
    images = torch.randn(7, 3, 32, 32, generator=generator)
    found = fused(network)
    with torch.no_grad():
        wanted = network(images)
        assert torch.allclose(found(images), wanted, rtol=1e-3, atol=1e-3 * float(wanted.abs().max()))
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    assert norms_of(found) < norms_of(network) or found is network
    assert norms_of(found) == 0 or name == "r17-seg", "behind every convolution"


@pytest.mark.parametrize("share", [None, "0.5", "0"])
@pytest.mark.parametrize("name", ["r17", "vgg11-bn"])
def test_a_trunk_with_heads_is_folded_part_by_part(name: str, share: str | None) -> None:
    generator = torch.Generator().manual_seed(0)
    models = {
        task: with_statistics(build(Architecture(name, classes, 0.25, 32), seed), generator)
        for seed, (task, classes) in enumerate({"digits": 10, "landcover": 4}.items())
    }
    spaces = trace_network(models["digits"], 32)
    network = multi_head(models, spaces, stop=stop_space(models["digits"], spaces, share))
    before = copy.deepcopy(network.state_dict())
    images = torch.randn(7, 3, 32, 32, generator=generator)
    found = fused(network)
    with torch.no_grad():
        wanted, given = network(images), found(images)
    for head, logits in wanted.items():
        assert torch.allclose(given[head], logits, rtol=1e-3, atol=1e-3 * float(logits.abs().max())), head
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    assert norms_of(network) > 0
    assert norms_of(found) == 0


def test_what_cannot_be_followed_is_evaluated_as_it_is() -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm2d(3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.norm(x) if x.sum() > 0 else x

    network = Branching()
    assert fused(network) is network
    assert not network.training
