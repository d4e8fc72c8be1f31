"""Training of edge models: it learns, it repeats exactly, and an interruption leaves no trace."""

from __future__ import annotations

import copy
import dataclasses
import io
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from mergeline.architectures import Architecture, build
from mergeline.evaluation import predict, score
from mergeline.images import MEAN, STD, augment, normalize
from mergeline.inputs import batches, to_device
from mergeline.training import EpochRecord, Recipe, TrainState, learning_rate, train
from tests.conftest import TINY, Toy, make_toy

SHORT = Recipe(epochs=3, batch_size=32, learning_rate=0.1, shift=1, flip=True)
ADAMW = Recipe(epochs=3, batch_size=32, optimizer="adamw", learning_rate=0.01, weight_decay=0.1, shift=1, flip=True)
TINY_VIT = Architecture("vit4", 4, 1 / 16, 32)
Run = tuple[nn.Module, list[EpochRecord], list[TrainState]]
WAYS = {"sgd": (SHORT, TINY), "adamw": (ADAMW, TINY_VIT)}


def run(
    toy: Toy,
    recipe: Recipe = SHORT,
    seed: int = 0,
    resume: TrainState | None = None,
    init: int = 0,
    architecture: Architecture = TINY,
) -> Run:
    """A training with copies of the states after each epoch."""
    model = build(architecture, init)
    states: list[TrainState] = []
    generator = torch.Generator().manual_seed(seed)
    history = train(
        model, *toy.tensors(), recipe, generator, resume=resume, on_epoch=lambda s: states.append(copy.deepcopy(s))
    )
    return model, history, states


def equal(first: nn.Module, second: nn.Module) -> bool:
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.fixture(scope="module")
def wholes(toy: Toy) -> dict[str, Run]:
    """Uninterrupted trainings, one by each optimizer."""
    return {name: run(toy, recipe, architecture=architecture) for name, (recipe, architecture) in WAYS.items()}


@pytest.fixture(scope="module")
def whole(wholes: dict[str, Run]) -> Run:
    return wholes["sgd"]


def through_disk(state: TrainState) -> TrainState:
    stream = io.BytesIO()
    torch.save(state.to_dict(), stream)
    stream.seek(0)
    return TrainState.from_dict(torch.load(stream, weights_only=True))


# -- training -------------------------------------------------------------------------------------------------------


def test_it_learns_a_separable_task(toy: Toy, whole: Run) -> None:
    model, history, _ = whole
    unseen = make_toy(64, toy.classes, seed=11)
    logits = predict(model, [unseen.inputs()])
    assert isinstance(logits, Tensor)
    assert score(logits, torch.from_numpy(unseen.labels))["accuracy"] > 0.95
    assert [record.epoch for record in history] == [1, 2, 3]
    assert history[-1].loss < 0.5 * history[0].loss
    assert history[-1].accuracy > history[0].accuracy
    assert not model.training


def test_the_same_seed_gives_the_same_bytes(toy: Toy, whole: Run) -> None:
    model, history, _ = run(toy)
    assert equal(model, whole[0])
    assert history == whole[1]


@pytest.mark.parametrize("other", [{"seed": 1}, {"init": 1}])
def test_another_seed_gives_another_model(other: dict[str, int], toy: Toy, whole: Run) -> None:
    assert not equal(run(toy, **other)[0], whole[0])  # type: ignore[arg-type]


@pytest.mark.parametrize("epoch", [1, 2, 3])
@pytest.mark.parametrize("optimizer", WAYS)
def test_an_interrupted_training_ends_with_the_bytes_of_a_whole_one(
    optimizer: str, epoch: int, toy: Toy, wholes: dict[str, Run]
) -> None:
    recipe, architecture = WAYS[optimizer]
    state = through_disk(wholes[optimizer][2][epoch - 1])
    assert state.epoch == epoch
    model, history, states = run(toy, recipe, seed=99, init=99, resume=state, architecture=architecture)
    assert equal(model, wholes[optimizer][0])
    assert history == wholes[optimizer][1]
    assert [s.epoch for s in states] == list(range(epoch + 1, 4))


def test_a_state_survives_the_disk(whole: Run) -> None:
    state = whole[2][1]
    again = through_disk(state)
    assert (again.epoch, again.history) == (state.epoch, state.history)
    assert torch.equal(again.generator, state.generator)
    assert all(torch.equal(again.model[name], tensor) for name, tensor in state.model.items())


def test_steps_are_told_one_by_one(toy: Toy) -> None:
    steps: list[tuple[int, int]] = []
    recipe = dataclasses.replace(SHORT, epochs=2, batch_size=64)
    train(
        build(TINY, 0),
        *toy.tensors(),
        recipe,
        torch.Generator(),
        on_step=lambda done, total: steps.append((done, total)),
    )
    assert steps == [(done, 6) for done in range(1, 7)]


def test_a_batch_larger_than_the_data_is_all_of_them() -> None:
    few = make_toy(8)
    history = run(few, dataclasses.replace(SHORT, epochs=1, batch_size=500))[1]
    assert len(history) == 1
    assert math.isfinite(history[0].loss)


def test_norms_and_biases_are_not_decayed(toy: Toy) -> None:
    """With a huge decay and almost no learning, only weights of several axes shrink."""
    model = build(TINY, 0)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    recipe = Recipe(epochs=1, batch_size=64, learning_rate=1e-6, momentum=0.0, weight_decay=1e5, warmup=0.0, shift=0)
    train(model, *toy.tensors(), recipe, torch.Generator())
    for name, parameter in model.named_parameters():
        ratio = float(parameter.detach().norm() / before[name].norm().clamp_min(1e-12))
        if parameter.dim() > 1:
            assert ratio < 0.95, name
        elif name.endswith("weight"):
            assert ratio == pytest.approx(1, abs=1e-3), name


KEPT = {"vit4": {"cls_token", "pos_embed"}, "swin": {"relative_position_bias_table"}}


@pytest.mark.parametrize("name", KEPT)
def test_adamw_decays_the_weights_of_layers_by_themselves_and_no_tokens_positions_norms_and_biases(
    name: str, toy: Toy
) -> None:
    """A learning rate that moves nothing, and a decay that takes a tenth of every weight at each of three steps."""
    model = build(Architecture(name, 4, 1 / 16, 32), 0)
    before = {key: parameter.detach().clone() for key, parameter in model.named_parameters()}
    recipe = dataclasses.replace(ADAMW, epochs=1, batch_size=64, learning_rate=1e-6, weight_decay=1e5, warmup=1.0)
    train(model, *toy.tensors(), recipe, torch.Generator())
    rates = [learning_rate(recipe, step, 3) for step in range(3)]
    left = math.prod(1 - rate * recipe.weight_decay for rate in rates)
    found = set()
    for key, parameter in model.named_parameters():
        leaf = key.rpartition(".")[2]
        found |= {leaf} & KEPT[name]
        decayed = parameter.dim() > 1 and leaf not in KEPT[name]
        torch.testing.assert_close(
            parameter.detach(), before[key] * (left if decayed else 1), rtol=0, atol=5e-6, msg=key
        )
    assert found == KEPT[name]


def test_an_optimizer_that_there_is_not_names_those_that_there_are() -> None:
    with pytest.raises(ValueError, match="unknown optimizer 'adam'; known: sgd, adamw"):
        Recipe(optimizer="adam")


def test_bfloat16_trains_as_well_and_leaves_the_weights_in_float32(toy: Toy, whole: Run) -> None:
    model, history, _ = run(toy, replace(SHORT, precision="bfloat16"))
    assert {tensor.dtype for tensor in model.state_dict().values()} <= {torch.float32, torch.int64}
    assert not equal(model, whole[0])
    assert history[-1].accuracy == pytest.approx(whole[1][-1].accuracy, abs=0.1)
    assert equal(run(toy, replace(SHORT, precision="float32"))[0], whole[0]), "what a CPU does by default"


def test_a_precision_that_there_is_not_names_those_that_there_are() -> None:
    with pytest.raises(ValueError, match="unknown precision 'half'; known: auto, float32, bfloat16"):
        Recipe(precision="half")


def test_a_loss_that_is_no_number_names_what_to_change(toy: Toy) -> None:
    recipe = dataclasses.replace(SHORT, learning_rate=1e30, warmup=0.0)
    with pytest.raises(FloatingPointError, match=r"epoch 1; try a lower train\.learning_rate \(now 1e\+30\)"):
        run(toy, recipe)


# -- the learning rate ----------------------------------------------------------------------------------------------


def test_the_learning_rate_rises_linearly_and_falls_as_a_cosine() -> None:
    recipe = Recipe(learning_rate=0.4, warmup=0.2)
    rates = [learning_rate(recipe, step, 20) for step in range(20)]
    assert rates[:4] == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert rates[4:] == pytest.approx([0.2 * (1 + math.cos(math.pi * k / 16)) for k in range(16)])
    assert rates[12] == pytest.approx(0.2)
    assert rates[-1] < 0.005


def test_without_warmup_the_first_step_has_the_full_rate() -> None:
    assert learning_rate(Recipe(learning_rate=0.3, warmup=0.0), 0, 10) == pytest.approx(0.3)


@pytest.mark.parametrize(("warmup", "total"), [(0.0, 1), (1.0, 1), (1.0, 10), (0.15, 3)])
def test_the_learning_rate_is_positive_and_never_above_its_peak(warmup: float, total: int) -> None:
    recipe = Recipe(learning_rate=0.1, warmup=warmup)
    rates = [learning_rate(recipe, step, total) for step in range(total)]
    assert all(0 < rate <= 0.1 for rate in rates)
    assert max(rates) == pytest.approx(0.1)


def test_the_history_holds_the_rate_of_each_epochs_last_step(toy: Toy, whole: Run) -> None:
    steps = len(toy.images) // SHORT.batch_size
    expected = [learning_rate(SHORT, epoch * steps - 1, 3 * steps) for epoch in (1, 2, 3)]
    assert [record.learning_rate for record in whole[1]] == pytest.approx(expected)


# -- images ---------------------------------------------------------------------------------------------------------


def pictures(count: int = 64, size: int = 9, channels: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, size, size, channels), generator=generator, dtype=torch.uint8)


def shifted(image: Tensor, down: int, right: int) -> Tensor:
    """The image read from ``down`` rows and ``right`` columns further, its edges repeated."""
    size = len(image)
    result = torch.empty_like(image)
    for row in range(size):
        for column in range(size):
            result[row, column] = image[min(max(row + down, 0), size - 1), min(max(column + right, 0), size - 1)]
    return result


def test_no_shift_and_no_flip_is_the_image_itself() -> None:
    images = pictures()
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    assert augment(images, 0, False, generator) is images
    assert torch.equal(generator.get_state(), before)


def test_each_image_is_shifted_by_the_drawn_offsets_with_edges_repeated() -> None:
    images = pictures()
    found = augment(images, 2, False, torch.Generator().manual_seed(3))
    offsets = torch.randint(-2, 3, (64, 2), generator=torch.Generator().manual_seed(3))
    for image, result, (down, right) in zip(images, found, offsets.tolist(), strict=True):
        assert torch.equal(result, shifted(image, down, right))
    assert len(set(map(tuple, offsets.tolist()))) > 15


def test_flipping_mirrors_about_half_of_the_images_and_leaves_the_others() -> None:
    images = pictures(200)
    found = augment(images, 0, True, torch.Generator().manual_seed(3))
    mirrored = [torch.equal(result, image.flip(1)) for image, result in zip(images, found, strict=True)]
    same = [torch.equal(result, image) for image, result in zip(images, found, strict=True)]
    assert all(a != b for a, b in zip(mirrored, same, strict=True))
    assert 70 < sum(mirrored) < 130


def test_flipping_and_shifting_keep_whole_columns_together() -> None:
    images = pictures(20, channels=1)
    found = augment(images, 1, True, torch.Generator().manual_seed(3))
    wanted = [
        {
            tuple(candidate.flatten().tolist())
            for down in (-1, 0, 1)
            for right in (-1, 0, 1)
            for candidate in (shifted(image, down, right), shifted(image, down, right).flip(1))
        }
        for image in images
    ]
    assert all(tuple(result.flatten().tolist()) in options for result, options in zip(found, wanted, strict=True))


def test_the_same_generator_augments_the_same_way() -> None:
    first, second = (augment(pictures(), 2, True, torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(first, second)
    assert first.dtype == torch.uint8


@pytest.mark.parametrize("channels", [1, 3])
def test_normalised_images_have_three_standardised_channels_last(channels: int) -> None:
    images = pictures(4, channels=channels)
    found = normalize(images)
    assert found.shape == (4, 3, 9, 9)
    for channel in range(3):
        raw = images[..., channel if channels == 3 else 0].float() / 255
        torch.testing.assert_close(found[:, channel], (raw - MEAN[channel]) / STD[channel], rtol=1e-4, atol=1e-5)
    assert found.is_contiguous(memory_format=torch.channels_last)


def test_batches_hold_every_image_once_in_order() -> None:
    images = pictures(10)
    parts = list(batches(images, 4))
    assert [len(part) for part in parts] == [4, 4, 2]
    assert torch.equal(torch.cat(parts), normalize(images))
    assert torch.equal(to_device(images.numpy()[::2], "cpu"), images[::2])
