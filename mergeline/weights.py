"""Reading files of weights: safetensors, what ``torch.save`` wrote, and ONNX; nothing in them is run.

ONNX files name their matrices by number; the node that multiplies by one says whose it is.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

__all__ = ["WeightsError", "read_weights"]


class WeightsError(ValueError):
    """A file of weights is missing or cannot be read as one; the message names it and the cause."""


def read_weights(path: Path) -> dict[str, Any]:
    """What a file holds by name, tensors in a plain state dict, on the CPU.

    Raises
    ------
    WeightsError: missing, unreadable, or no state dict.
    """
    if not path.is_file():
        raise WeightsError(f"{path} is missing")
    try:
        found = _read(path)
    except WeightsError:
        raise
    except Exception as error:
        reason = str(error).strip().split("\n")[0]
        raise WeightsError(f"{path} cannot be read as weights: {reason}") from error
    if not isinstance(found, dict):
        raise WeightsError(f"{path} holds no state dict but a {type(found).__name__}")
    return found


def _read(path: Path) -> Any:
    if path.suffix == ".onnx":
        return _read_onnx(path)
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def _read_onnx(path: Path) -> dict[str, Tensor]:
    """The named tensors of a graph, and the matrices of its products under the names of the modules that multiply by them."""
    if importlib.util.find_spec("onnx") is None:
        raise WeightsError(f"{path} needs the package onnx. Install it: pip install onnx")
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
