"""Which architecture a checkpoint is of, by the names and shapes of its tensors; networks are built without memory for it."""

from __future__ import annotations

import importlib.util
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mergeline.architectures import ARCHITECTURES, INPUT_SIZES, Architecture, Design
from mergeline.foreign import design_of, learn, library_names

__all__ = ["recognise", "without_memory"]

Shapes = dict[str, tuple[int, ...]]
SKIPPED = "num_batches_tracked"
SEVERAL = 3
"""A number of classes that differs from those of the description that shapes are compared with."""


def recognise(
    state: Mapping[str, Tensor], input_size: int | None = None, names: Sequence[str] | None = None
) -> list[Architecture]:
    """The known architectures, of this project and of torchvision, whose networks have exactly these tensors.

    ``state``: a plain state dict. ``input_size``: of ours, where several stems have the same tensors. Widths and numbers of
    classes are read off the shapes; a prefix that most names have may stand before them. ``names``: only of these.
    """
    sizes = INPUT_SIZES if input_size is None else (input_size,)
    asked = list(_candidates(sizes)) if names is None else [pair for name in names for pair in _sized(name, sizes)]
    for prefix in _prefixes(list(state)):
        shapes = {
            name.removeprefix(prefix): tuple(tensor.shape)
            for name, tensor in state.items()
            if name.startswith(prefix) and not name.endswith(SKIPPED)
        }
        found = [own for name, size in asked if (own := _described(name, size, shapes)) is not None]
        if found:
            return found
    return []


def _prefixes(names: Sequence[str]) -> Iterator[str]:
    """None, and what most names begin with, up to each of their dots."""
    prefix = ""
    while True:
        yield prefix
        ahead = Counter(
            name.removeprefix(prefix).partition(".")[0] for name in names if name.startswith(prefix) and "." in name
        )
        if not ahead or ahead.most_common(1)[0][1] <= len(names) / 2:
            return
        prefix = f"{prefix}{ahead.most_common(1)[0][0]}."
        if not any(name.startswith(prefix) for name in names):
            return


def _sized(name: str, sizes: tuple[int, ...]) -> list[tuple[str, int]]:
    if _design(name).foreign:
        return [(name, 224 if len(sizes) > 1 else sizes[0])]
    return [(name, size) for size in sizes if size in INPUT_SIZES]


def _candidates(sizes: tuple[int, ...]) -> Iterator[tuple[str, int]]:
    for name, design in ARCHITECTURES.items():
        if design.multiplier == 1 and not design.foreign:
            yield from _sized(name, sizes)
    if importlib.util.find_spec("torchvision") is not None:
        for own in library_names("torchvision"):
            yield f"torchvision:{own}", 224 if len(sizes) > 1 else sizes[0]


def _described(name: str, size: int, shapes: Shapes) -> Architecture | None:
    """The architecture by its name, if some width and number of classes make it have these shapes."""
    own = _shapes(name, size, 1.0, 2)
    if own is None or own.keys() != shapes.keys() or any(len(own[key]) != len(shapes[key]) for key in own):
        return None
    wider = _shapes(name, size, 1.0, SEVERAL)
    assert wider is not None
    classes = {shapes[key][axis] for key, axis in _differing(own, wider)}
    if len(classes) != 1:
        return None
    count = classes.pop()
    width = 1.0 if _design(name).foreign else _width(name, size, own, shapes)
    if _shapes(name, size, width, count) != shapes:
        return None
    learn(name)
    return Architecture(name, count, width, size)


def _design(name: str) -> Design:
    """Of an architecture, or of another library's network, which only becomes one when it is found to be meant."""
    return ARCHITECTURES[name] if name in ARCHITECTURES else design_of(name)


def _width(name: str, size: int, own: Shapes, shapes: Shapes) -> float:
    """How many times the units there are, where the width changes them."""
    double = _shapes(name, size, 2.0, 2)
    places = [] if double is None else _differing(own, double)
    return shapes[places[0][0]][places[0][1]] / own[places[0][0]][places[0][1]] if places else 1.0


def _differing(first: Shapes, second: Shapes) -> list[tuple[str, int]]:
    return [
        (name, axis)
        for name, shape in first.items()
        for axis, (one, other) in enumerate(zip(shape, second[name], strict=True))
        if one != other
    ]


@cache
def _shapes(name: str, size: int, width: float, classes: int) -> Shapes | None:
    """The shapes of a network's tensors; None where it cannot be built so."""
    design = _design(name)
    try:
        if design.check is not None:
            design.check(Architecture(name, classes, width, size))
        network = without_memory(partial(design.make, num_classes=classes, width=width, input_size=size))
    except (ValueError, RuntimeError, TypeError):  # a width, a size or a number of classes that it does not have
        return None
    return {key: tuple(tensor.shape) for key, tensor in network.state_dict().items() if not key.endswith(SKIPPED)}


def without_memory(make: Callable[[], nn.Module]) -> nn.Module:
    """A network with parameters that have shapes and no values."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchvision warns of how it draws weights, and none are drawn here
        try:
            with torch.device("meta"), _Undrawn():
                return make()
        except RuntimeError:  # it counts its layers with tensors, which then must have values
            with _parameters_on_meta():
                return make()


class _Undrawn(TorchFunctionMode):
    """A block in which tensors without memory are not filled with what is drawn, which takes longer than all else about them."""

    drawn = (torch.Tensor.normal_, torch.Tensor.uniform_, torch.Tensor.erfinv_)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in self.drawn and args[0].is_meta:
            return args[0]
        return func(*args, **(kwargs or {}))


@contextmanager
def _parameters_on_meta() -> Iterator[None]:
    """A block in which modules let go of the values of their parameters as they get them; other tensors keep theirs."""
    register = nn.Module.register_parameter

    def emptied(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        register(module, name, parameter)
        if parameter is not None:
            module._parameters[name] = nn.Parameter(parameter.to("meta"), requires_grad=parameter.requires_grad)

    nn.Module.register_parameter = emptied  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]
