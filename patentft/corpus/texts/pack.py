"""Token lengths -> rows of a fixed number of tokens: best-fit packing, with positions and segments. Pure; no Ray.

    length of every text -> pieces of at most a row -> pools by hash -> best fit in each pool -> rows, shuffled -> parts

A pool is about a part's worth of texts, drawn from the whole corpus by a seeded hash of their ids: that is the global
shuffle. Tokens are stored in the order of that hash, so a pool is a short run of every token part, and packing reads
each token about twice, however many parts there are. Rows of all pools stand in one line and are cut into parts of
equal size.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, insort
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field

from patentft import schema
from patentft.config import Config, runtime
from patentft.stage import StageRef, TokenizerRef

Ints = NDArray[np.int64]


class TokenizeConfig(Config):
    """Texts to token ids."""

    data: StageRef
    """A stage with the table texts."""
    roles: StageRef | None = None
    """Its divide stage; unset: every text."""
    role: Literal["train", "valid", "test"] = "train"
    """With roles: the side whose texts are tokenized."""
    tokenizer: TokenizerRef
    """A folder, `package:NAME` or hub id with a tokenizer."""
    special_tokens: bool = True
    """Whether each text gets the tokenizer's own special tokens ([CLS] ... [SEP], <s> ...)."""
    eos: bool = False
    """Whether each text is ended with the tokenizer's end-of-text token: for causal models."""
    seed: int = 0
    """Of the shuffle: of the order in which texts are stored and packed."""
    workers: int = runtime(2, ge=1)


class PackConfig(Config):
    """Tokens into rows."""

    tokens: StageRef
    """A tokenize stage."""
    tokens_per_row: int = Field(default=2048, ge=8)
    rows_per_part: int = Field(default=2048, ge=1)
    """Most rows of a part. Every part has exactly as many as the others."""
    long_text: Literal["split", "truncate", "drop"] = "split"
    """A text longer than a row: cut into pieces that are segments of their own, cut off, or left out. All are
    counted."""
    workers: int = runtime(2, ge=1)


@dataclass(frozen=True)
class Pieces:
    """What is packed: P runs of tokens, each of one text."""

    text: Ints  # (P,) index of the text
    start: Ints  # (P,) first token within the text
    length: Ints  # (P,) tokens


def cut(lengths: Ints, limit: int, long_text: str) -> Pieces:
    """Texts as pieces of at most `limit` tokens, in order; empty texts give none."""
    if long_text == "split":
        counts = -(-lengths // limit)
    else:
        counts = ((lengths > 0) & ((lengths <= limit) | (long_text == "truncate"))).astype(np.int64)
    text = np.repeat(np.arange(len(lengths)), counts)
    nth = np.arange(len(text)) - np.repeat(np.cumsum(counts) - counts, counts)
    return Pieces(text, nth * limit, np.minimum(lengths[text] - nth * limit, limit))


def best_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Indices of `lengths` in rows of at most `capacity`: best-fit decreasing, the fullest row that still has room.

    Rows stand in the order in which they were opened. O(N log R). Raises ValueError for a length beyond the capacity.
    """
    rows: list[list[int]] = []
    room: list[int] = []  # free tokens of the open rows, rising
    open_rows: dict[int, list[int]] = {}  # free tokens -> rows with so many
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        length = lengths[index]
        if not 0 < length <= capacity:
            raise ValueError(f"length {length} does not fit a row of {capacity} tokens")
        place = bisect_left(room, length)
        if place == len(room):
            rows.append([index])
            free, row = capacity - length, len(rows) - 1
        else:
            free = room[place]
            row = open_rows[free].pop()
            if not open_rows[free]:
                del open_rows[free], room[place]
            rows[row].append(index)
            free -= length
        if free:
            if free not in open_rows:
                open_rows[free] = []
                insort(room, free)
            open_rows[free].append(row)
    return rows


@dataclass(frozen=True)
class PackPlan:
    """Where every piece goes."""

    pieces: Pieces
    order: Ints  # (P,) indices of pieces, row after row
    row_starts: Ints  # (R + 1,) row r holds order[row_starts[r]:row_starts[r + 1]]
    num_parts: int

    @property
    def num_rows(self) -> int:
        """Without rows of padding."""
        return len(self.row_starts) - 1

    @property
    def rows_per_part(self) -> int:
        """The same in every part: the last ones may end with rows of padding, fewer than there are parts."""
        return max(1, -(-self.num_rows // self.num_parts))

    def rows_of_part(self, part: int) -> list[Ints]:
        """The pieces of each of the part's rows; an empty row is padding."""
        low = part * self.rows_per_part
        rows = range(low, low + self.rows_per_part)
        return [
            self.order[self.row_starts[row] : self.row_starts[row + 1]] if row < self.num_rows else self.order[:0]
            for row in rows
        ]


def plan(lengths: Ints, keys: NDArray[np.uint64], config: PackConfig) -> PackPlan:
    """lengths: (N,) tokens of each text. keys: (N,) a seeded hash of each text's id: its place in the shuffle."""
    pieces = cut(lengths, config.tokens_per_row, config.long_text)
    num_pools = max(1, round(int(pieces.length.sum()) / (config.tokens_per_row * config.rows_per_part)))
    # the highest bits choose the pool, so a pool is a range of keys; the lowest order its rows
    pool = ((keys >> np.uint64(40)) * np.uint64(num_pools) >> np.uint64(24))[pieces.text]
    # within a pool in the order of the keys, not of the table: equal lengths are packed in a shuffled order too
    members = np.lexsort((pieces.start, keys[pieces.text], pool))
    bounds = np.searchsorted(pool[members], np.arange(num_pools + 1, dtype=np.uint64))
    rows: list[Ints] = []
    for low, high in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        here = members[low:high]
        packed = [here[row] for row in best_fit(pieces.length[here].tolist(), config.tokens_per_row)]
        rows += sorted(packed, key=lambda row: int(keys[pieces.text[row[0]]] & np.uint64(0xFFFFFFFFFF)))
    row_starts = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    order = np.concatenate(rows) if rows else np.zeros(0, np.int64)
    return PackPlan(pieces, order, row_starts, max(1, -(-len(rows) // config.rows_per_part)))


def packed_table(rows: Sequence[Sequence[NDArray[np.int32]]], tokens_per_row: int, pad_id: int) -> pa.Table:
    """PACKED from each row's runs of token ids, in order."""
    shape = (len(rows), tokens_per_row)
    ids, positions, segments = np.full(shape, pad_id, np.int32), np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    for row, runs in enumerate(rows):
        start = 0
        for number, run in enumerate(runs, start=1):
            end = start + len(run)
            ids[row, start:end] = run
            positions[row, start:end] = np.arange(len(run), dtype=np.int32)
            segments[row, start:end] = number
            start = end
    offsets = pa.array(np.arange(0, len(rows) * tokens_per_row + 1, tokens_per_row, dtype=np.int32))
    columns = [
        pa.ListArray.from_arrays(offsets, pa.array(matrix.reshape(-1)), type=schema.TOKEN_IDS)
        for matrix in (ids, positions, segments)
    ]
    return pa.Table.from_arrays(columns, schema=schema.PACKED)


def tokens_table(text_ids: pa.Array | pa.ChunkedArray, ids: Iterable[list[int]]) -> pa.Table:
    """TOKENS of texts in order."""
    lengths = array("q")
    tokens = array("i")  # of 32 bits; filled from lists at a third of the cost of np.fromiter
    for each in ids:
        lengths.append(len(each))
        tokens.fromlist(each)
    flat = np.frombuffer(tokens, np.int32)
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
    return pa.table(
        {"text_id": text_ids, "input_ids": pa.ListArray.from_arrays(offsets, pa.array(flat), type=schema.TOKEN_IDS)},
        schema=schema.TOKENS,
    )
