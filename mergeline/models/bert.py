"""BERT's encoder with a classifier, on the first token or on the mean of all (heterogeneous_merging Table IV).

The encoder's tensors are named as in Hugging Face's ``BertForSequenceClassification``, so that its checkpoints fit as they are.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mergeline.tokens import PADDING

__all__ = ["Bert", "BertShape", "SentenceBert"]


@dataclass(frozen=True)
class BertShape:
    """Sizes of a BERT; those of BERT-base by default."""

    vocabulary: int = 30522
    layers: int = 12
    dim: int = 768
    heads: int = 12
    hidden: int = 3072
    positions: int = 512
    epsilon: float = 1e-12


class Embeddings(nn.Module):
    """Sum of the words', the positions' and the segments' embeddings, normalised."""

    def __init__(self, shape: BertShape) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(shape.vocabulary, shape.dim, padding_idx=0)
        self.position_embeddings = nn.Embedding(shape.positions, shape.dim)
        self.token_type_embeddings = nn.Embedding(2, shape.dim)
        self.LayerNorm = nn.LayerNorm(shape.dim, eps=shape.epsilon)

    def forward(self, tokens: Tensor) -> Tensor:
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.word_embeddings(tokens) + self.position_embeddings(positions)
        return self.LayerNorm(x + self.token_type_embeddings.weight[0])


class SelfAttention(nn.Module):
    def __init__(self, shape: BertShape) -> None:
        super().__init__()
        self.heads = shape.heads
        self.query = nn.Linear(shape.dim, shape.dim)
        self.key = nn.Linear(shape.dim, shape.dim)
        self.value = nn.Linear(shape.dim, shape.dim)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        batch, length, dim = x.shape
        q, k, v = (
            layer(x).view(batch, length, self.heads, -1).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).reshape(batch, length, dim)


class AddAndNorm(nn.Module):
    """``norm(residual + dense(x))``."""

    def __init__(self, inputs: int, shape: BertShape) -> None:
        super().__init__()
        self.dense = nn.Linear(inputs, shape.dim)
        self.LayerNorm = nn.LayerNorm(shape.dim, eps=shape.epsilon)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        return self.LayerNorm(self.dense(x) + residual)


class Layer(nn.Module):
    """Attention and a hidden layer, each behind a residual sum and a norm (post-norm)."""

    def __init__(self, shape: BertShape) -> None:
        super().__init__()
        self.attention = nn.ModuleDict({"self": SelfAttention(shape), "output": AddAndNorm(shape.dim, shape)})
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(shape.dim, shape.hidden)})
        self.output = AddAndNorm(shape.hidden, shape)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        x = self.attention["output"](self.attention["self"](x, mask), x)
        return self.output(F.gelu(self.intermediate["dense"](x)), x)


class Encoder(nn.Module):
    """Token numbers ``(B, T)`` to hidden states ``(B, T, dim)``."""

    def __init__(self, shape: BertShape) -> None:
        super().__init__()
        self.embeddings = Embeddings(shape)
        self.encoder = nn.ModuleDict({"layer": nn.Sequential(*(Layer(shape) for _ in range(shape.layers)))})

    def forward(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        x = self.embeddings(tokens)
        for layer in self.encoder["layer"].children():
            x = layer(x, mask)
        return x


class PooledEncoder(Encoder):
    """Token numbers to the pooled first token ``(B, dim)``."""

    def __init__(self, shape: BertShape) -> None:
        super().__init__(shape)
        self.pooler = nn.ModuleDict({"dense": nn.Linear(shape.dim, shape.dim)})

    def forward(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        return torch.tanh(self.pooler["dense"](super().forward(tokens, mask)[:, 0]))


class Bert(nn.Module):
    """Token numbers ``(B, T)`` to logits ``(B, num_classes)``; ``attention_mask`` ``(B, T)``: 0 where there is padding."""

    def __init__(self, shape: BertShape, num_classes: int) -> None:
        super().__init__()
        self.bert = PooledEncoder(shape)
        self.classifier = nn.Linear(shape.dim, num_classes)
        _draw(self)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        mask = None if attention_mask is None else attention_mask[:, None, None, :].bool()
        return self.classifier(self.bert(input_ids, mask))


class SentenceBert(nn.Module):
    """Token numbers ``(B, T)``, filled up with :data:`mergeline.tokens.PADDING`, to logits ``(B, num_classes)``.

    The classifier reads the mean over a text's tokens, which sentence encoders are trained with: their checkpoints often have no
    pooler.
    """

    def __init__(self, shape: BertShape, num_classes: int) -> None:
        super().__init__()
        self.bert = Encoder(shape)
        self.classifier = nn.Linear(shape.dim, num_classes)
        _draw(self)

    def forward(self, tokens: Tensor) -> Tensor:
        read = tokens != PADDING
        x = self.bert(tokens, read[:, None, None, :])
        weight = read.unsqueeze(-1).to(x.dtype)
        return self.classifier((x * weight).sum(1) / weight.sum(1))


def _draw(model: nn.Module) -> None:
    """Initial weights as BERT's."""
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
