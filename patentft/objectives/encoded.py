"""Tokenized training data: named flat arrays, written once by the driver as safetensors, read by every worker.

Ragged token lists are a flat `<name>` of ids and `<name>_offsets` of length rows + 1. Workers hold arrays, not texts: a
restarted worker is ready at once and nothing is tokenized inside the process group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.numpy import load, save

from patentft.config import ConfigError


@dataclass
class Encoded:
    """One side (train or valid) of an objective's data."""

    arrays: dict[str, npt.NDArray] = field(default_factory=dict)

    def __getitem__(self, name: str) -> npt.NDArray:
        return self.arrays[name]

    def put_ragged(self, name: str, rows: Sequence[Sequence[int]]) -> None:
        lengths = [len(row) for row in rows]
        self.arrays[name] = np.fromiter((token for row in rows for token in row), dtype=np.int32, count=sum(lengths))
        self.arrays[f"{name}_offsets"] = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)

    def row(self, name: str, index: int) -> npt.NDArray[np.int32]:
        offsets = self.arrays[f"{name}_offsets"]
        return self.arrays[name][offsets[index] : offsets[index + 1]]

    def lengths(self, name: str) -> npt.NDArray[np.int64]:
        return np.diff(self.arrays[f"{name}_offsets"])

    def to_bytes(self) -> bytes:
        return save({name: np.ascontiguousarray(array) for name, array in self.arrays.items()})

    @classmethod
    def from_bytes(cls, data: bytes) -> Encoded:
        return cls(load(data))


@dataclass(frozen=True)
class Unit:
    """Rows that are learned from together and never divided between micro-batches: a group, or a block of matches."""

    rows: tuple[int, ...]
    tokens: int  # padded cost, for length bucketing and the micro-batch budget
    draw: tuple[int, ...] = ()
    """Seeds whatever is drawn for this unit (which tokens are masked): the same wherever the unit is learned from."""


@dataclass(frozen=True)
class SpecialTokens:
    """What a batch needs to know of the tokenizer."""

    pad: int = 0
    mask: int | None = None
    special: frozenset[int] = frozenset()
    """Ids that are never masked or predicted as words: CLS, SEP, BOS, EOS, padding, mask."""
    vocabulary_size: int = 0

    @classmethod
    def of(cls, tokenizer: Any, mask_token: str | None = None) -> SpecialTokens:
        """Of a transformers tokenizer. mask_token: what masks where the tokenizer has no mask token.

        Raises ConfigError for a `mask_token` that is none of its tokens.
        """
        pad, mask, special = tokenizer.pad_token_id, tokenizer.mask_token_id, set(tokenizer.all_special_ids)
        if mask is None and mask_token is not None:
            mask = tokenizer.get_vocab().get(mask_token)
            if mask is None:
                raise ConfigError(
                    f"objective.mask_token: {mask_token!r} is no token of the tokenizer; set one of its tokens"
                )
            special.add(mask)
        return cls(0 if pad is None else pad, mask, frozenset(special), len(tokenizer))


def tokenized(texts: Sequence[str], tokenizer: Any, max_tokens: int) -> tuple[list[list[int]], int]:
    """(token ids of each text, special tokens included, at most `max_tokens`; how many texts were cut)."""
    ids: list[list[int]] = []
    num_cut = 0
    for start in range(0, len(texts), 1024):  # a batch at a time: the tokenizer's own objects are large
        out = tokenizer(list(texts[start : start + 1024]), truncation=True, max_length=max_tokens)
        ids += out["input_ids"]
        num_cut += sum(bool(each.overflowing) for each in out.encodings)
    return ids, num_cut


def pad(rows: Sequence[npt.NDArray[np.int32]], pad_id: int) -> dict[str, torch.Tensor]:
    """Right-padded input_ids and attention_mask, (B, longest) int64."""
    longest = max(len(row) for row in rows)
    ids = np.full((len(rows), longest), pad_id, dtype=np.int64)
    mask = np.zeros((len(rows), longest), dtype=np.int64)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = row
        mask[index, : len(row)] = 1
    return {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
