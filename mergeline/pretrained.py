"""Trained weights to start from: BERT's encoders from packages, folders and files, whatever their tensors are called.

ONNX files name their matrices by number; the node that multiplies by one says whose it is.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mergeline.models.bert import BertShape, SentenceBert
from mergeline.pretrained_files import PretrainedError, weights_file

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


def _read(path: Path) -> dict[str, Tensor]:
    """A file's tensors by name.

    Raises
    ------
    PretrainedError: it cannot be read; names the cause.
    """
    try:
        return _tensors(path)
    except PretrainedError:
        raise
    except Exception as error:
        reason = str(error).strip().split("\n")[0]
        raise PretrainedError(f"{path} cannot be read as weights: {reason}") from error


def _tensors(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".onnx":
        return _read_onnx(path)
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    state = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(state, dict):
        raise PretrainedError(f"{path} holds no state dict but a {type(state).__name__}")
    return state


def _read_onnx(path: Path) -> dict[str, Tensor]:
    """The named tensors of a graph, and the matrices of its products under the names of the modules that multiply by them."""
    if importlib.util.find_spec("onnx") is None:
        raise PretrainedError(f"{path} needs the package onnx. Install it: pip install onnx")
    import onnx
    from onnx import numpy_helper

    graph: Any = onnx.load(str(path)).graph
    known = {entry.name: torch.from_numpy(numpy_helper.to_array(entry).copy()) for entry in graph.initializer}
    named = {name: tensor for name, tensor in known.items() if "::" not in name}
    for node in graph.node:
        matrix = known.get(node.input[1]) if node.op_type == "MatMul" else None
        if matrix is not None:
            named[".".join(node.name.strip("/").split("/")[:-1]) + ".weight"] = matrix.T.contiguous()
    return named
