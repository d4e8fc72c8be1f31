"""Pruned networks, with the statistics of the network before."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import pytest
import torch

from mergeline.architectures import Architecture, build
from mergeline.normalization.targets import layer_statistics
from mergeline.pruned import normalise_pruned
from mergeline.pruning import prune, sparsity_of
from mergeline.spaces import trace
from stages.formats.merged import load_merged, save_compressed
from tests.conftest import Toy
from tests.networks import images, network


@pytest.mark.parametrize("name", ["vgg11", "vgg11-bn", "vgg11-ln"])
@pytest.mark.parametrize("method", ["repair", "rescale"])
def test_a_pruned_network_gets_the_statistics_of_the_network_before(name: str, method: str) -> None:
    original = network(name, 0)
    pruned = prune(original, 0.8, "magnitude")
    before = deepcopy(original.state_dict())
    found = normalise_pruned(pruned, original, images().split(9), method)
    assert found is pruned
    assert all(torch.equal(tensor, before[key]) for key, tensor in original.state_dict().items())
    assert sparsity_of(pruned) == pytest.approx(0.8, abs=1e-4)
    spaces, own = trace(original, images(2)), trace(pruned, images(2))
    wanted = layer_statistics(original, spaces, [images()])
    reached = layer_statistics(pruned, own, [images()])
    for key, goal in wanted.items():
        alive = reached[key].deviation > 1e-6  # what pruning cut off altogether cannot vary again
        torch.testing.assert_close(reached[key].deviation[alive], goal.deviation[alive], rtol=2e-3, atol=1e-4)
        if method == "repair":
            torch.testing.assert_close(reached[key].mean, goal.mean, rtol=2e-3, atol=2e-3)


def test_a_reset_sets_batch_statistics_alone() -> None:
    original = network("vgg11-bn", 0)
    pruned = prune(original, 0.5, "magnitude")
    before = {name: parameter.detach().clone() for name, parameter in pruned.named_parameters()}
    normalise_pruned(pruned, original, [images()], "reset")
    assert all(torch.equal(parameter, before[name]) for name, parameter in pruned.named_parameters())
    assert not torch.equal(pruned.features[1].running_var, original.features[1].running_var)  # type: ignore[index, union-attr, arg-type]


def test_an_unpruned_network_stays_as_it_is() -> None:
    original = network("vgg11", 0)
    same = normalise_pruned(deepcopy(original), original, [images()])
    torch.testing.assert_close(same(images(4)), original(images(4)), rtol=1e-3, atol=1e-3)


def test_what_cannot_be_done_is_an_error() -> None:
    original = network("vgg11", 0)
    with pytest.raises(ValueError, match="no batch norms"):
        normalise_pruned(deepcopy(original), original, [images()], "reset")
    with pytest.raises(ValueError, match="unknown normalisation 'bias_removal' of pruned networks"):
        normalise_pruned(deepcopy(original), original, [images()], "bias_removal")
    with pytest.raises(ValueError, match="no batch"):
        normalise_pruned(deepcopy(original), original, [])
    with pytest.raises(ValueError, match="pruned"):
        normalise_pruned(network("vgg11-bn", 0), original, [images()])


def test_biases_that_repair_made_are_in_the_file_and_zeros_stay(tmp_path: Path, toy: Toy) -> None:
    architecture = Architecture("resnet20-gn", toy.classes, 0.5, 32)
    original = build(architecture, 0).eval()
    pruned = normalise_pruned(prune(original, 0.9, "magnitude"), original, [toy.inputs(24)])
    path = tmp_path / "model.safetensors"
    save_compressed(path, pruned, "pruned", "digits", architecture)
    read = load_merged(path)
    made = read.state_dict().keys() - original.state_dict().keys()
    assert made
    assert all(name.endswith("bias") for name in made)
    assert all(torch.equal(tensor, read.state_dict()[name]) for name, tensor in pruned.state_dict().items())
    assert sparsity_of(read) == pytest.approx(0.9, abs=1e-4)
    torch.testing.assert_close(read(toy.inputs(4)), pruned(toy.inputs(4)), rtol=1e-4, atol=1e-4)
