"""Seeds depend on names alone, and on all of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mergeline.seeds import derive_seed, numpy_generator, torch_generator

names = st.lists(st.text(alphabet="abr17.+-_ 0123", max_size=8), min_size=1, max_size=3)


@given(st.integers(0, 2**31 - 1), names)
def test_a_seed_fits_every_generator(base: int, parts: list[str]) -> None:
    seed = derive_seed(base, *parts)
    assert 0 <= seed < 2**63
    assert torch.Generator().manual_seed(seed).initial_seed() == seed
    assert np.random.default_rng(seed).integers(2**31) >= 0


@given(st.integers(0, 99), names, st.integers(0, 99), names)
def test_different_names_give_different_seeds(base: int, parts: list[str], other: int, others: list[str]) -> None:
    assert (derive_seed(base, *parts) == derive_seed(other, *others)) == ((base, parts) == (other, others))


def test_where_names_part_matters() -> None:
    assert derive_seed(0, "ab", "c") != derive_seed(0, "a", "bc")
    assert derive_seed(0, "a") != derive_seed(0, "a", "")


def test_numbers_and_their_text_are_one_name() -> None:
    assert derive_seed(0, "image", 3) == derive_seed(0, "image", "3")


@pytest.mark.parametrize(
    ("parts", "seed"),
    [
        ((0, "train", "digits.r17.s0"), 5992460089235991375),
        ((0, "train", "digits.r17.s1"), 6022749956359655875),
        ((1, "reset", "digits"), 3592227976076955947),
    ],
)
def test_seeds_stay_what_they_are(parts: tuple[int, str, str], seed: int) -> None:
    assert derive_seed(*parts) == seed


def test_generators_draw_the_same_for_the_same_names() -> None:
    for generator in (torch_generator, numpy_generator):
        first, second, other = generator(0, "a", 1), generator(0, "a", 1), generator(0, "a", 2)
        if isinstance(first, torch.Generator):
            draws = [torch.randperm(50, generator=g).tolist() for g in (first, second, other)]  # type: ignore[arg-type]
        else:
            draws = [g.permutation(50).tolist() for g in (first, second, other)]  # type: ignore[union-attr]
        assert draws[0] == draws[1]
        assert draws[0] != draws[2]


def test_drawing_leaves_the_global_generators_alone() -> None:
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    torch.randn(5, generator=torch_generator(0, "a"))
    numpy_generator(0, "a").normal(size=5)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()  # noqa: NPY002
