"""Reading files of weights: safetensors, what ``torch.save`` wrote, and ONNX; nothing in them is run.

A file is known by its first bytes and not by its ending. ONNX files name their matrices by number; the node that multiplies by one
says whose it is.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import pathlib
import pickletools
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["WeightsError", "read_weights"]


class WeightsError(ValueError):
    """A file of weights is missing or cannot be read as one; the message names it, the cause and the way out."""


STATE_DICT = "save what it learnt and no more: torch.save(model.state_dict(), 'model.pth')"
FOREIGN = {
    b"version https://git-lfs": "is a pointer of Git LFS and not the file itself; fetch it: git lfs pull",
    b"\x89HDF": "is an HDF5 file (of Keras, perhaps); weights are read from safetensors, torch.save and ONNX",
    b"\x1f\x8b": "is compressed by gzip; unpack it first",
    b"GGUF": "is a GGUF file, whose weights are quantised; weights are read from safetensors, torch.save and ONNX",
}
"""First bytes of files that are often taken for weights."""
_MAKERS = {"scalar": np.float64(0).__reduce__()[0], "_reconstruct": np.zeros(1).__reduce__()[0]}
PLAIN_GLOBALS: list[Any] = [
    argparse.Namespace,
    pathlib.PosixPath,
    pathlib.PurePosixPath,
    np.dtype,
    np.ndarray,
    *(type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i4", "i8", "u1", "?")),
    *((make, f"numpy.{core}.multiarray.{name}") for name, make in _MAKERS.items() for core in ("core", "_core")),
]
"""What trainers keep beside weights, and which does nothing when it is read: their arguments, paths, and numbers of numpy."""


def read_weights(path: Path) -> dict[str, Any]:
    """What a file holds by name: tensors, or what a trainer wrapped around them, on the CPU.

    Raises
    ------
    WeightsError: missing, unreadable, of code, or no mapping.
    """
    if path.is_dir():
        raise WeightsError(f"{path} is a folder; name the file with the weights in it")
    if not path.is_file():
        raise WeightsError(f"{path} is missing")
    try:
        found = _read(path)
    except WeightsError:
        raise
    except Exception as error:
        reason = str(error).strip().split("\n")[0]
        raise WeightsError(f"{path} cannot be read as weights: {reason}") from error
    if isinstance(found, Tensor):
        raise WeightsError(f"{path} holds one tensor and no state dict; {STATE_DICT}")
    if not isinstance(found, dict):
        raise WeightsError(f"{path} holds no state dict but a {type(found).__name__}; {STATE_DICT}")
    return found


def _read(path: Path) -> Any:
    with path.open("rb") as stream:
        head = stream.read(512)
    if not head:
        raise WeightsError(f"{path} is empty; copy or fetch it again")
    for mark, what in FOREIGN.items():
        if head.startswith(mark):
            raise WeightsError(f"{path} {what}")
    if head.lstrip()[:1] == b"<":
        raise WeightsError(f"{path} is a page of a site, perhaps of a download that failed, and holds no weights")
    if head[8:9] == b"{" or path.suffix == ".safetensors":
        return _read_safetensors(path)
    if path.suffix == ".onnx":
        return _read_onnx(path)
    return _read_torch(path, head)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        size = path.stat().st_size
        if length > size:
            raise WeightsError(f"{path} is cut short, or no safetensors file: its head alone would be {length:,} bytes")
        try:
            entries = json.loads(stream.read(length))
            end = max(
                (entry["data_offsets"][1] for name, entry in entries.items() if name != "__metadata__"), default=0
            )
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise WeightsError(f"{path} is damaged: its head cannot be read as that of a safetensors file") from error
    if 8 + length + end > size:
        raise WeightsError(f"{path} is cut short: {size:,} of {8 + length + end:,} bytes; copy or fetch it again")
    return load_file(path)


def _read_torch(path: Path, head: bytes) -> Any:
    if head.startswith(b"PK"):
        _check_archive(path)
    elif not head.startswith((b"\x80", b"\x8a", b"(")):
        raise WeightsError(f"{path} is neither safetensors, nor a file of torch.save, nor ONNX")
    try:
        with torch.serialization.safe_globals(PLAIN_GLOBALS), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of other pickle protocols: what cannot be read is refused
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise WeightsError(f"{path} {_why(path, str(error))}") from error


def _check_archive(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            inside = archive.namelist()
    except zipfile.BadZipFile as error:
        raise WeightsError(
            f"{path} is cut short or damaged: its list of contents is missing; copy or fetch it again"
        ) from error
    if any("/code/" in name for name in inside):
        raise WeightsError(f"{path} is a TorchScript program, and code is not run here; {STATE_DICT}")
    if not any(name.endswith("data.pkl") for name in inside):
        raise WeightsError(f"{path} is an archive, but not of torch.save; name the file with the weights in it")


def _why(path: Path, reason: str) -> str:
    """The one line that says why ``torch.load`` would not, without its advice to run what is in the file."""
    unknown = re.search(r"(?:GLOBAL|Unsupported class) (?!whose)([\w.]+)", reason)
    name = unknown[1] if unknown is not None else _pickled_object(path)
    if name:
        return f"holds an object of {name}, which only its own code can make, and code is not run here; {STATE_DICT}"
    if "Weights only load failed" in reason:
        return f"is a pickle that torch.save did not write; {STATE_DICT}"
    plain = re.sub(r"\x1b\[[0-9;]*m", "", reason).strip().split("\n")[0]
    if not plain or re.search(
        r"EOF|Ran out of input|PytorchStreamReader|unexpected pos|file read|truncated|index out", plain
    ):
        return "is cut short or damaged; copy or fetch it again"
    return f"cannot be read as weights: {plain}; {STATE_DICT}"


def _pickled_object(path: Path) -> str:
    """The first class or function that a plain pickle names; empty where it names none or cannot be followed."""
    names: list[str] = []
    with path.open("rb") as stream, contextlib.suppress(ValueError):
        for operation, value, _ in pickletools.genops(stream):
            if operation.name == "GLOBAL":
                return str(value).replace(" ", ".")
            if operation.name == "STACK_GLOBAL":
                return ".".join(names[-2:])
            if isinstance(value, str):
                names.append(value)
    return ""


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
