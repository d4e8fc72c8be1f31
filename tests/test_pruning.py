"""One-shot pruning: exact sparsities, saliencies against literal references, and a model left as it was."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import FrozenInstanceError
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.nn.utils import prune as torch_prune

from mergeline import pruning
from mergeline.pruning import METHODS, WoodFisherOptions, masks, prune, sparsity_of
from mergeline.pruning_options import READ_LABELS
from mergeline.sources import Batches

Batch = tuple[Tensor, Tensor]
WITH_LABELS = ("fisher", "woodfisher")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def network(seed: int = 0) -> nn.Sequential:
    """A grouped convolution, batch norm with statistics of its own, dropout, and two linear layers."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, stride=2),
        nn.BatchNorm2d(4),
        nn.Tanh(),
        nn.Conv2d(4, 6, 3, groups=2, bias=False),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(6, 5),
        nn.ReLU(),
        nn.Linear(5, 3),
    )
    norm: Any = model[1]
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    return model


WEIGHTS = ("0.weight", "3.weight", "6.weight", "8.weight")


def batches(count: int = 3, size: int = 4, seed: int = 1) -> list[Batch]:
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(size, 2, 6, 6, generator=generator), torch.randint(3, (size,), generator=generator))
        for _ in range(count)
    ]


def lowest(saliency: Tensor, sparsity: float) -> Tensor:
    """False at the lowest, one by one."""
    kept = torch.ones(saliency.numel(), dtype=torch.bool)
    values = saliency.flatten().tolist()
    order = sorted(range(len(values)), key=lambda i: (values[i], i))
    kept[order[: round(sparsity * saliency.numel())]] = False
    return kept.view(saliency.shape)


def lowest_of_all(saliency: dict[str, Tensor], sparsity: float) -> dict[str, Tensor]:
    kept = lowest(torch.cat([s.flatten() for s in saliency.values()]), sparsity)
    parts = kept.split([s.numel() for s in saliency.values()])
    return {name: part.view(saliency[name].shape) for name, part in zip(saliency, parts, strict=True)}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return list(first) == list(second) and all(torch.equal(first[name], second[name]) for name in first)


def sample_gradients(model: nn.Module, data: list[Batch]) -> list[dict[str, Tensor]]:
    """The gradient of each image's loss, by ``backward``."""
    model = deepcopy(model).eval()
    found = []
    for inputs, labels in data:
        for x, y in zip(inputs, labels, strict=True):
            model.zero_grad()
            (-F.log_softmax(model(x[None]), 1)[0, y]).backward()
            found.append({name: model.get_parameter(name).grad.double().clone() for name in WEIGHTS})
    return found


# -- sparsity ---------------------------------------------------------------------------------------------------------


@given(sparsity=st.floats(0, 1, exclude_max=True), method=st.sampled_from(sorted(METHODS)))
@settings(max_examples=60, deadline=None)
def test_sparsity_is_exact(sparsity: float, method: str) -> None:
    model = network()
    pruned = prune(model, sparsity, method, batches(1), {"samples": 3} if method in WITH_LABELS else None)
    weights = {name: pruned.get_parameter(name) for name in WEIGHTS}
    zeros = {name: int((weight == 0).sum()) for name, weight in weights.items()}
    total = sum(weight.numel() for weight in weights.values())
    if METHODS[method].scope == "model":
        assert sum(zeros.values()) == round(sparsity * total)
    elif METHODS[method].scope == "layer":
        assert zeros == {name: round(sparsity * weight.numel()) for name, weight in weights.items()}
    else:
        for weight in weights.values():
            per_unit = (weight == 0).flatten(1).sum(1)
            assert (per_unit == round(sparsity * weight[0].numel())).all()
    assert sparsity_of(pruned) == sum(zeros.values()) / total


@pytest.mark.parametrize("method", METHODS)
def test_the_masks_are_those_of_the_pruned_model(method: str) -> None:
    model = network()
    kept = masks(model, 0.6, method, batches())
    pruned = prune(model, 0.6, method, batches())
    assert tuple(kept) == WEIGHTS
    for name, mask in kept.items():
        assert mask.dtype == torch.bool
        assert torch.equal(pruned.get_parameter(name) != 0, mask)
        if method != "woodfisher":
            assert torch.equal(pruned.get_parameter(name), model.get_parameter(name) * mask)


@pytest.mark.parametrize("method", METHODS)
def test_at_sparsity_zero_nothing_changes(method: str) -> None:
    model = network()
    pruned = prune(model, 0, method, batches())
    assert same(model.state_dict(), pruned.state_dict())
    assert not pruned.training
    assert all(mask.all() for mask in masks(model, 0, method, batches()).values())


@pytest.mark.parametrize("method", METHODS)
def test_ties_go_by_position(method: str) -> None:
    model = nn.Sequential(nn.Linear(4, 2, bias=False), nn.Linear(2, 2, bias=False))
    for parameter in model.parameters():
        nn.init.ones_(parameter)
    data = [(torch.ones(3, 4), torch.zeros(3, dtype=torch.int64))]
    kept = masks(model, 0.5, method, data)
    if METHODS[method].scope == "unit":
        assert kept["0.weight"].tolist() == [[False, False, True, True]] * 2
        assert kept["1.weight"].tolist() == [[False, True]] * 2
    elif METHODS[method].scope == "layer":
        assert kept["0.weight"].tolist() == [[False] * 4, [True] * 4]
        assert kept["1.weight"].tolist() == [[False] * 2, [True] * 2]
    elif method == "magnitude":
        assert kept["0.weight"].tolist() == [[False] * 4, [False, False, True, True]]
        assert kept["1.weight"].all()
    else:  # equal logits: the gradients of the first layer vanish, its weights all tie and go first
        assert kept["0.weight"].tolist() == [[False] * 4, [False, False, True, True]]


# -- saliencies -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sparsity", [0.1, 0.5, 0.93])
def test_magnitude_is_torchs(sparsity: float) -> None:
    ours, theirs = network(), network()
    layers: Any = [(theirs[int(name[0])], "weight") for name in WEIGHTS]
    torch_prune.global_unstructured(layers, torch_prune.L1Unstructured, amount=sparsity)
    for layer, _ in layers:
        torch_prune.remove(layer, "weight")
    assert same(prune(ours, sparsity, "magnitude").state_dict(), _ordered(theirs, ours))


@pytest.mark.parametrize("sparsity", [0.1, 0.5, 0.93])
def test_magnitude_by_layer_is_torchs(sparsity: float) -> None:
    ours, theirs = network(), network()
    for name in WEIGHTS:
        layer = theirs[int(name[0])]
        torch_prune.remove(torch_prune.l1_unstructured(layer, "weight", sparsity), "weight")
    assert same(prune(ours, sparsity, "magnitude_layer").state_dict(), _ordered(theirs, ours))


def _ordered(model: nn.Module, like: nn.Module) -> dict[str, Tensor]:
    """Torch's pruning leaves weights behind biases."""
    state = model.state_dict()
    return {name: state[name] for name in like.state_dict()}


@pytest.mark.parametrize("sparsity", [0.2, 0.7])
def test_fisher_is_the_mean_of_squared_gradients(sparsity: float) -> None:
    model = network()
    gradients = sample_gradients(model, batches())
    saliency = {
        name: model.get_parameter(name).detach().double() ** 2
        * sum(g[name] ** 2 for g in gradients)
        / len(gradients)
        / 2
        for name in WEIGHTS
    }
    assert same(masks(model, sparsity, "fisher", batches()), lowest_of_all(saliency, sparsity))


@pytest.mark.parametrize("method", WITH_LABELS)
def test_samples_are_the_first_whatever_the_batches(method: str) -> None:
    inputs, labels = (torch.cat(part) for part in zip(*batches(), strict=True))
    model = network()
    of_five = masks(model, 0.5, method, [(inputs[:5], labels[:5])])
    assert same(of_five, masks(model, 0.5, method, batches(), {"samples": 5}))
    assert same(of_five, masks(model, 0.5, method, iter(batches()), {"samples": 5}))
    assert same(of_five, masks(model, 0.5, method, lambda: iter(batches()), {"samples": 5}))


def test_a_mini_batch_gives_the_gradient_of_its_mean_loss() -> None:
    model = network()
    found = sample_gradients(model, batches())
    means = [
        {name: sum(g[name] for g in found[i : i + 5]) / 5 for name in WEIGHTS} for i in (0, 5)
    ]  # 2 of 12 left over
    saliency = {
        name: model.get_parameter(name).detach() ** 2 * sum(m[name] ** 2 for m in means) / 4 for name in WEIGHTS
    }
    kept = masks(model, 0.5, "fisher", batches(), {"minibatch": 5})
    assert same(kept, lowest_of_all(saliency, 0.5))
    everything = masks(model, 0.5, "fisher", batches(), {"minibatch": 12})
    assert same(everything, masks(model, 0.5, "fisher", batches(), {"minibatch": 100}))


def dense_woodfisher(
    model: nn.Module, gradients: list[dict[str, Tensor]], sparsity: float, block: int, damping: float
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Masks and weights from explicitly inverted blocks."""
    inverses = {}
    saliency = {}
    for name in WEIGHTS:
        weight = model.get_parameter(name).detach().double().flatten()
        scores = []
        for start in range(0, len(weight), block):
            part = slice(start, min(start + block, len(weight)))
            outer = sum(torch.outer(g[name].flatten()[part], g[name].flatten()[part]) for g in gradients)
            fisher = damping * torch.eye(part.stop - start, dtype=torch.float64) + outer / len(gradients)
            inverses[name, start] = torch.linalg.inv(fisher)
            scores += [weight[start + q] ** 2 / (2 * inverses[name, start][q, q]) for q in range(part.stop - start)]
        saliency[name] = torch.stack(scores).view(model.get_parameter(name).shape)
    kept = lowest_of_all(saliency, sparsity)
    weights = {name: model.get_parameter(name).detach().double().flatten() for name in WEIGHTS}
    updated = {name: weight.clone() for name, weight in weights.items()}
    for (name, start), inverse in inverses.items():
        for q in range(len(inverse)):
            if not kept[name].flatten()[start + q]:
                step = -weights[name][start + q] / inverse[q, q] * inverse[:, q]
                updated[name][start : start + len(inverse)] += step
    return kept, {name: updated[name].view(kept[name].shape) * kept[name] for name in WEIGHTS}


@pytest.mark.parametrize(("block", "damping"), [(7, 1e-2), (1000, 1e-3), (1, 1e-5), (25, 1e-5)])
def test_woodfisher_is_the_inverted_fisher(block: int, damping: float) -> None:
    model = network()
    expected, weights = dense_woodfisher(model, sample_gradients(model, batches(10)), 0.4, block, damping)
    options = {"block": block, "damping": damping}
    assert same(masks(model, 0.4, "woodfisher", batches(10), options), expected)
    pruned = prune(model, 0.4, "woodfisher", batches(10), options)
    for name in WEIGHTS:
        assert torch.allclose(pruned.get_parameter(name).double(), weights[name], rtol=1e-4, atol=1e-4)


def test_woodfisher_in_parts_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    model = network()
    whole = prune(model, 0.4, "woodfisher", batches(10))
    monkeypatch.setattr(pruning, "INVERSE_ENTRIES", 5000)
    monkeypatch.setattr(pruning, "WOODBURY_RANK", 1)
    parts = prune(model, 0.4, "woodfisher", batches(10))
    for name, tensor in whole.state_dict().items():
        assert torch.allclose(parts.state_dict()[name], tensor, rtol=1e-4, atol=1e-5)


def test_woodfisher_compensates_for_what_goes() -> None:
    """Two inputs that are always equal: what one weight loses the other takes over."""
    torch.manual_seed(0)
    model = nn.Linear(2, 2, bias=False)
    model.weight.data = torch.tensor([[0.5, 2.0], [-1.0, -2.0]])
    inputs = torch.randn(64, 1).expand(64, 2)
    pruned = prune(model, 0.5, "woodfisher", [(inputs, torch.randint(2, (64,)))], {"block": 2})
    assert pruned.weight.tolist() == [[0, pytest.approx(2.5, abs=1e-3)], [0, pytest.approx(-3, abs=1e-3)]]


def patch_norms(layer: nn.Conv2d, inputs: Tensor) -> Tensor:
    """Norms of the entries of unfolded patches, in the weight's shape."""
    geometry: Any = {"padding": layer.padding, "stride": layer.stride, "dilation": layer.dilation}
    entries = F.unfold(inputs, layer.kernel_size, **geometry).square().sum((0, 2)).sqrt()
    by_group = entries.view(layer.groups, *layer.weight.shape[1:])
    return torch.stack([by_group[unit // (len(layer.weight) // layer.groups)] for unit in range(len(layer.weight))])


def lowest_of_units(saliency: Tensor, sparsity: float) -> Tensor:
    return torch.stack([lowest(unit, sparsity) for unit in saliency])


@pytest.mark.parametrize("sparsity", [0.3, 0.8])
def test_wanda_weighs_by_the_norms_of_inputs(sparsity: float) -> None:
    model = network()
    inputs = torch.cat([x for x, _ in batches()])
    kept = masks(model, sparsity, "wanda", batches())
    hidden = inputs
    copy = deepcopy(model).eval()
    with torch.no_grad():
        for index, layer in enumerate(copy):
            norms = None
            if isinstance(layer, nn.Conv2d):
                norms = patch_norms(layer, hidden)
            elif isinstance(layer, nn.Linear):
                norms = hidden.norm(dim=0)
            if norms is not None:
                assert torch.equal(kept[f"{index}.weight"], lowest_of_units(layer.weight.abs() * norms, sparsity))
            hidden = layer(hidden)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 8, 3, groups=4, padding=1),
        nn.Conv2d(4, 8, (3, 2), groups=2, stride=2, padding=(2, 0), dilation=(1, 2)),
        nn.Conv2d(4, 4, 3, groups=4),
    ],
    ids=["depthwise", "groups", "multiplier"],
)
def test_wanda_of_a_grouped_convolution(layer: nn.Conv2d) -> None:
    inputs = torch.randn(5, 4, 7, 7, generator=torch.Generator().manual_seed(0))
    expected = lowest_of_units(layer.weight.abs() * patch_norms(layer, inputs), 0.5)
    assert torch.equal(masks(layer, 0.5, "wanda", [inputs])["weight"], expected)


def test_wanda_of_a_transposed_convolution() -> None:
    """Whose units stand on the second axis of the weight; the reference is a matrix of what is multiplied with what."""
    torch.manual_seed(0)
    layer = nn.ConvTranspose1d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2, bias=False)
    inputs = torch.randn(5, 4, 4)
    squares = torch.zeros_like(layer.weight)
    for index in range(layer.weight.numel()):
        single = torch.zeros_like(layer.weight)
        single.view(-1)[index] = 1
        out = F.conv_transpose1d(inputs, single, None, 2, 1, 1, 2)
        squares.view(-1)[index] = out.square().sum()
    saliency = layer.weight.abs().detach() * squares.sqrt()
    kept = masks(layer, 0.5, "wanda", [inputs])["weight"]
    for group in range(2):
        for unit in range(3):
            part = (slice(2 * group, 2 * group + 2), unit)
            assert torch.equal(kept[part], lowest(saliency[part], 0.5))


def test_wanda_sees_the_values_that_pad() -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular")
    inputs = torch.randn(2, 2, 4, 5)
    unpadded = nn.Conv2d(2, 3, 3)
    norms = patch_norms(unpadded, F.pad(inputs, (1, 1, 1, 1), mode="circular"))
    expected = lowest_of_units(layer.weight.detach().abs() * norms, 0.5)
    assert torch.equal(masks(layer, 0.5, "wanda", [inputs])["weight"], expected)


def test_wanda_reads_as_many_images_as_asked_for() -> None:
    model = network()
    inputs = torch.cat([x for x, _ in batches()])
    kept = masks(model, 0.5, "wanda", [inputs[:6]])
    assert same(kept, masks(model, 0.5, "wanda", iter(batches()), {"samples": 6}))
    assert same(masks(model, 0.5, "wanda", inputs), masks(model, 0.5, "wanda", Batches(batches(), again=True)))


def test_wanda_of_attention() -> None:
    """Attention multiplies with its output projection without calling it, and the encoder layer has a fused path."""
    torch.manual_seed(0)
    model = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    inputs = torch.randn(3, 5, 8)
    seen: dict[str, Tensor] = {}
    copy = deepcopy(model).eval()
    attention: Any = copy.self_attn
    with torch.no_grad():
        q, k, v = (
            part.view(3, 5, 2, 4).transpose(1, 2)
            for part in F.linear(inputs, attention.in_proj_weight, attention.in_proj_bias).chunk(3, -1)
        )
        heads = (q @ k.transpose(2, 3) / 2).softmax(-1) @ v
        seen["self_attn.out_proj.weight"] = heads.transpose(1, 2).reshape(15, 8)
        hidden = copy.norm1(inputs + attention.out_proj(heads.transpose(1, 2).reshape(3, 5, 8)))
        seen["linear1.weight"] = hidden.reshape(15, 8)
        seen["linear2.weight"] = copy.linear1(hidden).relu().reshape(15, 16)
    kept = masks(model, 0.5, "wanda", [inputs])
    assert list(kept) == list(seen)
    for name, values in seen.items():
        saliency = model.get_parameter(name).detach().abs() * values.norm(dim=0)
        assert torch.equal(kept[name], lowest_of_units(saliency, 0.5))


# -- models -----------------------------------------------------------------------------------------------------------


def _everything(model: nn.Module) -> dict[str, Any]:
    return {
        "state": {name: tensor.clone() for name, tensor in model.state_dict().items()},
        "modes": [module.training for module in model.modules()],
        "requires": [p.requires_grad for p in model.parameters()],
        "identities": [id(p) for p in model.parameters()],
        "grads": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        "hooks": [
            (dict(m._forward_hooks), dict(m._forward_pre_hooks), dict(m._backward_hooks)) for m in model.modules()
        ],
    }


@pytest.mark.parametrize("grad", [torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize("method", METHODS)
def test_the_model_is_left_as_it_was(method: str, grad: Any) -> None:
    model = network().train()
    model[8].eval()
    model[3].weight.requires_grad_(False)
    model[6].weight.grad = torch.ones_like(model[6].weight)
    calls: list[int] = []
    model[0].register_forward_hook(lambda *_: calls.append(1) or None)
    before = _everything(model)
    with grad():
        pruned = prune(model, 0.5, method, batches())
    after = _everything(model)
    assert same(before.pop("state"), after.pop("state"))
    for first, second in zip(before.pop("grads"), after.pop("grads"), strict=True):
        assert (first is None and second is None) or torch.equal(first, second)
    assert before == after
    assert not any(module.training for module in pruned.modules())
    assert [p.requires_grad for p in pruned.parameters()] == before["requires"]
    assert [name for name, _ in pruned.named_parameters()] == [name for name, _ in model.named_parameters()]
    assert all(p.grad is None for p in pruned.parameters())
    assert pruned(torch.ones(4, 2, 6, 6)).shape == (4, 3)
    assert not any(tensor.is_inference() for tensor in pruned.state_dict().values())


def test_statistics_are_taken_in_eval_mode() -> None:
    model = network()
    for method in METHODS:
        kept = masks(model.train(), 0.5, method, batches())
        assert same(kept, masks(model.eval(), 0.5, method, batches()))


@pytest.mark.parametrize("method", METHODS)
def test_a_tied_weight_counts_once(method: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
    model[2].weight = model[0].weight
    data = [(torch.randn(6, 4), torch.randint(4, (6,)))]
    pruned: Any = prune(model, 0.5, method, data)
    assert list(masks(model, 0.5, method, data)) == ["0.weight"]
    assert pruned[2].weight is pruned[0].weight
    assert int((pruned[0].weight == 0).sum()) == 8
    assert sparsity_of(pruned) == 0.5


def test_wanda_of_a_tied_weight_sums_over_its_uses() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Tanh(), nn.Linear(4, 4))
    model[2].weight = model[0].weight
    inputs = torch.randn(6, 4)
    hidden = torch.tanh(inputs @ model[0].weight.T).detach()
    saliency = model[0].weight.detach().abs() * torch.cat([inputs, hidden]).norm(dim=0)
    assert torch.equal(masks(model, 0.5, "wanda", [inputs])["0.weight"], lowest_of_units(saliency, 0.5))


@pytest.mark.parametrize("method", METHODS)
def test_half_precision_and_channels_last(method: str) -> None:
    model = network().to(memory_format=torch.channels_last)
    plain = masks(network(), 0.5, method, batches())
    assert same(plain, masks(model, 0.5, method, batches()))
    half = prune(network().to(torch.bfloat16), 0.5, method, batches())
    assert {tensor.dtype for tensor in half.state_dict().values()} == {torch.bfloat16, torch.int64}


def test_weights_that_others_stand_for_become_plain() -> None:
    model = network().to(torch.bfloat16).train()
    parametrizations.spectral_norm(model[6])
    torch_prune.l1_unstructured(model[8], "weight", 0.2)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    pruned = prune(model, 0.5, "magnitude_layer")
    assert sparsity_of(model) == 3 / 225
    assert set(pruned.state_dict()) == set(network().state_dict())
    assert {tensor.dtype for tensor in pruned.state_dict().values()} == {torch.bfloat16, torch.int64}
    assert not pruned[8]._forward_pre_hooks
    assert same(before, dict(model.state_dict()))


def test_fingerprints_may_be_several_or_named() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.left, self.right = nn.Linear(4, 3), nn.Linear(2, 3)

        def forward(self, left: Tensor, right: Tensor) -> Tensor:
            return self.left(input=left) + self.right(right)

    left, right, labels = torch.randn(6, 4), torch.randn(6, 2), torch.randint(3, (6,))
    for method in METHODS:
        kept = masks(Two(), 0.5, method, [((left, right), labels)])
        named = {"left": left, "right": right, "labels": labels}
        assert same(kept, masks(Two(), 0.5, method, [named]))
    assert same(masks(Two(), 0.5, "wanda", [{"left": left, "right": right}]), kept)


def test_sparsity_of_counts_zeros() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Conv1d(1, 2, 2))
    assert sparsity_of(model) == 0
    model[0].weight.data = torch.tensor([[0.0, -0.0], [1.0, 2.0]])
    model[0].bias.data.zero_()
    assert sparsity_of(model) == 0.25


def test_every_method_says_what_it_does() -> None:
    for name, method in METHODS.items():
        assert method.name == name
        assert "\n" not in method.summary
        assert method.summary
        with pytest.raises((FrozenInstanceError, TypeError)):
            method.options().samples = 3


# -- bad inputs -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sparsity", [-0.1, 1, 1.5, float("nan"), True, "0.5", None])
def test_sparsity_must_lie_in_its_range(sparsity: Any) -> None:
    for function in (prune, masks):
        with pytest.raises(ValueError, match=f"sparsity .* got {sparsity!r}"):
            function(network(), sparsity, "magnitude")


def test_unknown_names_are_answered_with_what_there_is() -> None:
    with pytest.raises(ValueError, match="'optimal'; known: magnitude, magnitude_layer, fisher, woodfisher, wanda"):
        prune(network(), 0.5, "optimal")
    with pytest.raises(
        ValueError, match=r"no option 'damp'; did you mean 'damping'\? options: samples, minibatch, damping, block"
    ):
        prune(network(), 0.5, "woodfisher", batches(), {"damp": 1})
    with pytest.raises(ValueError, match="no option 'samples'; options: none"):
        prune(network(), 0.5, "magnitude", None, {"samples": 1})


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("fisher", {"samples": 0}),
        ("fisher", {"minibatch": 1.5}),
        ("woodfisher", {"block": 0}),
        ("woodfisher", {"damping": 0}),
        ("woodfisher", {"damping": float("nan")}),
        ("woodfisher", {"damping": "small"}),
        ("woodfisher", {"samples": True}),
        ("wanda", {"samples": -1}),
    ],
)
def test_options_must_lie_in_their_range(method: str, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        prune(network(), 0.5, method, batches(), options)


@pytest.mark.parametrize("method", METHODS)
def test_weights_must_be_finite(method: str) -> None:
    model = network()
    model[6].weight.data[0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"'6\.weight'"):
        prune(model, 0.5, method, batches())


def test_a_model_needs_prunable_weights() -> None:
    model = nn.Sequential(nn.BatchNorm1d(3), nn.ReLU())
    with pytest.raises(ValueError, match="no weights to prune"):
        prune(model, 0.5, "magnitude")
    with pytest.raises(ValueError, match="no weights to prune"):
        sparsity_of(model)
    with pytest.raises(ValueError, match="Module"):
        prune(3, 0.5, "magnitude")  # type: ignore[arg-type]


@pytest.mark.parametrize(("method", "reads"), [("wanda", "inputs"), ("fisher", "labels"), ("woodfisher", "labels")])
def test_data_must_be_there(method: str, reads: str) -> None:
    with pytest.raises(ValueError, match=f"'{method}' needs data.*{reads}"):
        prune(network(), 0.5, method)
    with pytest.raises(ValueError, match="no batches"):
        prune(network(), 0.5, method, [])


INPUTS = torch.ones(2, 2, 6, 6)


@pytest.mark.parametrize("method", WITH_LABELS)
@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([INPUTS], "labels"),
        (INPUTS, "labels"),
        (Batches(batches(), again=True), "labels"),
        ([{"x": INPUTS}], "a dict has none"),
        ([(INPUTS, torch.ones(2, 3))], "labels"),
        ([(INPUTS, torch.ones(2))], "labels"),
        ([(INPUTS, torch.zeros(3, dtype=torch.int64))], "3 labels"),
        ([("x", torch.zeros(2, dtype=torch.int64))], "inputs are a str"),
        ([(INPUTS, torch.tensor([0, 3]))], "labels from 0 to 3 do not fit a model of 3 classes"),
        ([(INPUTS, torch.tensor([-1, 0]))], "-1"),
        ([(INPUTS * float("nan"), torch.tensor([0, 1]))], "not finite"),
        (5, "int"),
        ("path", "str"),
    ],
)
def test_labels_must_be_there(method: str, data: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        prune(network(), 0.5, method, data, {"samples": 2, "minibatch": 2})


def test_fingerprints_must_be_finite() -> None:
    with pytest.raises(ValueError, match="saliencies that are not finite"):
        prune(network(), 0.5, "wanda", [INPUTS * 1e38])
    with pytest.raises(ValueError, match="values of batch 0 are not finite"):
        prune(network(), 0.5, "wanda", [INPUTS * float("inf")])
    with pytest.raises(ValueError, match="data must be batches"):
        prune(network(), 0.5, "wanda", 5)


class Unused(nn.Module):
    """A layer that is never run, and an output that may be something else than logits."""

    def __init__(self, output: str = "logits") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.used, self.unused, self.output = nn.Linear(4, 3), nn.Linear(4, 3), output

    def forward(self, inputs: Tensor) -> Any:
        logits = self.used(inputs)
        return {"logits": logits, "tuple": (logits,), "flat": logits[:, 0], "constant": logits.detach()}[self.output]


def test_a_layer_that_is_not_run() -> None:
    torch.manual_seed(0)
    data = [(torch.randn(4, 4), torch.tensor([0, 1, 2, 0]))]
    with pytest.raises(ValueError, match=r"no input reached the layer of 'unused\.weight'"):
        prune(Unused(), 0.5, "wanda", data)
    assert not masks(Unused(), 0.5, "fisher", data)["unused.weight"].any()
    kept = masks(Unused(), 0.5, "woodfisher", data)["unused.weight"]  # whose saliency is the damping's
    magnitudes = Unused().unused.weight.abs()
    assert magnitudes[~kept].max() < magnitudes[kept].min()


@pytest.mark.parametrize(
    ("output", "message"),
    [("tuple", "output is a tuple"), ("flat", "shape"), ("constant", "depends on no prunable weight")],
)
def test_the_fisher_needs_logits(output: str, message: str) -> None:
    data = [(torch.randn(4, 4), torch.tensor([0, 1, 2, 0]))]
    for method in WITH_LABELS:
        with pytest.raises(ValueError, match=message):
            prune(Unused(output), 0.5, method, data)


def test_the_options_have_the_papers_damping() -> None:
    assert WoodFisherOptions().damping == 1e-5


def test_what_reads_labels_is_known_without_torch() -> None:
    assert {name for name, method in METHODS.items() if method.reads == "inputs and labels"} == READ_LABELS
