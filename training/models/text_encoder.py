"""A transformer text encoder with the norm before each sublayer (arXiv 2002.04745), as parts.

Padded tokens are masked in attention and in pooling, so padding never changes the logits.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.errors import ConfigError
from training.models.multihead import Parts

MASKED = -1e9
"""Added to the attention scores of padded tokens; their probability is then exactly zero in float32."""


def text_encoder_parts(
    *, vocabulary: int, width: int, blocks: int, attention_heads: int, max_tokens: int, classes: int, dropout: float
) -> Parts:
    """An encoder of `blocks` blocks of `width` with feed-forward layers four times as wide."""
    return Parts(
        stem=TokenEmbedding(vocabulary, width, max_tokens, dropout),
        blocks=[EncoderBlock(width, attention_heads, dropout) for _ in range(blocks)],
        classifier=MeanPooledClassifier(width, classes, dropout),
        inputs=("input_ids", "attention_mask"),
        context=("attention_mask",),
    )


class TokenEmbedding(nn.Module):
    """Token plus learned position embedding."""

    def __init__(self, vocabulary: int, width: int, max_tokens: int, dropout: float) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Parameter(torch.empty(max_tokens, width))
        self.dropout = nn.Dropout(dropout)
        # Small, so that what a rare word has learned is not drowned in what it was drawn as.
        nn.init.normal_(self.tokens.weight, std=0.02)
        nn.init.zeros_(self.positions)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Int64 [B, T], [B, T] -> float32 [B, T, D]."""
        del attention_mask  # embeddings of padded tokens are masked where tokens meet, in attention and pooling
        hidden: Tensor = self.dropout(self.tokens(input_ids) + self.positions[: input_ids.shape[1]])
        return hidden


class EncoderBlock(nn.Module):
    """Norm and self-attention, plus input; norm and feed-forward with GELU, plus input."""

    def __init__(self, width: int, attention_heads: int, dropout: float) -> None:
        super().__init__()
        if width % attention_heads:
            raise ConfigError(f"The width {width} is not a multiple of attention_heads {attention_heads}.")
        self.attention_heads = attention_heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)
        self.value, self.out = nn.Linear(width, width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden: Tensor, attention_mask: Tensor) -> Tensor:
        """[B, T, D], int64 [B, T] -> [B, T, D]."""
        hidden = hidden + self.dropout(self.out(self.attend(self.norm1(hidden), attention_mask)))
        out: Tensor = hidden + self.dropout(self.down(functional.gelu(self.up(self.norm2(hidden)))))
        return out

    def attend(self, x: Tensor, attention_mask: Tensor) -> Tensor:
        """Multi-head self-attention before its output projection, [B, T, D]."""
        query, key, value = (
            layer(x).unflatten(2, (self.attention_heads, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )  # [B, heads, T, D / heads]
        padding = (1.0 - attention_mask.to(x.dtype)) * MASKED
        attended = functional.scaled_dot_product_attention(query, key, value, attn_mask=padding[:, None, None, :])
        return attended.transpose(1, 2).flatten(2)


class MeanPooledClassifier(nn.Module):
    """Mean over the real tokens, final norm, linear; so that a telling token can weigh more than its neighbours."""

    def __init__(self, width: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(width, classes)
        nn.init.zeros_(self.linear.bias)

    def forward(self, hidden: Tensor, attention_mask: Tensor) -> Tensor:
        """[B, T, D], int64 [B, T] -> logits [B, K]."""
        weights = attention_mask.to(hidden.dtype)[:, :, None]
        pooled = (hidden * weights).sum(dim=1) / weights.sum(dim=1)
        logits: Tensor = self.linear(self.dropout(self.norm(pooled)))
        return logits
