"""Embedding images for the similarity of tasks against the encoder's forward alone on a batch that is ready for it."""

from __future__ import annotations

from dataclasses import replace

import torch

from benchmarks.timing import in_turn, ratio
from mergeline.encoders import Encoder, embed, load_encoder

BATCH, BATCHES = 50, 4


def measure(device: str = "cpu", threads: int = 1, encoder: str = "efficientnet-lite0@96") -> dict[str, float | str]:
    """Rate of ``embed`` (resizing, normalising, forward, moments) as a share of the forward's, 32-pixel images."""
    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (BATCH * BATCHES, 32, 32, 3), dtype=torch.uint8, generator=generator).to(device)
    loaded = _loaded(encoder, device)
    ready = loaded.preprocess(images[:BATCH])

    @torch.no_grad()
    def alone() -> None:
        for _ in range(BATCHES):
            loaded.network(ready)
        if device == "cuda":
            torch.cuda.synchronize()

    seconds = in_turn({"alone": alone, "embed": lambda: embed(loaded, images.split(BATCH))})
    images_per_second = len(images) / sorted(seconds["embed"])[len(seconds["embed"]) // 2]
    return {
        "encoder": f"{loaded.name}, {loaded.size} pixels",
        "share of the bare rate": ratio(seconds, "alone", "embed"),
        "images per second": images_per_second,
    }


def _loaded(name: str, device: str) -> Encoder:
    """The encoder; a ViT (timm's) with random weights, which cost the same."""
    if not name.startswith("timm:"):
        return load_encoder(name, device=device)
    import timm

    size = 224
    network = timm.create_model(name.removeprefix("timm:"), pretrained=False, num_classes=0, img_size=size)
    network.eval().requires_grad_(False).to(device, memory_format=torch.channels_last)
    lite = load_encoder("efficientnet-lite0", device=device)
    return replace(lite, name=name, network=network, size=size, interpolation="bicubic")


def line(found: dict[str, float | str]) -> str:
    return (
        f"embedding: {100 * float(found['share of the bare rate']):.0f} % of the rate of the forward alone "
        f"(at least 90 % wanted; {found['images per second']:.0f} images/s, {found['encoder']})"
    )
