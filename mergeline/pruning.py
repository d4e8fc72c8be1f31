"""One-shot pruning: a network with a given share of its weights set to zero, without training afterwards.

The methods whose pruned networks vanishing_feature (Sec. 5.5, A.3 "Pruning Details", A.7) normalises: global and
layer-wise magnitude, diagonal Fisher, WoodFisher and Wanda. Prunable are the weights of all convolutions and linear
layers (biases, norms, embeddings and the packed input projections of ``nn.MultiheadAttention`` are not); a weight that
several layers share counts once and goes by the first layer's name.

A method gives every weight a saliency, and those of the lowest saliency go; of equal ones those that stand first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from numbers import Real
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.utils import prune as torch_prune
from torch.utils import _pytree as pytree

from mergeline.pruning_options import (
    OPTIONS,
    FisherOptions,
    MagnitudeOptions,
    WandaOptions,
    WoodFisherOptions,
)
from mergeline.registry import entry_and_options
from mergeline.sources import Batches, batch_size, first_samples, prepared, samples
from mergeline.spaces.recording import flat_inputs

__all__ = [
    "METHODS",
    "FisherOptions",
    "MagnitudeOptions",
    "Pruner",
    "Scores",
    "WandaOptions",
    "WoodFisherOptions",
    "masks",
    "prune",
    "sparsity_of",
]

Tensors = dict[str, Tensor]
Layers = dict[str, list[nn.Module]]
"""The prunable weights of a network by name, each with the layers that use it."""

LABELLED = "batches of (inputs, labels), or of dicts with labels, whose labels are class indices"
INVERSE_ENTRIES = 2**27
"""Entries of the inverse Fisher blocks that are kept at a time (float64: 1 GiB)."""
WOODBURY_RANK = 32
"""Gradients that enter the inverse Fisher in one step."""


@dataclass(frozen=True)
class Scores:
    """What a method says of a network's weights.

    ``saliency``: by weight name, in the weight's shape, not negative. ``update``: given the masks, the values of the
    weights that stay (those that go are overwritten); None where they stay as they are.
    """

    saliency: Tensors
    update: Callable[[Tensors], Tensors] | None = None


@dataclass(frozen=True)
class Pruner:
    """A method of pruning.

    ``scope``: among which weights the lowest saliencies are sought: all of the model's, each layer's, or each output
    unit's. ``options``: a frozen dataclass. ``score`` is given a copy of the network in eval mode, which it may change,
    its layers, the data and the options. ``reads``: what it needs of the data.
    """

    name: str
    summary: str
    scope: Literal["model", "layer", "unit"]
    options: type
    score: Callable[[nn.Module, Layers, Any, Any], Scores]
    reads: Literal["nothing", "inputs", "inputs and labels"] = "nothing"


# -- the interface ----------------------------------------------------------------------------------------------------


def prune(
    model: nn.Module, sparsity: float, method: str, data: Any = None, options: Mapping[str, object] | None = None
) -> nn.Module:
    """A copy of a model with a share of its prunable weights set to zero.

    Parameters
    ----------
    model: left as it is. Weights that other weights stand for (parametrisations, masks of ``torch.nn.utils.prune``) are
        plain ones in the copy.
    sparsity: share of the prunable weights that goes, in [0, 1): exactly ``round(sparsity * n)`` of the ``n`` weights in
        the method's scope (model, layer or output unit). Zeros that the model has are among the first to go; those
        beyond that number stay zeros.
    method: a key of :data:`METHODS`.
    data: for the methods that read any: batches of ``(inputs, labels)`` for "fisher" and "woodfisher", of inputs (labels
        are passed over) for "wanda"; a list, a loader, or a function that gives one.
    options: fields of the method's options.

    Returns
    -------
    A copy in eval mode, of the same architecture, types and ``requires_grad``, without masks. At sparsity 0 its weights
    are the model's, bit for bit.

    Raises
    ------
    ValueError: sparsity outside [0, 1), an unknown method or option, a model without prunable weights or with values that
        are not finite, no data or labels where the method reads them, data that gives values that are not finite.
    """
    kept, updated = _decided(model, sparsity, method, data, options)
    with torch.inference_mode(False), torch.no_grad():
        pruned = prepared(model, type(model).__name__)
        for name, mask in kept.items():
            weight = pruned.get_parameter(name)
            # The hooks of torch's pruning, once removed, leave the weight behind the bias in the layer's parameters.
            value = updated.get(name, weight).to(weight.dtype)
            weight.copy_(torch_prune.CustomFromMask(mask).prune(value))
    _to_given_types(pruned, model)
    return pruned


def masks(
    model: nn.Module, sparsity: float, method: str, data: Any = None, options: Mapping[str, object] | None = None
) -> Tensors:
    """Which weights :func:`prune` keeps: by weight name a bool tensor in the weight's shape, True where it stays.

    Parameters and errors are those of :func:`prune`.
    """
    return _decided(model, sparsity, method, data, options)[0]


def sparsity_of(model: nn.Module) -> float:
    """The share of zeros among a model's prunable weights.

    Raises
    ------
    ValueError: the model has none, or values that are not finite.
    """
    network = prepared(model, type(model).__name__)
    weights = [network.get_parameter(name) for name in _layers(network)]
    return sum(int((weight == 0).sum()) for weight in weights) / sum(weight.numel() for weight in weights)


def _decided(
    model: nn.Module, sparsity: float, method: str, data: Any, options: Mapping[str, object] | None
) -> tuple[Tensors, Tensors]:
    """The masks, and the weights that a method changes."""
    _check_sparsity(sparsity)
    pruner, chosen = entry_and_options("pruning method", method, METHODS, options)
    if data is None and pruner.reads != "nothing":
        raise ValueError(f"pruning method {method!r} needs data, batches of {pruner.reads}; none was given")
    with torch.inference_mode(False):  # which would leave no gradients to take
        network = prepared(model, type(model).__name__)
        layers = _layers(network)
        scores = pruner.score(network, layers, data, chosen)
        for name, saliency in scores.saliency.items():
            if not bool(torch.isfinite(saliency).all()):
                raise ValueError(f"the data gives {name!r} saliencies that are not finite")
        kept = _kept(pruner.scope, layers, scores.saliency, float(sparsity))
        return kept, scores.update(kept) if scores.update is not None else {}


def _check_sparsity(sparsity: Any) -> None:
    if isinstance(sparsity, bool) or not isinstance(sparsity, Real) or not 0 <= float(sparsity) < 1:
        raise ValueError(f"sparsity must be a number in [0, 1); got {sparsity!r}")


def _layers(model: nn.Module) -> Layers:
    layers: Layers = {}
    names: dict[int, str] = {}
    for prefix, module in model.named_modules():
        if isinstance(module, nn.Linear | _ConvNd):
            name = names.setdefault(id(module.weight), f"{prefix}.weight" if prefix else "weight")
            layers.setdefault(name, []).append(module)
    if not layers:
        raise ValueError(f"a {type(model).__name__} without convolutions and linear layers has no weights to prune")
    return layers


def _to_given_types(pruned: nn.Module, model: nn.Module) -> None:
    """Half-precision tensors, which :func:`prepared` makes ones that sums can be taken in, become so again."""
    types = {name: t.dtype for name, t in [*model.named_parameters(remove_duplicate=False), *model.named_buffers()]}
    floating = {kind for kind in types.values() if kind.is_floating_point}
    common = floating.pop() if len(floating) == 1 else None
    for name, tensor in [*pruned.named_parameters(), *pruned.named_buffers()]:
        if tensor.is_floating_point():  # a parametrised weight has no tensor of its name in the model
            tensor.data = tensor.data.to(types.get(name, common or tensor.dtype))


# -- which weights go -------------------------------------------------------------------------------------------------


def _kept(scope: str, layers: Layers, saliency: Tensors, sparsity: float) -> Tensors:
    if scope == "unit":
        return {name: _kept_by_unit(layers[name][0], saliency[name], sparsity) for name in layers}
    if scope == "layer":
        return {name: _highest(saliency[name].reshape(1, -1), sparsity).view_as(saliency[name]) for name in layers}
    flat = torch.cat([saliency[name].flatten() for name in layers])
    parts = _highest(flat[None], sparsity)[0].split([saliency[name].numel() for name in layers])
    return {name: part.view_as(saliency[name]) for name, part in zip(layers, parts, strict=True)}


def _kept_by_unit(layer: nn.Module, saliency: Tensor, sparsity: float) -> Tensor:
    units = _units(layer)
    kept = torch.ones(saliency.numel(), dtype=torch.bool, device=saliency.device)
    kept[units] = _highest(saliency.flatten()[units], sparsity)
    return kept.view(saliency.shape)


def _units(layer: Any) -> Tensor:
    """Where each output unit's weights stand in the flattened weight, ``(units, weights of a unit)``."""
    weight = layer.weight
    places = torch.arange(weight.numel(), device=weight.device).view(weight.shape)
    if isinstance(layer, _ConvTransposeNd):  # (inputs, outputs of a group, ...)
        places = places.unflatten(0, (layer.groups, -1)).transpose(1, 2).flatten(0, 1)
    return places.flatten(1)


def _highest(saliency: Tensor, sparsity: float) -> Tensor:
    """False at the ``round(sparsity * n)`` lowest entries of each row of ``(rows, n)``, of equal ones at the first."""
    lowest = saliency.argsort(dim=1, stable=True)[:, : round(sparsity * saliency.shape[1])]
    return torch.ones_like(saliency, dtype=torch.bool).scatter_(1, lowest, False)


# -- magnitude --------------------------------------------------------------------------------------------------------


def _magnitude(network: nn.Module, layers: Layers, data: Any, options: MagnitudeOptions) -> Scores:
    return Scores({name: network.get_parameter(name).detach().abs() for name in layers})


# -- Fisher -----------------------------------------------------------------------------------------------------------


def _fisher(network: nn.Module, layers: Layers, data: Any, options: FisherOptions) -> Scores:
    """Saliency ``w^2 F_ii / 2`` with ``F_ii`` the mean of squared gradients (WoodFisher, Singh and Alistarh 2020)."""
    minibatches = _minibatches(data, options)
    sums = [torch.zeros_like(network.get_parameter(name), dtype=torch.float64) for name in layers]
    for gradients in _gradients(network, list(layers), minibatches):
        for total, gradient in zip(sums, gradients, strict=True):
            total.add_(gradient.square())
    return Scores(
        {
            name: network.get_parameter(name).detach().double().square() * total / (2 * len(minibatches))
            for name, total in zip(layers, sums, strict=True)
        }
    )


def _woodfisher(network: nn.Module, layers: Layers, data: Any, options: WoodFisherOptions) -> Scores:
    """Saliency ``w_q^2 / (2 [F^-1]_qq)`` and the update of the weights that stay, both by block (WoodFisher Sec. 3, 4).

    The update sums, over the weights ``q`` of the block that go, the optimal brain surgeon's for each alone:
    ``-w_q F^-1 e_q / [F^-1]_qq``.
    """
    minibatches = _minibatches(data, options)
    weights = {name: network.get_parameter(name).detach().double() for name in layers}
    groups = _groups(weights, options.block)

    @lru_cache(maxsize=1)  # a single group is kept from the saliencies to the update; of several each is computed twice
    def inverses(group: int) -> Tensors:
        return _inverse_fishers(network, groups[group], minibatches, options)

    def by_block(compute: Callable[[str, Tensor], Tensor]) -> Tensors:
        return {
            name: compute(name, inverse).flatten()[: weights[name].numel()].view_as(weights[name])
            for group in range(len(groups))
            for name, inverse in inverses(group).items()
        }

    def saliency(name: str, inverse: Tensor) -> Tensor:
        return _blocks(weights[name].flatten(), options.block).square() / (2 * inverse.diagonal(dim1=1, dim2=2))

    def update(kept: Tensors, name: str, inverse: Tensor) -> Tensor:
        weight = _blocks(weights[name].flatten(), options.block)
        gone = _blocks((weights[name] * ~kept[name]).flatten(), options.block)
        change = inverse @ (gone / inverse.diagonal(dim1=1, dim2=2)).unsqueeze(2)
        return weight - change.squeeze(2)

    return Scores(by_block(saliency), lambda kept: by_block(partial(update, kept)))


def _blocks(values: Tensor, block: int) -> Tensor:
    """The last axis in blocks, the last one filled up with zeros: ``(..., n)`` -> ``(..., blocks, block)``."""
    size = min(block, values.shape[-1])
    return F.pad(values, (0, -values.shape[-1] % size)).unflatten(-1, (-1, size))


def _groups(weights: Tensors, block: int) -> list[list[str]]:
    """Names of weights, in order, whose inverse Fisher blocks are kept at the same time."""
    groups: list[list[str]] = []
    room = 0
    for name, weight in weights.items():
        entries = weight.numel() * min(block, weight.numel())
        if not groups or entries > room:
            groups.append([])
            room = INVERSE_ENTRIES
        groups[-1].append(name)
        room -= entries
    return groups


def _inverse_fishers(
    network: nn.Module, names: Sequence[str], minibatches: Sequence[tuple[Any, Tensor]], options: WoodFisherOptions
) -> Tensors:
    """Blocks of ``(damping I + 1/N sum_n g_n g_n^T)^-1`` by weight, each ``(blocks, block, block)`` in float64.

    The recursion of WoodFisher (Sec. 3) by Woodbury's identity, some gradients ``G`` ``(k, block)`` a step:
    ``F^-1 - F^-1 G^T (N I + G F^-1 G^T)^-1 G F^-1``; with ``k = 1`` it is the paper's, and the result does not depend on
    ``k``.
    """
    inverses = {}
    for name in names:
        blocks = _blocks(network.get_parameter(name).detach().double().flatten(), options.block)
        identity = torch.eye(blocks.shape[1], dtype=torch.float64, device=blocks.device)
        inverses[name] = (identity / options.damping).repeat(len(blocks), 1, 1)
    for start in range(0, len(minibatches), WOODBURY_RANK):
        step = list(_gradients(network, names, minibatches[start : start + WOODBURY_RANK]))
        for name, gradients in zip(names, zip(*step, strict=True), strict=True):
            rows = _blocks(torch.stack([g.flatten() for g in gradients]), options.block).transpose(0, 1)
            _add_gradients(inverses[name], rows, len(minibatches))
    return inverses


def _add_gradients(inverse: Tensor, gradients: Tensor, total: int) -> None:
    """One step of the recursion, in place: ``gradients`` ``(blocks, k, block)`` of ``total`` in all."""
    products = gradients @ inverse
    small = products @ gradients.transpose(1, 2)
    small.diagonal(dim1=1, dim2=2).add_(total)
    factor, info = torch.linalg.cholesky_ex(small)
    if bool(info.any()) or not bool(torch.isfinite(small).all()):
        raise ValueError("the data gives gradients that are not finite, or too large for the damping: raise it")
    root = torch.linalg.solve_triangular(factor, products, upper=False)
    inverse.baddbmm_(root.transpose(1, 2), root, alpha=-1)


def _gradients(
    network: nn.Module, names: Sequence[str], minibatches: Iterable[tuple[Any, Tensor]]
) -> Iterator[list[Tensor]]:
    """Gradients of the mean cross-entropy of each mini-batch, in float64, one for each name."""
    network.requires_grad_(False)
    for name in _layers(network):
        network.get_parameter(name).requires_grad_()
    weights = [network.get_parameter(name) for name in names]
    for inputs, labels in minibatches:
        with torch.enable_grad():
            loss = _loss(_output(network, inputs), labels)
            if not loss.requires_grad:
                raise ValueError("the Fisher needs an output with gradients; the model's depends on no prunable weight")
            # A layer that takes no part in the output has a gradient of zero.
            found = torch.autograd.grad(loss, weights, materialize_grads=True, allow_unused=True)
        yield [gradient.double() for gradient in found]


def _loss(logits: Any, labels: Tensor) -> Tensor:
    if not isinstance(logits, Tensor) or logits.dim() < 2 or len(logits) != len(labels):
        what = f"of shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
        raise ValueError(f"the Fisher needs a model that gives a row of logits for each input; its output is {what}")
    if not 0 <= int(labels.min()) <= int(labels.max()) < logits.shape[1]:
        raise ValueError(
            f"labels from {int(labels.min())} to {int(labels.max())} do not fit a model of {logits.shape[1]} classes"
        )
    return F.cross_entropy(logits.float(), _plain(labels.to(logits.device, torch.int64)))


# -- Wanda ------------------------------------------------------------------------------------------------------------


def _wanda(network: nn.Module, layers: Layers, data: Any, options: WandaOptions) -> Scores:
    """Saliency ``|w_ij| ||X_j||_2`` (Wanda, Sun et al. 2023, Sec. 3).

    ``X_j``: all that the weight is multiplied with, over images and positions. For a convolution that is an entry of the
    unfolded patches of its group's channels.
    """
    squares: Tensors = {}
    with torch.no_grad(), _summing_squares(layers, squares), _seen_attention(network, layers, squares):
        for inputs in _first_images(Batches(data, again=False), options.samples):
            _output(network, inputs)
    missing = [name for name in layers if name not in squares]
    if missing:
        what = "the data has no batches" if len(missing) == len(layers) else "it takes no part in the output"
        raise ValueError(f"no input reached the layer of {missing[0]!r}: {what}")
    return Scores({name: network.get_parameter(name).detach().abs() * squares[name].sqrt() for name in layers})


@contextmanager
def _summing_squares(layers: Layers, squares: Tensors) -> Iterator[None]:
    """Within, whatever goes into the layers adds to ``squares``."""

    def hook(name: str, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        _add_squares(squares, name, layer, args[0] if args else kwargs["input"])

    handles = [
        layer.register_forward_pre_hook(partial(hook, name), with_kwargs=True)
        for name, users in layers.items()
        for layer in users
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _add_squares(squares: Tensors, name: str, layer: Any, inputs: Tensor) -> None:
    added = (_squares_of_conv if isinstance(layer, _ConvNd) else _squares_of_linear)(layer, inputs.detach().square())
    squares[name] = squares[name] + added if name in squares else added.double()


def _squares_of_linear(layer: nn.Linear, squared: Tensor) -> Tensor:
    return squared.reshape(-1, squared.shape[-1]).sum(0).expand_as(layer.weight)


def _squares_of_conv(layer: Any, squared: Tensor) -> Tensor:
    """Sums over patches, in the weight's shape.

    The derivative of a convolution's summed output by a filter's entry is the sum of all that the entry is multiplied with:
    one filter for each group suffices, and nothing is unfolded.
    """
    weight, groups = layer.weight, layer.groups
    transposed = isinstance(layer, _ConvTransposeNd)
    shape = (len(weight), 1, *weight.shape[2:]) if transposed else (groups, *weight.shape[1:])
    filters = weight.new_zeros(shape).requires_grad_()
    with torch.enable_grad():
        output = _transposed(layer, squared, filters) if transposed else layer._conv_forward(squared, filters, None)
        (sums,) = torch.autograd.grad(output.sum(), filters)
    return sums.expand_as(weight) if transposed else sums.repeat_interleave(len(weight) // groups, dim=0)


def _transposed(layer: Any, inputs: Tensor, filters: Tensor) -> Tensor:
    operations: dict[int, Callable[..., Tensor]] = {3: F.conv_transpose1d, 4: F.conv_transpose2d, 5: F.conv_transpose3d}
    return operations[filters.dim()](
        inputs, filters, None, layer.stride, layer.padding, layer.output_padding, layer.groups, layer.dilation
    )


@contextmanager
def _seen_attention(network: nn.Module, layers: Layers, squares: Tensors) -> Iterator[None]:
    """Within, attention modules add to ``squares`` what goes into their output projection.

    ``nn.MultiheadAttention`` multiplies with its output projection's weight without calling it. Its place is taken by the
    identity, and the projection follows in a hook.
    """
    names = {id(layer): name for name, users in layers.items() for layer in users}
    attentions = [m for m in network.modules() if type(m).forward is nn.MultiheadAttention.forward]
    handles, projections = [], []
    for attention in attentions:
        projection: Any = attention.out_proj
        weight, bias = projection.weight, projection.bias

        def hook(
            module: Any, args: Any, output: Any, projection: Any = projection, weight: Any = weight, bias: Any = bias
        ) -> Any:
            _add_squares(squares, names[id(projection)], projection, output[0])
            return (F.linear(output[0], weight, bias), *output[1:])

        projections.append((projection, weight, bias))
        handles.append(attention.register_forward_hook(hook))
        projection.weight = nn.Parameter(torch.eye(len(weight), dtype=weight.dtype, device=weight.device))
        projection.bias = None if bias is None else nn.Parameter(torch.zeros_like(bias))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for projection, weight, bias in projections:
            projection.weight, projection.bias = weight, bias


# -- data -------------------------------------------------------------------------------------------------------------


def _first_images(batches: Iterable[Any], count: int | None) -> Iterator[Any]:
    for batch in batches:
        yield batch if count is None else first_samples(batch, count)
        if count is not None:
            count -= batch_size(batch)
            if count <= 0:
                return


def _output(network: nn.Module, inputs: Any) -> Any:
    """What a network gives for inputs, brought to its device and type."""
    like = next(network.parameters())
    leaves, build = flat_inputs(inputs)
    moved = [_plain(leaf.to(like.device, like.dtype if leaf.is_floating_point() else leaf.dtype)) for leaf in leaves]
    arguments, keywords = build(moved)
    return network(*arguments, **keywords)


def _plain(tensor: Tensor) -> Tensor:
    """A tensor that gradients can be taken with."""
    return tensor.clone() if tensor.is_inference() else tensor


def _minibatches(data: Any, options: FisherOptions) -> list[tuple[Any, Tensor]]:
    """The mini-batches of as many gradients as asked for or as the data has, whatever the data's own batches.

    A rest that fills none is left out, unless it is all that there is.
    """
    size = options.minibatch
    found: list[tuple[Any, Tensor]] = []
    rest: Any = None
    for batch in _labelled(data):
        rest = batch if rest is None else pytree.tree_map(lambda *tensors: torch.cat(tensors), rest, batch)
        whole = min(batch_size(rest) // size, options.samples - len(found))
        found += [samples(rest, slice(index * size, (index + 1) * size)) for index in range(whole)]
        if len(found) == options.samples:
            return found
        rest = samples(rest, slice(whole * size, batch_size(rest))) if whole * size < batch_size(rest) else None
    if not found and rest is None:
        raise ValueError(f"the Fisher needs {LABELLED}; the data has no batches")
    return found or [rest]


def _labelled(data: Any) -> Iterator[tuple[Any, Tensor]]:
    """Inputs and labels of each batch."""
    opened = data() if callable(data) and not isinstance(data, Iterable) else data
    if not isinstance(opened, Iterable) or isinstance(opened, str | bytes):
        raise ValueError(f"the Fisher needs {LABELLED}; got a {type(opened).__name__}")
    inputs: Any
    for batch in opened:
        if isinstance(batch, Mapping):
            key = next((key for key in ("labels", "label") if key in batch), None)
            inputs, labels = {k: v for k, v in batch.items() if k != key}, batch.get(key)
        elif isinstance(batch, tuple | list) and len(batch) == 2:
            inputs, labels = batch[0], batch[1]
            inputs = tuple(inputs) if isinstance(inputs, list) else inputs
        else:
            inputs, labels = batch, None
        if not isinstance(labels, Tensor) or labels.dim() != 1 or labels.is_floating_point():
            raise ValueError(f"the Fisher needs {LABELLED}; a {type(batch).__name__} has none")
        leaves = pytree.tree_leaves(inputs)
        if not leaves or not all(isinstance(leaf, Tensor) for leaf in leaves):
            raise ValueError(f"the Fisher needs {LABELLED}; the inputs are a {type(inputs).__name__}")
        if len(labels) == 0 or leaves[0].dim() == 0 or len(leaves[0]) != len(labels):
            raise ValueError(f"a batch has inputs of shape {tuple(leaves[0].shape)} and {len(labels)} labels")
        yield inputs, labels


METHODS: dict[str, Pruner] = {
    pruner.name: pruner
    for pruner in (
        Pruner("magnitude", "the smallest weights of the whole model", "model", OPTIONS["magnitude"], _magnitude),
        Pruner(
            "magnitude_layer", "the smallest weights of each layer", "layer", OPTIONS["magnitude_layer"], _magnitude
        ),
        Pruner(
            "fisher",
            "the weights that cost the least loss by the diagonal of the empirical Fisher",
            "model",
            OPTIONS["fisher"],
            _fisher,
            reads="inputs and labels",
        ),
        Pruner(
            "woodfisher",
            "the weights that cost the least loss by blocks of the inverse Fisher, which also update the others",
            "model",
            OPTIONS["woodfisher"],
            _woodfisher,
            reads="inputs and labels",
        ),
        Pruner(
            "wanda",
            "each output unit's smallest products of weight and input norm",
            "unit",
            OPTIONS["wanda"],
            _wanda,
            reads="inputs",
        ),
    )
}
