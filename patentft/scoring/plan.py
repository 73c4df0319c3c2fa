"""Which pairs make a shard, and which pairs the section-swap test takes. Pure functions of plain values."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def shard_bounds(num_pairs: int, pairs_per_shard: int) -> list[tuple[int, int]]:
    """Half-open row ranges of the candidates, in order: shard i is always the same pairs."""
    return [(start, min(start + pairs_per_shard, num_pairs)) for start in range(0, num_pairs, pairs_per_shard)]


def swap_pairs(
    pairs: Sequence[tuple[str, str]], matched: set[tuple[str, str]], count: int, seed: int
) -> list[tuple[int, str]]:
    """(row of `pairs`, another technique's id) for at most `count` pairs, matches first: up to half are known matches.

    pairs: (technique_id, patent_id). The other technique is drawn evenly from those that occur in `pairs`.
    """
    rng = np.random.default_rng([seed, 7])
    techniques = sorted({technique for technique, _ in pairs})
    if len(techniques) < 2:
        return []
    positive = [row for row, pair in enumerate(pairs) if pair in matched]
    negative = [row for row, pair in enumerate(pairs) if pair not in matched]
    half = min(len(positive), count // 2)
    chosen = sorted(
        [positive[i] for i in rng.choice(len(positive), half, replace=False)]
        + [negative[i] for i in rng.choice(len(negative), min(len(negative), count - half), replace=False)]
    )
    others = []
    for row in chosen:
        other = techniques[int(rng.integers(len(techniques)))]
        while other == pairs[row][0]:
            other = techniques[int(rng.integers(len(techniques)))]
        others.append((row, other))
    return others
