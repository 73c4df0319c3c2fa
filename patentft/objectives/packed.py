"""What language-model objectives share: rows of packed tokens, in which no text sees another.

A row is a unit. A segment is a text, or a piece of one; segment 0 is padding. The attention mask is built from the
segments, so a row of many texts gives the same outputs as each text alone at its own positions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from patentft.objectives.encoded import Unit

IGNORED = -100
"""The label of a token that is not predicted."""


class Rows(Protocol):
    """Packed rows, wherever they lie."""

    @property
    def num_rows(self) -> int: ...

    @property
    def tokens_per_row(self) -> int: ...

    @property
    def num_tokens(self) -> npt.NDArray[np.int64]:
        """(N,) tokens of each row, padding left out."""
        ...

    @property
    def num_segments(self) -> npt.NDArray[np.int64]:
        """(N,)"""
        ...

    def row(self, index: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
        """(input_ids, segment_ids), each (tokens_per_row,)."""
        ...


@dataclass(frozen=True)
class ArrayRows:
    """Packed rows in memory: what tests use, and the reference for rows on disk."""

    input_ids: npt.NDArray[np.int32]  # (N, T)
    segment_ids: npt.NDArray[np.int32]

    @property
    def num_rows(self) -> int:
        return len(self.input_ids)

    @property
    def tokens_per_row(self) -> int:
        return self.input_ids.shape[1]

    @property
    def num_tokens(self) -> npt.NDArray[np.int64]:
        return (self.segment_ids > 0).sum(axis=1)

    @property
    def num_segments(self) -> npt.NDArray[np.int64]:
        return self.segment_ids.max(axis=1, initial=0).astype(np.int64)

    def row(self, index: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
        return self.input_ids[index], self.segment_ids[index]


def units(rows: Rows) -> list[Unit]:
    """Every row that predicts something, the same in every epoch: the plan shuffles."""
    filled = np.flatnonzero(rows.num_tokens > rows.num_segments)
    return [Unit((row,), rows.tokens_per_row) for row in filled.tolist()]


def stack(rows: Rows, chosen: Sequence[Unit]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """(ids, segments) of the units' rows, each (B, T) int64."""
    pairs = [rows.row(unit.rows[0]) for unit in chosen]
    ids = np.stack([ids for ids, _ in pairs]).astype(np.int64)
    return ids, np.stack([segments for _, segments in pairs]).astype(np.int64)


def positions(segments: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """(B, T) from 0 in each segment; 0 in the padding."""
    places = np.broadcast_to(np.arange(segments.shape[1]), segments.shape)
    begins = np.ones_like(segments, dtype=bool)
    begins[:, 1:] = segments[:, 1:] != segments[:, :-1]
    start = np.maximum.accumulate(np.where(begins, places, 0), axis=1)
    return np.where(segments > 0, places - start, 0)


def attention_mask(segments: torch.Tensor, *, causal: bool) -> torch.Tensor:
    """(B, 1, T, T) bool: whether a token (row) sees another (column): of its own segment and, if causal, not later.

    Padding sees padding: a row of the mask without any True would make softmax NaN.
    """
    same = segments[:, :, None] == segments[:, None, :]
    if causal:
        same = same & torch.ones(segments.shape[1], segments.shape[1], dtype=torch.bool, device=same.device).tril()
    return same[:, None]


class LanguageModel(nn.Module):
    """A transformers model with a head over the vocabulary, given packed rows."""

    def __init__(self, model: nn.Module, *, causal: bool) -> None:
        super().__init__()
        self.model = model
        self.causal = causal

    def forward(self, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """(B, T, vocabulary) logits."""
        extra = {"use_cache": False} if self.causal else {}
        return self.model(
            input_ids=batch["input_ids"],
            attention_mask=attention_mask(batch["segment_ids"], causal=self.causal),
            position_ids=batch["position_ids"],
            **extra,
        ).logits


def parameter_groups(module: nn.Module, lr: float, weight_decay: float) -> list[dict[str, Any]]:
    """Norms and biases are not decayed."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "lr": lr, "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "lr": lr, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def token_loss(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, dict[str, float]]:
    """(summed cross-entropy in nats, tokens predicted, logs). logits (B, T, V); labels (B, T), IGNORED where none."""
    count = (labels != IGNORED).sum()
    flat = logits.flatten(0, 1).float()
    total = functional.cross_entropy(flat, labels.flatten(), ignore_index=IGNORED, reduction="sum")
    return total, count.float(), {}


def num_predicted(labels: torch.Tensor) -> float:
    """Tokens with a label."""
    return float((labels != IGNORED).sum())


def predicted(module: nn.Module, batch: Mapping[str, torch.Tensor]) -> dict[str, npt.NDArray]:
    """For `metrics`: the batch's summed loss, tokens predicted, and how many of them were the likeliest token."""
    logits = module(batch)
    total, count, _ = token_loss(logits, batch["labels"])
    right = (logits.argmax(dim=-1) == batch["labels"]).sum()
    return {
        "loss": np.array([float(total)]),
        "weight": np.array([float(count)]),
        "right": np.array([float(right)]),
    }


def metrics(parts: Sequence[Mapping[str, npt.NDArray]]) -> dict[str, float]:
    """Over all predicted tokens: mean log-likelihood (nats), perplexity, share predicted right."""
    total, count, right = (float(sum(part[name][0] for part in parts)) for name in ("loss", "weight", "right"))
    mean = total / max(count, 1.0)
    return {"log_likelihood": -mean, "perplexity": float(np.exp(min(mean, 700.0))), "accuracy": right / max(count, 1.0)}
