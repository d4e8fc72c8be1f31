"""Moments in one pass against full 2C x 2C covariances batch by batch, and against the plain forward passes."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.timing import in_turn, ratio
from mergeline.architectures import Architecture, build
from mergeline.heads import trace_network
from mergeline.moments import collect_moments
from mergeline.spaces import trace


def measure(device: str = "cpu", threads: int = 1, images: int = 384) -> dict[str, float | str]:
    """Two r35 at width 1/2 on ``images`` images of 32 pixels, batch 64; cross blocks, as ``permute`` needs."""
    torch.set_num_threads(threads)
    architecture = Architecture("r35", 10, 0.5, 32)
    models = [
        build(architecture, seed).eval().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        for seed in (0, 1)
    ]
    spaces = trace_network(build(architecture), 32)
    batches = [
        torch.randn(64, 3, 32, 32, device=device).contiguous(memory_format=torch.channels_last)
        for _ in range(images // 64)
    ]
    done = torch.cuda.synchronize if device == "cuda" else lambda: None

    @torch.no_grad()
    def forward() -> None:
        for batch in batches:
            for model in models:
                model(batch)
        done()

    def moments() -> None:
        collect_moments(models, spaces, batches)
        done()

    @torch.no_grad()
    def full() -> None:
        """What the public code of the field does: hooks, both models' units side by side, a covariance a batch."""
        kept: list[dict[str, Tensor]] = [{}, {}]
        nodes = {space.node: space for space in spaces.free}
        handles = []
        for index, model in enumerate(models):
            for name, module in model.named_modules():
                if isinstance(module, torch.nn.ReLU):

                    def hook(_m: object, _i: object, out: Tensor, name: str = name, index: int = index) -> None:
                        count = sum(key.startswith(name) for key in kept[index])
                        kept[index][f"{name}{f'_{count}' if count else ''}"] = out.clone()

                    handles.append(module.register_forward_hook(hook))
        sums: dict[str, Tensor] = {}
        assert nodes
        for batch in batches:
            for features in kept:
                features.clear()
            for model in models:
                model(batch)
            for name, first in kept[0].items():
                both = torch.cat([first.transpose(0, 1).flatten(1), kept[1][name].transpose(0, 1).flatten(1)])
                mean = both.mean(1, keepdim=True)
                covariance = (both @ both.T) / both.shape[1] - mean @ mean.T
                sums[name] = sums[name] + covariance if name in sums else covariance
        for handle in handles:
            handle.remove()
        done()

    seconds = in_turn({"forward": forward, "moments": moments, "full": full})
    return {
        "against full covariance": ratio(seconds, "full", "moments"),
        "against forward": ratio(seconds, "moments", "forward"),
        "vit against forward": _vit(device),
    }


def _vit(device: str, batches: int = 4) -> float:
    """Two ViT-S/16 on batches of 8 images of 224 pixels: moments against the forward passes."""
    import timm

    models = [timm.create_model("vit_small_patch16_224").eval().to(device) for _ in range(2)]
    images = [torch.randn(8, 3, 224, 224, device=device) for _ in range(batches)]
    spaces = trace(models[0], images[0][:2])
    done = torch.cuda.synchronize if device == "cuda" else lambda: None

    @torch.no_grad()
    def forward() -> None:
        for batch in images:
            for model in models:
                model(batch)
        done()

    def moments() -> None:
        collect_moments(models, spaces, images)
        done()

    return ratio(in_turn({"forward": forward, "moments": moments}, rounds=2), "moments", "forward")


def line(found: dict[str, float | str]) -> str:
    return (
        f"moments: {found['against full covariance']:.2f} times as fast as full 2C x 2C covariances batch by batch (2 wanted), "
        f"{found['against forward']:.2f} times the plain forward passes (1.5 at most wanted), of ViT-S/16 "
        f"{found['vit against forward']:.2f} times (1.5 at most wanted)"
    )
