"""Training of edge models: data on the device, one short loop.

SGD with Nesterov momentum, linear warmup and cosine decay per step, channels-last, bf16 autocast on a GPU. On a CPU
the result is the same bytes for a seed and a number of threads, also when a run was interrupted and resumed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mergeline.inputs import augmented, network_input

__all__ = ["EpochRecord", "Recipe", "TrainState", "learning_rate", "train"]


@dataclass(frozen=True)
class Recipe:
    """How to train: everything that changes the result besides data and seed."""

    epochs: int = 10
    batch_size: int = 128
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warmup: float = 0.15
    """Fraction of all steps in which the learning rate rises linearly."""
    label_smoothing: float = 0.0
    shift: int = 2
    """Random shift in pixels."""
    flip: bool = False
    """Random horizontal mirroring."""
    compile: bool = False
    """torch.compile the network (worth it for long runs on a GPU)."""


@dataclass(frozen=True)
class EpochRecord:
    """One row of a training history."""

    epoch: int
    learning_rate: float
    loss: float
    accuracy: float


@dataclass
class TrainState:
    """All that a later process needs to go on as if nothing had happened."""

    epoch: int
    model: dict[str, Tensor]
    optimizer: dict[str, Any]
    generator: Tensor
    history: list[EpochRecord] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain values and tensors, as ``torch.save`` and ``torch.load(weights_only=True)`` take them."""
        return {**self.__dict__, "history": [asdict(record) for record in self.history]}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TrainState:
        """The inverse of :meth:`to_dict`."""
        return cls(**{**values, "history": [EpochRecord(**record) for record in values["history"]]})


def learning_rate(recipe: Recipe, step: int, total: int) -> float:
    """Linear warmup, then cosine to zero; ``step`` counts from 0."""
    warm = max(1, round(total * recipe.warmup))
    if step < warm:
        return recipe.learning_rate * (step + 1) / warm
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, total - warm)))


def train(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    recipe: Recipe,
    generator: torch.Generator,
    *,
    readout: Callable[[Tensor], Tensor] = lambda outputs: outputs,
    resume: TrainState | None = None,
    on_epoch: Callable[[TrainState], None] | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> list[EpochRecord]:
    """Train ``model`` in place.

    Parameters
    ----------
    images, labels: ``(N, H, W, C)`` uint8 (or texts, ``(N, T)`` token numbers) and ``(N,)`` int64, on the model's device (or on
        the CPU: then each batch is copied over as it is needed).
    generator: draws order and augmentation, on the images' device.
    readout: turns the network's outputs into logits (see mergeline.text).
    resume: go on from this state instead of from the model's weights.
    on_epoch, on_step: called after each epoch with the state, and after each step with (steps done, steps in all).

    Raises
    ------
    FloatingPointError: the loss is not finite.
    """
    device = next(model.parameters()).device
    model.to(memory_format=torch.channels_last).train()
    optimizer = _optimizer(model, recipe, device)
    history: list[EpochRecord] = []
    first = 0
    if resume is not None:
        model.load_state_dict(resume.model)
        optimizer.load_state_dict(resume.optimizer)
        generator.set_state(resume.generator)
        history, first = list(resume.history), resume.epoch
    network = torch.compile(model) if recipe.compile else model
    size = min(recipe.batch_size, len(images))
    steps = len(images) // size
    total = steps * recipe.epochs
    mixed_precision = device.type == "cuda"
    for epoch in range(first, recipe.epochs):
        order = torch.randperm(len(images), generator=generator, device=images.device)
        loss_sum = torch.zeros((), device=device)
        correct = torch.zeros((), device=device, dtype=torch.int64)
        for step in range(steps):
            rate = learning_rate(recipe, epoch * steps + step, total)
            for group in optimizer.param_groups:
                group["lr"] = rate
            chosen = order[step * size : (step + 1) * size]
            batch = augmented(images[chosen], recipe.shift, recipe.flip, generator)
            target = labels[chosen].to(device, non_blocking=True)
            inputs = network_input(batch.to(device, non_blocking=True))
            with torch.autocast(device.type, torch.bfloat16, enabled=mixed_precision):
                logits = readout(network(inputs))
                loss = F.cross_entropy(logits, target, label_smoothing=recipe.label_smoothing)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            loss_sum += loss.detach()
            correct += (logits.detach().argmax(1) == target).sum()
            if on_step is not None:
                on_step(epoch * steps + step + 1, total)
        mean_loss = float(loss_sum) / steps
        if not math.isfinite(mean_loss):
            raise FloatingPointError(
                f"the training loss became {mean_loss} in epoch {epoch + 1}; try a lower train.learning_rate "
                f"(now {recipe.learning_rate}) or a longer train.warmup (now {recipe.warmup})"
            )
        history.append(EpochRecord(epoch + 1, rate, mean_loss, int(correct) / (steps * size)))
        if on_epoch is not None:
            on_epoch(
                TrainState(
                    epoch + 1,
                    model.state_dict(),
                    optimizer.state_dict(),
                    generator.get_state(),
                    list(history),
                )
            )
    model.eval()
    return history


def _optimizer(model: nn.Module, recipe: Recipe, device: torch.device) -> torch.optim.SGD:
    """SGD; norms and biases (tensors of one axis) are not decayed."""
    decayed = [p for p in model.parameters() if p.requires_grad and p.dim() > 1]
    others = [p for p in model.parameters() if p.requires_grad and p.dim() <= 1]
    groups = [
        {"params": decayed, "weight_decay": recipe.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.SGD(
        groups, lr=recipe.learning_rate, momentum=recipe.momentum, nesterov=recipe.momentum > 0, foreach=True
    )
