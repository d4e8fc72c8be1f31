"""``F.multi_head_attention_forward`` in single steps, so that the units of its heads can be seen."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mergeline.spaces.errors import SpaceError

__all__ = ["multi_head_attention"]


def multi_head_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    embed_dim_to_check: int,
    num_heads: int,
    in_proj_weight: Tensor | None,
    in_proj_bias: Tensor | None,
    bias_k: Tensor | None,
    bias_v: Tensor | None,
    add_zero_attn: bool,
    dropout_p: float,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    training: bool = True,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    use_separate_proj_weight: bool = False,
    q_proj_weight: Tensor | None = None,
    k_proj_weight: Tensor | None = None,
    v_proj_weight: Tensor | None = None,
    static_k: Tensor | None = None,
    static_v: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """The same result as torch's, in eval mode: ``(length, batch, width)``, or without the batch."""
    if bias_k is not None or bias_v is not None or add_zero_attn or static_k is not None or static_v is not None:
        raise SpaceError("multi_head_attention with keys of its own (bias_k, add_zero_attn, static_k) is not supported")
    batched = query.dim() == 3
    if not batched:
        query, key, value = (x.unsqueeze(1) for x in (query, key, value))
        key_padding_mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
    width = query.shape[-1]
    if use_separate_proj_weight:
        weights: list[Any] = [q_proj_weight, k_proj_weight, v_proj_weight]
    else:
        assert in_proj_weight is not None
        weights = [in_proj_weight[i * width : (i + 1) * width] for i in range(3)]
    biases = [None if in_proj_bias is None else in_proj_bias[i * width : (i + 1) * width] for i in range(3)]
    q, k, v = (
        _heads(F.linear(x, weight, bias), num_heads)
        for x, weight, bias in zip((query, key, value), weights, biases, strict=True)
    )
    mask = _mask(attn_mask, key_padding_mask, num_heads, q)
    if need_weights:
        scores = torch.matmul(q, k.transpose(-2, -1)) * (1 / math.sqrt(q.shape[-1]))
        attention = torch.softmax(scores if mask is None else scores + mask, dim=-1)
        mixed = torch.matmul(attention, v)
    else:
        mixed = F.scaled_dot_product_attention(q, k, v, mask, 0.0, is_causal and mask is None)
    out = F.linear(mixed.permute(2, 0, 1, 3).flatten(2), out_proj_weight, out_proj_bias)
    shown = None
    if need_weights:
        shown = attention.mean(1) if average_attn_weights else attention
        shown = shown if batched else shown.squeeze(0)
    return (out if batched else out.squeeze(1)), shown


def _heads(x: Tensor, heads: int) -> Tensor:
    """``(length, batch, width)`` as ``(batch, heads, length, width of a head)``."""
    return x.unflatten(2, (heads, x.shape[2] // heads)).permute(1, 2, 0, 3)


def _mask(attn_mask: Tensor | None, padding: Tensor | None, heads: int, q: Tensor) -> Tensor | None:
    """Both masks as one that is added to the scores."""
    total: Tensor | None = None
    if attn_mask is not None:
        total = _added(attn_mask, q)
        if total.dim() == 3:
            total = total.unflatten(0, (total.shape[0] // heads, heads))
    if padding is not None:
        own = _added(padding, q).unsqueeze(1).unsqueeze(1)
        total = own if total is None else total + own
    return total


def _added(mask: Tensor, like: Tensor) -> Tensor:
    if mask.dtype == torch.bool:
        return torch.zeros_like(mask, dtype=like.dtype).masked_fill(mask, float("-inf"))
    return mask
