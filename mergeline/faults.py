"""What no tensor of a network may hold, whether it comes from a file or from memory."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["fault_of"]


def fault_of(name: str, tensor: Tensor) -> str:
    """What is wrong with a tensor's values, to be said after its name; empty if nothing is. Variances are known by ``name``."""
    if not tensor.is_floating_point():
        return ""
    bad = int((~torch.isfinite(tensor)).sum())
    if bad:
        return f"has {bad} values of {tensor.numel()} that are not finite"
    if name.rpartition(".")[2] == "running_var" and bool((tensor < 0).any()):
        return f"has negative variances, down to {float(tensor.min()):.3g}"
    return ""
