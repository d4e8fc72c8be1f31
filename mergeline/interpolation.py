"""Between models: the loss along the line that merging takes them over, its barrier, and the plane through three models.

The barrier is how far the loss on the way rises over the straight line between the two ends' losses; that of accuracy how
far it falls below (vanishing_feature A.4; docs/numerics.md, "Along the line, and inside of networks").
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mergeline.barriers import accuracy_barrier, barrier, check_alphas
from mergeline.evaluation import predict, score, target_of
from mergeline.maps import UnitMap
from mergeline.network import assemble, check_maps, check_normalization, normalise
from mergeline.normalization import NORMALIZATIONS
from mergeline.normalization.restoring import source_statistics
from mergeline.sources import Batches
from mergeline.spaces import Spaces
from mergeline.unit_statistics import LayerStatistics

__all__ = ["Curve", "Landscape", "interpolate", "landscape"]

Float64 = NDArray[np.float64]

FLAT = 1e-6
"""Share of a direction's length below which what is left of it, the first direction taken out, is rounding."""


# -- the line between two models --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Curve:
    """Loss (nats) and accuracy (0..1) of the merges of two models at ``alphas``, the second model's shares."""

    alphas: tuple[float, ...]
    losses: tuple[float, ...]
    accuracies: tuple[float, ...]

    @property
    def loss_barrier(self) -> float:
        """:func:`barrier` of the losses."""
        return barrier(self.losses, self.alphas)

    @property
    def accuracy_barrier(self) -> float:
        """:func:`accuracy_barrier` of the accuracies."""
        return accuracy_barrier(self.accuracies, self.alphas)


def interpolate(
    models: Sequence[nn.Module],
    spaces: Spaces,
    maps: Sequence[Mapping[str, UnitMap]],
    alphas: Sequence[float],
    images: Iterable[Tensor],
    labels: Tensor,
    normalize: str = "reset",
    options: Any = None,
    statistics: Iterable[Any] = (),
    *,
    layers: Sequence[LayerStatistics] = (),
    readout: Callable[[Tensor], Tensor] | None = None,
    on_point: Callable[[int, int], object] | None = None,
    reference: nn.Module | None = None,
) -> Curve:
    """Loss and accuracy of the merges of two models of one task with weights ``(1 - alpha, alpha)``.

    At 0 and 1 the models themselves are scored, whatever the maps and the normalisation.

    Parameters
    ----------
    models: two of one topology and one task, put in eval mode here. maps: each model's, by space. reference: a network of the
        merged widths, the first model by default. spaces: the merged network's, with each model's own where widths differ.
    alphas: shares of the second model, 0 and 1 among them; see :data:`mergeline.barriers.ALPHAS`.
    images: batches of normalised images that the merges are scored on, all of them at every alpha. labels: of all, ``(N,)``.
    normalize, options: what sets every merge's statistics; see :func:`mergeline.network.normalise`.
    statistics: batches of inputs that the normalisation reads.
    layers: each model's statistics by layer on these, for a normalisation that compares with them; taken here by default.
    readout: what turns outputs into logits. on_point: told after each point how many of them are done, and their number.

    Raises
    ------
    ValueError: not two models, alphas without an end, an unknown normalisation or one that would do nothing, maps that the
        network does not allow, no images, labels that are values.
    """
    networks = _checked(models, spaces, maps, alphas, normalize, reference)
    shown, read = _shown(images, labels), Batches(statistics, True)
    # The models' own statistics are the same at every alpha.
    own: Sequence[Mapping[str, LayerStatistics]] = [{"0": known} for known in layers]
    if not own and NORMALIZATIONS[normalize].compares:
        own = source_statistics(networks, spaces, dict.fromkeys(networks, read))

    def between(alpha: float) -> nn.Module:
        if alpha in (0, 1):
            return models[int(alpha)]
        weights = (1 - alpha, alpha)
        network = assemble(networks, spaces, maps, same_outputs=True, weights=weights, reference=reference)
        return normalise(
            network, normalize, options, models=networks, spaces=spaces, maps=maps, weights=weights, mixed=read,
            statistics=own,
        )  # fmt: skip

    scores = []
    for alpha in alphas:
        scores.append(_scored(between(alpha), shown, labels, readout))
        if on_point is not None:
            on_point(len(scores), len(alphas))
    losses, accuracies = zip(*scores, strict=True)
    return Curve(tuple(float(alpha) for alpha in alphas), losses, accuracies)


def _shown(images: Iterable[Tensor], labels: Tensor) -> Batches:
    if target_of(labels) == "values":
        raise ValueError("a curve has the loss and the accuracy of classes, and these labels are values")
    shown = Batches(images, True)
    if not len(shown):
        raise ValueError("a curve needs images that the merges are scored on, and there are none")
    return shown


def _scored(
    network: nn.Module, shown: Iterable[Any], labels: Tensor, readout: Callable[[Tensor], Tensor] | None
) -> tuple[float, float]:
    """Loss and accuracy."""
    outputs = predict(network, shown)
    assert isinstance(outputs, Tensor)
    found = score(outputs if readout is None else readout(outputs), labels.cpu())
    return found["loss"], found["accuracy"]


def _checked(
    models: Sequence[nn.Module],
    spaces: Spaces,
    maps: Sequence[Mapping[str, UnitMap]],
    alphas: Sequence[float],
    normalize: str,
    reference: nn.Module | None,
) -> dict[str, nn.Module]:
    if len(models) != 2:
        raise ValueError(f"a curve lies between two models, got {len(models)}")
    check_alphas(alphas)
    check_normalization(normalize, models[0] if reference is None else reference, spaces)
    check_maps(spaces, maps, normalize)
    return {str(number): model for number, model in enumerate(models)}


# -- the plane through three models -----------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Landscape:
    """Losses on a grid of the plane through three models; coordinates are lengths in parameter space, from the first model.

    ``u`` and ``v``: the grid's coordinates, ``(steps,)`` each. ``values[j, i]``: the loss at ``(u[i], v[j])``.
    ``models``: coordinates of the three models, ``(3, 2)``, the first at ``(0, 0)``, the second at ``(u, 0)``;
    ``model_values``: the losses there, ``(3,)``. Where several losses are measured, both have them along a last axis.
    """

    u: Float64
    v: Float64
    values: Float64
    models: Float64
    model_values: Float64


@torch.no_grad()
def landscape(
    models: Sequence[nn.Module],
    steps: int,
    evaluate: Callable[[nn.Module], float | Sequence[float]],
    *,
    prepare: Callable[[nn.Module], object] | None = None,
    margin: float = 0.25,
) -> Landscape:
    """The loss on the plane ``theta_0 + u e_1 + v e_2`` through three models (as mudsc Fig. 3 shows it).

    ``e_1``, ``e_2``: orthonormal (Gram-Schmidt), from the differences between the models, over all floating-point tensors of
    their state dicts. Other tensors are the first model's. A running variance that leaving the triangle would make negative
    is 0.

    Parameters
    ----------
    models: three of one topology, such as a merged network and its two sources.
    steps: grid points along each axis, at least 2.
    evaluate: the loss of a network, or several losses (one for each task). The network is in eval mode and has the
        parameters of a point; one network serves all points: keep no reference to it.
    prepare: run on the network at each point before that, to set batch-norm statistics.
    margin: how far the grid goes beyond the models on each side, as a share of their extent.

    Raises
    ------
    ValueError: not three models of the same tensors, models on one line, fewer than 2 steps, a negative margin.
    """
    if len(models) != 3:
        raise ValueError(f"a plane lies through three models, got {len(models)}")
    if steps < 2 or not 0 <= margin < math.inf:
        raise ValueError(f"a grid needs steps >= 2 and margin >= 0, got steps={steps} and margin={margin}")
    plane = _Plane([model.state_dict() for model in models])
    network = deepcopy(models[0])
    u, v = (_axis(plane.coordinates[:, axis], steps, margin) for axis in (0, 1))

    def value(point: tuple[float, float]) -> Float64:
        network.load_state_dict(plane.state(*point))
        network.eval()
        if prepare is not None:
            prepare(network)
        return np.asarray(evaluate(network.eval()), dtype=np.float64)

    values = np.array([[value((x, y)) for x in u] for y in v])
    own = np.array([value((x, y)) for x, y in plane.coordinates])
    return Landscape(u, v, values, plane.coordinates, own)


def _axis(places: Float64, steps: int, margin: float) -> Float64:
    """Grid coordinates that hold all places, and a margin on both sides."""
    beyond = margin * (places.max() - places.min())
    return np.linspace(places.min() - beyond, places.max() + beyond, steps)


class _Plane:
    """The plane through three state dicts. ``coordinates``: where they are in it, ``(3, 2)``."""

    def __init__(self, states: Sequence[Mapping[str, Tensor]]) -> None:
        _check_same_tensors(states)
        self.first = {name: tensor.clone() for name, tensor in states[0].items()}
        self.names = [name for name, tensor in self.first.items() if tensor.is_floating_point()]
        self.origin, second, third = (torch.cat([s[name].double().flatten() for name in self.names]) for s in states)
        along, across = second - self.origin, third - self.origin
        length = float(along.norm())
        first = along / length if length else along
        reach, rest = float(across @ first), across - (across @ first) * first
        height = float(rest.norm())
        if not length or height <= FLAT * float(across.norm()):
            raise ValueError(
                "the three models lie on one line (as a plain average and its sources do): no plane is theirs"
            )
        self.basis = (first, rest / height)
        self.coordinates = np.array([[0.0, 0.0], [length, 0.0], [reach, height]])

    def state(self, u: float, v: float) -> dict[str, Tensor]:
        """The state dict of a point."""
        flat = self.origin + u * self.basis[0] + v * self.basis[1]
        found = dict(self.first)
        start = 0
        for name in self.names:
            like = self.first[name]
            part = flat[start : start + like.numel()].view_as(like)
            found[name] = (part.clamp_min(0) if name.endswith("running_var") else part).to(like.dtype)
            start += like.numel()
        return found


def _check_same_tensors(states: Sequence[Mapping[str, Tensor]]) -> None:
    shapes = [{name: tensor.shape for name, tensor in state.items()} for state in states]
    for number, own in enumerate(shapes[1:], start=1):
        odd = sorted(name for name in {*shapes[0], *own} if shapes[0].get(name) != own.get(name))
        if odd:
            raise ValueError(f"model {number} has other tensors than model 0: {', '.join(odd[:3])}")
