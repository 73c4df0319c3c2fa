"""Which pairs make a shard, what of their prompts is shared, and what runs together. Pure functions of plain values.

    counts per group -> GroupShards: shard i is (group, first pair, last pair) ...      nothing of a pair is held
    prompts of a shard -> parents: runs of groups whose prefixes begin alike
                       -> batches: suffixes, ordered by length, packed up to a budget of tokens

A group is what shares a prefix: a technique, or one chunk of it. All of this is arithmetic on counts and lengths, so it
is the same for a thousand pairs and for a billion, and the same whenever it is computed again.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Piece:
    """Pairs [start, stop) of a group."""

    group: int
    start: int
    stop: int


class GroupShards:
    """Shards of 1 to `pairs_per_shard` pairs that cut through as few groups as they can.

    A group larger than that has shards of its own, of even size; smaller ones, in order, share one as long as they fit.
    A shard is known by its number. Groups put at the end later move no pair but those of the last shard. Costs memory
    and time by the number of groups, whatever the number of pairs.
    """

    def __init__(self, counts: Sequence[int] | Ints, pairs_per_shard: int) -> None:
        """counts: pairs of each group, from 0. Raises ValueError for negative counts and for shards of no pair."""
        self.counts = np.asarray(counts, dtype=np.int64).reshape(-1)
        if pairs_per_shard < 1 or (self.counts < 0).any():
            raise ValueError(f"counts must not be negative, and pairs_per_shard ({pairs_per_shard}) must be 1 or more")
        self.pieces: Ints = -(-self.counts // pairs_per_shard)
        """(groups,): in how many shards each group lies."""
        self._first: list[int] = []  # shard at which each run of shards begins
        self._groups: list[tuple[int, int]] = []  # of the run: several groups in one shard, or one in several
        total, room = 0, 0
        for group, (count, pieces) in enumerate(zip(self.counts.tolist(), self.pieces.tolist(), strict=True)):
            if 0 < count <= room:
                self._groups[-1] = (self._groups[-1][0], group + 1)
                room -= count
            elif count:
                self._first.append(total)
                self._groups.append((group, group + 1))
                total += pieces
                room = pairs_per_shard - count if pieces == 1 else 0
        self._total = total

    def __len__(self) -> int:
        return self._total

    def __getitem__(self, shard: int) -> list[Piece]:
        if not 0 <= shard < self._total:
            raise IndexError(f"shard {shard} of {self._total}")
        run = bisect_right(self._first, shard) - 1
        first, end = self._groups[run]
        if end - first > 1 or self.pieces[first] == 1:
            return [Piece(group, 0, int(self.counts[group])) for group in range(first, end) if self.counts[group]]
        count, pieces, place = int(self.counts[first]), int(self.pieces[first]), shard - self._first[run]
        return [Piece(first, place * count // pieces, (place + 1) * count // pieces)]

    def __iter__(self) -> Iterator[list[Piece]]:
        return (self[shard] for shard in range(self._total))


# ---- what sharing saves


@dataclass(frozen=True)
class Tokens:
    """Tokens that a model must read."""

    unshared: float
    """Every prompt whole."""
    shared: float
    """Each prefix once in every shard that it lies in."""


def count_tokens(
    counts: Sequence[int] | Ints,
    prefix_tokens: float | npt.NDArray,
    suffix_tokens: float | npt.NDArray,
    pairs_per_shard: int,
    parent_tokens: float = 0,
) -> Tokens:
    """What a job reads, from the groups' counts and their mean lengths, each a number or (groups,).

    parent_tokens: what all prefixes begin with, read once in a shard.
    """
    shards = GroupShards(counts, pairs_per_shard)
    prefix, suffix = (
        np.broadcast_to(np.asarray(each, float), shards.counts.shape) for each in (prefix_tokens, suffix_tokens)
    )
    suffixes = float(shards.counts @ suffix)
    saved = parent_tokens * (int(shards.pieces.sum()) - len(shards))
    return Tokens(float(shards.counts @ prefix) + suffixes, float(shards.pieces @ prefix) + suffixes - saved)


def token_ceiling(prefix_tokens: float, suffix_tokens: float, pairs: float) -> float:
    """How many times fewer tokens: (P + S) / (S + P / N), with N pairs to a prefix."""
    return (prefix_tokens + suffix_tokens) / (suffix_tokens + prefix_tokens / pairs)


# ---- inside a shard


def common_tokens(texts: Sequence[list[int]]) -> int:
    """How many tokens all of `texts` begin with."""
    first, last = min(texts), max(texts)  # in the order of lists: what these two share, those between share too
    return next((n for n, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))


def parents(prefixes: Sequence[list[int]], least: int = 16) -> list[tuple[int, int, int]]:
    """(start, stop, tokens): runs of groups, in order and all of them, whose prefixes begin with the same tokens.

    The second level: what the techniques of a chapter share, or at least the system text and the examples. The runs
    read the fewest tokens that consecutive runs can. tokens is 0 for a group alone, and where it would save fewer than
    `least`; a prefix keeps one token at least of its own. Costs the square of the number of groups.
    """
    num = len(prefixes)
    neighbours = [common_tokens(prefixes[n : n + 2]) for n in range(num - 1)]
    best = [(0, 0, 0)] * (num + 1)  # (tokens saved by the first n groups, start of their last run, its tokens)
    for stop in range(1, num + 1):
        found = (best[stop - 1][0], stop - 1, 0)
        shared = len(prefixes[stop - 1]) - 1
        for start in range(stop - 2, -1, -1):
            shared = min(shared, neighbours[start], len(prefixes[start]) - 1)
            if shared <= 0:
                break
            saves = (stop - start - 1) * shared
            if saves >= least and best[start][0] + saves > found[0]:
                found = (best[start][0] + saves, start, shared)
        best[stop] = found
    runs: list[tuple[int, int, int]] = []
    stop = num
    while stop:
        _, start, tokens = best[stop]
        runs.append((start, stop, tokens))
        stop = start
    return runs[::-1]


def batches(
    lengths: Sequence[Sequence[int]], prefix_tokens: Sequence[int], budget: int, prefix_budget: int
) -> Iterator[list[Piece]]:
    """Pieces that run together: at most `budget` tokens of suffixes, on prefixes of at most `prefix_budget` tokens.

    lengths: of each group's suffixes in the order they are run; every suffix comes once, in order. What is longer than
    a budget runs alone.
    """
    batch: list[Piece] = []
    tokens, held = 0, 0
    for group, suffixes in enumerate(lengths):
        start = 0
        if batch and held + prefix_tokens[group] > prefix_budget:
            yield batch
            batch, tokens, held = [], 0, 0
        held += prefix_tokens[group]
        for place, length in enumerate(suffixes):
            if tokens and tokens + length > budget:
                batch += [Piece(group, start, place)] * (place > start)
                yield batch
                batch, tokens, held, start = [], 0, prefix_tokens[group], place
            tokens += length
        batch += [Piece(group, start, len(suffixes))] * (len(suffixes) > start)
    if batch:
        yield batch


# ---- shards of rows, and the section-swap test


def shard_bounds(num_pairs: int, pairs_per_shard: int) -> list[tuple[int, int]]:
    """Half-open row ranges of the candidates, in order: shard i is always the same pairs."""
    return [(start, min(start + pairs_per_shard, num_pairs)) for start in range(0, num_pairs, pairs_per_shard)]


class RowShards(Sequence[Ints]):
    """The rows of each shard, row i being a pair of group groups[i]: groups in the order they first come, rows in
    theirs. With groups None, the rows as they come.

    Memory: 8 bytes for a row with groups, none without.
    """

    def __init__(self, num_pairs: int, groups: npt.NDArray | None, pairs_per_shard: int) -> None:
        """groups: (pairs,) integers from 0, not all of which need occur."""
        self.num_pairs = num_pairs
        self._bounds = None if groups is not None else shard_bounds(num_pairs, pairs_per_shard)
        if groups is None:
            return
        _, first, codes = np.unique(groups, return_index=True, return_inverse=True)
        place = np.empty(len(first), np.int32)
        place[np.argsort(first)] = np.arange(len(first))
        codes = place[codes.reshape(-1)]
        self._order = np.argsort(codes, kind="stable")
        counts = np.bincount(codes, minlength=len(first))
        self._starts = np.concatenate([[0], np.cumsum(counts)])
        self._shards = GroupShards(counts, pairs_per_shard)

    def __len__(self) -> int:
        return len(self._shards) if self._bounds is None else len(self._bounds)

    def __getitem__(self, shard: int) -> Ints:  # pyright: ignore[reportIncompatibleMethodOverride]
        if self._bounds is not None:
            return np.arange(*self._bounds[shard], dtype=np.int64)
        rows = []
        for piece in self._shards[shard]:
            start = self._starts[piece.group]
            rows.append(self._order[start + piece.start : start + piece.stop])
        return np.concatenate(rows)

    def size(self, shard: int) -> int:
        """How many rows the shard has."""
        if self._bounds is not None:
            return self._bounds[shard][1] - self._bounds[shard][0]
        return sum(piece.stop - piece.start for piece in self._shards[shard])


def swap_pairs(techniques: Ints, matched: npt.NDArray[np.bool_], count: int, seed: int) -> list[tuple[int, int]]:
    """(row, another technique) for at most `count` pairs, matches first: up to half are known matches.

    techniques: (n,) each pair's technique, numbered in the order of the ids. matched: (n,) whether the pair is a known
    match. The other technique is drawn evenly from those that occur.
    """
    rng = np.random.default_rng([seed, 7])
    present = np.unique(techniques)
    if len(present) < 2:
        return []
    positive, negative = np.flatnonzero(matched), np.flatnonzero(~matched)
    half = min(len(positive), count // 2)
    chosen = np.concatenate(
        [
            positive[rng.choice(len(positive), half, replace=False)],
            negative[rng.choice(len(negative), min(len(negative), count - half), replace=False)],
        ]
    )
    others = []
    for row in np.sort(chosen).tolist():
        other = present[int(rng.integers(len(present)))]
        while other == techniques[row]:
            other = present[int(rng.integers(len(present)))]
        others.append((row, int(other)))
    return others
