"""Swin transformer (mudsc Sec. 4): torchvision's network, with depths and windows that fit small images."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

__all__ = ["swin"]

HEAD_SIZE = 32
"""Units of a head at width 1."""
SHAPES: dict[int, tuple[int, int, tuple[int, ...]]] = {
    32: (2, 4, (2, 2, 2)),
    64: (4, 4, (2, 2, 2)),
    224: (4, 7, (2, 2, 6, 2)),
}
"""By input size: the patch's side, the window's side, and the blocks of each stage (224: Swin-T)."""


def swin(num_classes: int, width: float = 1.0, input_size: int = 224) -> nn.Module:
    """``(B, 3, S, S)`` to logits; width 1 has heads of 32 units, three in the first stage and twice as many in each next."""
    from torchvision.models.swin_transformer import SwinTransformer

    patch, window, depths = SHAPES[input_size]
    return SwinTransformer(
        patch_size=[patch, patch], embed_dim=3 * max(1, round(HEAD_SIZE * width)), depths=list(depths),
        num_heads=[3 * 2**stage for stage in range(len(depths))], window_size=[window, window],
        stochastic_depth_prob=0.0, num_classes=num_classes,
    )  # fmt: skip
