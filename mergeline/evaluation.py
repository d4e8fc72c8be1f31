"""What is measured on test images: accuracy per task, joint accuracy, loss, calibration, agreement, size and cost."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mergeline.kinds import UNLABELLED, Target
from mergeline.metrics import METRICS
from mergeline.metrics.confusion import confusion_counts

__all__ = [
    "agreement",
    "confusion",
    "ensemble_logits",
    "flops",
    "joint_accuracy",
    "labelled",
    "parameters",
    "pixel_logits",
    "predict",
    "score",
    "target_of",
]


@torch.no_grad()
def predict(model: nn.Module, batches: Iterable[Tensor]) -> Tensor | dict[str, Tensor]:
    """Logits ``(N, classes)`` in float32 on the CPU; for a multi-head network, by head.

    Raises
    ------
    ValueError: no batches.
    """
    model.eval()
    parts = [model(batch) for batch in batches]
    if not parts:
        raise ValueError("a network predicts on batches of inputs, and there are none")
    if isinstance(parts[0], dict):
        return {name: torch.cat([part[name].float().cpu() for part in parts]) for name in parts[0]}
    return torch.cat([part.float().cpu() for part in parts])


def pixel_logits(outputs: Tensor) -> Tensor:
    """A row for each decision, ``(N, classes)``: outputs ``(B, classes, H, W)`` pixel by pixel, others as they are."""
    return outputs.movedim(1, -1).flatten(0, -2)


def target_of(labels: Tensor) -> Target:
    """What labels are of: values where they are no whole numbers, else classes ``(N,)`` or those of pixels ``(B, H, W)``."""
    if labels.is_floating_point():
        return "values"
    return "classes" if labels.dim() == 1 else "pixels"


def labelled(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The decisions that have a label, ``(n, classes)`` and ``(n,)``.

    ``logits``: ``(N, classes)``, a row for each of ``labels`` in order, of images or of their pixels; values ``(N, 1)`` where
    labels are values, NaN for none.

    Raises
    ------
    ValueError: other numbers of decisions than labels, a label of no class, several outputs for a value.
    """
    flat = labels.flatten().to(logits.device)
    if len(flat) != len(logits):
        raise ValueError(f"{len(logits)} decisions were made where there are {len(flat)} labels")
    if target_of(labels) == "values":
        if logits.shape[1] != 1:
            raise ValueError(f"{logits.shape[1]} outputs for each value; a network of values has one")
        kept = ~flat.isnan()
    else:
        flat = flat.to(torch.int64)
        kept = flat != UNLABELLED
        odd = kept & ((flat < 0) | (flat >= logits.shape[1]))
        if bool(odd.any()):
            raise ValueError(
                f"a label is {int(flat[odd][0])}, and the outputs are of {logits.shape[1]} classes, counted from 0"
            )
    return (logits, flat) if bool(kept.all()) else (logits[kept], flat[kept])


def score(logits: Tensor, labels: Tensor, bins: int = 15) -> dict[str, float]:
    """Every metric of :data:`mergeline.metrics.METRICS` that holds by name, and ``n``, the number of images (or of pixels).

    Parameters
    ----------
    logits: ``(N, classes)``, or values ``(N, 1)``. labels: ``(N,)``, or of pixels ``(B, H, W)``, ``N`` in all;
        :data:`mergeline.kinds.UNLABELLED` counts for nothing. Labels of a floating type are values, NaN where there is none.
    bins: for what is binned.

    Raises
    ------
    ValueError: labels that do not fit (:func:`labelled`), outputs that are not finite, no bins.
    """
    if bins < 1:
        raise ValueError(f"there must be 1 bin at least, got {bins}")
    target = target_of(labels)
    logits, labels = labelled(logits, labels)
    _check_finite(logits)
    found = {name: metric.measure(logits, labels, bins) for name, metric in METRICS.items() if target in metric.targets}
    return {**found, "n": len(labels)}


def _check_finite(logits: Tensor) -> None:
    """Refuse outputs that are not finite (ValueError): whatever class they seem to tell, they mean nothing."""
    odd = ~torch.isfinite(logits).flatten(1).all(1)
    if bool(odd.any()):
        raise ValueError(f"{int(odd.sum())} of {len(odd)} outputs are not finite")


def confusion(logits: Tensor, labels: Tensor) -> Tensor:
    """How often each true class (row) was predicted as each class (column), ``(classes, classes)`` int64.

    Raises
    ------
    ValueError: labels are values.
    """
    _of_classes("a confusion", target_of(labels))
    return confusion_counts(*labelled(logits, labels))


def joint_accuracy(logits: Sequence[Sequence[Tensor]], labels: Sequence[Tensor]) -> float:
    """Accuracy over the union of all tasks' classes and test images (zipit Sec. 4).

    ``logits[t][h]``: head ``h`` on the test images of task ``t``. An image counts as right when the largest of all
    heads' logits belongs to its own task's head and its own class.

    Raises
    ------
    ValueError: a task's labels are values, which are in no union with classes, or of classes that its head has not.
    """
    for target in labels:
        _of_classes("a joint accuracy", target_of(target))
    right = count = 0
    for task, (per_head, target) in enumerate(zip(logits, labels, strict=True)):
        labelled(per_head[task], target)  # refuses labels of classes that only other heads have
        offset = sum(head.shape[1] for head in per_head[:task])
        together, own = labelled(torch.cat(list(per_head), dim=1), target)
        right += int((together.argmax(1) == own + offset).sum())
        count += len(own)
    return right / count


def _of_classes(what: str, target: Target) -> None:
    if target == "values":
        raise ValueError(f"{what} is that of classes, and these labels are values")


def ensemble_logits(logits: Sequence[Tensor], target: Target = "classes") -> Tensor:
    """The ensemble of models of one task: the log of their mean probabilities, or the mean of their values."""
    if target == "values":
        return torch.stack([part.double() for part in logits]).mean(0).float()
    return torch.stack([part.double().log_softmax(1) for part in logits]).logsumexp(0).float()


def agreement(merged: Tensor, sources: Sequence[Tensor], target: Target = "classes") -> dict[str, float]:
    """How far a merged model's predictions follow each source's, on the same images.

    ``agree_<i>``: share of images with the same predicted class as source ``i``. ``follow_<i>``: the same, of the
    images on which the first two sources disagree (NaN if there are none); ``disagree``: the share of those images.

    Raises
    ------
    ValueError: the outputs are values, which are never the same; fewer than two sources, or another number of images.
    """
    _of_classes("an agreement", target)
    if len(sources) < 2 or any(len(source) != len(merged) for source in sources):
        raise ValueError(
            f"an agreement is with two sources at least on the same images, got {len(merged)} predictions and, of the sources, "
            f"{[len(source) for source in sources]}"
        )
    predicted = merged.argmax(1)
    votes = [source.argmax(1) for source in sources]
    result = {f"agree_{i}": float((predicted == vote).double().mean()) for i, vote in enumerate(votes)}
    split = votes[0] != votes[1]
    result["disagree"] = float(split.double().mean())
    for i, vote in enumerate(votes[:2]):
        result[f"follow_{i}"] = float((predicted == vote)[split].double().mean()) if bool(split.any()) else float("nan")
    return result


def parameters(model: nn.Module) -> int:
    """Number of parameters (statistics and indices are not counted)."""
    return sum(parameter.numel() for parameter in model.parameters())


@torch.no_grad()
def flops(model: nn.Module, example: Tensor) -> int:
    """Multiply-adds of convolutions and matrix products for one image, as papers count FLOPs.

    ``example``: a batch of one image.
    """
    counter = FlopCounterMode(display=False)
    with counter:
        model.eval()(example)
    return counter.get_total_flops() // 2 // len(example)
