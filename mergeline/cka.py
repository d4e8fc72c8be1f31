"""CKA: how alike two representations of the same samples are, whatever the order and the scale of their units.

Linear centred kernel alignment from HSIC of the samples' Gram matrices. The unbiased one is averaged over minibatches
before the ratio is taken, so that nothing but sums is kept between batches (docs/numerics.md, "Along the line, and inside of
networks").
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mergeline.moments import DEAD
from mergeline.readings import SMALLEST_BATCH

__all__ = ["MinibatchCka", "centred_gram", "cka", "sample_rows"]


MOSTLY_MEAN = 0.02
"""Share of the features' squares that is not their mean's, below which products in float32 lose more than a digit to it."""
SUMMED_IN_FLOAT32 = 1024
"""Entries of a sample that are summed up in float32; sums of these are float64, or narrow products lose digits."""


def cka(x: Tensor | NDArray[np.floating], y: Tensor | NDArray[np.floating], unbiased: bool = True) -> float:
    """Linear CKA of two representations of the same ``n`` samples.

    Parameters
    ----------
    x, y: ``(n, p)`` and ``(n, q)``. unbiased: from the unbiased HSIC, at most about 1 and about 0 for what is unrelated;
        else from the biased one, in [0, 1], which is large for few samples of many units.

    Raises
    ------
    ValueError: not two matrices of as many rows, fewer samples than HSIC is defined for, or values that are not finite.
    """
    first, second = (torch.as_tensor(value).detach().double() for value in (x, y))
    if first.dim() != 2 or second.dim() != 2 or len(first) != len(second):
        raise ValueError(f"CKA compares (n, p) with (n, q), got shapes {tuple(first.shape)} and {tuple(second.shape)}")
    if not bool(torch.isfinite(first).all() and torch.isfinite(second).all()):
        raise ValueError("CKA compares features, and some of these are not finite")
    if len(first) < (SMALLEST_BATCH if unbiased else 2):
        raise ValueError(f"CKA needs at least {SMALLEST_BATCH if unbiased else 2} samples, got {len(first)}")
    if not unbiased:
        first, second = (_product(value - value.mean(0)).flatten() for value in (first, second))
    else:
        first, second = (centred_gram(value).flatten() for value in (first, second))
    scale = float(first.norm() * second.norm())
    return float(first @ second) / scale if scale > 0 else 0.0


def sample_rows(values: Tensor, axis: int = 0) -> Tensor:
    """A value with the samples along ``axis`` as ``(samples, entries)``, the entries in the order in which they lie in memory:
    neither a Gram matrix nor a norm depends on it, and nothing is copied."""
    rows = values.movedim(axis, 0)
    order = sorted(range(1, rows.dim()), key=rows.stride, reverse=True)
    return rows.permute(0, *order).flatten(1)


def _product(rows: Tensor) -> Tensor:
    """``rows @ rows.T`` in float64, as fast as in the features' own precision."""
    parts = rows.split(rows.shape[1] - rows.shape[1] % SUMMED_IN_FLOAT32 or rows.shape[1], dim=1)
    blocks = parts[0].unflatten(1, (-1, min(SUMMED_IN_FLOAT32, parts[0].shape[1]))).transpose(0, 1)
    gram = (blocks @ blocks.mT).double().sum(0)
    return gram + (parts[1] @ parts[1].T).double() if len(parts) > 1 else gram


def centred_gram(features: Tensor) -> Tensor:
    """The Gram matrix ``(n, n)`` of ``n`` samples' features ``(n, p)``, such that the sum of the product of two, entry by
    entry, is ``n (n - 3)`` times their unbiased HSIC; float64, 0 where the features do not depend on the sample."""
    gram = _product(features)
    whole = gram.diagonal().sum()
    spread = whole - gram.mean(0).sum()
    if spread < MOSTLY_MEAN * whole:
        # HSIC does not see a shift of the features; without their mean the products keep their digits.
        gram = _product(features - features.mean(0))
        spread = gram.diagonal().sum()
    return _u_centred(gram * (spread > DEAD * whole))


def _u_centred(gram: Tensor) -> Tensor:
    """A Gram matrix without its diagonal, and with rows and columns that sum to 0: ``(K*, L*) / (n (n - 3))`` is then the
    unbiased HSIC of ``K`` and ``L``."""
    n = len(gram)
    hollow = gram - torch.diag(gram.diagonal())
    rows = hollow.sum(0) / (n - 2)
    centred = hollow - rows[:, None] - rows + hollow.sum() / ((n - 1) * (n - 2))
    return centred.fill_diagonal_(0)


class MinibatchCka:
    """CKA of every representation of one model with every one of another, over minibatches of the same samples."""

    def __init__(self) -> None:
        self._sums: list[Tensor] = []

    def add(self, first: Iterable[Tensor], second: Iterable[Tensor]) -> None:
        """Add a minibatch of ``n`` samples: the centred Gram matrices of either model's representations, ``(n, n)`` each."""
        a, b = (torch.stack(list(grams)) for grams in (first, second))
        n = a.shape[-1]
        if n < SMALLEST_BATCH:
            raise ValueError(f"CKA needs batches of at least {SMALLEST_BATCH} images, got one of {n}")
        a, b = (grams.flatten(1) / (n * (n - 3)) ** 0.5 for grams in (a, b))
        found = [a @ b.T, a.square().sum(1), b.square().sum(1)]
        self._sums = [one + two for one, two in zip(self._sums, found, strict=True)] if self._sums else found

    def matrix(self) -> NDArray[np.float64]:
        """``(first, second)``; 0 for a representation that does not depend on the sample, NaN for one with values that are not
        finite.

        Raises
        ------
        ValueError: no minibatch was added.
        """
        if not self._sums:
            raise ValueError("layers are compared on images, and there are none")
        both, one, two = self._sums
        scale = one.sqrt()[:, None] * two.sqrt()
        result: NDArray[np.float64] = (
            torch.where(scale == 0, 0.0, both / torch.where(scale == 0, 1.0, scale)).cpu().numpy()
        )
        return result
