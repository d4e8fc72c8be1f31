"""Seeds: every random draw of a benchmark comes from one number and the name of what draws.

A seed depends on names alone, never on the order in which things run, so that a cell computed alone, in parallel or
a year later draws the same numbers.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch


def derive_seed(base: int, *names: object) -> int:
    """A 63-bit seed for ``names`` (stage, cell, purpose, ...) under the benchmark's ``base`` seed.

    >>> derive_seed(0, "train", "digits.r17.s0") == derive_seed(0, "train", "digits.r17.s0")
    True
    >>> derive_seed(0, "train", "digits.r17.s0") == derive_seed(0, "train", "digits.r17.s1")
    False
    """
    text = "\x1f".join([str(int(base)), *(str(name) for name in names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def torch_generator(base: int, *names: object, device: torch.device | str = "cpu") -> torch.Generator:
    """A torch generator on ``device`` seeded for ``names``."""
    return torch.Generator(device=device).manual_seed(derive_seed(base, *names))


def numpy_generator(base: int, *names: object) -> np.random.Generator:
    """A numpy generator seeded for ``names``."""
    return np.random.default_rng(derive_seed(base, *names))
