"""Edge models: a state dict with the description that builds its network again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from mergeline.architectures import Architecture, build
from stages.errors import StageError
from stages.formats import FORMAT, KEY, check_format
from stages.formats.files import reading, writing

__all__ = ["load_edge", "load_strictly", "read_model", "save_edge", "save_model"]


def save_model(path: Path, model: nn.Module, description: Mapping[str, Any]) -> None:
    tensors = _apart({name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()})
    text = json.dumps({"format": FORMAT, **description}, sort_keys=True)
    with writing(path) as temporary:
        save_file(tensors, temporary, metadata={KEY: text})


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same, none of which shares memory with another: a file of tensors has no names for one tensor twice."""
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        place = tensor.untyped_storage().data_ptr()
        found[name] = tensor.clone() if place in seen else tensor
        seen.add(place)
    return found


def read_model(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    with reading(path):
        try:
            with safe_open(path, framework="pt") as stream:
                description = json.loads((stream.metadata() or {}).get(KEY, "{}"))
                tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise ValueError(str(error)) from error
    check_format(path, description)
    return tensors, description


def save_edge(path: Path, model: nn.Module, architecture: Architecture, task: str, seed: int) -> None:
    save_model(path, model, {"kind": "edge", "architecture": asdict(architecture), "task": task, "seed": seed})


def load_edge(path: Path) -> tuple[nn.Module, Architecture]:
    """An edge model in eval mode, channels last."""
    tensors, description = read_model(path)
    architecture = Architecture(**description["architecture"])
    model = build(architecture)
    load_strictly(path, model, tensors)
    return model.eval().to(memory_format=torch.channels_last), architecture


def load_strictly(path: Path, model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise StageError(f"{path} does not fit its architecture: {error}") from error
