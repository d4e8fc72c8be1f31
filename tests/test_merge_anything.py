"""``mergeline.merge`` on networks of every kind: a planted permutation of all units merges back to the function."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mergeline import merge
from mergeline.matching import MATCHERS
from mergeline.spaces import permute_state, random_permutations, trace
from tests.test_spaces import TwoNames

ALIGNING = [name for name, matcher in MATCHERS.items() if name not in ("identity", "random")]


class Block(nn.Module):
    """A pre-norm transformer block with a fused qkv."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.gamma = nn.Parameter(torch.full((width,), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        q, k, v = self.qkv(self.norm1(x)).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, c)
        x = x + self.gamma * self.proj(mixed)
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 16, 4, 4)
        self.cls, self.pos = nn.Parameter(torch.randn(1, 1, 16)), nn.Parameter(torch.randn(1, 5, 16) / 4)
        self.blocks = nn.Sequential(Block(16, 4), Block(16, 4))
        self.norm, self.fc = nn.LayerNorm(16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(len(x), -1, -1), x], 1) + self.pos
        return self.fc(self.norm(self.blocks(x))[:, 0])


class Torchs(nn.Module):
    """torch's own encoder layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(6, 16)
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 4, 24, batch_first=True), 2)
        self.fc = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.encoder(self.embed(x)).mean(1))


class Grouped(nn.Module):
    """Grouped and depthwise convolutions, a gate, a concatenation, a transposed convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.group = nn.Conv2d(3, 12, 3, padding=1), nn.Conv2d(12, 18, 3, padding=1, groups=3)
        self.deep, self.wide = nn.Conv2d(18, 18, 3, padding=1, groups=18), nn.Conv2d(18, 36, 1, groups=18)
        self.down, self.up = nn.Conv2d(36, 6, 1), nn.Conv2d(6, 36, 1)
        self.back, self.act = nn.ConvTranspose2d(48, 10, 2, 2), nn.PReLU(10)
        self.fc = nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        first = F.relu(self.stem(x))
        x = F.silu(self.wide(F.hardswish(self.deep(F.silu(self.group(first))))))
        x = x * torch.sigmoid(self.up(F.relu(self.down(x.mean((2, 3), keepdim=True)))))
        return self.fc(self.act(self.back(torch.cat([x, first], 1))).mean((2, 3)))


class Flat(nn.Module):
    """A flattened map with an activation and norms behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm1d(8 * 36)
        self.fc1, self.fc2 = nn.Linear(8 * 36, 20), nn.Linear(20, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.relu(self.fc1(F.relu(self.norm(self.conv(x).flatten(1))))))


class Reused(nn.Module):
    """One convolution called twice, each time with a batch norm of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.norm1, self.norm2 = nn.BatchNorm2d(8), nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm1(self.conv(F.relu(self.stem(x)))))
        return self.fc(F.relu(self.norm2(self.conv(x))).mean((2, 3)))


class Volumes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv3d(1, 8, 3), nn.InstanceNorm3d(8, affine=True), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(self.norm(self.conv(x))).mean((2, 3, 4)).log_softmax(1))


IMAGES, TOKENS = (3, 8, 8), (7, 6)
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "transformer": (Transformer, IMAGES),
    "torch": (Torchs, TOKENS),
    "grouped": (Grouped, IMAGES),
    "flat": (Flat, IMAGES),
    "reused": (Reused, IMAGES),
    "volumes": (Volumes, (1, 6, 6, 6)),
    "two names": (TwoNames, IMAGES),
}


def enlivened(model: nn.Module, seed: int) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if tensor.is_floating_point() and tensor.dim() == 1:
                noise = torch.rand(tensor.shape, generator=generator)
                tensor.copy_(0.5 + noise if name.endswith(("running_var", "weight", "gamma")) else noise - 0.5)
    return model.eval()


def planted(
    make: Callable[[], nn.Module], shape: tuple[int, ...], seed: int = 0
) -> tuple[nn.Module, nn.Module, Tensor]:
    """A network, its copy with all units in another order, and inputs."""
    torch.manual_seed(seed)
    model = enlivened(make(), seed)
    inputs = torch.randn(96, *shape)
    spaces = trace(model, inputs[:2])
    moved = random_permutations(spaces, torch.Generator().manual_seed(seed))
    copy = deepcopy(model)
    copy.load_state_dict(permute_state(spaces, model.state_dict(), moved))
    assert any(not torch.equal(index, torch.arange(len(index))) for index in moved.values())
    return model, copy, inputs


def difference(first: nn.Module, second: nn.Module, inputs: Tensor) -> float:
    with torch.no_grad():
        expected = first(inputs)
        return float((expected - second(inputs)).abs().max() / expected.abs().max())


@pytest.mark.parametrize("method", ALIGNING)
@pytest.mark.parametrize("network", NETWORKS)
def test_a_planted_permutation_merges_back_to_the_function(network: str, method: str) -> None:
    make, shape = NETWORKS[network]
    model, copy, inputs = planted(make, shape)
    options: dict[str, Any] = {"alpha": 1.0, "beta": 0.0} if "zip" in method else {}
    if method == "cca" and network in ("transformer", "torch", "volumes"):
        with pytest.raises(ValueError, match="compared across its units"):
            merge([model, copy], [inputs], method, "none")
        return
    if method == "cca" and network in ("flat", "reused"):  # a norm after flattening, a layer of two norms
        with pytest.raises(ValueError, match="a batch norm that no layer stands before"):
            merge([model, copy], [inputs], method, "none")
        return
    found = merge([model, copy], [inputs], method, "none", options=options)
    assert found.report["verified"] < 1e-4  # type: ignore[operator]
    assert difference(model, found.model, inputs[:16]) < 1e-4


@pytest.mark.parametrize("network", NETWORKS)
def test_heads_of_different_tasks_get_their_own_units_back(network: str) -> None:
    make, shape = NETWORKS[network]
    model, copy, inputs = planted(make, shape)
    found = merge({"a": model, "b": copy}, {"a": [inputs], "b": [inputs]}, "permute", "none")
    with torch.no_grad():
        outputs = found.model(inputs[:5])
    assert list(outputs) == ["a", "b"]
    for own in outputs.values():
        torch.testing.assert_close(own, model(inputs[:5]), rtol=1e-3, atol=1e-4)


# -- correct or refused ---------------------------------------------------------------------------------------------


def mlp(activation: type[nn.Module] = nn.ReLU, width: int = 8, classes: int = 3) -> nn.Module:
    return nn.Sequential(nn.Linear(6, width), activation(), nn.Linear(width, classes))


def features(count: int = 64) -> Tensor:
    return torch.randn(count, 6, generator=torch.Generator().manual_seed(0))


def test_weight_normed_and_pruned_layers_are_merged_on_the_weight_they_stand_for() -> None:
    model, copy, inputs = planted(mlp, (6,))
    for own in (model, copy):
        nn.utils.parametrizations.weight_norm(own[0])  # type: ignore[index]
        nn.utils.prune.l1_unstructured(own[2], "weight", 0.2)  # type: ignore[index]
    found = merge([model, copy], inputs, "permute", "none")
    assert set(found.model.state_dict()) == {"0.weight", "0.bias", "2.weight", "2.bias"}
    assert difference(model, found.model, inputs) < 1e-4


def test_tied_weights_stay_tied() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.mid, self.out = nn.Embedding(11, 8), nn.Linear(8, 8), nn.Linear(8, 11, bias=False)
            self.out.weight = self.embed.weight

        def forward(self, tokens: Tensor) -> Tensor:
            return self.out(torch.relu(self.mid(self.embed(tokens))))

    torch.manual_seed(0)
    model = Tied()
    tokens = torch.randint(0, 11, (40, 5))
    spaces = trace(model, tokens[:2])
    copy = deepcopy(model)
    copy.load_state_dict(
        permute_state(spaces, model.state_dict(), random_permutations(spaces, torch.Generator().manual_seed(1)))
    )
    found = merge([model, copy], [tokens], "permute", "none").model
    assert found.out.weight is found.embed.weight
    torch.testing.assert_close(found(tokens), model(tokens), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("others", "message"),
    [
        (
            lambda: [mlp(), mlp(nn.GELU)],
            r"model '1' computes something else than '0': in '1' gelu stands in place of relu",
        ),
        (
            lambda: [mlp(), mlp(width=9)],
            r"model '1': '0.weight' has shape \(9, 6\), that of '0' \(8, 6\).*different width",
        ),
        (lambda: [mlp(classes=4), mlp(classes=1)], r"'2.weight' has shape \(1, 8\).*go in a mapping, not in a list"),
        (
            lambda: [mlp(), nn.Sequential(*mlp(), nn.Linear(3, 3))],
            r"'' cannot be matched: one is Linear ReLU, one Linear",
        ),
        (lambda: [mlp()], "two models at least"),
        (lambda: [mlp(), "b.pth"], r"model '1' is a str"),
    ],
    ids=["another activation", "another width", "other classes", "deeper", "one", "a path"],
)
def test_models_that_do_not_fit_are_refused(others: Callable[[], list[Any]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        merge(others(), features(), "permute", "none")


def test_values_that_are_not_finite_are_named() -> None:
    bad = mlp()
    with torch.no_grad():
        bad[2].bias[1] = float("nan")  # type: ignore[index]
    with pytest.raises(ValueError, match=r"model '1': tensor '2.bias' has 1 values of 3 that are not finite"):
        merge([mlp(), bad], features(), "permute", "none")


@pytest.mark.parametrize("method", ["identity", "permute", "weight"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_data_that_are_not_finite_are_named(value: float, method: str) -> None:
    data = list(features().split(5))
    data[1][3, 2] = value
    with pytest.raises(ValueError, match=r"1 values of batch 1 are not finite, the first in its sample 3"):
        merge([mlp(), mlp()], data, method, "repair")


def test_variances_below_zero_are_named() -> None:
    bad = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
    bad[1].running_var[0] = -1
    with pytest.raises(ValueError, match=r"model '1': tensor '1.running_var' has negative variances, down to -1"):
        merge([nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)), bad], features(), "identity", "none")


class Reading(nn.Module):
    """Reads something beside its weights: kept in the state dict, in a buffer that is not, or in an attribute."""

    def __init__(self, kind: str, value: Tensor, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 3)
        if kind == "attribute":
            self.read = value
        else:
            self.register_buffer("read", value, persistent=kind == "buffer")

    def forward(self, x: Tensor) -> Tensor:
        x = x.index_select(1, self.read) if self.read.dtype == torch.int64 else x * self.read
        return self.last(torch.relu(self.first(x)))


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        ("buffer", (torch.arange(6), torch.arange(6).flip(0)), "buffer 'read', which the network computes with"),
        ("buffer", (torch.arange(6) > 2, torch.arange(6) < 2), "buffer 'read', which the network computes with"),
        ("unkept", (torch.ones(6), torch.full((6,), 2.0)), "buffer 'read', which the network computes with"),
        ("attribute", (torch.ones(6), torch.full((6,), 2.0)), "neither a parameter nor a buffer has other values"),
    ],
)
def test_what_is_read_and_not_averaged_must_be_the_same(kind: str, values: tuple[Tensor, Tensor], message: str) -> None:
    same = [Reading(kind, values[0], seed) for seed in (0, 1)]
    assert merge(same, features(), "permute", "none").model(features()).shape == (len(features()), 3)
    with pytest.raises(ValueError, match=message):
        merge([same[0], Reading(kind, values[1], 1)], features(), "permute", "none")


def test_complex_weights_are_refused() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 3))
    model.register_parameter("phase", nn.Parameter(torch.zeros(3, dtype=torch.complex64)))
    with pytest.raises(ValueError, match="tensor 'phase' is complex"):
        merge([model, model], features(), "permute", "none")


def test_the_momentum_of_a_norm_is_no_difference_and_its_epsilon_is_one() -> None:
    def normed(**options: Any) -> nn.Module:
        return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8, **options), nn.ReLU(), nn.Linear(8, 3))

    merge([normed(), normed(momentum=0.01)], features(), "permute", "reset")
    merge([normed(), normed(momentum=None)], features(), "permute", "reset")
    with pytest.raises(ValueError, match=r"batch_norm has \[False, 0.1\] in place of \[False, 1e-05\]"):
        merge([normed(), normed(eps=0.1)], features(), "permute", "reset")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"weights": (float("nan"), 1.0)}, "sum to 1 and be finite"),
        ({"weights": (float("inf"), float("-inf"))}, "sum to 1 and be finite"),
        ({"weights": (1.0,)}, "2 models need as many weights, got 1"),
        ({"seed": -1}, "non-negative"),
        ({"method": "transport", "options": {"regularization": float("inf")}}, "regularization is inf, and takes a number"),
        ({"method": "cca", "options": {"gamma": float("inf")}}, "gamma is inf, and takes a number"),
    ],
)  # fmt: skip
def test_numbers_that_mean_nothing_are_refused_before_data_are_read(given: dict[str, Any], message: str) -> None:
    def never() -> Iterator[Tensor]:
        raise AssertionError("no data are needed to see this")
        yield

    with pytest.raises(ValueError, match=message):
        merge([mlp(), mlp()], never, **({"normalize": "none"} | given))


def test_reset_without_batch_norms_is_refused() -> None:
    with pytest.raises(ValueError, match="normalisation 'reset' would do nothing: the network has no batch norms"):
        merge([mlp(), mlp()], features())


def test_an_unknown_option_names_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"method 'zip' has no option 'gamma'; options: alpha, beta, compatible"):
        merge([mlp(), mlp()], features(), "zip", "none", options={"gamma": 1})
    with pytest.raises(ValueError, match=r"normalisation 'reset' has no option 'k'; options: none"):
        merge([mlp(), mlp()], features(), normalize_options={"k": 1})


def test_a_pool_along_the_units_is_refused() -> None:
    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.pool, self.last = nn.Linear(6, 8), nn.AvgPool1d(2), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.pool(self.first(x)))

    with pytest.raises(ValueError, match=r"avg_pool1d \(in module 'pool'.*goes over an axis that carries units"):
        merge([Pooled(), Pooled()], torch.randn(8, 7, 6), "permute", "none")


def test_batch_norm_over_tokens_leaves_the_units_alone() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.norm, self.last = nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:  # 8 tokens of 8 units
            return self.last(torch.relu(self.norm(self.first(x)))).mean(1)

    model, copy, inputs = planted(Tokens, (8, 6))
    assert difference(model, merge([model, copy], [inputs], "permute", "none").model, inputs) < 1e-4


# -- what people bring ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_models_of_other_types_are_given_back_in_theirs(kind: torch.dtype) -> None:
    model, copy, inputs = planted(mlp, (6,))
    found = merge([model.to(kind), copy.to(kind)], inputs, "permute", "none")
    assert {tensor.dtype for tensor in found.model.state_dict().values()} == {kind}
    assert difference(model.double(), found.model.double(), inputs.double()) < 2e-2


DATA: dict[str, Callable[[Tensor], Any]] = {
    "tensor": lambda x: x,
    "pairs": lambda x: [(x, torch.zeros(len(x), dtype=torch.long))],
    "loader": lambda x: torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x), batch_size=32),
    "generator": lambda x: (part for part in x.split(32)),
    "function": lambda x: lambda: iter(x.split(32)),
}


@pytest.mark.parametrize("form", DATA)
def test_data_come_in_many_forms(form: str) -> None:
    model, copy, inputs = planted(mlp, (6,))
    found = merge([model, copy], DATA[form](inputs), "permute", "none")
    assert found.report["images"] == len(inputs)
    assert difference(model, found.model, inputs) < 1e-4


@pytest.mark.parametrize("method", ["permute", "zip", "weight"])
def test_data_that_come_one_by_one_are_never_held_together(method: str) -> None:
    alive: list[weakref.ref[Tensor]] = []
    most = 0

    def batches() -> Iterator[Tensor]:
        nonlocal most
        for seed in range(12):
            batch = torch.randn(16, *IMAGES, generator=torch.Generator().manual_seed(seed))
            alive.append(weakref.ref(batch))
            yield batch
            del batch
            most = max(most, sum(own() is not None for own in alive))

    model, copy, _ = planted(Grouped, IMAGES)
    found = merge([model, copy], batches(), method, "none")
    assert most <= 2
    assert found.report["images"] == (12 * 16 if method != "weight" else found.report["images"])


@pytest.mark.parametrize("data", [3, "images", ["a"], [[]], [torch.zeros(0, 6)]])
def test_other_data_are_refused_with_what_they_must_be(data: Any) -> None:
    with pytest.raises(ValueError, match="data must be batches of inputs as the models take them"):
        merge([mlp(), mlp()], data, "permute", "none")


def test_fingerprints_by_name_and_outputs_by_name() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.a, self.b = nn.Linear(6, 8), nn.Linear(4, 8), nn.Linear(8, 3), nn.Linear(8, 2)

        def forward(self, left: Tensor, right: Tensor) -> dict[str, Tensor]:
            x = torch.relu(self.first(left) + self.second(right))
            return {"main": self.a(x), "aux": self.b(x)}

    torch.manual_seed(0)
    model = Named()
    batch = {"left": torch.randn(64, 6), "right": torch.randn(64, 4), "labels": torch.zeros(64, dtype=torch.long)}
    inputs = {key: value for key, value in batch.items() if key != "labels"}
    spaces = trace(model, inputs)
    copy = deepcopy(model)
    moved = random_permutations(spaces, torch.Generator().manual_seed(0))
    copy.load_state_dict(permute_state(spaces, model.state_dict(), moved))
    whole = merge([model, copy], [batch], "permute", "none").model(**inputs)
    heads = merge({"a": model, "b": copy}, {"a": [batch], "b": [batch]}, "permute", "none").model(**inputs)
    for found in (whole, *heads.values()):
        for key, value in model(**inputs).items():
            torch.testing.assert_close(found[key], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("stop", ["0.5", "blocks.0.qkv", "input"])
def test_stops_by_share_of_the_work_and_by_space(stop: str) -> None:
    model, copy, inputs = planted(Transformer, IMAGES)
    found = merge([model, copy], [inputs], "permute", "none", stop=stop)
    for own in found.model(inputs[:3]).values():
        torch.testing.assert_close(own, model(inputs[:3]), rtol=1e-3, atol=1e-4)


def test_a_view_behind_a_pool_and_a_size_that_crosses_a_cut() -> None:
    class Viewed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.pool, self.fc = nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(2), nn.Linear(32, 4)

        def forward(self, x: Tensor) -> Tensor:
            b = x.size(0)
            return self.fc(self.pool(torch.relu(self.conv(x))).view(b, -1))

    model, copy, inputs = planted(Viewed, IMAGES)
    found = merge({"a": model, "b": copy}, {"a": [inputs], "b": [inputs]}, "permute", "none", stop="conv")
    for size in (1, 7):
        for own in found.model(inputs[:size]).values():
            torch.testing.assert_close(own, model(inputs[:size]), rtol=1e-3, atol=1e-5)


def test_reset_weighs_batches_by_their_images_and_mixes_tasks() -> None:
    model, copy, inputs = planted(Reused, IMAGES)
    even, odd = (
        merge([model, copy], parts, "permute").model for parts in (inputs.split(32), [inputs[:90], inputs[90:]])
    )
    assert torch.isfinite(odd(inputs)).all()
    apart = merge({"a": model, "b": copy}, {"a": inputs.split(24), "b": (inputs + 3).split(24)}, "permute").model
    assert torch.isfinite(apart(inputs)["a"]).all()
    assert difference(even, odd, inputs) < 0.1
