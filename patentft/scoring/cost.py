"""What a scoring job costs, before it runs: tokens, multiplications, GPU-hours, disk. Pure arithmetic.

    pairs of each section, lengths of prefix and suffix -> tokens, whole and shared
    tokens x the model's shape                          -> FLOP -> hours of a GPU at an assumed utilization
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from patentft.scoring.plan import GroupShards, Ints, Tokens, count_tokens, token_ceiling


@dataclass(frozen=True)
class Shape:
    """Of a transformer, what its FLOP are counted from."""

    matrix: int
    """Parameters of the linear layers in its blocks: each multiplies once for a token."""
    blocks: int
    width: int
    """Query heads x their dimension."""


@dataclass(frozen=True)
class Lengths:
    """Mean tokens of a prompt's two parts."""

    prefix: float
    """What the pairs of a section share; 0 for an engine that shares nothing."""
    suffix: float
    parent: float = 0
    """Of the prefix, what all sections' prefixes begin with."""

    @property
    def whole(self) -> float:
        return self.prefix + self.suffix


@dataclass(frozen=True)
class Work:
    """What is read and multiplied."""

    pairs: int
    shards: int
    tokens: Tokens
    flop_unshared: float
    flop_shared: float
    ceiling: float
    """How many times fewer tokens sharing reads where no shard cuts through a section, parents left out."""

    @property
    def ratio(self) -> float:
        """How many times fewer tokens it does read."""
        return self.tokens.unshared / self.tokens.shared


def work(
    counts: Sequence[int] | Ints, lengths: Lengths, shape: Shape, pairs_per_shard: int, *, causal: bool = True
) -> Work:
    """counts: pairs of each section, one at least in all.

    A weight costs 2 for a token; attention 4 x width for each token that another one attends to, in each block: half of
    those of its own part where it is causal, and the whole prefix. The last block's savings are not counted, nor is the
    head's work, which is two rows.
    """
    found = np.asarray(counts, np.int64)
    found = found[found > 0]
    shards = GroupShards(found, pairs_per_shard)
    pairs, prefixes = int(found.sum()), int(shards.pieces.sum())
    tokens = count_tokens(found, lengths.prefix, lengths.suffix, pairs_per_shard, lengths.parent)
    half = 0.5 if causal else 1.0
    linear, attended = 2.0 * shape.matrix, 4.0 * shape.width * shape.blocks
    parents = prefixes - len(shards)  # how often a parent's tokens were read before
    own = lengths.suffix * (lengths.prefix + half * lengths.suffix)
    of_prefixes = half * (prefixes * lengths.prefix**2 - parents * lengths.parent**2)
    return Work(
        pairs,
        len(shards),
        tokens,
        linear * tokens.unshared + attended * pairs * half * lengths.whole**2,
        linear * tokens.shared + attended * (pairs * own + of_prefixes),
        token_ceiling(lengths.prefix, lengths.suffix, pairs / len(found)),
    )
