"""The training loop against forward, backward and step alone on one batch that never changes."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from benchmarks.timing import in_turn, ratio
from mergeline.architectures import Architecture, build
from mergeline.images import normalize
from mergeline.training import Recipe, train

BATCH, STEPS = 64, 20


def measure(device: str = "cpu", threads: int = 1) -> dict[str, float | str]:
    """Rate of the loop as a share of the bare rate (1 is no overhead), r35 at width 1/4, 32 pixels, batch 64."""
    torch.set_num_threads(threads)
    generator = torch.Generator(device=device).manual_seed(0)
    images = torch.randint(0, 256, (BATCH * STEPS, 32, 32, 3), dtype=torch.uint8, device=device)
    labels = torch.randint(0, 10, (len(images),), device=device)
    recipe = Recipe(epochs=1, batch_size=BATCH, shift=2, flip=True)
    architecture = Architecture("r35", 10, 0.25, 32)
    looped = build(architecture, 0).to(device)
    bare = build(architecture, 0).to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(bare.parameters(), 0.01, momentum=0.9, nesterov=True, foreach=True)
    batch, target = normalize(images[:BATCH]), labels[:BATCH]

    def loop() -> None:
        train(looped, images, labels, recipe, generator)

    def alone() -> None:
        for _ in range(STEPS):
            with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
                loss = F.cross_entropy(bare(batch), target)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()

    seconds = in_turn({"alone": alone, "loop": loop})
    images_per_second = BATCH * STEPS / sorted(seconds["loop"])[len(seconds["loop"]) // 2]
    return {"share of the bare rate": ratio(seconds, "alone", "loop"), "images per second": images_per_second}


def line(found: dict[str, float | str]) -> str:
    return (
        f"training: {100 * float(found['share of the bare rate']):.0f} % of the rate of forward+backward+step alone "
        f"(at least 85 % wanted; {found['images per second']:.0f} images/s)"
    )
