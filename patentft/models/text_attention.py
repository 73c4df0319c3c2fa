"""Attention inside the texts of packed rows, a text at a time: no product is made of tokens of two texts. On a CPU.

transformers' own attention (sdpa) is given a (T, T) mask and makes all products of a row, to throw most of them away:
of claims packed into rows of 512 tokens three quarters. Here a row is cut at its texts and each is attended by itself,
by torch's kernel that knows what causal means. On a GPU as many small kernels would cost more than they spare, so there
the mask stays.

The function is registered with transformers under the name ATTENTION and told of the texts by the keyword argument
`segments`. A call without it (padded rows, generation) is an ordinary one, of sdpa.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

ATTENTION = "patentft_segments"
FAMILIES = ("bert", "llama", "mistral", "qwen2", "qwen3")
"""Model types of which a test compares loss and gradient with those under the mask."""


@dataclass(frozen=True)
class Segments:
    """What the attention function is told of packed rows."""

    rows: list[list[tuple[int, bool]]]
    """Of each row, the runs of tokens from left to right: (tokens, whether they are a text; else they are padding)."""
    causal: bool

    @classmethod
    def of(cls, segment_ids: torch.Tensor, *, causal: bool) -> Segments:
        """segment_ids: (B, T), 0 for padding."""
        rows = []
        for row in segment_ids:
            numbers, counts = torch.unique_consecutive(row, return_counts=True)
            rows.append([(count, number > 0) for number, count in zip(numbers.tolist(), counts.tolist(), strict=True)])
        return cls(rows, causal)


def is_for(config: Any, device_type: str) -> bool:
    """Whether packed rows of a model of this configuration are attended so; else under the mask."""
    usual = config._attn_implementation in ("sdpa", ATTENTION)
    return usual and config.model_type in FAMILIES and device_type == "cpu"


def switch_on(config: Any) -> None:
    """Give a model's configuration this attention; for good, since a checkpointed block is computed again later."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(ATTENTION, _attention)
    AttentionMaskInterface.register(ATTENTION, sdpa_mask)
    config._attn_implementation = ATTENTION


def _attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    segments: Segments | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """query (B, heads, T, D), key and value (B, key-value heads, T, D) -> (B, T, heads, D); zeros for padding."""
    if segments is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **others
        )
    grouped = query.shape[1] != key.shape[1]
    rows = []
    for row, runs in enumerate(segments.rows):
        lengths = [count for count, _ in runs]
        parts = zip(*(each[row : row + 1].split(lengths, dim=2) for each in (query, key, value)), strict=True)
        texts = [
            functional.scaled_dot_product_attention(
                q, k, v, dropout_p=dropout, is_causal=segments.causal, scale=scaling, enable_gqa=grouped
            )
            if is_text
            else torch.zeros_like(q)
            for (q, k, v), (_, is_text) in zip(parts, runs, strict=True)
        ]
        rows.append(torch.cat(texts, dim=2))
    return torch.cat(rows).transpose(1, 2).contiguous(), None
