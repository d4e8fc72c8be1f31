"""Logits of one edge model on the test images of one task."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from stages.formats.files import reading, writing

__all__ = ["read_predictions", "write_predictions"]


def write_predictions(path: Path, logits: Tensor) -> None:
    """Logits ``(N, classes)`` of one edge on the test images of one task."""
    with writing(path) as temporary, temporary.open("wb") as stream:
        np.savez(stream, logits=logits.numpy())


def read_predictions(path: Path) -> Tensor:
    with reading(path, f"predict@{path.stem}"), np.load(path, allow_pickle=False) as arrays:
        return torch.from_numpy(arrays["logits"])
