"""Vision transformer for images of 32, 64 or 224 pixels (ViT, as mudsc Sec. 4 and vanishing_feature Table 5 merge it).

Pre-norm blocks with a fused query, key and value projection, a class token and learnt positions. Width 1 is ViT-Ti's
three heads of 64 units. Initial weights are as large as few units and few images need them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["PATCHES", "ViT"]

HEADS = 3
HEAD_SIZE = 64
"""Units of a head at width 1."""
PATCHES = {32: 4, 64: 8, 224: 16}
"""Pixels of a patch's side by input size."""
POSITIONS = 0.5
"""Standard deviation of the first positions: some as small as a large network's, 0.02, are learnt from many images only."""


class Attention(nn.Module):
    """Multi-head self-attention on ``(B, T, C)``."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, dim = x.shape
        q, k, v = self.qkv(x).reshape(batch, tokens, 3, self.heads, dim // self.heads).permute(2, 0, 3, 1, 4)
        x = F.scaled_dot_product_attention(q, k, v)
        return self.proj(x.transpose(1, 2).reshape(batch, tokens, dim))


class Block(nn.Module):
    """``x + attention(norm(x))``, then ``x + mlp(norm(x))``, the hidden layer four times as wide."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ViT(nn.Module):
    """``(B, 3, S, S)`` to logits ``(B, num_classes)``, read from the class token.

    Parameters
    ----------
    depth: number of blocks.
    width: factor of the size of each of the three heads.
    """

    def __init__(self, depth: int, num_classes: int, width: float = 1.0, input_size: int = 224) -> None:
        super().__init__()
        dim = HEADS * max(1, round(HEAD_SIZE * width))
        patch = PATCHES[input_size]
        self.patch_embed = nn.Conv2d(3, dim, patch, patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + (input_size // patch) ** 2, dim))
        self.blocks = nn.Sequential(*(Block(dim, HEADS) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, num_classes)
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        nn.init.trunc_normal_(self.pos_embed, std=POSITIONS)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_normal_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x.expand(-1, 3, -1, -1)).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1) + self.pos_embed
        return self.head(self.norm(self.blocks(x))[:, 0])
