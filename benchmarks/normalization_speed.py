"""Normalising a computed merge another way, with the source models' statistics at hand, against one pass of the network."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor

from benchmarks.timing import in_turn, ratio
from mergeline.architectures import Architecture, build
from mergeline.heads import trace_network
from mergeline.merging import merge_network
from mergeline.network import normalise
from mergeline.normalization.targets import layer_statistics


def measure(images: int = 256, rounds: int = 5) -> dict[str, float]:
    """A plain VGG16 at width 1/4 and an r35 with batch norms at width 1/4, 32 pixels, batches of 64, one thread."""
    torch.set_num_threads(1)
    batches = list(torch.randn(images, 3, 32, 32, generator=torch.Generator().manual_seed(0)).split(64))
    return {key: value for name in ("vgg16", "r35") for key, value in _of(name, batches, rounds).items()}


def _of(name: str, batches: list[Tensor], rounds: int) -> dict[str, float]:
    architecture = Architecture(name, 10, 0.25, 32)
    models = {str(seed): build(architecture, seed).eval() for seed in (0, 1)}
    spaces = trace_network(models["0"], 32)
    statistics = [{"0": layer_statistics(model, spaces, batches)} for model in models.values()]
    states = [model.state_dict() for model in models.values()]
    merged = merge_network(deepcopy(models["0"]), spaces, states, [{}, {}])
    networks = {method: deepcopy(merged) for method in ("repair", "rescale")}

    def work(method: str) -> None:
        normalise(
            networks[method], method, models=models, spaces=spaces, maps=[{}, {}], mixed=batches, statistics=statistics
        )

    @torch.no_grad()
    def forward() -> None:
        for batch in batches:
            merged(batch)

    seconds = in_turn(
        {"forward": forward, "repair": lambda: work("repair"), "rescale": lambda: work("rescale")}, rounds
    )
    return {f"{name} {method}": ratio(seconds, method, "forward") for method in networks}


def line(found: dict[str, float]) -> str:
    parts = ", ".join(f"{name} {value:.2f}" for name, value in found.items())
    return f"normalisation with the models' statistics at hand, in forward passes of the merged network: {parts}"
