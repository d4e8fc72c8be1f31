"""CKA of all layers of r50 with all of r26, and of their blocks, against the two models' forward passes."""

from __future__ import annotations

import torch
from torch import nn

from benchmarks.timing import in_turn, ratio
from mergeline.architectures import Architecture, build
from mergeline.depth.blocks import find_chains
from mergeline.depth.similarity import block_similarity
from mergeline.diagnostics import cka_map
from mergeline.heads import trace_network

LIMIT = 1.3
"""What the similarity of all layers may cost."""


def measure(images: int = 384, width: float = 1.0, rounds: int = 3) -> dict[str, float]:
    """Width 1, 64 pixels, 384 images in batches of 32, one thread, in eval mode and channels-last."""
    torch.set_num_threads(1)
    batches = list(torch.randn(images, 3, 64, 64, generator=torch.Generator().manual_seed(0)).split(32))
    batches = [batch.to(memory_format=torch.channels_last) for batch in batches]
    deep, shallow = (_network(name, width) for name in ("r50", "r26"))
    traces = [trace_network(model, 64) for model in (deep, shallow)]
    chains = find_chains(shallow, deep)

    @torch.no_grad()
    def forward() -> None:
        for batch in batches:
            for model in (deep, shallow):
                model(batch)

    seconds = in_turn(
        {
            "forward": forward,
            "layers": lambda: cka_map(deep, shallow, *traces, batches),
            "blocks": lambda: block_similarity(shallow, deep, chains, batches),
        },
        rounds,
    )
    return {what: ratio(seconds, what, "forward") for what in ("layers", "blocks")}


def _network(name: str, width: float) -> nn.Module:
    return build(Architecture(name, 10, width, 64), 0).eval().to(memory_format=torch.channels_last)


def line(found: dict[str, float]) -> str:
    return (
        f"CKA of r50 with r26, in forward passes of both: all layers {found['layers']:.2f} (limit {LIMIT}), "
        f"blocks {found['blocks']:.2f}"
    )
