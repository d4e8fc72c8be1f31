"""Blocks that change nothing: what stands in an expanded network where it has no block of its own."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init
from torch.utils import _pytree as pytree

from mergeline.spaces.recording import run_on

__all__ = ["plain_identity", "residual_identity", "settle_norms"]

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def residual_identity(pattern: nn.Module) -> nn.Module:
    """A copy of a residual block with a residual branch of 0: all weights 0, running means 0, running variances 1."""
    block = deepcopy(pattern)
    for parameter in block.parameters():
        parameter.data = torch.zeros_like(parameter.data, memory_format=torch.contiguous_format)
    for module in block.modules():
        running = dict(module.named_buffers(recurse=False))
        for name in ("running_mean", "num_batches_tracked"):
            if running.get(name) is not None:
                running[name].zero_()
        if running.get("running_var") is not None:
            running["running_var"].fill_(1)
    return block


def plain_identity(before: Sequence[nn.Module], like: Sequence[nn.Module], path: str) -> list[nn.Module]:
    """Modules of the kinds of ``like`` that give back what the block ``before`` them gave.

    Raises
    ------
    ValueError: their activation, norm or convolution allows no identity; names it and the container ``path``.
    """
    if [type(module) for module in before] != [type(module) for module in like]:
        kinds = [" ".join(type(module).__name__ for module in block) for block in (before, like)]
        raise ValueError(f"the blocks of {path!r} cannot be matched: one is {kinds[0]}, one {kinds[1]}")
    layer = before[0]
    units = layer.out_features if isinstance(layer, nn.Linear) else int(layer.out_channels)  # type: ignore[arg-type]
    return [
        _identity_layer(like[0], units, path).to(next(layer.parameters())),
        *(_identity_attendant(module, path) for module in before[1:]),
    ]


def _identity_layer(like: nn.Module, units: int, path: str) -> nn.Module:
    if isinstance(like, nn.Linear):
        linear = skip_init(nn.Linear, units, units, bias=like.bias is not None)
        nn.init.eye_(linear.weight)
        if linear.bias is not None:
            nn.init.zeros_(linear.bias)
        return linear
    assert isinstance(like, CONVOLUTIONS)
    reach = [dilation * (size - 1) for dilation, size in zip(like.dilation, like.kernel_size, strict=True)]
    same = like.padding == "same" or [2 * pad for pad in like.padding if isinstance(pad, int)] == reach
    if not same or any(size % 2 == 0 for size in like.kernel_size) or any(step != 1 for step in like.stride):
        raise ValueError(f"the network cannot be expanded: in {path!r} stands {like}, which can be no identity")
    if like.groups != 1:
        raise ValueError(f"the network cannot be expanded: in {path!r} stands {like}, of more than one group")
    conv = skip_init(
        type(like), units, units, like.kernel_size, padding=like.padding, dilation=like.dilation,
        bias=like.bias is not None, padding_mode=like.padding_mode,
    )  # fmt: skip
    nn.init.dirac_(conv.weight)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv


def _identity_attendant(module: nn.Module, path: str) -> nn.Module:
    """A norm or activation behind an identity, as it stands behind the layer before it."""
    made = deepcopy(module)
    if isinstance(made, BATCH_NORMS):
        if made.running_mean is None or made.running_var is None:
            raise ValueError(f"the network cannot be expanded: {path!r} has batch norms without statistics")
        for tensor in made.state_dict().values():
            tensor.zero_()
        made.running_var.fill_(1.0 - made.eps)  # with epsilon, exactly 1
        if made.weight is not None:
            nn.init.ones_(made.weight)
        return made
    if isinstance(made, nn.Dropout | nn.Dropout1d | nn.Dropout2d | nn.Dropout3d | nn.AlphaDropout | nn.Identity):
        return made
    try:
        with torch.no_grad():
            once = made.eval()(torch.linspace(-9, 9, 145))
            twice = made(once.clone())
    except Exception as error:
        raise ValueError(_no_identity(module, path, "no identity can be made for it")) from error
    if not torch.equal(once, twice):
        raise ValueError(_no_identity(module, path, "it changes what it gave"))
    return made.train(module.training)


def _no_identity(module: nn.Module, path: str, why: str) -> str:
    return f"the network cannot be expanded: {type(module).__name__} stands behind the layers of {path!r}, and {why}"


# -- blocks that end in a norm ----------------------------------------------------------------------------------------


@torch.no_grad()
def settle_norms(model: nn.Module, inserted: Sequence[tuple[nn.Module, nn.Module]], example: Any) -> None:
    """Give identity blocks that norm the sum (post-norm transformers) norms that change nothing.

    A layer norm gives back what a layer norm without weights gave. The weights of the block before move to the end of the
    identity, so that between them the stream is normed and no more.

    Parameters
    ----------
    inserted: each identity block with the block before it, in order.
    """
    for before, identity in inserted:
        norms = [module for module in identity.modules() if isinstance(module, nn.LayerNorm)]
        if not norms or _changes_nothing(model, identity, example):
            continue
        for norm in norms:
            if norm.weight is not None:
                nn.init.ones_(norm.weight)
        source, last = (_last_norm(model, block, example) for block in (before, identity))
        if source is None or last is None or source.weight is None or last.weight is None:
            continue
        last.weight.copy_(source.weight)
        nn.init.ones_(source.weight)
        if source.bias is not None and last.bias is not None:
            last.bias.copy_(source.bias)
            nn.init.zeros_(source.bias)


def _first_tensor(value: Any) -> Tensor | None:
    return next((leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor)), None)


def _changes_nothing(model: nn.Module, block: nn.Module, example: Any) -> bool:
    same: list[bool] = []

    def compare(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        given, made = _first_tensor((args, kwargs)), _first_tensor(output)
        same.append(given is not None and made is not None and torch.equal(given, made))

    handle = block.register_forward_hook(compare, with_kwargs=True)
    try:
        run_on(model, example)
    finally:
        handle.remove()
    return bool(same) and all(same)


def _last_norm(model: nn.Module, block: nn.Module, example: Any) -> nn.LayerNorm | None:
    """The layer norm that makes a block's output, if one does."""
    seen: list[tuple[nn.LayerNorm, Tensor]] = []
    ends: list[Tensor | None] = []
    handles = [
        module.register_forward_hook(lambda module, args, output: seen.append((module, output)))
        for module in block.modules()
        if isinstance(module, nn.LayerNorm)
    ]
    handles.append(block.register_forward_hook(lambda module, args, output: ends.append(_first_tensor(output))))
    try:
        run_on(model, example)
    finally:
        for handle in handles:
            handle.remove()
    if not seen or not ends or ends[-1] is None:
        return None
    norm, output = seen[-1]
    return norm if output.shape == ends[-1].shape and torch.equal(output, ends[-1]) else None
