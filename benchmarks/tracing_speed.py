"""Tracing and proving a network against building torch-pruning's dependency graph, which proves nothing."""

from __future__ import annotations

import time

import torch

from benchmarks.timing import in_turn, ratio
from mergeline.spaces import trace
from mergeline.spaces.verifying import check_spaces


def measure(rounds: int = 5) -> dict[str, float]:
    """ResNet-50 and ViT-B/16 of torchvision on images of 224 pixels, one thread."""
    import torch_pruning
    import torchvision

    torch.set_num_threads(1)
    images = torch.randn(2, 3, 224, 224)
    resnet = torchvision.models.resnet50(weights=None).eval()
    vit = torchvision.models.vit_b_16(weights=None).eval()

    def ours(model: torch.nn.Module = resnet) -> None:
        check_spaces(model, trace(model, images), images)

    def theirs() -> None:
        graph = torch_pruning.DependencyGraph().build_dependency(resnet, example_inputs=images)
        assert list(graph.get_all_groups())

    seconds = in_turn({"ours": ours, "theirs": theirs, "trace": lambda: trace(resnet, images)}, rounds)
    begun = time.process_time()
    ours(vit)
    spent = time.process_time() - begun
    return {
        "resnet50 against torch-pruning": ratio(seconds, "ours", "theirs"),
        "resnet50 trace against torch-pruning": ratio(seconds, "trace", "theirs"),
        "vit_b_16 seconds": spent,
    }


def line(found: dict[str, float]) -> str:
    return (
        f"tracing: resnet50 traced and proved in {found['resnet50 against torch-pruning']:.2f} times what torch-pruning takes for "
        f"its graph (2 at most wanted; {found['resnet50 trace against torch-pruning']:.2f} without the proof); ViT-B/16 in "
        f"{found['vit_b_16 seconds']:.1f} s of CPU (3 at most wanted)"
    )
