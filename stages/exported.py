"""A merged network in a form that needs neither its class nor mergeline: ONNX, and ``torch.export``'s programs."""

from __future__ import annotations

import importlib.util
import logging
import re
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from stages.errors import InputError
from stages.formats.files import writing
from stages.own_models import check_target

__all__ = ["EXPORTS", "check_exports", "export"]

CLOSE = 1e-3
"""Share of the largest output by which the file's may differ from the network's: other orders of sums, over many layers."""


def check_exports(targets: Sequence[Path]) -> None:
    """Refuse what cannot be written, before any work.

    Raises
    ------
    InputError: an ending that stands for no form, a file that is there, a package that is missing; names the fix.
    """
    for target in targets:
        if target.suffix not in EXPORTS:
            raise InputError(f"--export {target}: an exported network's file ends in {', '.join(EXPORTS)}")
        check_target(target)
        for package in NEEDED.get(target.suffix, ()):
            if importlib.util.find_spec(package) is None:
                raise InputError(f"--export {target} needs the package {package}: pip install 'mergeline[export]'")


def export(network: nn.Module, target: Path, batch: Tensor) -> None:
    """Write a network, for batches of any size, and run the file on ``batch`` (three samples at least), beside the network itself.

    Raises
    ------
    InputError: the network cannot be exported, or the file gives something else; nothing is left then.
    """
    network = _OneInput(network).eval()
    with torch.no_grad(), warnings.catch_warnings(), writing(target) as temporary:
        warnings.simplefilter("ignore")
        expected = _outputs(network(batch))
        place = temporary.with_suffix(target.suffix)  # the exporters look at the ending
        try:
            try:
                found = EXPORTS[target.suffix](network, place, batch, list(expected))
            except Exception as error:  # exporters raise what they like
                cause = error.__cause__ or error
                raise InputError(f"--export {target}: {type(cause).__name__}: {_first_line(cause)}") from error
            _compare(target, expected, found)
            place.replace(temporary)
        finally:
            place.unlink(missing_ok=True)


class _OneInput(nn.Module):
    """A network as exporters take it: its ``forward`` names what it reads."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, inputs: Tensor) -> object:
        return self.network(inputs)


def _first_line(error: BaseException) -> str:
    """What an error says first, without a terminal's colours."""
    lines = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip().splitlines()
    return lines[0] if lines else "no reason given"


def _outputs(found: object) -> dict[str, Tensor]:
    """By head; of one alone, ``logits``."""
    return dict(found) if isinstance(found, dict) else {"logits": found}  # type: ignore[dict-item]


def _compare(target: Path, expected: dict[str, Tensor], found: Sequence[Tensor]) -> None:
    for (name, wanted), own in zip(expected.items(), found, strict=True):
        off = float((own - wanted).abs().max() / wanted.abs().max().clamp(min=1e-6))
        if not off <= CLOSE:
            raise InputError(
                f"--export {target}: {name} differs from the network's by {100 * off:.2g} % of its largest value"
            )


def _program(network: nn.Module, place: Path, batch: Tensor, names: Sequence[str]) -> list[Tensor]:
    """A program of ``torch.export``, for ``torch.export.load(FILE).module()``."""
    size = torch.export.Dim("batch")
    program = torch.export.export(network, (batch[:2],), dynamic_shapes=({0: size},))
    torch.export.save(program, place)
    return list(_outputs(torch.export.load(place).module()(batch)).values())


def _onnx(network: nn.Module, place: Path, batch: Tensor, names: Sequence[str]) -> list[Tensor]:
    """An ONNX model whose input is ``inputs`` and whose outputs are called by their heads."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    torch.onnx.export(
        network, (batch[:2],), place, dynamo=True, input_names=["inputs"], output_names=list(names),
        dynamic_shapes=({0: torch.export.Dim("batch")},), external_data=False, verbose=False,
    )  # fmt: skip
    if importlib.util.find_spec("onnxruntime") is not None:
        import onnxruntime

        session = onnxruntime.InferenceSession(place, providers=["CPUExecutionProvider"])
        return [torch.from_numpy(own) for own in session.run(list(names), {"inputs": batch.numpy()})]
    from onnx import load
    from onnx.reference import ReferenceEvaluator

    return [
        torch.from_numpy(own) for own in ReferenceEvaluator(load(place)).run(list(names), {"inputs": batch.numpy()})
    ]


EXPORTS: dict[str, Callable[[nn.Module, Path, Tensor, Sequence[str]], list[Tensor]]] = {
    ".onnx": _onnx,
    ".pt2": _program,
}
"""By the file's ending, what writes it and gives the outputs of what was written."""
NEEDED = {".onnx": ("onnx", "onnxscript")}
"""Packages beside torch's own."""
