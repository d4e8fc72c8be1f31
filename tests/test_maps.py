"""Unit maps: merging, unmerging and giving units back are what the matrices say."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from mergeline.maps import Absent, Dense, Groups, Permutation, UnitMap, among_more, without_partner

Index = NDArray[np.int64]


@st.composite
def permutations(draw: st.DrawFn, size: int | None = None) -> Permutation:
    count = draw(st.integers(1, 9)) if size is None else size
    return Permutation(np.array(draw(st.permutations(range(count))), dtype=np.int64))


@st.composite
def groupings(draw: st.DrawFn) -> Groups:
    merged = draw(st.integers(1, 5))
    labels = draw(st.lists(st.integers(0, merged - 1), min_size=1, max_size=8))
    return Groups(np.array(labels, dtype=np.int64), merged)


def dense(size: int = 4, merged: int = 4, seed: int = 0) -> Dense:
    forward = np.random.default_rng(seed).normal(size=(merged, size))
    return Dense(forward, np.linalg.pinv(forward))


def values(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(4))


# -- permutations ---------------------------------------------------------------------------------------------------


@given(permutations())
def test_restoring_inverts_merging_for_permutations(unit_map: Permutation) -> None:
    tensor = values(3, unit_map.size, 2)
    assert torch.equal(unit_map.restore(unit_map.merge(tensor, 1), 1), tensor)
    assert torch.equal(unit_map.merge(unit_map.restore(tensor, 1), 1), tensor)


@given(permutations())
def test_merged_unit_i_is_own_unit_index_i(unit_map: Permutation) -> None:
    tensor = values(unit_map.size)
    merged = unit_map.merge(tensor, 0)
    assert all(merged[i] == tensor[unit_map.index[i]] for i in range(unit_map.size))


@given(permutations(6), permutations(6))
def test_a_composition_is_one_permutation_after_the_other(first: Permutation, second: Permutation) -> None:
    tensor = values(6, 3)
    assert torch.equal(first.compose(second).merge(tensor, 0), second.merge(first.merge(tensor, 0), 0))


@given(permutations())
def test_a_permutation_followed_by_its_inverse_is_the_identity(unit_map: Permutation) -> None:
    assert unit_map.compose(unit_map.invert()).is_identity
    assert unit_map.invert().compose(unit_map).is_identity


@given(permutations(5))
def test_a_permuted_consumer_reads_permuted_units_as_before(unit_map: Permutation) -> None:
    weight, units = values(3, 5), values(5)
    torch.testing.assert_close(unit_map.unmerge(weight, 1) @ unit_map.merge(units, 0), weight @ units)


def test_the_identity_gives_the_tensor_itself() -> None:
    tensor = values(4, 4)
    assert Permutation.identity(4).merge(tensor, 0) is tensor


@pytest.mark.parametrize("index", [[0, 0, 1], [1, 2, 3], [-1, 0, 1]])
def test_an_index_that_is_no_permutation_is_refused(index: list[int]) -> None:
    with pytest.raises(ValueError, match="every unit exactly once"):
        Permutation(np.array(index))


# -- groups ---------------------------------------------------------------------------------------------------------


@given(groupings())
def test_the_mean_of_a_group_is_its_sum_over_its_mass(unit_map: Groups) -> None:
    tensor = values(unit_map.size, 3)
    merged, mass = unit_map.merge(tensor, 0), unit_map.mass()
    for group in range(unit_map.merged):
        members = tensor[torch.from_numpy(unit_map.labels == group)]
        assert mass[group] == len(members)
        torch.testing.assert_close(merged[group], members.sum(0))


@given(groupings())
def test_each_member_is_given_its_groups_value(unit_map: Groups) -> None:
    merged = values(2, unit_map.merged)
    own = unit_map.restore(merged, 1)
    assert own.shape == (2, unit_map.size)
    assert all(torch.equal(own[:, i], merged[:, unit_map.labels[i]]) for i in range(unit_map.size))


def check_unmerge(unit_map: UnitMap) -> None:
    """Reading merged units through an unmerged consumer is reading restored units through the own consumer."""
    weight, merged = values(3, unit_map.size, 2), values(unit_map.merged, 5)
    through = torch.einsum("oik,in->okn", unit_map.unmerge(weight, 1), merged)
    directly = torch.einsum("oik,in->okn", weight, unit_map.restore(merged, 0))
    torch.testing.assert_close(through, directly, rtol=1e-4, atol=1e-4)


@given(groupings())
def test_an_unmerged_consumer_reads_copies_of_the_groups_value(unit_map: Groups) -> None:
    check_unmerge(unit_map)


def test_groups_that_pair_units_are_the_permutation() -> None:
    permutation = Permutation(np.array([2, 0, 3, 1]))
    groups = Groups(permutation.invert().index, 4)
    tensor = values(4, 4)
    for axis in (0, 1):
        for action in ("merge", "unmerge", "restore"):
            assert torch.equal(getattr(groups, action)(tensor, axis), getattr(permutation, action)(tensor, axis))


@pytest.mark.parametrize("labels", [[0, 3], [-1, 0]])
def test_a_label_beyond_the_groups_is_refused(labels: list[int]) -> None:
    with pytest.raises(ValueError, match=r"labels must lie in 0\.\.2"):
        Groups(np.array(labels), 3)


def test_only_permutations_keep_batch_norm_variances_true() -> None:
    assert Permutation.identity(2).is_permutation
    assert not Groups(np.array([0, 0]), 1).is_permutation
    assert not dense().is_permutation


# -- linear maps ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "merged"), [(4, 4), (6, 4)])
def test_linear_maps_are_their_matrices(size: int, merged: int) -> None:
    unit_map = dense(size, merged)
    assert (unit_map.size, unit_map.merged) == (size, merged)
    own, joint = values(3, size, 2), values(3, merged, 2)
    forward, back = (torch.from_numpy(m).float() for m in (unit_map.to_merged, unit_map.to_own))
    torch.testing.assert_close(unit_map.merge(own, 1), torch.einsum("gi,aib->agb", forward, own))
    torch.testing.assert_close(unit_map.restore(joint, 1), torch.einsum("ig,agb->aib", back, joint))
    torch.testing.assert_close(unit_map.unmerge(own, 1), torch.einsum("aib,ig->agb", own, back))
    check_unmerge(unit_map)


def test_restoring_inverts_merging_for_an_exact_inverse() -> None:
    tensor = values(4, 3)
    unit_map = dense()
    torch.testing.assert_close(unit_map.restore(unit_map.merge(tensor, 0), 0), tensor, rtol=1e-4, atol=1e-5)
    assert unit_map.merge(tensor, 0).dtype == tensor.dtype


def test_permutation_matrices_are_the_permutation() -> None:
    permutation = Permutation(np.array([2, 0, 3, 1]))
    matrix = np.eye(4)[permutation.index]
    unit_map = Dense(matrix, matrix.T)
    tensor = values(4, 4)
    for axis in (0, 1):
        for action in ("merge", "unmerge", "restore"):
            assert torch.equal(getattr(unit_map, action)(tensor, axis), getattr(permutation, action)(tensor, axis))


# -- units in name only ---------------------------------------------------------------------------------------------


@given(st.integers(1, 6), st.integers(1, 6))
def test_absent_units_have_no_part_in_the_merged_ones(size: int, merged: int) -> None:
    absent, tensor = Absent(size, merged), values(3, size)
    for apply in ("merge", "unmerge", "deviations"):
        found = getattr(absent, apply)(tensor, 1)
        assert found.shape == (3, merged)
        assert not found.any()
    assert absent.mass().tolist() == [0.0] * merged
    assert (absent.size, absent.merged, absent.is_permutation) == (size, merged, True)
    assert absent.restore(values(3, merged), 1).shape == (3, size)
    assert without_partner([{"a": absent, "b": Permutation.identity(2)}, {"a": Permutation.identity(size)}]) == (
        merged,
        0,
    )


@given(permutations(), st.integers(0, 3))
def test_a_map_to_more_merged_units_is_the_same_map_to_the_first_of_them(order: Permutation, more: int) -> None:
    size = order.size
    eye = np.eye(size)[order.index]
    for unit_map in (order, Groups(order.index, size), Dense(eye, eye.T)):
        wide, tensor = among_more(unit_map, size + more), values(3, size)
        assert (wide.size, wide.merged) == (size, size + more)
        for apply in ("merge", "unmerge"):
            found = getattr(wide, apply)(tensor, 1)
            torch.testing.assert_close(found[:, :size], getattr(unit_map, apply)(tensor, 1))
            assert not found[:, size:].any()
