"""What happens inside of a merged network: how its features vanish, how its layers' scales change, what they have in common.

A layer's output is looked at as the network goes on with it: after its batch norm, where one follows at once. A layer that
is used several times counts with all its uses; one that no sample reaches (it reads a table) is left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils import _pytree as pytree

from mergeline.cka import MinibatchCka, centred_gram, sample_rows
from mergeline.readings import SMALLEST_BATCH
from mergeline.sources import batch_size, samples
from mergeline.spaces import Spaces, Walk
from mergeline.spaces.layers import Layer, layers
from mergeline.spaces.norms import layers_with_norms
from mergeline.spaces.walking import model_tensors
from mergeline.unit_statistics import UnitStatistics, unit_statistics

__all__ = [
    "BatchStatistics",
    "Magnitude",
    "Vanishing",
    "batch_norm_statistics",
    "cka_map",
    "feature_norms",
    "layer_variances",
    "magnitudes",
    "vanishing",
]

Float64 = NDArray[np.float64]


# -- the outputs of layers --------------------------------------------------------------------------------------------


class _Outputs:
    """A model's layers' outputs, in forward order, as it runs.

    Parameters
    ----------
    example: a batch, by which is found out where the samples are in each output.
    """

    def __init__(self, model: nn.Module, spaces: Spaces, example: Any) -> None:
        self.walk = Walk(spaces, model)
        normed = {own.layer: own.norm for own in layers_with_norms(spaces.graph)}
        places = {normed.get(node, node): layer for layer in layers(spaces.graph) for node in layer.nodes}
        self._layers = {node: places[node] for node in spaces.graph.nodes if node in places}
        self._single = self._shapes(samples(example, [0]))
        self._axes: dict[fx.Node, int | None] = {}

    def _shapes(self, batch: Any) -> dict[fx.Node, torch.Size]:
        return {node: value.shape for node, value in self.walk.values(batch) if node in self._layers}

    def _axis(self, node: fx.Node, shape: torch.Size) -> int | None:
        """Where the samples are in a node's value, which is of another size for another number of them; None for nowhere."""
        if node not in self._axes:
            self._axes[node] = next(iter(_differing(self._single[node], shape)), None)
        return self._axes[node]

    def _sampled(self, batch: Any) -> Iterator[tuple[fx.Node, Tensor, int]]:
        if not self._axes and batch_size(batch) == 1:
            for node, shape in self._shapes(samples(batch, [0, 0])).items():
                self._axis(node, shape)
        for node, value in self.walk.values(batch):
            if node in self._layers and (axis := self._axis(node, value.shape)) is not None:
                yield node, value, axis

    def values(self, batch: Any) -> Iterator[tuple[Layer, Tensor]]:
        """Each use's output, which what comes next may overwrite: read it before taking the next."""
        return ((self._layers[node], value) for node, value, _ in self._sampled(batch))

    def features(self, batch: Any) -> Iterator[tuple[Layer, Tensor]]:
        """The same with all entries of a sample in a row, ``(samples, entries)``."""
        return ((self._layers[node], sample_rows(value, axis)) for node, value, axis in self._sampled(batch))


def _differing(first: Sequence[int], second: Sequence[int]) -> list[int]:
    return [axis for axis, sizes in enumerate(zip(first, second, strict=True)) if sizes[0] != sizes[1]]


def _started(batches: Iterable[Any], model: nn.Module, spaces: Spaces) -> Iterator[tuple[_Outputs, Any]]:
    """The batches, with a model's outputs, which the first of them was looked at for."""
    outputs = None
    for batch in batches:
        outputs = _Outputs(model, spaces, batch) if outputs is None else outputs
        yield outputs, batch
    if outputs is None:
        raise ValueError("layers are measured on images, and there are none")


# -- vanishing features -----------------------------------------------------------------------------------------------


class Vanishing(NamedTuple):
    """By layer, in forward order: ``relative``, how much of the sources' input-induced features the merged model has (1 is
    all of it), and ``bound``, the upper bound sequence, which never rises from layer to layer."""

    relative: dict[str, float]
    bound: dict[str, float]


@torch.no_grad()
def feature_norms(model: nn.Module, spaces: Spaces, batches: Iterable[Any]) -> dict[str, float]:
    """``E ||f_l(x) - f_l(0)||`` of each layer: the scale of what it owes to the input (vanishing_feature Def. 5.1).

    Parameters
    ----------
    model: of the topology of ``spaces``, put in eval mode here.
    batches: of inputs as the model takes them; 0 is their mean colour, where images are normalised. The norm is over all
        entries of one sample's output.

    Raises
    ------
    ValueError: no batches, or inputs for which 0 has no meaning (token ids).
    """
    sums: dict[str, Tensor] = {}
    count = 0
    for outputs, batch in _started(batches, model, spaces):
        squares: dict[str, Tensor] = {}
        # The zero input goes along in every batch, so that nothing of it is kept between layers that work in place.
        for layer, rows in outputs.features(_with_zero(batch)):
            _add(squares, layer.name, torch.linalg.vector_norm(rows[:-1] - rows[-1], dim=1).double().square())
        for name, own in squares.items():
            _add(sums, name, own.sqrt().sum())
        count += batch_size(batch)
    return {name: float(total) / count for name, total in sums.items()}


def _add(sums: dict[str, Tensor], name: str, value: Tensor) -> None:
    sums[name] = sums[name] + value if name in sums else value


def _with_zero(batch: Any) -> Any:
    """A batch with one more sample, of zeros."""
    count = batch_size(batch)
    if not all(leaf.is_floating_point() for leaf in pytree.tree_leaves(batch)):
        raise ValueError("features are measured from those of a zero input, which inputs of whole numbers do not have")
    return pytree.tree_map(lambda t: torch.cat([t, torch.zeros_like(t[:1])]) if len(t) == count else t, batch)


def vanishing(merged: Mapping[str, float], sources: Sequence[Mapping[str, float]], smoothing: float = 1.0) -> Vanishing:
    """A merged model's :func:`feature_norms` relative to its sources', and the tight non-increasing bound of that.

    ``e_L = r_L`` and ``e_l = max(c_l e_{l+1}, r_l)`` with ``r_l`` the merged model's norm divided by the mean of the sources',
    and ``c_l = gamma + (1 - gamma) (1 - 1 / (L + 1 - l))`` (vanishing_feature A.3, "Measuring the Vanishing Feature").

    Parameters
    ----------
    merged, sources: norms by layer, the merged model's in forward order; layers that only the sources have are left out.
    smoothing: gamma; 1 smooths nothing, the paper's figures that also show what comes before batch norms have 1.4.

    Raises
    ------
    ValueError: no sources, a source without one of the layers, or a smoothing below 1, which makes no bound.
    """
    if not sources:
        raise ValueError("what vanishes is measured against source models, and there are none")
    if not 1 <= smoothing < math.inf:
        raise ValueError(f"smoothing must be at least 1 and finite, or the sequence is no upper bound, got {smoothing}")
    for number, source in enumerate(sources):
        if missing := [name for name in merged if name not in source]:
            raise ValueError(f"source {number} has no layer {', '.join(missing[:3])}, which the merged model has")
    relative = {
        name: _ratio(norm, sum(source[name] for source in sources) / len(sources)) for name, norm in merged.items()
    }
    bound: dict[str, float] = {}
    last = 0.0
    for steps, (name, value) in enumerate(reversed(relative.items()), start=1):
        factor = smoothing + (1 - smoothing) * (1 - 1 / steps)
        last = math.nan if math.isnan(last) or math.isnan(value) else max(factor * last, value)
        bound[name] = last
    return Vanishing(relative, dict(reversed(bound.items())))


def _ratio(norm: float, mean: float) -> float:
    """Relative to the sources; 1 where they have nothing and nothing was lost (identity blocks of an expansion)."""
    if mean:
        return norm / mean
    return float("inf") if norm else 1.0


# -- scales -----------------------------------------------------------------------------------------------------------


class Magnitude(NamedTuple):
    """The size of a layer's entries: of its ``weight``, and of its ``bias`` (0 where it has none)."""

    weight: float
    bias: float


class BatchStatistics(NamedTuple):
    """A batch norm's running ``mean`` and ``variance``, ``(C,)`` float64 each."""

    mean: Float64
    variance: Float64


@torch.no_grad()
def layer_variances(model: nn.Module, spaces: Spaces, batches: Iterable[Any]) -> dict[str, float]:
    """By layer, the mean over its units of their variance over all samples and positions: what collapses in a merged network
    (vanishing_feature Def. 4.1).

    Parameters
    ----------
    model: of the topology of ``spaces``, put in eval mode here. batches: of inputs as the model takes them.

    Raises
    ------
    ValueError: no batches.
    """
    found: dict[str, UnitStatistics] = {}
    for outputs, batch in _started(batches, model, spaces):
        for layer, value in outputs.values(batch):
            own = unit_statistics([value], layer.channel)
            found[layer.name] = found[layer.name].joined(own) if layer.name in found else own
    return {name: float(own.deviation.square().mean()) for name, own in found.items()}


def magnitudes(model: nn.Module, spaces: Spaces, order: int = 2) -> dict[str, Magnitude]:
    """By layer, the size of its weight and bias: ``(mean |w|^order)^(1 / order)``.

    ``order`` 2 is the root mean square; 1 the mean absolute value, as vanishing_feature Fig. 1 shows it.

    Raises
    ------
    ValueError: an order below 1.
    """
    if order < 1:
        raise ValueError(f"the order of a mean of magnitudes must be 1 at least, got {order}")
    tensors = model_tensors(model)
    return {
        layer.name: Magnitude(*(_size(tensors, name, layer, order) for name in (layer.weight, layer.bias)))
        for layer in layers(spaces.graph)
    }


def _size(tensors: Mapping[str, Tensor], name: str, layer: Layer, order: int) -> float:
    if not name:
        return 0.0
    tensor = tensors[name]
    if layer.rows is not None:
        tensor = tensor.movedim(layer.axis, 0)[slice(*layer.rows)]
    return float(tensor.double().abs().pow(order).mean() ** (1 / order)) if tensor.numel() else 0.0


def batch_norm_statistics(model: nn.Module) -> dict[str, BatchStatistics]:
    """The running statistics of every batch norm that tracks them, by the module's name (vanishing_feature Fig. 2 C)."""
    return {
        name: BatchStatistics(_numpy(module.running_mean), _numpy(module.running_var))
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm) and module.running_mean is not None and module.running_var is not None
    }


def _numpy(tensor: Tensor) -> Float64:
    """A copy in float64."""
    return np.array(tensor.detach().cpu(), dtype=np.float64)


# -- what two models' layers have in common ---------------------------------------------------------------------------


@torch.no_grad()
def cka_map(
    first: nn.Module,
    second: nn.Module,
    first_spaces: Spaces,
    second_spaces: Spaces,
    batches: Iterable[Any],
) -> tuple[list[str], list[str], Float64]:
    """Linear CKA between all layers of two models, which may be of different depth and width.

    From the unbiased HSIC of every batch, averaged over batches before the ratio is taken (docs/numerics.md, "Along the line, and
    inside of networks"). Gram matrices are computed once per layer and batch; nothing but sums is kept between batches.

    Parameters
    ----------
    first, second: put in eval mode here; on one device. batches: of the same inputs for both, at least 4 images each.

    Returns
    -------
    The layers' names of either model, in forward order, and the similarities ``(len(first), len(second))``, which are at most
    about 1; 0 where a layer's features do not depend on the image.

    Raises
    ------
    ValueError: no batches, or one of fewer than 4 images.
    """
    pair: tuple[_Outputs, _Outputs] | None = None
    names: list[list[str]] = []
    similarity = MinibatchCka()
    for batch in batches:
        if batch_size(batch) < SMALLEST_BATCH:
            raise ValueError(f"CKA needs batches of at least {SMALLEST_BATCH} images, got one of {batch_size(batch)}")
        if pair is None:
            pair = (_Outputs(first, first_spaces, batch), _Outputs(second, second_spaces, batch))
        grams = [_centred_grams(outputs, batch) for outputs in pair]
        names = [list(own) for own in grams]
        similarity.add(*(own.values() for own in grams))
    matrix = similarity.matrix()
    return names[0], names[1], matrix


def _centred_grams(outputs: _Outputs, batch: Any) -> dict[str, Tensor]:
    """Each layer's centred Gram matrix, ``(n, n)`` float64, in forward order; the sum over its uses."""
    grams: dict[str, Tensor] = {}
    for layer, rows in outputs.features(batch):
        _add(grams, layer.name, centred_gram(rows))
    return grams
