"""Training of edge models: data on the device, one short loop.

SGD with Nesterov momentum or AdamW, linear warmup and cosine decay per step, channels-last, bf16 autocast on a GPU. On a
CPU the result is the same bytes for a seed and a number of threads, also when a run was interrupted and resumed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mergeline.evaluation import target_of
from mergeline.inputs import augmented, network_input
from mergeline.kinds import UNLABELLED
from mergeline.metrics.tally import tally_of

__all__ = ["OPTIMIZERS", "PRECISIONS", "EpochRecord", "Recipe", "TrainState", "learning_rate", "train"]


PRECISIONS: dict[str, Callable[[str], bool]] = {
    "auto": lambda device: device == "cuda",
    "float32": lambda device: False,
    "bfloat16": lambda device: True,
}
"""By name, whether passes on a kind of device are in bfloat16; weights, their updates and norms stay in float32."""


@dataclass(frozen=True)
class Recipe:
    """How to train: everything that changes the result besides data and seed.

    Raises
    ------
    ValueError: there is no such optimizer or precision.
    """

    epochs: int = 10
    batch_size: int = 128
    optimizer: str = "sgd"
    """Key of :data:`OPTIMIZERS`."""
    learning_rate: float = 0.1
    momentum: float = 0.9
    """Of sgd alone."""
    weight_decay: float = 5e-4
    """For sgd a part of the gradient; adamw takes it off the weights themselves, times the learning rate."""
    warmup: float = 0.15
    """Fraction of all steps in which the learning rate rises linearly."""
    label_smoothing: float = 0.0
    """Of classes alone."""
    shift: int = 2
    """Random shift in pixels."""
    flip: bool = False
    """Random horizontal mirroring."""
    compile: bool = False
    """torch.compile the network (worth it for long runs on a GPU)."""
    precision: str = "auto"
    """Of forward and backward passes, a key of :data:`PRECISIONS`: "auto" is bfloat16 on a GPU and float32 on a CPU."""

    def __post_init__(self) -> None:
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(f"unknown optimizer {self.optimizer!r}; known: {', '.join(OPTIMIZERS)}")
        if self.precision not in PRECISIONS:
            raise ValueError(f"unknown precision {self.precision!r}; known: {', '.join(PRECISIONS)}")


@dataclass(frozen=True)
class EpochRecord:
    """One row of a training history. ``accuracy``: the main metric of the labels (:data:`mergeline.metrics.MAIN`)."""

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
    images, labels: ``(N, H, W, C)`` uint8 (or texts, ``(N, T)`` token numbers) and ``(N,)`` labels (or of every pixel
        ``(N, H, W)``: classes, or floating values with NaN for none), on the model's device (or on the CPU: then each batch is
        copied over as it is needed).
    generator: draws order and augmentation, on the images' device.
    readout: turns the network's outputs into logits, a row for each label (see mergeline.text).
    resume: go on from this state instead of from the model's weights.
    on_epoch, on_step: called after each epoch with the state, and after each step with (steps done, steps in all).

    Raises
    ------
    FloatingPointError: the loss is not finite.
    """
    device = next(model.parameters()).device
    model.to(memory_format=torch.channels_last).train()
    optimizer = _optimizer(model, recipe)
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
    kind = target_of(labels)
    dtype = torch.float32 if kind == "values" else torch.int64
    mixed_precision = PRECISIONS[recipe.precision](device.type)
    for epoch in range(first, recipe.epochs):
        order = torch.randperm(len(images), generator=generator, device=images.device)
        loss_sum = torch.zeros((), device=device)
        told = tally_of(kind, device)
        for step in range(steps):
            rate = learning_rate(recipe, epoch * steps + step, total)
            for group in optimizer.param_groups:
                group["lr"] = rate
            chosen = order[step * size : (step + 1) * size]
            batch = augmented(images[chosen], recipe.shift, recipe.flip, generator)
            target = labels[chosen].to(device, dtype, non_blocking=True).flatten()
            inputs = network_input(batch.to(device, non_blocking=True))
            with torch.autocast(device.type, torch.bfloat16, enabled=mixed_precision):
                logits = readout(network(inputs))
                loss = _loss(logits, target, recipe)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            loss_sum += loss.detach()
            told.add(logits.detach(), target)
            if on_step is not None:
                on_step(epoch * steps + step + 1, total)
        mean_loss = float(loss_sum) / steps
        if not math.isfinite(mean_loss):
            raise FloatingPointError(
                f"the training loss became {mean_loss} in epoch {epoch + 1}; try a lower train.learning_rate "
                f"(now {recipe.learning_rate}) or a longer train.warmup (now {recipe.warmup})"
            )
        history.append(EpochRecord(epoch + 1, rate, mean_loss, told.value))
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


def _loss(logits: Tensor, target: Tensor, recipe: Recipe) -> Tensor:
    """Cross-entropy of classes, the mean absolute error of values; over what has a label."""
    if not target.is_floating_point():
        return F.cross_entropy(logits, target, ignore_index=UNLABELLED, label_smoothing=recipe.label_smoothing)
    told = ~target.isnan()
    errors = (logits[:, 0].float() - target.masked_fill(~told, 0)).abs()
    return errors.masked_fill(~told, 0).sum() / told.sum().clamp(min=1)


def _sgd(groups: list[dict[str, Any]], recipe: Recipe) -> torch.optim.Optimizer:
    momentum = recipe.momentum
    return torch.optim.SGD(groups, lr=recipe.learning_rate, momentum=momentum, nesterov=momentum > 0, foreach=True)


def _adamw(groups: list[dict[str, Any]], recipe: Recipe) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, fused=True)


OPTIMIZERS: dict[str, Callable[[list[dict[str, Any]], Recipe], torch.optim.Optimizer]] = {"sgd": _sgd, "adamw": _adamw}
"""By name, what makes an optimizer of groups of parameters."""


def _optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's optimizer; norms, biases, tokens and positions are not decayed."""
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    kept = _not_decayed(model)
    groups = [
        {"params": [p for name, p in named if name not in kept], "weight_decay": recipe.weight_decay},
        {"params": [p for name, p in named if name in kept], "weight_decay": 0.0},
    ]
    return OPTIMIZERS[recipe.optimizer](groups, recipe)


def _not_decayed(model: nn.Module) -> set[str]:
    """Parameters that no input is multiplied with: tensors of one axis, and class tokens, positions and tables of biases.

    These last are the tensors of several axes that no layer calls its weight, and the weights of embeddings.
    """
    return {
        f"{prefix}.{name}".removeprefix(".")
        for prefix, module in model.named_modules()
        for name, parameter in module.named_parameters(recurse=False)
        if parameter.dim() <= 1 or not name.endswith("weight") or isinstance(module, nn.Embedding)
    }
