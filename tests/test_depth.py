"""Depth: an expanded network is the shallow one, and placements that cannot be are refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import combinations, product

import pytest
import torch
from torch import nn

from mergeline.architectures import (
    ARCHITECTURES,
    BLOCKS,
    INPUT_SIZES,
    Architecture,
    as_wide,
    build,
    deepest,
    difference,
    multiplier,
    size_mismatch,
    stage_blocks,
)
from mergeline.depth import PLACEMENTS, place_append
from mergeline.depth.blocks import find_chains
from mergeline.depth.expansion import expand, expand_statistics, expand_to, noise
from mergeline.depth.similarity import block_similarity
from mergeline.heads import trace_architecture, trace_network
from mergeline.images import normalize
from mergeline.normalization.targets import layer_statistics
from mergeline.spaces import trace, verify
from tests.conftest import TINY, Trained

DEPTHS = ("r17", "r29", "r35", "r50")


def architecture(name: str, size: int = 32) -> Architecture:
    return Architecture(name, 10, 1 / 16, size)


def channels_last(model: nn.Module) -> nn.Module:
    return model.eval().to(memory_format=torch.channels_last)


def images(size: int = 32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return normalize(torch.randint(0, 256, (4, size, size, 3), generator=generator, dtype=torch.uint8))


@pytest.mark.parametrize(("shallow", "deep"), list(combinations(DEPTHS, 2)))
@pytest.mark.parametrize("size", [32, 64])
def test_an_expanded_model_is_the_shallow_one_bit_for_bit(
    shallow: str, deep: str, size: int, enliven: Callable[..., nn.Module]
) -> None:
    model = channels_last(enliven(build(architecture(shallow, size), 0)))
    expanded, topology = expand_to(model, architecture(shallow, size), deep)
    assert topology == architecture(deep, size)
    assert {name: t.shape for name, t in expanded.state_dict().items()} == {
        name: t.shape for name, t in build(topology).state_dict().items()
    }
    with torch.no_grad():
        assert torch.equal(channels_last(expanded)(images(size)), model(images(size)))


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("size", INPUT_SIZES)
def test_an_expanded_vision_transformer_is_the_shallow_one_bit_for_bit(
    size: int, placement: str, enliven: Callable[..., nn.Module]
) -> None:
    model, deep = (enliven(build(architecture(name, size), seed)) for seed, name in enumerate(("vit4", "vit8")))
    seen = images(size)
    similarity = block_similarity(model, deep, find_chains(model, deep), [seen])
    expanded, topology = expand_to(model, architecture("vit4", size), "vit8", placement, similarity)
    assert topology == architecture("vit8", size)
    assert {name: t.shape for name, t in expanded.state_dict().items()} == {
        name: t.shape for name, t in deep.state_dict().items()
    }
    with torch.no_grad():
        assert torch.equal(channels_last(expanded)(seen), channels_last(model)(seen))


def test_an_expanded_trained_model_is_the_same_function_bit_for_bit(trained: Trained) -> None:
    inputs = trained.toy.inputs(32)
    model = channels_last(trained.models[0])
    expanded, _ = expand_to(model, TINY, "r50")
    with torch.no_grad():
        assert torch.equal(channels_last(expanded)(inputs), model(inputs))


@pytest.mark.parametrize(("shallow", "deep"), [("r17", "r29"), ("r29", "r50"), ("vit4", "vit6")])
def test_the_statistics_of_an_expanded_model_are_its_own(
    shallow: str, deep: str, enliven: Callable[..., nn.Module]
) -> None:
    model, like = enliven(build(architecture(shallow), 0)), enliven(build(architecture(deep), 1))
    expanded, _ = expand_to(model, architecture(shallow), deep)
    seen = images(32)
    own, expected, other = (layer_statistics(m, trace(m, seen[:2]), [seen]) for m in (model, expanded, like))
    found = expand_statistics(own, other, architecture(shallow), architecture(deep), "append")
    assert found is not None
    assert set(found) == set(expected)
    for name, statistics in expected.items():
        torch.testing.assert_close(found[name].mean, statistics.mean, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(found[name].deviation, statistics.deviation, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("deep", ["r29", "r29x2"])
def test_a_model_is_expanded_at_its_own_width(deep: str, enliven: Callable[..., nn.Module]) -> None:
    model, like = channels_last(enliven(build(architecture("r17x2"), 0))), enliven(build(architecture(deep), 1))
    expanded, topology = expand_to(model, architecture("r17x2"), deep)
    assert topology == architecture("r29x2")
    seen = images()
    with torch.no_grad():
        assert torch.equal(channels_last(expanded)(seen), model(seen))
    own, expected, other = (layer_statistics(m, trace(m, seen[:2]), [seen]) for m in (model, expanded, like))
    found = expand_statistics(own, other, architecture("r17x2"), topology, "append")
    assert found is not None
    for name, statistics in expected.items():
        torch.testing.assert_close(found[name].mean, statistics.mean, rtol=1e-5, atol=1e-6)


def test_a_model_of_the_topology_is_itself() -> None:
    model = build(architecture("r35"), 0)
    same, topology = expand_to(model, architecture("r35"), "r35")
    assert same is model
    assert topology == architecture("r35")


def test_the_units_of_an_expanded_model_may_be_permuted(enliven: Callable[..., nn.Module]) -> None:
    expanded, _ = expand_to(enliven(build(architecture("r17"), 0)), architecture("r17"), "r29")
    differences = verify(expanded, images())
    assert set(differences) == {space.name for space in trace_network(expanded, 32).free}


PAIRS = [("r17", "r29"), ("r29", "r50"), ("vgg11", "vgg13"), ("vgg11-bn", "vgg16-bn"), ("vit4", "vit6"), ("bert3", "bert6"),
         ("r17-seg", "r26-seg")]  # fmt: skip


@pytest.mark.parametrize(("shallow", "deep"), PAIRS)
@pytest.mark.parametrize("placement", [name for name, placement in PLACEMENTS.items() if not placement.compares])
def test_an_expanded_model_has_the_spaces_and_the_graph_of_its_topology(
    shallow: str, deep: str, placement: str
) -> None:
    expanded, topology = expand_to(build(architecture(shallow), 0), architecture(shallow), deep, placement)
    own, known = trace_network(expanded.eval(), 32, topology.reads), trace_architecture(topology)
    assert (own.spaces, own.tensors, own.grouped, dict(own.carried)) == (
        known.spaces, known.tensors, known.grouped, dict(known.carried),
    )  # fmt: skip
    assert str(own.graph) == str(known.graph)
    assert own.recording.shapes == known.recording.shapes
    assert own.recording.module_outputs == known.recording.module_outputs


def test_an_architecture_is_traced_once_but_for_a_name_that_is_given_to_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = trace_architecture(architecture("r17"))
    assert trace_architecture(architecture("r17")) is first
    monkeypatch.setitem(ARCHITECTURES, "r17", replace(ARCHITECTURES["r29"], name="r17"))
    assert len(trace_architecture(architecture("r17"))) > len(first)


def test_expansion_leaves_the_source_as_it_was() -> None:
    model = build(architecture("r17"), 0)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    expanded, _ = expand_to(model, architecture("r17"), "r29")
    with torch.no_grad():
        for parameter in expanded.parameters():
            parameter.zero_()
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_identity_blocks_have_a_residual_branch_of_zero() -> None:
    expanded = expand(build(architecture("r17"), 0), build(architecture("r29")), noise(32))
    added = {name: tensor for name, tensor in expanded.state_dict().items() if name.startswith("layer1.1.")}
    assert len(added) == 18
    for name, tensor in added.items():
        assert torch.equal(
            tensor, torch.ones_like(tensor) if name.endswith("running_var") else torch.zeros_like(tensor)
        )


@pytest.mark.parametrize(
    "placement",
    [((0, None), (0, None), (0, None, 1), (0, None)), ((0, None), (0, None), (0, 1, None), (0, None))],
    ids=["between", "at the end"],
)
def test_blocks_may_stand_anywhere_behind_the_first(
    placement: tuple[tuple[int | None, ...], ...], enliven: Callable[..., nn.Module]
) -> None:
    model = channels_last(enliven(build(architecture("r17"), 0)))
    expanded = expand(model, build(architecture("r29")), noise(32), placement)
    with torch.no_grad():
        assert torch.equal(channels_last(expanded)(images()), model(images()))


# -- what cannot be is refused --------------------------------------------------------------------------------------


def test_the_block_with_the_projection_must_stay_first() -> None:
    placement = ((None, 0), (0, None), (0, 1, None), (0, None))
    with pytest.raises(ValueError, match="stage 1: its first block, the one with the projection, must stay first"):
        expand(build(architecture("r17"), 0), build(architecture("r29")), noise(32), placement)


@pytest.mark.parametrize(
    ("stage", "said"),
    [
        ((0, 1, None), "places blocks 0 to 1 among 3"),
        ((1, 0, None), "does not place"),
        ((0, 1), "among 3"),
        ((0, None, None), "0 to 1"),
    ],
)
def test_what_is_no_placement_is_refused(stage: tuple[int | None, ...], said: str) -> None:
    placement = ((0, None), (0, None), stage, (0, None))
    model, deep = build(architecture("r17"), 0), build(architecture("r29"))
    if stage == (0, 1, None):
        assert len(expand(model, deep, noise(32), placement).layer3) == 3  # type: ignore[arg-type]
        return
    with pytest.raises(ValueError, match=f"stage 3.*{said}"):
        expand(model, deep, noise(32), placement)


def test_a_model_with_a_longer_stage_is_refused_with_both_block_counts() -> None:
    with pytest.raises(ValueError, match=r"blocks \(2,\) of 'layer1' do not fit into \(1,\)"):
        expand(build(architecture("r29")), build(architecture("r17")), noise(32))


@pytest.mark.parametrize(("shallow", "deep"), [((1, 2), (2, 1)), ((1, 1), (1, 1, 1)), ((3,), (2,))])
def test_blocks_that_do_not_fit_are_refused(shallow: tuple[int, ...], deep: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="do not fit into"):
        place_append(shallow, deep)


@pytest.mark.parametrize(("shallow", "deep"), list(combinations(BLOCKS, 2)))
def test_appending_keeps_every_block_in_order(shallow: str, deep: str) -> None:
    placement = place_append(stage_blocks(shallow), stage_blocks(deep))
    assert tuple(map(len, placement)) == stage_blocks(deep)
    for own, blocks in zip(stage_blocks(shallow), placement, strict=True):
        assert [block for block in blocks if block is not None] == list(range(own))
        assert all(block is None for block in blocks[own:])


# -- depths compared ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second", "value"),
    [
        ("r17", "r29", (1 / 2 + 1 / 2 + 1 / 3 + 1 / 2) / 4),
        ("r17", "r50", (2 / 3 + 3 / 4 + 4 / 6 + 2 / 3) / 4),
        ("r29", "r35", (0 + 1 / 3 + 1 / 4 + 0) / 4),
        ("r50", "r101", (17 / 23) / 4),
        ("r101", "r152", (0 + 4 / 8 + 13 / 36 + 0) / 4),
        ("r17", "r152", (2 / 3 + 7 / 8 + 34 / 36 + 2 / 3) / 4),
    ],
)
def test_size_mismatch_is_the_mean_share_of_missing_blocks(first: str, second: str, value: float) -> None:
    assert size_mismatch(first, second) == pytest.approx(value)
    assert size_mismatch(second, first) == pytest.approx(value)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_equal_depths_do_not_mismatch(name: str) -> None:
    assert size_mismatch(name, name) == 0


@pytest.mark.parametrize(("first", "second"), list(product(BLOCKS, repeat=2)))
def test_the_deepest_holds_every_block_of_the_other(first: str, second: str) -> None:
    name = deepest([first, second])
    assert name == max((first, second), key=lambda n: sum(stage_blocks(n)))
    assert all(d >= s for other in (first, second) for d, s in zip(BLOCKS[name], BLOCKS[other], strict=True))


def test_depths_of_different_families_have_no_deepest() -> None:
    with pytest.raises(ValueError, match="none of r17, vgg11 can hold the others: depths and widths can differ only"):
        deepest(["r17", "vgg11"])


# -- widths compared ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name, design in ARCHITECTURES.items() if design.multiplier > 1])
def test_an_architecture_of_more_channels_is_the_narrow_one_at_that_width(name: str) -> None:
    times = multiplier(name)
    narrow = as_wide(name, 1)
    with torch.device("meta"):
        wide, other = (build(Architecture(n, 4, w, 32)) for n, w in ((name, 0.125), (narrow, 0.125 * times)))
    assert {key: t.shape for key, t in wide.state_dict().items()} == {
        key: t.shape for key, t in other.state_dict().items()
    }
    assert stage_blocks(name) == stage_blocks(narrow)
    assert size_mismatch(name, narrow) == 0
    assert as_wide(narrow, times) == name


@pytest.mark.parametrize(
    ("names", "topology", "differ"),
    [
        (["r26", "r26x2"], "r26x2", "widths"),
        (["r26x4", "r26x2"], "r26x4", "widths"),
        (["r50", "r26x2"], "r50x2", "depths and widths"),
        (["r50x2", "r26"], "r50x2", "depths and widths"),
        (["vgg11-bn", "vgg16x2-bn", "vgg13x4-bn"], "vgg16x4-bn", "depths and widths"),
        (["resnet20", "resnet20x4"], "resnet20x4", "widths"),
        (["r17", "r29"], "r29", "depths"),
        (["vit4", "vit12", "vit8"], "vit12", "depths"),
        (["r17", "r17"], "r17", ""),
    ],
)
def test_a_topology_has_the_deepest_blocks_and_the_widest_channels(
    names: list[str], topology: str, differ: str
) -> None:
    assert deepest(names) == deepest(names[::-1]) == topology
    assert difference(names) == differ


@pytest.mark.parametrize(
    "names", [["vgg11", "vgg11x2-bn"], ["linear5", "linear8"], ["resnet20-gn", "resnet20x4"], ["vit4", "swin"]]
)
def test_widths_of_different_families_have_no_common_topology(names: list[str]) -> None:
    with pytest.raises(ValueError, match="can hold the others"):
        deepest(names)


def test_a_width_that_there_is_not_is_refused() -> None:
    with pytest.raises(ValueError, match="no architecture with the blocks of r17 and 3 times the channels"):
        as_wide("r17", 3)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (("r18", 10, 1.0, 32), "unknown architecture 'r18'; known: r17, r26.*; and wider ones such as r17x2"),
        (("r17", 0, 1.0, 32), "needs num_classes >= 1 and width > 0, got num_classes=0"),
        (("r17", 10, -1.0, 32), "width=-1.0"),
        (("r17", 10, 1.0, 48), "input size 48 has no stem; known: 32, 64, 224"),
    ],
)
def test_an_architecture_that_cannot_be_says_what_is_known(values: tuple[str, int, float, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Architecture(*values)
