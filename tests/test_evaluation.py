"""Scores against small cases computed by hand, and costs against published ones."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from mergeline.architectures import Architecture, build
from mergeline.evaluation import (
    agreement,
    confusion,
    ensemble_logits,
    flops,
    joint_accuracy,
    parameters,
    predict,
    score,
)
from mergeline.metrics.calibration import calibration_error


def log_of(*rows: tuple[float, ...]) -> Tensor:
    return torch.tensor(rows).log()


def onehot(classes: list[int], count: int, height: float = 1.0) -> Tensor:
    return height * nn.functional.one_hot(torch.tensor(classes), count).float()


# -- scores ---------------------------------------------------------------------------------------------------------


def test_scores_of_three_images_by_hand() -> None:
    logits = log_of((0.7, 0.2, 0.1), (0.1, 0.6, 0.3), (0.2, 0.3, 0.5))
    scores = score(logits, torch.tensor([0, 2, 2]), bins=10)
    assert scores["accuracy"] == pytest.approx(2 / 3)
    assert scores["loss"] == pytest.approx(-(math.log(0.7) + math.log(0.3) + math.log(0.5)) / 3, rel=1e-6)
    # one image a bin: (0.7, right), (0.6, wrong), (0.5, right)
    assert scores["calibration_error"] == pytest.approx((0.3 + 0.6 + 0.5) / 3, rel=1e-5)
    assert scores["n"] == 3


def test_certain_and_right_is_without_loss_and_error() -> None:
    scores = score(onehot([0, 1, 2], 3, 100.0), torch.tensor([0, 1, 2]))
    assert (scores["accuracy"], scores["loss"], scores["calibration_error"]) == pytest.approx((1, 0, 0), abs=1e-9)


def test_certain_and_wrong_is_finite() -> None:
    scores = score(onehot([1, 2, 0], 3, 1000.0), torch.tensor([0, 1, 2]))
    assert (scores["accuracy"], scores["loss"], scores["calibration_error"]) == pytest.approx((0, 1000, 1))


def literal_calibration_error(logits: Tensor, labels: Tensor, bins: int) -> float:
    probabilities = torch.softmax(logits.double(), 1).numpy()
    total = 0.0
    for b in range(bins):
        inside = [
            i
            for i, row in enumerate(probabilities)
            if b / bins <= row.max() < (b + 1) / bins or (b == bins - 1 and row.max() >= 1)
        ]
        if inside:
            confidence = np.mean([probabilities[i].max() for i in inside])
            accuracy = np.mean([probabilities[i].argmax() == labels[i] for i in inside])
            total += len(inside) / len(labels) * abs(confidence - accuracy)
    return total


@given(seed=st.integers(0, 999), n=st.integers(1, 60), bins=st.integers(1, 20), sharpness=st.sampled_from([0.1, 1, 5]))
def test_the_calibration_error_is_what_a_plain_loop_gives(seed: int, n: int, bins: int, sharpness: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, 4, generator=generator) * sharpness
    labels = torch.randint(0, 4, (n,), generator=generator)
    assert calibration_error(logits, labels, bins) == pytest.approx(literal_calibration_error(logits, labels, bins))


# -- several heads --------------------------------------------------------------------------------------------------


def test_the_joint_accuracy_counts_over_all_heads_classes() -> None:
    # task 0 has two classes, task 1 three; rows are images of that task
    first = [torch.tensor([[5.0, 0], [0, 1], [0, 4]]), torch.tensor([[1.0, 0, 0], [9, 0, 0], [0, 0, 3]])]
    second = [torch.tensor([[0.0, 0], [0, 7]]), torch.tensor([[0.0, 2, 0], [1, 2, 6]])]
    labels = [torch.tensor([0, 1, 0]), torch.tensor([1, 2])]
    # task 0: right; taken by head 1; own head, wrong class. task 1: right; taken by head 0
    assert joint_accuracy([first, second], labels) == pytest.approx(2 / 5)


@pytest.mark.parametrize("label", [3, -2])
def test_a_label_of_no_class_is_refused(label: int) -> None:
    logits, labels = torch.zeros(4, 3), torch.tensor([0, label, -1, 2])
    with pytest.raises(ValueError, match=f"a label is {label}, and the outputs are of 3 classes"):
        score(logits, labels)
    with pytest.raises(ValueError, match=f"a label is {label}"):
        confusion(logits, labels)
    with pytest.raises(ValueError, match=f"a label is {label}"):  # though another task's head has as many classes
        joint_accuracy([[logits, torch.zeros(4, 5)]], [labels])


def test_what_means_nothing_is_refused() -> None:
    labels = torch.tensor([0, 1])
    logits = torch.tensor([[0.0, 1.0], [math.inf, 0.0]])
    with pytest.raises(ValueError, match="1 of 2 outputs are not finite"):
        score(logits, labels)
    with pytest.raises(ValueError, match="1 bin at least"):
        score(torch.zeros(2, 2), labels, bins=0)
    with pytest.raises(ValueError, match="there are none"):
        predict(nn.Linear(2, 2), [])
    with pytest.raises(ValueError, match=r"got 3 predictions and, of the sources, \[3, 1\]"):
        agreement(torch.zeros(3, 2), [torch.zeros(3, 2), torch.zeros(1, 2)])
    with pytest.raises(ValueError, match="two sources at least"):
        agreement(torch.zeros(3, 2), [torch.zeros(3, 2)])


def test_the_joint_accuracy_of_one_task_is_its_accuracy() -> None:
    logits = torch.randn(40, 5, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(40) % 5
    assert joint_accuracy([[logits]], [labels]) == pytest.approx(score(logits, labels)["accuracy"])


def test_the_joint_accuracy_never_exceeds_the_mean_of_the_tasks() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = [[torch.randn(50, 4, generator=generator) for _ in range(3)] for _ in range(3)]
    labels = [torch.randint(0, 4, (50,), generator=generator) for _ in range(3)]
    own = [score(logits[task][task], labels[task])["accuracy"] for task in range(3)]
    assert joint_accuracy(logits, labels) <= sum(own) / 3


def test_an_ensemble_averages_probabilities() -> None:
    first, second = log_of((0.9, 0.1), (0.4, 0.6)), log_of((0.2, 0.8), (0.5, 0.5)) + 7.0
    found = ensemble_logits([first, second]).softmax(1)
    torch.testing.assert_close(found, torch.tensor([[0.55, 0.45], [0.45, 0.55]]))


def test_an_ensemble_of_one_model_is_that_model() -> None:
    logits = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ensemble_logits([logits]).softmax(1), logits.softmax(1))
    torch.testing.assert_close(ensemble_logits([logits] * 3).softmax(1), logits.softmax(1))


def test_agreement_counts_followers_where_the_sources_disagree() -> None:
    merged = onehot([0, 1, 2, 0, 1], 3)
    sources = [onehot([0, 1, 1, 0, 0], 3), onehot([0, 2, 2, 1, 2], 3)]
    # the sources disagree on images 1 to 4; of those the merged model follows 1 and 3 of the first, 2 of the second
    assert agreement(merged, sources) == pytest.approx(
        {"agree_0": 3 / 5, "agree_1": 2 / 5, "disagree": 4 / 5, "follow_0": 2 / 4, "follow_1": 1 / 4}
    )


def test_sources_that_never_disagree_have_no_followers() -> None:
    same = onehot([0, 1], 2)
    found = agreement(same, [same, same])
    assert found["disagree"] == 0
    assert math.isnan(found["follow_0"])
    assert math.isnan(found["follow_1"])


def test_three_sources_are_all_compared() -> None:
    votes = [onehot([0, 0], 2), onehot([0, 1], 2), onehot([1, 1], 2)]
    found = agreement(votes[0], votes)
    assert [found[f"agree_{i}"] for i in range(3)] == [1, 0.5, 0]


# -- predictions and costs ------------------------------------------------------------------------------------------


def test_predictions_are_in_order_whatever_the_batches() -> None:
    model = build(Architecture("r17", 5, 1 / 16, 32), 0)
    images = torch.randn(10, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    whole, parts = predict(model, [images]), predict(model, images.split(3))
    assert isinstance(whole, Tensor)
    assert isinstance(parts, Tensor)
    torch.testing.assert_close(whole, parts, rtol=1e-4, atol=1e-4)
    assert whole.shape == (10, 5)
    assert not whole.requires_grad


def test_predictions_of_several_heads_are_kept_by_name() -> None:
    class Two(nn.Module):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"a": x.mean((2, 3)), "b": x.double().sum((2, 3))}

    found = predict(Two(), [torch.ones(2, 3, 4, 4), torch.zeros(1, 3, 4, 4)])
    assert isinstance(found, dict)
    assert {name: (tuple(part.shape), part.dtype) for name, part in found.items()} == {
        "a": ((3, 3), torch.float32),
        "b": ((3, 3), torch.float32),
    }


def test_multiply_adds_of_a_resnet50_are_the_published_ones() -> None:
    with torch.device("meta"):
        model = torchvision.models.resnet50()
        example = torch.zeros(1, 3, 224, 224)
    assert flops(model, example) / 1e9 == pytest.approx(4.09, abs=0.005)
    assert parameters(model) == 25_557_032


def test_multiply_adds_are_counted_for_one_image() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.Flatten(), nn.Linear(4 * 36, 10))
    expected = 36 * 4 * 27 + 4 * 36 * 10
    for batch in (1, 5):
        assert flops(model, torch.zeros(batch, 3, 6, 6)) == expected


def test_parameters_are_counted_without_statistics() -> None:
    assert parameters(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))) == 3 * 4 + 4 + 4 + 4
