"""Checkpoints as people have them: what a trainer wrapped around a network's tensors is taken off, and said.

A checkpoint is a file (:mod:`mergeline.weights`), of which ``FILE#PART`` names a part where it holds several networks. What it
holds is a plain state dict when it has been read; whether it is that of a network is found out by :func:`fitted`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mergeline.checkpoint_names import split_part
from mergeline.faults import fault_of
from mergeline.weights import WeightsError, read_weights

__all__ = ["Checkpoint", "fitted", "read_checkpoint"]

WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
"""What compiling and sharding put into names, anywhere."""
DEPTH = 4
"""How deep networks are looked for in what a trainer saved."""
COUNTER = "num_batches_tracked"
SHOWN = 3


@dataclass(frozen=True)
class Checkpoint:
    """A network's tensors by name as a file has them; ``notes``: what was taken off, a sentence each."""

    path: Path
    state: dict[str, Tensor]
    notes: tuple[str, ...] = ()


def read_checkpoint(place: str | Path) -> Checkpoint:
    """The tensors of the one network in a file, as ``torch.save``, a trainer or safetensors wrote them.

    ``place``: a file, or ``FILE#PART`` with the path of a part in what it holds (``model_ema``, ``ema.shadow``).

    Raises
    ------
    WeightsError: missing, unreadable, no network in it, or several and none named; names them.
    """
    path, part = split_part(place)
    found = dict(_networks(read_weights(path)))
    if not found:
        raise WeightsError(f"{path} holds no network: no names with tensors, such as a state dict has")
    if part is None and "" in found:
        part = ""
    if part is None and len(found) > 1:
        names = ", ".join(f"{name} ({len(state)} tensors)" for name, state in found.items())
        raise WeightsError(f"{path} holds several networks: {names}. Say which: {path}#{next(iter(found))}")
    if part is None:
        part = next(iter(found))
    if part not in found:
        raise WeightsError(
            f"{path} has no part {part!r}; it has {', '.join(name or 'one network alone' for name in found)}"
        )
    notes = [f"took {part!r} out of what a trainer saved"] if part else []
    state, unwrapped = _plain_names(found[part])
    return Checkpoint(path, state, (*notes, *unwrapped))


def _networks(held: Mapping[str, Any], prefix: str = "", depth: int = DEPTH) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """State dicts in nested mappings, by their path; states of optimisers, whose keys are numbers, are none."""
    own = {name: value for name, value in held.items() if isinstance(name, str) and isinstance(value, Tensor)}
    named = any(name.rpartition(".")[2].startswith("weight") or "parametrizations." in name for name in own)
    if named or (len(own) == len(held) and any(value.is_floating_point() for value in own.values())):
        yield prefix, own
        return
    for name, value in held.items():
        if isinstance(value, Mapping) and isinstance(name, str) and depth:
            yield from _networks(value, f"{prefix}.{name}".lstrip("."), depth - 1)


def _plain_names(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Names without what compiling, sharding and data parallel training put into them."""
    notes = []
    found = dict(state)
    for wrapper in WRAPPERS:
        if any(wrapper in name for name in found):
            notes.append(f"took {wrapper!r} out of names")
            found = {name.replace(wrapper, ""): tensor for name, tensor in found.items()}
    if found and all(name.startswith("module.") for name in found):
        notes.append("took 'module.' off names")
        found = {name.removeprefix("module."): tensor for name, tensor in found.items()}
    return found, notes


def fitted(checkpoint: Checkpoint, expected: Mapping[str, Tensor]) -> Checkpoint:
    """A checkpoint's tensors by the names, and in the types, of a network.

    A prefix that all of the network's tensors have in common in the file is taken off, and what stands beside it (of a loss, say)
    is left out. Counters of batch norms that are not there are 0. Numbers of half precision become float32, exactly.

    Parameters
    ----------
    expected: the network's state dict.

    Raises
    ------
    WeightsError: tensors are missing, unknown or of other shapes; or hold what no such network can: whole numbers for weights,
        values that are not finite, negative variances. Names the first of them.
    """
    path = checkpoint.path
    state, notes = _without_prefix(checkpoint.state, expected)
    _refuse_parametrised(path, [name for name in state if name not in expected])
    filled = [name for name in expected if name.rpartition(".")[2] == COUNTER and name not in state]
    faults = [f"{name} is missing" for name in expected if name not in state and name not in filled]
    faults += [f"{name} is unknown" for name in state if name not in expected]
    for name, tensor in expected.items():
        if name in state and state[name].shape != tensor.shape:
            faults.append(f"{name} has shape {tuple(state[name].shape)}, expected {tuple(tensor.shape)}")
    if faults:
        raise WeightsError(f"{path} does not fit: {_listed(faults)}")
    if filled:
        notes.append(f"set {len(filled)} counters of batch norms that it has not to 0")
    types = sorted(
        {_type(state[name]) for name in expected if name in state and _type(state[name]) != _type(expected[name])}
    )
    values = {
        name: _value(path, name, state[name], own) if name in state else own.clone().zero_()
        for name, own in expected.items()
    }
    if types:
        notes.append(f"made float32 of {', '.join(types)}")
    return Checkpoint(path, values, (*checkpoint.notes, *notes))


def _without_prefix(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """The part of a state dict that has the network's names behind one prefix, where the names alone do not do."""
    known = [name for name in expected if name.rpartition(".")[2] != COUNTER]
    if not known or known[0] in state:
        return dict(state), []
    ends = [name.removesuffix(known[0]) for name in state if name.endswith(f".{known[0]}")]
    fitting = [prefix for prefix in ends if all(prefix + name in state for name in known)]
    if len(fitting) != 1:
        return dict(state), []
    prefix = fitting[0]
    inside = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    notes = [f"took {prefix!r} off names"]
    beside = [name for name in state if not name.startswith(prefix)]
    if beside:
        notes.append(f"left out what stands beside it: {_listed(beside, ', ')}")
    return inside, notes


def _refuse_parametrised(path: Path, names: Sequence[str]) -> None:
    for name in names:
        if "parametrizations." in name or name.endswith(("weight_g", "weight_v", "weight_orig", "weight_mask")):
            raise WeightsError(
                f"{path} keeps a parametrised weight ({name}); make it plain before you save: "
                "torch.nn.utils.parametrize.remove_parametrizations, or prune.remove"
            )


def _value(path: Path, name: str, tensor: Tensor, expected: Tensor) -> Tensor:
    """A tensor in the network's type, if it can hold such values."""
    if tensor.is_quantized or tensor.layout != torch.strided:
        raise WeightsError(
            f"{path}: {name} is a quantised or sparse tensor; save plain weights: tensor.dequantize(), to_dense()"
        )
    if not expected.is_floating_point():
        return tensor.to(expected.dtype)
    if not tensor.is_floating_point():
        raise WeightsError(
            f"{path}: {name} holds {_type(tensor)} where weights are; quantised networks are not merged, save them before"
        )
    value = tensor.to(expected.dtype)
    if fault := fault_of(name, value):
        raise WeightsError(f"{path}: {name} {fault}; its training went astray, or the file is damaged")
    return value


def _type(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _listed(entries: Sequence[str], between: str = "; ") -> str:
    rest = len(entries) - SHOWN
    return between.join(entries[:SHOWN]) + (f"{between}and {rest} more" if rest > 0 else "")
