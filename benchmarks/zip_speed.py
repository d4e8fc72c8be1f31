"""zip with cached row maxima against the plain algorithm, which searches the whole matrix before every join."""

from __future__ import annotations

import time
from contextlib import nullcontext
from importlib.util import find_spec
from itertools import product
from statistics import median
from typing import Any
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

from mergeline.matching.zip import match_groups

UNITS = 2048
"""Units of both models together where the plain algorithm is timed; twice as many are zipped as well."""
ALPHA, BETA = 0.3, 0.125


SWEEP = ([1e-4, 0.01, 0.1, 0.3, 0.5, 1.0], [0.0, 0.0375, 0.075, 0.125, 0.25, 1.0])
"""The grid of alpha and beta that zipit searches."""


def measure(rounds: int = 5) -> dict[str, float | str]:
    """Seconds of all ways on one correlation matrix of two models, float64; the plain algorithm runs once, to its end.

    The compiled loop is warmed up first: compiling takes some seconds on a machine's first run and is then kept. Where
    numba is not installed, its numbers are those of the loop in numpy.
    """
    correlation, wide = correlations(UNITS), correlations(2 * UNITS)
    match_groups(correlation[:8, :8], [4, 4], 4, ALPHA, BETA)
    begun = time.perf_counter()
    expected = plain(correlation, ALPHA, BETA)
    slow = time.perf_counter() - begun
    found: dict[str, float | str] = {"plain seconds": slow, "numba": "yes" if find_spec("numba") else "no"}
    for name in ("", " in numpy"):
        with patch("mergeline.matching.zip._compiled", lambda: None) if name else nullcontext():
            seconds, labels = _seconds(correlation, rounds)
            if not np.array_equal(labels, expected):
                raise AssertionError("zip and the plain algorithm disagree")
            found[f"times faster{name}"] = slow / seconds
            found[f"seconds{name}"] = seconds
            found[f"seconds at twice the units{name}"] = _seconds(wide, rounds)[0]
    begun = time.perf_counter()
    for alpha, beta in product(*SWEEP):
        match_groups(correlation, [UNITS // 2] * 2, UNITS // 2, alpha, beta)
    found["seconds of a sweep"] = time.perf_counter() - begun
    return found


def correlations(units: int) -> NDArray[np.float64]:
    """Correlations like those of activations after a ReLU: some shared features, some noise."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(units, 64)) @ rng.normal(size=(64, 4000)) + 4 * rng.normal(size=(units, 4000))
    return np.corrcoef(np.maximum(features, 0))


def plain(correlation: NDArray[np.float64], alpha: float, beta: float) -> NDArray[np.int64]:
    """The algorithm for two models as it is published, in numpy: similarities and merge matrix lose a column a join."""
    similarity = correlation.copy()
    np.fill_diagonal(similarity, -np.inf)
    units = len(similarity)
    merge = np.eye(units)
    origin = np.repeat([0, 1], units // 2)
    budget = [int(units // 2 // 2 * beta + 1e-4)] * 2
    while merge.shape[1] > units // 2:
        row, column = divmod(int(similarity.argmax()), len(similarity))
        keep, drop = min(row, column), max(row, column)
        merge[:, keep] += merge[:, drop]
        merge = np.delete(merge, drop, axis=1)
        similarity[:, keep] = np.minimum(similarity[:, keep], similarity[:, drop]) * alpha
        similarity = np.delete(similarity, drop, axis=1)
        similarity[keep] = np.minimum(similarity[keep], similarity[drop]) * alpha
        similarity = np.delete(similarity, drop, axis=0)
        model, other = origin[keep], origin[drop]
        origin = np.delete(origin, drop)
        if model == other:
            budget[model] -= 1
            if budget[model] <= 0:
                own = origin == model
                similarity[np.ix_(own, own)] = -np.inf
    return merge.argmax(axis=1)


def _seconds(correlation: NDArray[Any], rounds: int) -> tuple[float, NDArray[np.int64]]:
    found = []
    half = len(correlation) // 2
    for _ in range(rounds):
        begun = time.perf_counter()
        labels = match_groups(correlation, [half, half], half, ALPHA, BETA)
        found.append(time.perf_counter() - begun)
    return median(found), labels


def line(found: dict[str, float | str]) -> str:
    return (
        f"zip: {found['times faster']:.0f} times faster than the plain algorithm at 2C = {UNITS} "
        f"({found['seconds']:.3f} s against {found['plain seconds']:.1f} s; at least 100 wanted), "
        f"{found['seconds at twice the units']:.2f} s at 2C = {2 * UNITS} (under 2 wanted); without numba "
        f"{found['times faster in numpy']:.0f} times ({found['seconds in numpy']:.3f} s) and "
        f"{found['seconds at twice the units in numpy']:.2f} s; {found['seconds of a sweep']:.1f} s for "
        f"{len(SWEEP[0]) * len(SWEEP[1])} alphas and betas"
    )


def main() -> None:
    print(line(measure()))


if __name__ == "__main__":
    main()
