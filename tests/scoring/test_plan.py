"""Shards, second level and batches, against slow references; at the size of the real job by arithmetic."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from patentft.scoring.plan import (
    GroupShards,
    Piece,
    batches,
    common_tokens,
    count_tokens,
    parents,
    token_ceiling,
)

COUNTS = st.lists(st.integers(0, 40), max_size=30)


@given(COUNTS, st.integers(1, 25))
def test_every_pair_is_in_one_shard_and_small_groups_are_whole(counts: list[int], size: int) -> None:
    shards = GroupShards(counts, size)
    found = list(shards)
    assert len(found) == len(shards)
    pairs = [(piece.group, row) for shard in found for piece in shard for row in range(piece.start, piece.stop)]
    assert pairs == [(group, row) for group, count in enumerate(counts) for row in range(count)]
    for shard in found:
        assert 1 <= sum(piece.stop - piece.start for piece in shard) <= size
    pieces = [sum(piece.group == group for shard in found for piece in shard) for group in range(len(counts))]
    assert pieces == [-(-count // size) for count in counts] == shards.pieces.tolist()
    own = [shard for shard in found if counts[shard[0].group] > size]
    assert all(len(shard) == 1 for shard in own)
    sizes = [(shard[0].group, shard[0].stop - shard[0].start) for shard in own]
    for _, same in itertools.groupby(sizes, key=lambda pair: pair[0]):
        even = [size for _, size in same]
        assert max(even) - min(even) <= 1


@given(COUNTS, COUNTS, st.integers(1, 25))
def test_groups_put_at_the_end_move_only_the_last_shard(counts: list[int], more: list[int], size: int) -> None:
    before, after = list(GroupShards(counts, size)), list(GroupShards(counts + more, size))
    if before:
        assert after[: len(before) - 1] == before[:-1]
        assert after[len(before) - 1][: len(before[-1])] == before[-1]


def test_shards_know_what_they_are_not() -> None:
    with pytest.raises(IndexError, match="shard 2 of 2"):
        GroupShards([3, 3], 4)[2]
    with pytest.raises(ValueError, match="must not be negative"):
        GroupShards([-1], 4)
    assert list(GroupShards([], 4)) == []


def test_a_billion_pairs_by_arithmetic() -> None:
    """4,200 techniques x 650,000 patents: 2.73 billion pairs, cut and looked up in well under a second each."""
    counts = np.full(4200, 650_000)
    started = time.perf_counter()
    shards = GroupShards(counts, 1000)
    assert len(shards) == 4200 * 650
    assert shards[0] == [Piece(0, 0, 1000)]
    assert shards[len(shards) - 1] == [Piece(4199, 649_000, 650_000)]
    assert shards[650 * 7 + 3] == [Piece(7, 3000, 4000)]
    assert time.perf_counter() - started < 2
    tokens = count_tokens(counts, 700, 200, 1000)
    assert tokens.unshared == pytest.approx(2.73e9 * 900)
    assert tokens.unshared / tokens.shared == pytest.approx(token_ceiling(700, 200, 1000))


def test_many_small_groups_at_a_billion_pairs() -> None:
    counts = np.random.default_rng(0).integers(1, 2001, 1_000_000)
    shards = GroupShards(counts, 500)
    firsts = [shards[shard][0] for shard in range(0, len(shards), len(shards) // 1000)]
    assert firsts == sorted(firsts, key=lambda piece: (piece.group, piece.start))
    assert counts.sum() > 10**9
    assert counts.sum() / len(shards) > 300


@given(COUNTS, st.integers(1, 25), st.integers(0, 9))
def test_tokens_are_those_of_the_shards(counts: list[int], size: int, parent: int) -> None:
    prefix, suffix = np.arange(len(counts)) + 10, np.arange(len(counts)) % 5 + 1
    unshared = shared = 0
    for shard in GroupShards(counts, size):
        shared += parent
        for piece in shard:
            pairs = piece.stop - piece.start
            unshared += pairs * (prefix[piece.group] + suffix[piece.group])
            shared += prefix[piece.group] - parent + pairs * suffix[piece.group]
    found = count_tokens(counts, prefix, suffix, size, parent)
    assert (found.unshared, found.shared) == (unshared, shared)


def test_the_ceiling_is_that_of_the_papers_numbers() -> None:
    assert token_ceiling(448, 192, 64) == pytest.approx(3.22, abs=0.005)
    assert token_ceiling(700, 200, 200) == pytest.approx(4.42, abs=0.005)


TEXTS = st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=6), min_size=1, max_size=7)


@given(TEXTS)
def test_common_tokens(texts: list[list[int]]) -> None:
    shared = common_tokens(texts)
    assert all(text[:shared] == texts[0][:shared] for text in texts)
    assert any(len(text) == shared for text in texts) or len({text[shared] for text in texts}) > 1


@given(TEXTS, st.integers(1, 4))
def test_parents_read_the_fewest_tokens(prefixes: list[list[int]], least: int) -> None:
    def saved(start: int, stop: int) -> int:
        shared = min([common_tokens(prefixes[start:stop]), *(len(prefix) - 1 for prefix in prefixes[start:stop])])
        saves = (stop - start - 1) * shared
        return saves if saves >= least else 0

    runs = parents(prefixes, least)
    assert [place for start, stop, _ in runs for place in range(start, stop)] == list(range(len(prefixes)))
    for start, stop, tokens in runs:
        assert all(
            prefix[:tokens] == prefixes[start][:tokens] and len(prefix) > tokens for prefix in prefixes[start:stop]
        )
    cuts = range(1, len(prefixes))
    best = max(
        sum(saved(a, b) for a, b in itertools.pairwise([0, *chosen, len(prefixes)]))
        for number in range(len(prefixes))
        for chosen in itertools.combinations(cuts, number)
    )
    assert sum((stop - start - 1) * tokens for start, stop, tokens in runs) == best


def test_chapters_become_parents() -> None:
    system, chapters = list(range(90)), [list(range(100, 210)), list(range(300, 420))]
    prefixes = [system + chapters[n // 5] + [1000 + n] * 50 for n in range(10)]
    assert parents(prefixes) == [(0, 5, 200), (5, 10, 210)]


@given(st.lists(st.lists(st.integers(1, 12), max_size=8), max_size=8), st.integers(1, 20), st.integers(1, 40))
def test_batches_hold_to_both_budgets(lengths: list[list[int]], budget: int, prefix_budget: int) -> None:
    prefixes = [5 + group % 7 for group in range(len(lengths))]
    found = list(batches(lengths, prefixes, budget, prefix_budget))
    rows = [(piece.group, row) for batch in found for piece in batch for row in range(piece.start, piece.stop)]
    assert rows == [(group, row) for group, each in enumerate(lengths) for row in range(len(each))]
    for batch in found:
        sizes = [length for piece in batch for length in lengths[piece.group][piece.start : piece.stop]]
        assert sizes
        assert sum(sizes) <= budget or len(sizes) == 1
        assert sum(prefixes[piece.group] for piece in batch) <= prefix_budget or len(batch) == 1


def test_batches_are_full() -> None:
    found = list(batches([[4] * 10, [4] * 10], [8, 8], 12, 100))
    sizes = [sum(4 * (piece.stop - piece.start) for piece in batch) for batch in found]
    assert sizes == [12] * 6 + [8]
