"""From the hidden states of a text's tokens to one vector: mean, first token or last token."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Pooling = Literal["mean", "cls", "last"]


def pool(hidden: Tensor, mask: Tensor, how: Pooling) -> Tensor:
    """One vector per row, in the dtype of `hidden`; padding may be on either side, and never counts.

    hidden: (B, T, D) floating. mask: (B, T) bool or 0/1, 1 at real tokens. Returns (B, D).
    mean: average over real tokens, accumulated in fp32 or better. cls: the first real token. last: the last real token.
    Raises ValueError for another `how`, for shapes that do not agree and for a row without a real token.
    """
    if hidden.ndim != 3 or mask.shape != hidden.shape[:2]:
        raise ValueError(f"hidden {tuple(hidden.shape)} and mask {tuple(mask.shape)}: expected (B, T, D) and (B, T)")
    real = mask.to(torch.bool)
    if not bool(real.any(dim=1).all()):
        raise ValueError("a row has no real token: nothing to pool (is the attention mask all zero?)")
    if how == "mean":
        wide = torch.promote_types(hidden.dtype, torch.float32)
        weights = real.to(wide) / real.sum(dim=1, keepdim=True)
        return torch.bmm(weights.unsqueeze(1), hidden.to(wide)).squeeze(1).to(hidden.dtype)  # (B, 1, T) @ (B, T, D)
    rows = torch.arange(hidden.shape[0], device=hidden.device)
    ones = real.to(torch.int8)
    if how == "cls":  # argmax gives the first maximum
        return hidden[rows, ones.argmax(dim=1)]
    if how == "last":
        return hidden[rows, hidden.shape[1] - 1 - ones.flip(1).argmax(dim=1)]
    raise ValueError(f"pooling is {how!r}, expected 'mean', 'cls' or 'last'")
