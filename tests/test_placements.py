"""Placements by similarity: the exact optimum, for every family of networks, and through the whole of a merge."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from itertools import combinations, product

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import nn
from torchvision.models.convnext import CNBlockConfig, ConvNeXt
from torchvision.models.vision_transformer import VisionTransformer

import mergeline
from mergeline.architectures import Architecture, build
from mergeline.cka import MinibatchCka, centred_gram, cka
from mergeline.depth import PLACEMENTS, Depths, place_lma, place_sma, place_spread
from mergeline.depth.alignment import to_one_depth
from mergeline.depth.blocks import find_chains
from mergeline.depth.expansion import block_counts, expand, own_names, place
from mergeline.depth.similarity import block_similarity
from mergeline.depth.spread import SPREAD
from mergeline.maps import Absent, Dense, UnitMap
from mergeline.models.bert import Bert, BertShape
from mergeline.network import assemble
from mergeline.normalization.reset import reset
from mergeline.spaces import trace
from tests.test_width import widened

Matrix = NDArray[np.float64]


# -- the dynamic programs -------------------------------------------------------------------------------------------


def all_starts(n_deep: int, n_shallow: int) -> Iterator[tuple[int, ...]]:
    """In lexicographic order."""
    return ((0, *rest) for rest in combinations(range(1, n_deep), n_shallow - 1))


def gain(similarity: Matrix, starts: tuple[int, ...], members: bool) -> float:
    total = 0.0
    for block, (start, end) in enumerate(zip(starts, [*starts[1:], len(similarity)], strict=True)):
        total += similarity[start:end, block].sum() if members else similarity[end - 1, block]
    return total


@st.composite
def similarities(draw: st.DrawFn) -> Matrix:
    """Up to 8 deep and 4 shallow blocks, in eighths: sums are exact, and ties are common."""
    n_deep = draw(st.integers(1, 8))
    n_shallow = draw(st.integers(1, min(4, n_deep)))
    values = draw(st.lists(st.integers(-4, 8), min_size=n_deep * n_shallow, max_size=n_deep * n_shallow))
    return np.array(values, dtype=np.float64).reshape(n_deep, n_shallow) / 8


@pytest.mark.parametrize(("find", "members"), [(place_sma, False), (place_lma, True)], ids=["sma", "lma"])
@settings(max_examples=300, deadline=None)
@given(similarity=similarities())
def test_a_placement_is_the_best_of_all_and_the_first_of_equals(
    find: Callable[[Matrix], tuple[int, ...]], members: bool, similarity: Matrix
) -> None:
    candidates = list(all_starts(*similarity.shape))
    best = max(gain(similarity, starts, members) for starts in candidates)
    assert find(similarity) == next(s for s in candidates if gain(similarity, s, members) == best)


@pytest.mark.parametrize("find", [place_sma, place_lma])
@pytest.mark.parametrize(
    "wrong",
    [np.zeros((2, 3)), np.zeros(3), np.full((3, 2), np.nan), np.zeros((3, 0))],
    ids=["wide", "flat", "nan", "empty"],
)
def test_what_is_no_similarity_is_refused(find: Callable[[Matrix], object], wrong: Matrix) -> None:
    with pytest.raises(ValueError, match="similarit"):
        find(wrong)


@given(counts=st.integers(1, 40).flatmap(lambda deep: st.tuples(st.integers(1, deep), st.just(deep))))
def test_spread_segments_differ_in_length_by_one_at_most(counts: tuple[int, int]) -> None:
    ((*blocks,),) = place_spread(counts[:1], counts[1:])
    starts = [at for at, block in enumerate(blocks) if block is not None]
    lengths = np.diff([*starts, counts[1]])
    assert starts[0] == 0
    assert [blocks[at] for at in starts] == list(range(counts[0]))
    assert lengths.max() - lengths.min() <= 1


def test_depths_that_do_not_fit_are_refused_with_both_block_counts() -> None:
    with pytest.raises(ValueError, match=r"blocks \(3, 1\) do not fit into \(2, 2\)"):
        Depths((3, 1), (2, 2))
    with pytest.raises(ValueError, match=r"shapes \[\(2, 2\)\], the blocks of the stages are \[\(3, 2\)\]"):
        Depths((2,), (3,), (np.zeros((2, 2)),))


# -- CKA --------------------------------------------------------------------------------------------------------------


def literal_hsic(k: Matrix, m: Matrix) -> float:
    """The unbiased estimator as it is printed (Song et al. 2012, eq. 5)."""
    n = len(k)
    k, m = k - np.diag(np.diag(k)), m - np.diag(np.diag(m))
    ones = np.ones(n)
    whole = (
        np.trace(k @ m)
        + (ones @ k @ ones) * (ones @ m @ ones) / ((n - 1) * (n - 2))
        - 2 * (ones @ k @ m @ ones) / (n - 2)
    )
    return float(whole / (n * (n - 3)))


@pytest.mark.parametrize("n", [4, 5, 12])
def test_cka_is_the_literal_one(n: int) -> None:
    rng = np.random.default_rng(n)
    x = rng.normal(size=(n, 7))
    y = np.tanh(x[:, :3] @ rng.normal(size=(3, 5))) + 0.3 * rng.normal(size=(n, 5))
    k, m = x @ x.T, y @ y.T
    expected = literal_hsic(k, m) / np.sqrt(literal_hsic(k, k) * literal_hsic(m, m))
    assert cka(x, y) == pytest.approx(expected, rel=1e-10)
    h = np.eye(n) - 1 / n
    biased = np.trace(k @ h @ m @ h) / np.sqrt(np.trace(k @ h @ k @ h) * np.trace(m @ h @ m @ h))
    assert cka(x, y, unbiased=False) == pytest.approx(biased, rel=1e-10)


@pytest.mark.parametrize("unbiased", [True, False])
def test_a_permuted_scaled_and_shifted_copy_has_a_cka_of_one(unbiased: bool) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(20, 6))
    copy = 3 * x[:, rng.permutation(6)] + 100
    assert cka(x, copy, unbiased) == pytest.approx(1, abs=1e-9)
    assert cka(x, np.ones((20, 3)), unbiased) == 0


def test_minibatch_cka_depends_on_no_order_and_little_on_the_size_of_batches() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(240, 6, generator=generator)
    y = torch.tanh(x[:, :4]) + 0.5 * torch.randn(240, 4, generator=generator)

    def value(batches: list[torch.Tensor]) -> float:
        similarity = MinibatchCka()
        for rows in batches:
            similarity.add([centred_gram(x[rows])], [centred_gram(y[rows])])
        return float(similarity.matrix()[0, 0])

    order = torch.randperm(240, generator=generator)
    batches = list(order.split(40))
    assert value(batches) == pytest.approx(value(batches[::-1]), rel=1e-12)
    assert value(batches) == pytest.approx(value([rows.flip(0) for rows in batches]), rel=1e-6)
    assert value(batches) == pytest.approx(cka(x, y), abs=0.02)
    assert value(list(order.split(20))) == pytest.approx(cka(x, y), abs=0.03)


@pytest.mark.parametrize(("x", "y"), [((3, 2), (3, 2)), ((5, 2), (6, 2)), ((5,), (5, 2))])
def test_what_cannot_be_compared_is_refused(x: tuple[int, ...], y: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="CKA"):
        cka(np.zeros(x), np.zeros(y))


@pytest.mark.parametrize("unbiased", [True, False])
def test_features_that_are_not_finite_are_like_nothing(unbiased: bool) -> None:
    x = np.random.default_rng(0).normal(size=(9, 3))
    bad = x.copy()
    bad[4, 1] = np.inf
    with pytest.raises(ValueError, match="not finite"):
        cka(x, bad, unbiased)
    similarity = MinibatchCka()
    grams = [centred_gram(torch.from_numpy(own)) for own in (x, np.ones((9, 2)), bad)]
    similarity.add(grams, grams)
    found = similarity.matrix()
    assert np.isnan(found[2]).all()
    assert np.isnan(found[:, 2]).all()
    assert found[0, 0] == pytest.approx(1)
    assert not found[1, :2].any()


# -- families ---------------------------------------------------------------------------------------------------------


def resnets() -> tuple[nn.Module, nn.Module]:
    block = torchvision.models.resnet.BasicBlock
    return tuple(torchvision.models.ResNet(block, blocks, 5) for blocks in ([2, 1, 1, 2], [3, 1, 4, 2]))  # type: ignore[return-value]


def vggs(norm: bool) -> tuple[nn.Module, nn.Module]:
    def make(*plan: int | str) -> nn.Module:
        features = torchvision.models.vgg.make_layers(list(plan), norm)  # type: ignore[arg-type]
        return nn.Sequential(features, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5))

    return make(8, "M", 16, 16, "M"), make(8, 8, 8, "M", 16, 16, 16, "M")


def convnexts() -> tuple[nn.Module, nn.Module]:
    settings = [[CNBlockConfig(8, 16, n), CNBlockConfig(16, None, 1)] for n in (2, 4)]
    return tuple(ConvNeXt(own, num_classes=5) for own in settings)  # type: ignore[return-value]


def vits() -> tuple[nn.Module, nn.Module]:
    return tuple(VisionTransformer(32, 8, depth, 4, 16, 32, num_classes=5) for depth in (2, 5))  # type: ignore[return-value]


class PostNormBlock(nn.Module):
    """As BERT has them: the sum is normed."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)
        self.norm = nn.LayerNorm(16)
        self.inner, self.outer = nn.Linear(16, 32), nn.Linear(32, 16)
        self.last = nn.LayerNorm(16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(x + self.attention(x, x, x, need_weights=False)[0])
        return self.last(x + self.outer(torch.nn.functional.gelu(self.inner(x))))


class PostNorm(nn.Module):
    def __init__(self, depth: int) -> None:
        super().__init__()
        self.embed = nn.Linear(48, 16)
        self.layer = nn.ModuleList(PostNormBlock() for _ in range(depth))
        self.head = nn.Linear(16, 5)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.embed(
            images.unflatten(2, (8, 4)).unflatten(4, (8, 4)).permute(0, 2, 4, 1, 3, 5).flatten(1, 2).flatten(2)
        )
        for block in self.layer:
            x = block(x)
        return self.head(x.mean(1))


def mlps() -> tuple[nn.Module, nn.Module]:
    def make(depth: int) -> nn.Module:
        hidden = [module for _ in range(depth) for module in (nn.Linear(12, 12), nn.ReLU())]
        return nn.Sequential(nn.AvgPool2d(16), nn.Flatten(), *hidden, nn.Linear(12, 5))

    return make(2), make(4)


FAMILIES: dict[str, tuple[Callable[[], tuple[nn.Module, nn.Module]], float]] = {
    "resnet": (resnets, 0), "vgg": (lambda: vggs(False), 0), "vgg-bn": (lambda: vggs(True), 0), "convnext": (convnexts, 0),
    "vit": (vits, 0), "mlp": (mlps, 0), "post-norm": (lambda: (PostNorm(2), PostNorm(5)), 2e-6),
}  # fmt: skip


def batch(n: int = 8) -> torch.Tensor:
    return torch.randn(n, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("placement", list(PLACEMENTS))
@pytest.mark.parametrize("family", FAMILIES)
def test_an_expanded_network_is_the_same_function_for_every_placement_and_family(
    family: str, placement: str, enliven: Callable[..., nn.Module]
) -> None:
    make, apart = FAMILIES[family]
    torch.manual_seed(0)
    shallow, deep = (enliven(model).eval() for model in make())
    chains = find_chains(shallow, deep)
    similarity = block_similarity(shallow, deep, chains, [batch()]) if PLACEMENTS[placement].compares else ()
    before = {name: tensor.clone() for name, tensor in shallow.state_dict().items()}
    expanded = expand(shallow, deep, batch(2), place(chains, PLACEMENTS[placement], similarity))
    with torch.no_grad():
        difference = (expanded(batch()) - shallow(batch())).abs().max()
    assert difference <= apart
    shapes = [{name: tensor.shape for name, tensor in model.state_dict().items()} for model in (expanded, deep)]
    assert shapes[0] == shapes[1]
    assert list(expanded.state_dict()) == list(deep.state_dict())
    assert all(torch.equal(before[name], tensor) for name, tensor in shallow.state_dict().items())


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "post-norm"])  # its norms change places
def test_the_own_name_of_every_tensor_is_the_tensor_that_stands_there(
    family: str, enliven: Callable[..., nn.Module]
) -> None:
    shallow, deep = FAMILIES[family][0]()
    enliven(shallow)
    chains = find_chains(shallow, deep)
    placed = place(chains, SPREAD)
    expanded, state = expand(shallow, deep, batch(2), placed).state_dict(), shallow.state_dict()
    names = own_names(list(expanded), chains, placed)
    assert {source for source in names.values() if source is not None} == set(state)
    assert all(torch.equal(expanded[name], state[source]) for name, source in names.items() if source is not None)


@pytest.mark.parametrize("family", ["resnet", "vgg", "vit"])
def test_blocks_are_like_themselves(family: str, enliven: Callable[..., nn.Module]) -> None:
    shallow, deep = (enliven(model).eval() for model in FAMILIES[family][0]())
    chains = find_chains(shallow, deep)
    expanded = expand(shallow, deep, batch(2), place(chains, SPREAD))
    similarity = block_similarity(shallow, expanded, chains, [batch(6), batch(5)])
    shallow_counts, deep_counts = block_counts(chains)
    assert [matrix.shape for matrix in similarity] == list(zip(deep_counts, shallow_counts, strict=True))
    for matrix, blocks in zip(similarity, place(chains, SPREAD), strict=True):
        own = np.maximum.accumulate([-1 if block is None else block for block in blocks])
        np.testing.assert_allclose(matrix[np.arange(len(own)), own], 1, atol=1e-4)


@pytest.mark.parametrize("side", ["shallow", "deep"])
def test_a_block_that_gives_no_finite_values_is_named(side: str, enliven: Callable[..., nn.Module]) -> None:
    pair = dict(zip(("shallow", "deep"), (enliven(model).eval() for model in vggs(False)), strict=True))
    chains = find_chains(**pair)
    with torch.no_grad():
        next(pair[side].parameters()).mul_(1e38)
    with pytest.raises(ValueError, match=r"'0\.1' gives values that are not finite"):
        block_similarity(pair["shallow"], pair["deep"], chains, [batch()])


@pytest.mark.parametrize(
    ("shallow", "deep", "said"),
    [
        (nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.GELU())),
         nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.GELU(), nn.Conv2d(4, 4, 3, padding=1), nn.GELU())),
         "GELU stands behind the layers of '0', and it changes what it gave"),
        (nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU())),
         nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 4), nn.ReLU())),
         "can be no identity"),
        (nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.ReLU())),
         nn.Sequential(nn.Sequential(*[m for c in (3, 4) for m in
                                       (nn.Conv2d(c, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.ReLU())])),
         "GroupNorm"),
        (nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3))),
         nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3))),
         r"one has \(1,\) blocks and beside them MaxPool2d Conv2d, one \(1,\) and Conv2d"),
        (nn.Sequential(nn.Linear(3, 3)), nn.Sequential(nn.Conv2d(3, 3, 1)), "one is a Linear, one a Conv2d"),
    ],
)  # fmt: skip
def test_networks_that_cannot_be_matched_are_refused(shallow: nn.Module, deep: nn.Module, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        expand(shallow, deep, batch(2))


# -- merging ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", list(PLACEMENTS))
def test_models_of_different_depth_are_merged_in_one_call(depth: str, enliven: Callable[..., nn.Module]) -> None:
    shallow, deep = (enliven(model) for model in resnets())
    result = mergeline.merge([shallow, deep], [batch(), batch(6)], depth=depth)
    assert {k: t.shape for k, t in result.model.state_dict().items()} == {
        k: t.shape for k, t in deep.state_dict().items()
    }
    placed = result.placed["0"]
    assert placed.shallow == (2, 1)
    assert placed.deep == (3, 4)
    assert [len(own) for own in placed.starts] == [2, 1]
    assert len(placed.similarity) == (2 if PLACEMENTS[depth].compares else 0)


def test_a_model_merged_with_its_own_expansion_is_itself(enliven: Callable[..., nn.Module]) -> None:
    shallow, deep = (enliven(model).eval() for model in resnets())
    expanded = expand(shallow, deep, batch(2))
    with torch.no_grad():
        merged = mergeline.merge([expanded, shallow], [batch()], normalize="none", method="identity").model
        torch.testing.assert_close(merged(batch()), shallow(batch()))


def test_three_models_and_several_tasks_of_different_depth(enliven: Callable[..., nn.Module]) -> None:
    models = {"a": vits()[1], "b": vits()[0], "c": vits()[0]}
    networks, placed = to_one_depth(
        {name: enliven(model).eval() for name, model in models.items()}, PLACEMENTS["lma"], {"all": [batch()]}
    )
    assert sorted(placed) == ["b", "c"]
    assert len({tuple(network.state_dict()) for network in networks.values()}) == 1
    result = mergeline.merge(models, {name: [batch()] for name in models}, depth="lma", normalize="none")
    with torch.no_grad():
        assert sorted(result.model(batch(2))) == ["a", "b", "c"]


def test_faults_in_depth_are_named_before_any_work(enliven: Callable[..., nn.Module]) -> None:
    shallow, deep = resnets()
    with pytest.raises(ValueError, match="unknown depth 'best'; known: append, spread, sma, lma"):
        mergeline.merge([shallow, deep], [batch()], depth="best")
    crossing = torchvision.models.ResNet(torchvision.models.resnet.BasicBlock, [4, 1, 1, 2], 5)
    with pytest.raises(ValueError, match=r"another topology.*blocks \(4,\) of 'layer3' do not fit into \(1,\)"):
        mergeline.merge([crossing, deep], [batch()])
    with pytest.raises(ValueError, match="batches of at least 4"):
        mergeline.merge([shallow, deep], [batch(3)], depth="lma")


@pytest.mark.parametrize(
    ("family", "method"),
    [*product(["vit"], ["identity", "permute", "zip", "weight"]), ("resnet", "identity"), ("resnet", "weight")],
)
def test_of_a_block_that_one_model_lacks_the_residual_branch_is_halved_and_no_more(
    family: str, method: str, enliven: Callable[..., nn.Module]
) -> None:
    """A deep network, and itself without its last blocks: what the two share is whole, what one lacks is halved."""
    shallow, deep = (enliven(model).eval() for model in FAMILIES[family][0]())
    state = dict(deep.state_dict())
    shallow.load_state_dict({name: state[name] for name in shallow.state_dict()})
    norms = "reset" if family == "resnet" else "none"
    result = mergeline.merge([deep, shallow], [batch(16)], method=method, normalize=norms)
    added = set(state) - set(shallow.state_dict())
    ends = ("bn2.weight", "bn2.bias", "out_proj.weight", "out_proj.bias", "mlp.3.weight", "mlp.3.bias")
    expected = {n: t / 2 if n in added and n.endswith(ends) and t.is_floating_point() else t for n, t in state.items()}
    inner = copy.deepcopy(deep)
    inner.load_state_dict(expected)
    if norms == "reset":
        reset(inner, [batch(16)])
    with torch.no_grad():
        torch.testing.assert_close(result.model(batch()), inner(batch()), rtol=1e-3, atol=1e-4)
    lacking = result.report["without_partner"]
    assert lacking[0] == 0  # type: ignore[index]
    assert lacking[1] > 0  # type: ignore[index]


@pytest.mark.parametrize("method", ["zip", "transport"])
@pytest.mark.parametrize("deep_is_wide", [False, True])
def test_units_in_name_only_have_no_part_where_widths_differ_too(
    method: str, deep_is_wide: bool, enliven: Callable[..., nn.Module]
) -> None:
    """A deep network, and itself without its last blocks, one of them with two copies of every unit: where the units that both
    have are matched as planted, what the two share is whole, and what one lacks is halved."""
    deep, shallow = (build(Architecture(name, 4, 1 / 16, 32), 0) for name in ("r29", "r17"))
    state = enliven(deep).eval().state_dict()
    added = set(state) - set(shallow.state_dict())
    shallow.load_state_dict({name: state[name] for name in shallow.state_dict()})
    pair = [twice(deep), shallow.eval()] if deep_is_wide else [deep, twice(shallow)]
    result = mergeline.merge(pair, [batch(16)], method, "none")
    lacking = {name for name, own in result.maps[1].items() if isinstance(own, Absent)}
    assert len(lacking) == 2 * len([name for name in added if name.endswith("bn3.weight")])
    assert result.report["without_partner"] == (0, sum(result.spaces[name].size for name in lacking))
    for name in lacking:  # the units of the one that has any stay apart, as they are
        own = result.maps[0][name]
        assert own.merge(torch.eye(own.size), 0).sum(1).max() == 1
    maps = [
        {name: own if name in lacking else planted(own) for name, own in of_model.items()} for of_model in result.maps
    ]
    networks, _ = to_one_depth(dict(zip("ab", pair, strict=True)), PLACEMENTS["append"], {"all": [batch()]})
    merged = assemble(networks, result.spaces, maps, same_outputs=True, reference=result.model)
    halved = {n: t / 2 if n in added and n.endswith(("bn3.weight", "bn3.bias")) else t for n, t in state.items()}
    deep.load_state_dict(halved)
    with torch.no_grad():
        torch.testing.assert_close(merged(batch()), deep(batch()), rtol=1e-4, atol=1e-4)


def planted(found: UnitMap) -> UnitMap:
    """The map of units to their two copies, or of these to themselves."""
    copies = np.tile(np.eye(found.size), (found.merged // found.size, 1))
    return Dense(copies, copies.T / copies.sum(0)[:, None])


def test_a_deep_and_a_shallow_network_are_zipped_to_a_smaller_width(enliven: Callable[..., nn.Module]) -> None:
    models = [enliven(build(Architecture(name, 4, 1 / 8, 32), seed)).eval() for seed, name in enumerate(("r29", "r17"))]
    half = mergeline.merge(models, [batch(16)], "zip", width=0.5).model
    wanted = build(Architecture("r29", 4, 1 / 16, 32)).state_dict()
    assert {key: tensor.shape for key, tensor in half.state_dict().items()} == {k: t.shape for k, t in wanted.items()}
    with torch.no_grad():
        assert half(batch()).isfinite().all()


def twice(model: nn.Module) -> nn.Module:
    """The same function with two copies of every unit."""
    spaces = trace(model, batch(2))
    return widened(model, spaces, {space.name: np.tile(np.arange(space.size), 2) for space in spaces.free})


def test_berts_of_different_depth_are_merged(enliven: Callable[..., nn.Module]) -> None:
    shapes = [BertShape(vocabulary=40, layers=layers, dim=16, heads=4, hidden=32, positions=12) for layers in (3, 6)]
    torch.manual_seed(0)
    shallow, deep = (enliven(Bert(shape, 3)).eval() for shape in shapes)
    tokens = torch.randint(1, 40, (8, 12))
    expanded = expand(shallow, deep, tokens[:2])
    with torch.no_grad():
        torch.testing.assert_close(expanded(tokens), shallow(tokens), rtol=1e-4, atol=1e-5)
    result = mergeline.merge([deep, shallow], [tokens], normalize="none", depth="lma")
    assert result.placed["1"].shallow == (3,)
    with torch.no_grad():
        assert result.model(tokens).shape == (8, 3)


@pytest.mark.parametrize("method", ["zip", "transport"])
def test_depth_width_and_task_may_all_differ(method: str, enliven: Callable[..., nn.Module]) -> None:
    sizes = (("r17", 1 / 16), ("r29", 1 / 8), ("r17", 1 / 8))
    models = {str(i): enliven(build(Architecture(name, 3 + i, width, 32), i)) for i, (name, width) in enumerate(sizes)}
    result = mergeline.merge(models, {name: [batch(16)] for name in models}, method, depth="lma")
    assert sorted(result.placed) == ["0", "2"]
    with torch.no_grad():
        outputs = result.model(batch(2))
    assert {name: output.shape for name, output in outputs.items()} == {str(i): (2, 3 + i) for i in range(3)}
    whole = mergeline.merge([build(Architecture(name, 4, width, 32), 0) for name, width in sizes], [batch(16)], method)
    deep = build(Architecture("r29", 4, 1 / 8, 32))
    assert {k: t.shape for k, t in whole.model.state_dict().items()} == {
        k: t.shape for k, t in deep.state_dict().items()
    }
