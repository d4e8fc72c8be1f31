"""Folding norms for evaluation: the outputs are the same, and the network is left alone."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from mergeline.architectures import Architecture, build
from mergeline.fusing import fused


@pytest.mark.parametrize("name", ["r17", "resnet20", "vgg11-bn", "vgg11", "resnet20-gn", "r17-seg"])
def test_a_folded_network_gives_the_same_outputs(name: str) -> None:
    network = build(Architecture(name, 5, 0.5, 32), 0)
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.running_mean, module.weight, module.bias):
                tensor.data.normal_(generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
    before = copy.deepcopy(network.state_dict())
    images = torch.randn(7, 3, 32, 32, generator=generator)
    found = fused(network)
    with torch.no_grad():
        wanted = network(images)
        assert torch.allclose(found(images), wanted, rtol=1e-3, atol=1e-3 * float(wanted.abs().max()))
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    norms = [sum(isinstance(module, nn.BatchNorm2d) for module in own.modules()) for own in (network, found)]
    assert norms[1] < norms[0] or found is network
    assert norms[1] == 0 or name == "r17-seg", "behind every convolution"


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
