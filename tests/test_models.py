"""The papers' transformers and dense networks: they are what they say, trace, and merge back from any order of units."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from mergeline.api import merge
from mergeline.architectures import INPUT_SIZES, VIT_BLOCKS, Architecture, build, stage_blocks
from mergeline.depth.expansion import noise
from mergeline.models.bert import Bert, BertShape
from mergeline.models.dino import DinoResNet
from mergeline.models.swin import swin
from mergeline.models.unet import UNet
from mergeline.models.vit import ViT
from mergeline.sources import prepared
from mergeline.spaces import trace
from mergeline.spaces.verifying import check_spaces
from tests.planted import planted_differences

SHAPE = BertShape(vocabulary=60, layers=2, dim=48, heads=4, hidden=96, positions=32)


def images(count: int) -> torch.Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def tokens(count: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(4, 13, (count, 1), generator=generator)
    return {
        "input_ids": torch.randint(1, 60, (count, 12), generator=generator),
        "attention_mask": (torch.arange(12) < lengths).long(),
    }


MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[int], Any], tuple[str, ...]]] = {
    "vit": (lambda: ViT(2, 5, 0.25, 32), images, ("permute", "zip", "weight", "transport")),
    "swin": (lambda: swin(5, 0.25, 32), images, ("permute", "zip", "weight", "transport")),
    "bert": (lambda: Bert(SHAPE, 3), tokens, ("permute", "zip", "weight", "transport")),
    "unet": (lambda: UNet(4, 0.25), images, ("permute", "weight", "transport")),
    "dino": (lambda: DinoResNet(12, (1, 1, 1, 1), 0.25, 32, 64, 16), images, ("permute", "weight", "transport")),
}
"""What makes one, inputs, and the methods whose maps of units in another order are permutations."""


def made(name: str, count: int) -> tuple[nn.Module, Any]:
    torch.manual_seed(0)
    make, inputs, _ = MODELS[name]
    model = make()
    for module in model.modules():  # norms and biases as after training, not 0 and 1
        if isinstance(module, nn.LayerNorm | nn.BatchNorm2d | nn.Linear):
            for parameter in module.parameters():
                if parameter.dim() == 1:
                    parameter.data += 0.3 * torch.randn_like(parameter)
    return prepared(model.eval(), name), inputs(count)


@pytest.mark.parametrize("name", MODELS)
def test_every_layer_moves_and_the_trace_is_proved(name: str) -> None:
    model, inputs = made(name, 2)
    spaces = trace(model, inputs)
    assert max(check_spaces(model, spaces, inputs).values()) < 1e-4
    indexed = {axis.tensor for space in spaces.movable for axis in space.axes}
    assert indexed >= {key for key, parameter in model.named_parameters() if parameter.dim() > 1}


@pytest.mark.parametrize(("name", "method"), [(name, method) for name in MODELS for method in MODELS[name][2]])
def test_a_planted_order_of_all_units_merges_back(name: str, method: str) -> None:
    model, inputs = made(name, 256 if name == "dino" else 48)  # its last units are silent on most images
    few = {key: value[:2] for key, value in inputs.items()} if isinstance(inputs, dict) else inputs[:2]
    found = planted_differences(model, trace(model, few), inputs, [method])[method]
    assert isinstance(found, float)
    assert found < 1e-4


@pytest.mark.parametrize("size", [32, 64, 224])
def test_image_models_take_every_input_size_and_gray_images(size: int) -> None:
    for network in (ViT(1, 7, 0.125, size), swin(7, 0.125, size)):
        assert network.eval()(torch.randn(2, 3, size, size)).shape == (2, 7)
    assert UNet(3, 0.125)(torch.randn(2, 1, size, size)).shape == (2, 3, size, size)
    assert ViT(1, 7, 0.125, size)(torch.randn(2, 1, size, size)).shape == (2, 7)


@pytest.mark.slow
def test_bert_is_hugging_faces_with_the_same_names() -> None:
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=60, hidden_size=48, num_hidden_layers=2, num_attention_heads=4, intermediate_size=96,
        max_position_embeddings=32, num_labels=3,
    )  # fmt: skip
    theirs = BertForSequenceClassification(config).eval()
    ours = Bert(SHAPE, 3).eval()
    ours.load_state_dict(theirs.state_dict())
    inputs = tokens(9)
    with torch.no_grad():
        assert torch.allclose(ours(**inputs), theirs(**inputs).logits, atol=1e-5)


def test_the_usual_sizes_are_the_papers() -> None:
    def millions(model: nn.Module) -> float:
        return round(sum(parameter.numel() for parameter in model.parameters()) / 1e6, 1)

    assert millions(ViT(12, 1000)) == 5.7  # ViT-Ti/16
    assert millions(swin(1000)) == 28.3  # Swin-T
    with torch.device("meta"):
        assert millions(Bert(BertShape(), 2)) == 109.5  # BERT-base
        assert millions(DinoResNet(65536)) == 49.3  # ResNet-50 23.5, head 25.8


@pytest.mark.parametrize("size", INPUT_SIZES)
@pytest.mark.parametrize("name", ["vit4", "swin"])
def test_transformers_of_a_benchmark_are_built_and_run_for_every_input_size(name: str, size: int) -> None:
    model = build(Architecture(name, 7, 1 / 16, size), 0).eval()
    pictures = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        outputs = model(pictures)
    assert outputs.shape == (2, 7)
    assert (outputs[0] - outputs[1]).abs().max() > 1e-3


@pytest.mark.parametrize("depth", VIT_BLOCKS)
def test_a_vision_transformer_has_the_blocks_that_its_name_says(depth: int) -> None:
    model = build(Architecture(f"vit{depth}", 7, 1 / 16, 32))
    assert isinstance(model, ViT)
    assert stage_blocks(f"vit{depth}") == (len(model.blocks),) == (depth,)


HEADED = (
    "r17",
    "resnet20",
    "resnet20-gn",
    "vgg11",
    "vgg11-bn",
    "vgg11-ln",
    "vit4",
    "swin",
    "bert3",
    "r17-seg",
    "linear5-res",
)
"""One architecture of each family."""


@pytest.mark.parametrize("preserve", [None, 2])
@pytest.mark.parametrize("name", HEADED)
def test_every_kind_of_network_keeps_a_head_for_each_task(name: str, preserve: int | None) -> None:
    """Parts of a network run as modules of their own: no operation may mean something else there."""
    architecture = Architecture(name, 5, 0.5 if name.endswith("-gn") else 1 / 16, 32)
    model = build(architecture, 0).eval()
    batch = noise(32, architecture.reads).repeat_interleave(4, 0)
    found = merge({"a": model, "b": model}, {"a": [batch], "b": [batch]}, "identity", "none", preserve=preserve)
    with torch.no_grad():
        outputs = found.model(batch)
        for own in outputs.values():
            torch.testing.assert_close(own, model(batch), rtol=1e-4, atol=1e-5)
