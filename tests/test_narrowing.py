"""One network made narrower: what is redundant in it goes at no cost, and what is kept is what was asked for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from mergeline import merge
from mergeline.evaluation import parameters
from mergeline.maps import Dense
from mergeline.narrowing import METHODS, narrow
from mergeline.narrowing_options import OPTIONS
from mergeline.spaces import trace
from tests.networks import images, network
from tests.test_width import NETWORKS, copies_of, difference, mlp, sizes, trained, widened
from tests.test_width import network as small


def test_every_method_has_its_options() -> None:
    assert list(METHODS) == list(OPTIONS)
    assert all(METHODS[name].options is OPTIONS[name] for name in OPTIONS)


@pytest.mark.parametrize("name", NETWORKS)
def test_zipped_copies_of_units_cost_nothing(name: str) -> None:
    inputs, model = NETWORKS[name][1], small(name)
    spaces = trace(model, inputs[:2])
    wide = widened(model, spaces, copies_of(spaces, np.random.default_rng(0), 2))
    narrowed = narrow(wide, sizes(model, inputs), "zip", inputs, "none")
    assert difference(model, narrowed.model, inputs) < 1e-4
    assert narrowed.sizes == sizes(narrowed.model, inputs) == sizes(model, inputs)
    dropped = narrow(wide, sizes(model, inputs), "random", inputs, "none")
    assert difference(model, dropped.model, inputs) > 1e-2


@pytest.mark.parametrize("name", NETWORKS)
def test_zip_is_the_merge_of_the_network_alone(name: str) -> None:
    inputs, model = NETWORKS[name][1], small(name)
    narrowed, merged = narrow(model, 0.6, "zip", inputs, "none"), merge([model], inputs, "zip", "none", width=0.6)
    states = narrowed.model.state_dict(), merged.model.state_dict()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[1])


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("method", METHODS)
def test_at_width_one_a_network_is_itself(name: str, method: str) -> None:
    inputs, model = NETWORKS[name][1], small(name)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    found = narrow(model, 1.0, method, inputs, "none").model.state_dict()
    assert all(torch.equal(found[key], tensor) for key, tensor in before.items())
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


@pytest.mark.parametrize("name", NETWORKS)
def test_units_that_give_nothing_are_dropped_at_no_cost(name: str) -> None:
    """Of weights 0, they are the smallest: what reads them reads what norms and biases make of nothing, so these are 0 too."""
    inputs, model = NETWORKS[name][1], small(name)
    spaces = trace(model, inputs[:2])
    state = model.state_dict()
    for space in spaces.free:
        for axis in space.axes:
            if not axis.tensor.endswith(("running_var", "running_mean")):
                state[axis.tensor].index_fill_(axis.axis, torch.from_numpy(axis.index[0]), 0.0)
    wanted = {space.name: space.size - 1 for space in spaces.free}
    narrowed = narrow(model, wanted, "largest", inputs, "none")
    assert difference(model, narrowed.model, inputs) < 1e-5
    assert narrowed.sizes == wanted


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("name", "normalize"), [("vgg11-bn", "reset"), ("vgg11-bn", "repair"), ("vgg11", "rescale")])
def test_half_the_units_are_about_a_quarter_of_the_weights(method: str, name: str, normalize: str) -> None:
    model, data = network(name, 0), images(24).split(8)
    narrowed = narrow(model, 0.5, method, data, normalize)
    spaces = trace(model, images(2))
    assert narrowed.sizes == {space.name: space.size // 2 for space in spaces.movable}
    assert 0.2 < parameters(narrowed.model) / parameters(model) < 0.35
    with torch.no_grad():
        assert narrowed.model(images(4)).isfinite().all()


def kept(name: str, width: float) -> list[set[int]]:
    found = narrow(small(name), width, "random", NETWORKS[name][1], "none").maps.values()
    return [set(np.flatnonzero(own.to_merged.any(0)).tolist()) for own in found if isinstance(own, Dense)]


def test_a_random_choice_at_one_width_is_part_of_that_at_a_larger_one() -> None:
    few, more = kept("residual", 0.5), kept("residual", 0.7)
    assert len(few) == len(more) > 2
    assert all(one < other for one, other in zip(few, more, strict=True))


def test_what_cannot_be_done_is_an_error() -> None:
    inputs = NETWORKS["mlp"][1]
    model = trained(mlp(), 0)
    for width in (0, 0.0, -1, True):
        with pytest.raises(ValueError, match="width must be a share of the widest model's units above 0"):
            narrow(model, width, "zip", inputs, "none")
    with pytest.raises(ValueError, match="width: space '0' cannot have 12 units: 2 at least, and at most the 6"):
        narrow(model, 2.0, "zip", inputs, "none")
    with pytest.raises(ValueError, match="unknown narrowing method 'zap'; known: zip, largest, random"):
        narrow(model, 0.5, "zap", inputs)
    with pytest.raises(ValueError, match="alpha must be above 0"):
        narrow(model, 0.5, "zip", inputs, "none", options={"alpha": 0.0})
    with pytest.raises(ValueError, match="unknown normalisation 'bias_removal'; known: none, reset, repair, rescale"):
        narrow(model, 0.5, "zip", inputs, "bias_removal")
    with pytest.raises(ValueError, match="'reset' would do nothing"):
        narrow(model, 0.5, "zip", inputs)
    with pytest.raises(ValueError, match="there is no batch"):
        narrow(model, 0.5, "zip", [], "none")
    with pytest.raises(ValueError, match="compares its units with each other"):
        narrow(network("vgg11-ln", 0), 0.5, "random", images(4), "none")
    with pytest.raises(ValueError, match="batches of inputs"):
        narrow(nn.Linear(2, 2), 0.5)
