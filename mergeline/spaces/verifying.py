"""Proving a trace: random permutations of all units must leave the function as it is."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from mergeline.spaces.errors import SpaceError
from mergeline.spaces.permuting import completed, permute_state, random_permutation, random_permutations
from mergeline.spaces.recording import Example, _tensors_in, call_with, flat_inputs
from mergeline.spaces.space import Spaces
from mergeline.spaces.tracing import trace
from mergeline.spaces.walking import Walk, model_tensors

__all__ = ["check_spaces", "verify"]

Tensors = Mapping[str, Tensor]

LARGE = 128
"""Pixels a side from which on an image is large: its corner is tried first."""

MULTIPLE = 32
"""What the sides of a corner are multiples of: most networks halve their maps five times."""


def verify(model: nn.Module, example: Example, seed: int = 0, tolerance: float = 1e-4) -> dict[str, float]:
    """Trace a network, permute all its spaces at random, and compare outputs; and what a walk sees with plain hooks.

    Returns the largest difference per space, relative to the largest absolute output: of all spaces together, or, where
    that is too large, of each space alone. Norms get random parameters and statistics first, so that one that was forgotten
    shows. The model is left as it was.

    Raises
    ------
    SpaceError: a permutation changed the function by more than ``tolerance``, or a walk sees other values than the
        network has; names the space.
    """
    return check_spaces(model, trace(model, example), example, seed, tolerance)


@torch.no_grad()
def check_spaces(
    model: nn.Module, spaces: Spaces, example: Example, seed: int = 0, tolerance: float = 1e-4
) -> dict[str, float]:
    """:func:`verify` of spaces that are traced already.

    Two passes of one sample: of the network, and of a walk through the recorded graph with all units in another order,
    which must see the network's values in that order at the output of every module: of all units, at some positions (what
    differs elsewhere reaches the network's own output, which is compared whole). A network that takes images of any size is
    shown a quarter of one. Where values differ, or where such a sample is not enough for the network, it is looked at more
    closely.
    """
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        generator = torch.Generator().manual_seed(seed)
        probe = _probe(model, spaces, generator)
        permutations = random_permutations(spaces, generator)
        for sample in _samples(example):
            together = _at_once(model, spaces, probe, permutations, sample)
            if together <= tolerance:
                return dict.fromkeys((space.name for space in spaces.free), together)
        return _one_by_one(model, spaces, probe, permutations, example, generator, tolerance)
    finally:
        for module in training:
            module.training = True


def _probe(model: nn.Module, spaces: Spaces, generator: torch.Generator) -> dict[str, Tensor]:
    """Tensors to prove a trace with: the model's, away from symmetric or vanishing starts."""
    probe = {name: _randomized(name, tensor, generator) for name, tensor in model_tensors(model).items()}
    return probe | {alias: probe[name] for alias, name in spaces.recording.aliases.items()}


def _at_once(
    model: nn.Module, spaces: Spaces, probe: Tensors, permutations: Mapping[str, Tensor], sample: Example
) -> float:
    """The largest relative difference between the network's values, in another order of its units, and those of a walk with
    its tensors in that order: of the output of every module, and of the network's own."""
    walk = Walk(spaces, model, permute_state(spaces, probe, permutations))
    given = next(iter(reversed(spaces.graph.nodes))).all_input_nodes
    ends: dict[fx.Node, Tensor] = {}
    carried = functools.cache(lambda node: spaces.carried.get(node, ()))

    def part(node: str, value: Tensor) -> Tensor:
        return _some_positions(value, {axis for _, place in carried(node) for axis in place.axes})

    try:
        outputs, _, last = _module_outputs(model, spaces, walk, probe, sample, part)
        moved = completed(spaces, permutations)
        worst = 0.0
        for node, value in walk.values(sample):
            if node in given:
                ends[node] = value
            if node.name in outputs:
                plain, own = outputs.pop(node.name), part(node.name, value)
                for name, place in carried(node.name):
                    plain = place.reordered(plain, moved[name])
                worst = max(worst, _difference([plain], [own]) if plain.shape == own.shape else float("inf"))
        found = [ends[node] for node in given if ends[node].is_floating_point()]
        return max(worst, _difference(last, found)) if len(last) == len(found) else float("inf")
    except (RuntimeError, IndexError, ValueError, AssertionError):  # not every network takes such a sample
        return float("inf")


def _some_positions(value: Tensor, units: set[int]) -> Tensor:
    """A value at about eight places along every axis that carries no units."""
    steps = [1 if axis in units else max(1, size // 8) for axis, size in enumerate(value.shape)]
    return value[tuple(slice(step // 2, None, step) for step in steps)] if max(steps, default=1) > 1 else value


def _samples(example: Example) -> Iterator[Example]:
    """What to prove a trace on: the corner of the first image, where that is large, and the first sample."""
    first = _first_sample(example)
    if isinstance(first, Tensor) and first.dim() == 4 and min(first.shape[2:]) >= LARGE:
        yield first[:, :, : _half(first.shape[2]), : _half(first.shape[3])]
    yield first


def _half(size: int) -> int:
    return -(-size // (2 * MULTIPLE)) * MULTIPLE


def _first_sample(example: Example) -> Example:
    leaves, build = flat_inputs(example)
    count = len(leaves[0]) if leaves[0].dim() else 0
    arguments, keywords = build([leaf[:1] if leaf.dim() and len(leaf) == count else leaf for leaf in leaves])
    return keywords or (arguments[0] if isinstance(example, Tensor) else arguments)


def _one_by_one(
    model: nn.Module,
    spaces: Spaces,
    probe: dict[str, Tensor],
    permutations: Mapping[str, Tensor],
    example: Example,
    generator: torch.Generator,
    tolerance: float,
) -> dict[str, float]:
    """Differences of outputs by space, or the error that names what is wrong."""
    if not all(bool(torch.isfinite(value).all()) for value in _run(model, spaces, model_tensors(model), example)):
        raise SpaceError(
            "the network gives outputs that are not finite on the inputs it was followed on; nothing is proved so"
        )
    wrong = _wrong_outputs(model, spaces, example, tolerance)
    if wrong:  # rounding, or another network? without rounding it shows
        wrong = _wrong_outputs(copy.deepcopy(model).double(), spaces, example, tolerance)
    if wrong:
        raise SpaceError(
            f"the recorded graph gives other values than the network at the output of module {wrong!r}: what is observed "
            "would not be its units"
        )
    expected = _run(model, spaces, probe, example)
    together = _difference(expected, _run(model, spaces, permute_state(spaces, probe, permutations), example))
    if not together <= tolerance:  # a deep network may blow rounding up: judge it without
        probe = {name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in probe.items()}
        expected = _run(model, spaces, probe, example)
        together = _difference(expected, _run(model, spaces, permute_state(spaces, probe, permutations), example))
    if together <= tolerance:
        return dict.fromkeys((space.name for space in spaces.free), together)
    differences = {}
    for space in spaces.free:
        moved = permute_state(spaces, probe, {space.name: random_permutation(space, generator)})
        differences[space.name] = _difference(expected, _run(model, spaces, moved, example))
    worst = max(differences, key=differences.__getitem__)
    raise SpaceError(
        f"permuting space {worst!r} ({spaces[worst].size} units) changes the output by {max(together, differences[worst]):.2e} "
        f"relative (tolerance {tolerance:.0e}): its axes are incomplete"
    )


def _run(model: nn.Module, spaces: Spaces, tensors: Tensors, example: Example) -> list[Tensor]:
    leaves, build = flat_inputs(example)
    kind = next((t.dtype for t in tensors.values() if t.is_floating_point()), torch.float32)
    device = next((t.device for t in tensors.values()), torch.device("cpu"))
    arguments, keywords = build(
        [leaf.to(device, kind) if leaf.is_floating_point() else leaf.to(device) for leaf in leaves]
    )
    output = call_with(model, tensors, spaces.recording.aliases, arguments, keywords)
    return [value for _, value in _tensors_in(output) if value.is_floating_point()]


def _difference(expected: list[Tensor], found: list[Tensor]) -> float:
    worst = 0.0
    for a, b in zip(expected, found, strict=True):
        if not a.numel():
            continue
        low, high = a.aminmax()
        difference = float(torch.dist(a, b, float("inf"))) / max(-float(low), float(high), 1e-12)
        worst = max(worst, difference if difference == difference else float("inf"))
    return worst


def _randomized(name: str, tensor: Tensor, generator: torch.Generator) -> Tensor:
    """Away from symmetric or vanishing starts: norms (weight 1, bias 0, mean 0, variance 1), gates and scales near 0,
    classifiers of zeros."""
    if not tensor.is_floating_point() or tensor.numel() == 0:
        return tensor
    low, high = tensor.aminmax()
    if tensor.dim() != 1 and low != high:
        return tensor
    noise = torch.rand(tensor.shape, generator=generator).to(tensor)
    if low == high and 0 < abs(float(low)) < 0.1:
        return 0.5 + noise
    return tensor * (0.5 + noise) + (0 if name.endswith("running_var") else 0.1 * (noise - 0.5))


def _wrong_outputs(model: nn.Module, spaces: Spaces, example: Example, tolerance: float) -> str:
    """The first module at whose output a walk sees other values than a plain forward hook does; empty if there is none."""
    walk = Walk(spaces, model)
    outputs, paths, _ = _module_outputs(model, spaces, walk, walk.tensors | model_tensors(model), example)
    for node, value in walk.values(example):
        plain = outputs.get(node.name)
        if plain is not None and not (plain.shape == value.shape and _difference([plain], [value]) <= 10 * tolerance):
            return paths[node.name]
    return ""


def _module_outputs(
    model: nn.Module,
    spaces: Spaces,
    walk: Walk,
    tensors: Tensors,
    example: Example,
    part: Callable[[str, Tensor], Tensor] = lambda _, value: value,
) -> tuple[dict[str, Tensor], dict[str, str], list[Tensor]]:
    """What modules give, seen by plain forward hooks, by the node that it is; the modules' paths; and what the network gives.
    Not what a walk folds into the next. ``part``: what to keep of a node's value."""
    outputs: dict[str, Tensor] = {}
    paths: dict[str, str] = {}
    calls: dict[str, int] = {}
    inner = {folded.name for folded, tensors in walk.folded.items() if tensors is not None}
    wanted = {place: node for place, node in spaces.recording.module_outputs.items() if node not in inner}

    def keep(path: str) -> Any:
        def hook(module: nn.Module, arguments: Any, output: Any) -> None:
            number = calls[path] = calls.get(path, -1) + 1
            node = wanted.get((path, number))
            if node is not None and isinstance(output, Tensor) and output.is_floating_point():
                outputs[node] = part(node, output.detach()).clone()
                paths.setdefault(node, path)

        return hook

    handles = [module.register_forward_hook(keep(path)) for path, module in model.named_modules() if path]
    try:
        last = _run(model, spaces, tensors, example)
    finally:
        for handle in handles:
            handle.remove()
    return outputs, paths, last
