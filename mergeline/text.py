"""Class names as targets: a network is trained to point at the text embedding of its image's class (zipit Sec. 4).

Networks trained this way share an output space whatever their classes are, so that all of them can be merged, and the
logits of any set of classes are cosines with their embeddings.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mergeline.tokens import FIX, TokenError, minilm_folder

__all__ = ["TextEncoderError", "class_embeddings", "text_logits"]

MINILM = "minilm"


class TextEncoderError(ValueError):
    """A text encoder is unknown, or its package or weights are missing; the message names the fix."""


def text_logits(outputs: Tensor, embeddings: Tensor, scale: float) -> Tensor:
    """``scale`` times the cosines of network outputs ``(N, d)`` with class embeddings ``(classes, d)``."""
    return scale * F.normalize(outputs, dim=1) @ embeddings.to(outputs).T


def class_embeddings(names: Sequence[str], encoder: str = MINILM, template: str = "a photo of {}") -> Tensor:
    """Unit embeddings of class names, ``(classes, d)`` float32.

    Parameters
    ----------
    encoder: ``minilm`` (its weights come in a package), or ``clip:PLACE`` with CLIP's text encoder in a folder or by its
        hub name.
    template: the text for a class, with ``{}`` for its name.

    Raises
    ------
    TextEncoderError: unknown encoder, missing package or weights.
    """
    if importlib.util.find_spec("transformers") is None:
        raise TextEncoderError(f"text targets need transformers. Install it: {FIX}")
    texts = [template.format(name) for name in names]
    if encoder == MINILM:
        return F.normalize(_mean_pooled(texts, _minilm_folder()), dim=1)
    kind, _, place = encoder.partition(":")
    if kind != "clip" or not place:
        raise TextEncoderError(
            f"unknown text encoder {encoder!r}; known: {MINILM}, clip:PLACE (a folder or a hub name)"
        )
    return F.normalize(_clip(texts, place), dim=1)


def _minilm_folder() -> Path:
    try:
        return minilm_folder()
    except TokenError as error:
        raise TextEncoderError(str(error)) from error


@torch.no_grad()
def _mean_pooled(texts: Sequence[str], folder: Path) -> Tensor:
    """A sentence encoder: the mean of the token embeddings."""
    model, tokens = _load("AutoModel", str(folder), texts)
    hidden = model(**tokens).last_hidden_state
    mask = tokens["attention_mask"][..., None].to(hidden)
    return (hidden * mask).sum(1) / mask.sum(1)


@torch.no_grad()
def _clip(texts: Sequence[str], place: str) -> Tensor:
    model, tokens = _load("CLIPTextModelWithProjection", place, texts)
    return model(**tokens).text_embeds


def _load(kind: str, place: str, texts: Sequence[str]) -> tuple[Any, Any]:
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    import transformers

    local = Path(place).is_dir()
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(place, local_files_only=local)
        model = getattr(transformers, kind).from_pretrained(place, local_files_only=local, dtype=torch.float32).eval()
    except (OSError, ValueError) as error:
        raise TextEncoderError(f"the text encoder {place} cannot be loaded: {error}") from error
    return model, tokenizer(list(texts), padding=True, return_tensors="pt")
