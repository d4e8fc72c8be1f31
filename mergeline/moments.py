"""Streaming moments of the activations of several models, in one pass over the images.

For each space: how many samples, every unit's mean and variance, and the covariance blocks between the units of
models ``i`` and ``j``. Products are float32 matrix products of values shifted by the first batch's mean, folded into
float64, so that a channel with a large mean and a small variance keeps its digits (docs/numerics.md,
"Moments"). The result does not depend on the batch size, nor (to rounding) on the order of the images.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations, combinations_with_replacement

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mergeline.spaces import Space, Spaces, Walk

__all__ = ["MomentAccumulator", "Moments", "collect_moments", "cross_pairs", "full_pairs", "lockstep"]

Float64 = NDArray[np.float64]
Pair = tuple[int, int]

FOLD_ROWS = 8192
"""Samples that are summed in float32 before they are folded into float64."""
CACHE_BYTES = 1 << 20
"""Bytes of shifted activations handled at a time on a CPU, so that they stay in its second-level cache."""
NARROW = 16
"""Units up to which products are taken in float64: some BLAS kernels add narrow float32 products one by one, and lose
half of the digits over thousands of samples."""
DEAD = 1e-12
"""Share of a unit's mean square that its variance must exceed, or float32 cannot tell it from 0."""


def cross_pairs(n_models: int) -> tuple[Pair, ...]:
    """The blocks between different models, enough for ``permute``."""
    return tuple(combinations(range(n_models), 2))


def full_pairs(n_models: int) -> tuple[Pair, ...]:
    """The blocks between and within models, as ``zip``, ``cca`` and ``dual_zip`` need them."""
    return tuple(combinations_with_replacement(range(n_models), 2))


@dataclass(frozen=True)
class Moments:
    """Moments of one space over ``n`` samples, for several models.

    ``means[k]`` and ``variances[k]``: ``(C_k,)`` float64 of model ``k`` (population variance, never negative).
    ``covariances[i, j]`` with ``i <= j``: covariance ``(C_i, C_j)`` between the units of models ``i`` and ``j``.
    """

    space: str
    n: int
    means: tuple[Float64, ...]
    variances: tuple[Float64, ...]
    covariances: dict[Pair, Float64] = field(repr=False)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Units of each model."""
        return tuple(len(mean) for mean in self.means)

    def covariance(self, first: int, second: int) -> Float64:
        """The covariance block ``(C_first, C_second)``.

        Raises
        ------
        KeyError: the pass did not collect this block.
        """
        if (first, second) in self.covariances:
            return self.covariances[first, second]
        if (second, first) in self.covariances:
            return self.covariances[second, first].T
        raise KeyError(
            f"space {self.space!r}: the block of models {first} and {second} was not collected; "
            f"collected: {sorted(self.covariances)}"
        )

    def dead(self, model: int) -> NDArray[np.bool_]:
        """Units whose variance cannot be told from 0 at their magnitude, ``(C,)``."""
        variance = self.variances[model]
        return variance <= DEAD * (variance + self.means[model] ** 2)

    def correlation(self, first: int, second: int) -> Float64:
        """``cov / (sigma_i sigma_j)``, ``(C_first, C_second)``, whatever the scale of the layer; 0 for a dead unit."""
        return (
            self.covariance(first, second) * self._inverse_deviations(first)[:, None] * self._inverse_deviations(second)
        )

    def _inverse_deviations(self, model: int) -> Float64:
        """``1 / sigma``, ``(C,)``; 0 for a dead unit."""
        dead = self.dead(model)
        return np.where(dead, 0.0, 1 / np.sqrt(np.where(dead, 1.0, self.variances[model])))

    def joint_covariance(self) -> Float64:
        """All blocks in one matrix, ``(sum C, sum C)``, models in order."""
        k = len(self.means)
        return np.block([[self.covariance(i, j) for j in range(k)] for i in range(k)])

    def joint_correlation(self) -> Float64:
        """All correlations in one matrix, ``(sum C, sum C)``, models in order."""
        k = len(self.means)
        return np.block([[self.correlation(i, j) for j in range(k)] for i in range(k)])

    def select(self, models: Sequence[int]) -> Moments:
        """The moments of some of the models, renumbered in the order given."""
        covariances = {}
        for a, i in enumerate(models):
            for b, j in enumerate(models):
                if a <= b and ((i, j) in self.covariances or (j, i) in self.covariances):
                    covariances[a, b] = self.covariance(i, j)
        return Moments(
            self.space,
            self.n,
            tuple(self.means[i] for i in models),
            tuple(self.variances[i] for i in models),
            covariances,
        )


class MomentAccumulator:
    """Adds up one space's moments batch by batch."""

    def __init__(self, space: str, pairs: Sequence[Pair]) -> None:
        self.space = space
        self.pairs = tuple(pairs)
        self.n = 0
        self._shifts: list[Tensor] = []
        self._sums: list[Tensor] = []
        self._squares: list[Tensor] = []
        self._products: dict[Pair, Tensor] = {}
        self._pending: dict[Pair, Tensor] = {}
        self._pending_rows = 0

    def update(self, values: Sequence[Tensor]) -> None:
        """Add a batch: one ``(samples, C_k)`` float32 tensor per model, the same samples in the same order."""
        if not self._shifts:
            self._start(values)
        rows = values[0].shape[0]
        for begin in range(0, rows, self._chunk):
            self._add([value[begin : begin + self._chunk] for value in values])
        self.n += rows

    def finish(self) -> Moments:
        """The moments of everything added so far."""
        if self.n == 0:
            raise ValueError(f"space {self.space!r}: no samples were added")
        self._fold()
        means = [s / self.n for s in self._sums]
        covariances = {
            (i, j): (product / self.n - torch.outer(means[i], means[j])).cpu().numpy()
            for (i, j), product in self._products.items()
        }
        variances = [
            torch.from_numpy(np.diagonal(covariances[k, k]).copy())
            if (k, k) in covariances
            else (square / self.n - mean * mean).cpu()
            for k, (square, mean) in enumerate(zip(self._squares, means, strict=True))
        ]
        return Moments(
            space=self.space,
            n=self.n,
            means=tuple((m + s.double()).cpu().numpy() for m, s in zip(means, self._shifts, strict=True)),
            variances=tuple(v.clamp_min(0).numpy() for v in variances),
            covariances=covariances,
        )

    def _start(self, values: Sequence[Tensor]) -> None:
        device = values[0].device
        self._shifts = [value.mean(0) for value in values]
        sizes = [value.shape[1] for value in values]
        self._sums = [torch.zeros(size, dtype=torch.float64, device=device) for size in sizes]
        self._squares = [torch.zeros_like(s) for s in self._sums]
        for i, j in self.pairs:
            shape = (sizes[i], sizes[j])
            self._products[i, j] = torch.zeros(shape, dtype=torch.float64, device=device)
            kind = torch.float64 if min(shape) <= NARROW else torch.float32
            self._pending[i, j] = torch.zeros(shape, dtype=kind, device=device)
        self._chunk = max(64, CACHE_BYTES // (4 * sum(sizes))) if device.type == "cpu" else FOLD_ROWS

    def _add(self, values: list[Tensor]) -> None:
        centred = [value - shift for value, shift in zip(values, self._shifts, strict=True)]
        for k, z in enumerate(centred):
            self._sums[k] += z.sum(0)
            if (k, k) not in self._pending:
                self._squares[k] += z.square().sum(0)
        for (i, j), pending in self._pending.items():
            pending.addmm_(centred[i].to(pending.dtype).T, centred[j].to(pending.dtype))
        self._pending_rows += centred[0].shape[0]
        if self._pending_rows >= FOLD_ROWS:
            self._fold()

    def _fold(self) -> None:
        for pair, pending in self._pending.items():
            self._products[pair] += pending
            pending.zero_()
        self._pending_rows = 0


def lockstep(walks: Sequence[Walk], images: Tensor) -> Iterator[tuple[Space, list[Tensor]]]:
    """Step several models of one topology side by side: each space with every model's ``(samples, C)`` values."""
    for step in zip(*(walk.activations(images) for walk in walks), strict=True):
        yield step[0][0], [values for _, values in step]


@torch.no_grad()
def collect_moments(
    models: Sequence[nn.Module],
    spaces: Spaces,
    batches: Iterable[Tensor],
    pairs: Sequence[Pair] | None = None,
) -> dict[str, Moments]:
    """Moments of every free space, for all models in one pass.

    Parameters
    ----------
    models: models of one topology (shallower ones expanded to it), put in eval mode here.
    spaces: the spaces of that topology, with each model's own where widths differ.
    batches: images ``(batch, channels, height, width)`` on the models' device, each batch once.
    pairs: the blocks to collect; by default all blocks between different models (``cross_pairs``).
    """
    pairs = cross_pairs(len(models)) if pairs is None else tuple(pairs)
    accumulators = {space.name: MomentAccumulator(space.name, pairs) for space in spaces.free}
    walks = [Walk(spaces.of(index), model) for index, model in enumerate(models)]
    for images in batches:
        for space, values in lockstep(walks, images):
            accumulators[space.name].update(values)
    return {name: accumulator.finish() for name, accumulator in accumulators.items()}
