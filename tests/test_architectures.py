"""Networks of torchvision, timm and Hugging Face as they are: every one traces, every trace is proved, and a copy with all
units in another order merges back by every matcher that looks at activations."""

from __future__ import annotations

import pytest
import torch

from mergeline.sources import first_samples
from mergeline.spaces import trace
from mergeline.spaces.verifying import check_spaces
from tests.planted import planted_differences, within_reach
from tests.zoo import ZOO, make

pytestmark = pytest.mark.slow
SAMPLES = 8
SMALL = 10_000_000
"""Pairs of units up to which a network is merged by every matcher; larger ones by ``permute`` alone, and by all in
``python -m benchmarks architectures``."""


def test_the_zoo_is_large_and_has_the_families_that_people_use() -> None:
    assert len(ZOO) >= 60
    names = " ".join(ZOO)
    for family in (
        "vit", "deit", "swin", "convnext", "densenet", "efficientnet", "mobilenet_v3", "regnet", "resnext", "shufflenet",
        "inception", "deeplab", "fcn", "mixer", "bert", "distilbert", "dinov2",
    ):  # fmt: skip
        assert family in names


@pytest.mark.parametrize("name", ZOO)
def test_every_network_traces_and_its_trace_is_proved_and_a_planted_order_merges_back(name: str) -> None:
    torch.set_num_threads(1)
    model, inputs = make(name, SAMPLES)
    spaces = trace(model, first_samples(inputs, 2))
    assert spaces.free
    differences = check_spaces(model, spaces, first_samples(inputs, 2))
    assert set(differences) == {space.name for space in spaces.free}
    assert max(differences.values()) <= 1e-4
    work = sum(space.size**2 for space in spaces.free)
    planted = planted_differences(model, spaces, inputs, within_reach(spaces) if work < SMALL else ["permute"])
    for method, difference in planted.items():
        if isinstance(difference, str):  # what cca cannot do, it says
            assert method == "cca"
            assert "compared across its units" in difference or "a batch norm that no layer stands before" in difference
        else:
            assert difference <= 1e-4, (method, difference)
    indexed = {axis.tensor for space in spaces.movable for axis in space.axes}
    weights = {name for name, parameter in model.named_parameters() if parameter.dim() > 1}
    assert len(indexed & weights) >= len(weights) // 2, "most weights have units that move"
