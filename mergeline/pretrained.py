"""Trained weights to start from: BERT's encoders from packages, folders and files, whatever stands before their tensors' names."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from mergeline.checkpoints import read_checkpoint
from mergeline.models.bert import BertShape, SentenceBert
from mergeline.pretrained_files import PretrainedError, weights_file
from mergeline.weights import WeightsError

__all__ = ["bert_shape", "bert_weights", "start_from"]


def bert_weights(place: str) -> dict[str, Tensor]:
    """A BERT encoder's tensors by the names of :class:`mergeline.models.bert.Encoder`, float32; poolers and heads are left out.

    ``place``: see :func:`mergeline.pretrained_files.weights_file`; ``.safetensors``, a file of ``torch.save``, or ``.onnx``.

    Raises
    ------
    PretrainedError: missing, unreadable, or no BERT encoder.
    """
    path = weights_file(place)
    state = _read(path)
    found = {}
    for name, tensor in state.items():
        own = re.search(
            r"(embeddings\.(?:word|position|token_type)_embeddings|embeddings\.LayerNorm|encoder\.layer)\..*", name
        )
        if own is not None and not name.endswith("position_ids"):
            found[own[0]] = tensor.float()
    if "embeddings.word_embeddings.weight" not in found or "encoder.layer.0.intermediate.dense.weight" not in found:
        raise PretrainedError(f"{path} holds no BERT encoder: it has no word embeddings or no layers of that name")
    return found


def bert_shape(state: Mapping[str, Tensor], heads: int = 12) -> BertShape:
    """The sizes of the encoder that some weights are of; ``heads`` cannot be seen in them.

    Raises
    ------
    PretrainedError: a width that so many heads do not divide.
    """
    vocabulary, dim = state["embeddings.word_embeddings.weight"].shape
    if dim % heads:
        raise PretrainedError(f"{heads} heads do not divide a width of {dim}")
    layers = 1 + max(int(name.split(".")[2]) for name in state if name.startswith("encoder.layer."))
    hidden = len(state["encoder.layer.0.intermediate.dense.weight"])
    positions = len(state["embeddings.position_embeddings.weight"])
    return BertShape(vocabulary, layers, dim, heads, hidden, positions)


def start_from(model: nn.Module, place: str, head: Collection[str]) -> None:
    """Give a network trained weights in all but its head, in place.

    Parameters
    ----------
    place: see :func:`mergeline.pretrained_files.weights_file`; of a BERT encoder, or a state dict of the network's own names.
    head: names of tensors that keep their values where the weights have none of their name and shape.

    Raises
    ------
    PretrainedError: missing, unreadable, or of another network; names the first tensors that do not fit.
    """
    if isinstance(model, SentenceBert):
        state = {f"bert.{name}": tensor for name, tensor in bert_weights(place).items()}
    else:
        state = _read(weights_file(place))
    own = model.state_dict()
    fitting = {name: state[name] for name in own if name in state and state[name].shape == own[name].shape}
    lacking = [name for name in own if name not in fitting and name not in head]
    if lacking:
        found = [f"{name} {_shape(state, name)}, the network's is {tuple(own[name].shape)}" for name in lacking[:3]]
        raise PretrainedError(f"{place} does not fit: {'; '.join(found)}")
    model.load_state_dict(own | fitting)


def _shape(state: Mapping[str, Tensor], name: str) -> str:
    return f"is {tuple(state[name].shape)}" if name in state else "is missing"


def _read(path: Path) -> dict[str, Any]:
    try:
        return read_checkpoint(path).state
    except WeightsError as error:
        raise PretrainedError(str(error)) from error
