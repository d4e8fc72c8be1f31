"""Networks of many families with random weights, small where their makers let them be: (maker, inputs) by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

__all__ = ["HUGGING_FACE", "TIMM", "TORCHVISION", "ZOO", "make"]

Entry = tuple[Callable[[], nn.Module], Callable[[int], Any]]


def _images(size: int) -> Callable[[int], torch.Tensor]:
    return lambda count: torch.randn(count, 3, size, size)


def _torchvision(name: str, size: int, **options: Any) -> Entry:
    def build() -> nn.Module:
        import torchvision

        return torchvision.models.get_model(name, weights=None, **options)

    return build, _images(size)


def _segmentation(name: str, size: int) -> Entry:
    def build() -> nn.Module:
        import torchvision

        return torchvision.models.get_model(name, weights=None, weights_backbone=None, num_classes=5, aux_loss=None)

    return build, _images(size)


def _timm(name: str, size: int) -> Entry:
    def build() -> nn.Module:
        import timm

        try:
            return timm.create_model(name, pretrained=False, img_size=size, num_classes=7)
        except TypeError:  # networks of any input size
            return timm.create_model(name, pretrained=False, num_classes=7)

    return build, _images(size)


TORCHVISION: dict[str, Entry] = {
    **{
        name: _torchvision(name, size)
        for name, size in (
            ("alexnet", 64), ("convnext_tiny", 64), ("densenet121", 64), ("efficientnet_b0", 64), ("efficientnet_v2_s", 64),
            ("maxvit_t", 224), ("mnasnet0_5", 64), ("mobilenet_v2", 64), ("mobilenet_v3_small", 64), ("regnet_x_400mf", 64),
            ("regnet_y_400mf", 64), ("resnet18", 64), ("resnet50", 64), ("resnext50_32x4d", 64), ("shufflenet_v2_x0_5", 64),
            ("squeezenet1_0", 64), ("swin_t", 64), ("swin_v2_t", 64), ("vgg11", 64), ("vgg11_bn", 64), ("wide_resnet50_2", 64),
        )
    },
    "googlenet": _torchvision("googlenet", 64, init_weights=False, aux_logits=False),
    "inception_v3": _torchvision("inception_v3", 96, init_weights=False, aux_logits=False),
    "vit_b_32": _torchvision("vit_b_32", 64, image_size=64),
    **{
        name: _segmentation(name, 64)
        for name in ("fcn_resnet50", "deeplabv3_mobilenet_v3_large", "lraspp_mobilenet_v3_large")
    },
}  # fmt: skip

TIMM: dict[str, Entry] = {
    name: _timm(name, size)
    for name, size in (
        ("deit_tiny_patch16_224", 64), ("cait_xxs24_224", 64), ("coat_lite_tiny", 64), ("convit_tiny", 64), ("convnextv2_atto", 64),
        ("crossvit_tiny_240", 240), ("cspresnet50", 64), ("davit_tiny", 64), ("dla34", 64), ("dpn68", 64),
        ("edgenext_xx_small", 64), ("eva02_tiny_patch14_224", 56), ("efficientvit_b0", 64), ("fastvit_t8", 64),
        ("focalnet_tiny_srf", 64), ("ghostnet_050", 64), ("gmlp_ti16_224", 64), ("hrnet_w18_small", 64),
        ("inception_v4", 96), ("levit_128s", 224), ("mixer_s32_224", 64), ("mobilenetv4_conv_small", 64),
        ("mobilevit_xxs", 64), ("nfnet_l0", 64), ("pit_ti_224", 224), ("poolformer_s12", 64), ("pvt_v2_b0", 64),
        ("regnetz_b16", 64), ("repvgg_a0", 64), ("res2net50_26w_4s", 64), ("resmlp_12_224", 64), ("resnest14d", 64),
        ("rexnet_100", 64), ("skresnet18", 64), ("tf_efficientnet_b0", 64), ("twins_pcpvt_small", 224),
        ("vit_tiny_patch16_224", 64), ("vit_small_patch14_dinov2", 56), ("visformer_tiny", 224),
        ("xcit_nano_12_p16_224", 64), ("xception41", 64),
    )
}  # fmt: skip


def _hugging_face(model: str, config: str, inputs: Callable[[int], Any], **options: Any) -> Entry:
    def build() -> nn.Module:
        import transformers

        return getattr(transformers, model)(getattr(transformers, config)(**options))

    return build, inputs


def _tokens(count: int) -> dict[str, torch.Tensor]:
    ids = torch.randint(3, 100, (count, 12))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def _pixels(count: int) -> dict[str, torch.Tensor]:
    return {"pixel_values": torch.randn(count, 3, 32, 32)}


_SIZES = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}
_TEXT = partial(_hugging_face, inputs=_tokens, vocab_size=100)
_VISION = partial(_hugging_face, inputs=_pixels, image_size=32, patch_size=8)

HUGGING_FACE: dict[str, Entry] = {
    "bert": _TEXT("BertForSequenceClassification", "BertConfig", num_labels=3, **_SIZES),
    "bert-mlm": _TEXT("BertForMaskedLM", "BertConfig", **_SIZES),
    "distilbert": _TEXT(
        "DistilBertForSequenceClassification", "DistilBertConfig", dim=48, n_layers=2, n_heads=4, hidden_dim=96
    ),
    "roberta": _TEXT("RobertaModel", "RobertaConfig", **_SIZES),
    "electra": _TEXT("ElectraForSequenceClassification", "ElectraConfig", embedding_size=48, **_SIZES),
    "albert": _TEXT("AlbertModel", "AlbertConfig", embedding_size=16, **_SIZES),
    "gpt2": _TEXT("GPT2LMHeadModel", "GPT2Config", n_embd=48, n_layer=2, n_head=4, use_cache=False, bos_token_id=1,
                  eos_token_id=2),
    "llama": _TEXT("LlamaForCausalLM", "LlamaConfig", num_key_value_heads=4, use_cache=False, **_SIZES),
    "t5-encoder": _TEXT("T5EncoderModel", "T5Config", d_model=48, d_kv=12, d_ff=96, num_layers=2, num_heads=4),
    "hf-vit": _VISION("ViTForImageClassification", "ViTConfig", num_labels=3, **_SIZES),
    "hf-deit": _VISION("DeiTForImageClassification", "DeiTConfig", num_labels=3, **_SIZES),
    "dinov2": _VISION(
        "Dinov2ForImageClassification", "Dinov2Config", num_labels=3, hidden_size=48, num_hidden_layers=2,
        num_attention_heads=4,
    ),
    "clip-vision": _VISION("CLIPVisionModel", "CLIPVisionConfig", **_SIZES),
    "hf-swin": _hugging_face(
        "SwinForImageClassification", "SwinConfig", _pixels, image_size=32, patch_size=2, window_size=4, embed_dim=12,
        depths=[2, 2], num_heads=[2, 4], num_labels=3,
    ),
    "hf-convnext": _hugging_face(
        "ConvNextForImageClassification", "ConvNextConfig", _pixels, depths=[1, 1, 1, 1], hidden_sizes=[8, 16, 24, 32],
        num_labels=3,
    ),
    "hf-resnet": _hugging_face(
        "ResNetForImageClassification", "ResNetConfig", _pixels, depths=[1, 1, 1, 1], hidden_sizes=[32, 64, 96, 128],
        embedding_size=16, num_labels=3,
    ),
}  # fmt: skip

ZOO: dict[str, Entry] = {**TORCHVISION, **TIMM, **HUGGING_FACE}


def make(name: str, samples: int, seed: int = 0) -> tuple[nn.Module, Any]:
    """A network in eval mode and inputs for it; both depend on the seed alone."""
    build, inputs = ZOO[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build().eval(), inputs(samples)
