"""Near-duplicate texts: MinHash signatures, banded LSH, exact check, groups (Broder 1997; Leskovec et al., MMDS ch. 3).

    text -> hashed word shingles -> 64 minima -> 16 bands of 4 -> equal bands are candidates -> exact Jaccard -> groups

Two texts of Jaccard similarity J share a band with probability 1 - (1 - J^4)^16: .99 at .7, .9998 at .8, .22 at .35.
Candidates are then checked exactly on their shingles, so nothing below the threshold is called a duplicate.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray
from pydantic import Field

from patentft.config import Config, runtime
from patentft.stage import StageRef

NUM_MINIMA = 64
NUM_BANDS = 16
ROWS_PER_BAND = NUM_MINIMA // NUM_BANDS

_WORDS = re.compile(r"\w+")


class DuplicatesConfig(Config):
    """Groups of near-duplicate texts."""

    data: StageRef
    """A stage with the table texts."""
    jaccard: float = Field(default=0.8, ge=0.5, le=1)
    """Texts whose sets of shingles are at least this similar are near-duplicates. Below .7 the search misses pairs."""
    shingle_words: int = Field(default=3, ge=1)
    """Words of a shingle; case, punctuation and figures' formatting do not count."""
    seed: int = 0
    workers: int = runtime(2, ge=1)
    """Processes that compute signatures at the same time."""


class _WordHashes(dict[str, int]):
    """64-bit hashes of words, remembered: a vocabulary is small beside its texts."""

    def __missing__(self, word: str) -> int:
        if len(self) > 1_000_000:
            self.clear()
        hashed = self[word] = xxhash.xxh3_64_intdigest(word.encode())
        return hashed


class Shingler:
    """Texts to sets of hashed shingles."""

    def __init__(self, words: int) -> None:
        self.words = words
        self._hashes = _WordHashes()

    def __call__(self, text: str) -> NDArray[np.uint64]:
        """Distinct 64-bit hashes of the text's runs of `words` words, sorted; of the whole text when it has fewer."""
        tokens = _WORDS.findall(text.lower())
        hashed = np.fromiter(map(self._hashes.__getitem__, tokens), np.uint64, len(tokens))
        count = max(1, len(hashed) - self.words + 1)
        mixed = np.zeros(count, np.uint64)
        for offset in range(min(self.words, len(hashed))):  # a polynomial of the words' hashes, mixed at the end
            mixed = mixed * _MULTIPLIER + hashed[offset : offset + count]
        mixed ^= mixed >> np.uint64(29)
        mixed *= _MIX
        mixed ^= mixed >> np.uint64(32)
        return np.unique(mixed)


_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_MIX = np.uint64(0xBF58476D1CE4E5B9)


def band_keys(texts: Sequence[str], words: int, seed: int) -> NDArray[np.uint64]:
    """(N, NUM_BANDS) uint64 of N texts: equal keys in a band where all its minima are equal."""
    import rensa

    if not texts:
        return np.zeros((0, NUM_BANDS), np.uint64)
    shingler = Shingler(words)
    sets = [shingler(text) for text in texts]
    offsets = np.concatenate([[0], np.cumsum([len(each) for each in sets])]).astype(np.uint64)
    hasher: Any = vars(rensa)["RMinHash"]  # an extension module without type stubs
    minima = hasher.digest_matrix_from_flat_token_hashes(np.concatenate(sets), offsets, NUM_MINIMA, seed)
    rows = np.asarray(minima.to_rows(), np.uint64)  # (N, NUM_MINIMA)
    keys = np.zeros((len(rows), NUM_BANDS), np.uint64)
    for column in np.moveaxis(rows.reshape(-1, NUM_BANDS, ROWS_PER_BAND), 2, 0):
        keys = (keys ^ column) * _MIX
        keys ^= keys >> np.uint64(31)
    return keys


def candidate_pairs(keys: NDArray[np.uint64]) -> NDArray[np.int64]:
    """(P, 2) distinct pairs i < j of rows that share a band's key: in each bucket, every row with the bucket's first
    and with the one before it. Memory: one band at a time, and the pairs.
    """
    pairs: list[NDArray[np.int64]] = []
    for band in range(keys.shape[1]):
        column = keys[:, band]
        order = np.argsort(column, kind="stable")  # equal keys keep the order of the rows
        ordered = column[order]
        same = np.flatnonzero(ordered[1:] == ordered[:-1]) + 1  # place of every row that has a forerunner
        if not len(same):
            continue
        begins = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
        first = begins[np.searchsorted(begins, same, side="right") - 1]
        pairs.append(np.stack([order[same - 1], order[same]], axis=1))
        pairs.append(np.stack([order[first], order[same]], axis=1))
    if not pairs:
        return np.zeros((0, 2), np.int64)
    return np.unique(np.concatenate(pairs), axis=0)


def jaccard(a: NDArray[np.unsignedinteger[Any]], b: NDArray[np.unsignedinteger[Any]]) -> float:
    """Similarity of two sorted sets."""
    common = len(np.intersect1d(a, b, assume_unique=True))
    return common / (len(a) + len(b) - common)


def groups(
    pairs: NDArray[np.int64], similarity: NDArray[np.float64], threshold: float
) -> Iterator[tuple[int, int, float]]:
    """(row, first row of its group, its largest similarity to another of the group) for every row in a group of two or
    more, by rising row. Two rows are in one group when a chain of pairs at or above `threshold` joins them.
    """
    parent: dict[int, int] = {}

    def root(row: int) -> int:
        while parent.setdefault(row, row) != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    nearest: dict[int, float] = {}
    for (i, j), value in zip(pairs.tolist(), similarity.tolist(), strict=True):
        if value >= threshold:
            a, b = sorted((root(i), root(j)))
            parent[b] = a  # the lower row stays the root: a group is named after its first text
            for row in (i, j):
                nearest[row] = max(nearest.get(row, 0.0), value)
    for row in sorted(nearest):
        yield row, root(row), nearest[row]
