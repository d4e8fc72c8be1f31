"""What a stage works with: its root, its parameters, its device, and progress."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from mergeline.evaluation import pixel_logits
from mergeline.inputs import batches, to_device
from mergeline.tasks.task import PreparedTask
from mergeline.text import text_logits
from stages.formats.files import reading
from stages.formats.tasks import read_task
from stages.plan import paths
from stages.plan.keys import known
from stages.plan.params import Params

__all__ = ["Context", "Progress"]


@dataclass(frozen=True)
class Context:
    """Handed to every stage."""

    root: Path
    params: Params

    @cached_property
    def device(self) -> torch.device:
        name = self.params.compute.device
        if name == "auto":
            name = "cuda" if torch.cuda.is_available() else "cpu"
        if name == "cuda" and not torch.cuda.is_available():
            raise RuntimeError("compute.device is cuda, but torch finds no CUDA device; set it to auto or cpu")
        return torch.device(name)

    @property
    def outputs_are_text(self) -> bool:
        """Whether networks put out points in the space of text embeddings."""
        return self.params.targets.kind == "text"

    def outputs(self, task: str, n_classes: int) -> int:
        """Size of a network's output for a task."""
        return self._embeddings(task).shape[1] if self.outputs_are_text else n_classes

    def readout(self, task: str) -> Callable[[torch.Tensor], torch.Tensor]:
        """What turns a network's outputs into logits over a task's classes, a row for each image, text or pixel."""
        if not self.outputs_are_text:
            return pixel_logits
        logits = partial(text_logits, embeddings=self._embeddings(task), scale=self.params.targets.scale)
        return lambda outputs: logits(pixel_logits(outputs))

    def _embeddings(self, task: str) -> torch.Tensor:
        path = self.path(paths.targets(task))
        with reading(path, f"targets@{task}"), np.load(path, allow_pickle=False) as arrays:
            return torch.from_numpy(arrays["embeddings"])

    def path(self, relative: object) -> Path:
        """A file below the root."""
        return self.root / str(relative)

    def task(self, name: str) -> PreparedTask:
        return read_task(self.path(paths.task(known("task", name, self.params.tasks))))

    def place(self, model: nn.Module) -> nn.Module:
        """The model on the device, channels last."""
        return model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def input_batches(self, samples: object, size: int) -> list[torch.Tensor]:
        """Batches as networks take them, on the device."""
        return list(batches(to_device(samples, self.device), size))  # type: ignore[arg-type]


class Progress:
    """Progress of a long stage, told to whoever shows it.

    ``MERGELINE_PROGRESS`` may name a file that is kept up to date with "done total"; without it a terminal gets a line.
    """

    def __init__(self, label: str) -> None:
        self.label = label
        self.start = time.monotonic()
        self.last = 0.0
        target = os.environ.get("MERGELINE_PROGRESS")
        self.file = Path(target) if target else None

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self.last < 0.5 and done < total:
            return
        self.last = now
        if self.file is not None:
            self.file.write_text(json.dumps([done, total]), encoding="utf-8")
        elif sys.stderr.isatty():
            left = (now - self.start) / max(done, 1) * (total - done)
            end = "\n" if done >= total else ""
            print(f"\r{self.label}: {done}/{total}, {left:.0f} s left ", end=end, file=sys.stderr, flush=True)
