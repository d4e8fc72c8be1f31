"""Networks of torchvision, timm and Hugging Face as they are: every one traces, and every trace is proved."""

from __future__ import annotations

import pytest
import torch

from mergeline.spaces import trace
from mergeline.spaces.verifying import check_spaces
from tests.zoo import ZOO, make

pytestmark = pytest.mark.slow


def test_the_zoo_is_large_and_has_the_families_that_people_use() -> None:
    assert len(ZOO) >= 60
    names = " ".join(ZOO)
    for family in (
        "vit", "deit", "swin", "convnext", "densenet", "efficientnet", "mobilenet_v3", "regnet", "resnext", "shufflenet",
        "inception", "deeplab", "fcn", "mixer", "bert", "distilbert", "dinov2",
    ):  # fmt: skip
        assert family in names


@pytest.mark.parametrize("name", ZOO)
def test_every_network_traces_and_its_trace_is_proved(name: str) -> None:
    torch.set_num_threads(1)
    model, inputs = make(name, 2)
    spaces = trace(model, inputs)
    assert spaces.free
    differences = check_spaces(model, spaces, inputs)
    assert set(differences) == {space.name for space in spaces.free}
    assert max(differences.values()) <= 1e-4
    indexed = {axis.tensor for space in spaces.movable for axis in space.axes}
    weights = {name for name, parameter in model.named_parameters() if parameter.dim() > 1}
    assert len(indexed & weights) >= len(weights) // 2, "most weights have units that move"
