"""A bounded, seeded sample of rows, and what is estimated on it: languages and near-duplicates. Never of the whole."""

from __future__ import annotations

import heapq
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patentft.report.profile.count import hash_texts

CHARACTERS = 4000
"""What is kept of a sampled text: enough for its language and its likeness to another."""
LANGUAGE_CHARACTERS = 20
"""A shorter text tells too little of its language."""
CERTAIN = 0.8
"""A less probable language is counted as uncertain."""
PERMUTATIONS = 128


@dataclass(frozen=True)
class Sampled:
    """One row of the sample: its number among all rows, how to name it, its texts (cut) by column."""

    ordinal: int
    where: str
    texts: Mapping[str, str]


class Sample:
    """The `size` rows with the smallest keys, a key being a seeded hash of the row's number: every subset of rows is as
    likely as any other, and equal seeds choose equal rows, however the rows come in batches.
    """

    def __init__(self, size: int, seed: int) -> None:
        self._size, self._seed = size, seed
        self._heap: list[tuple[int, int, Sampled]] = []  # (-key, -ordinal, row): the largest key first

    def chosen(self, start: int, count: int) -> NDArray[np.int64]:
        """Which of the rows start ... start + count - 1 (as 0-based index among them) are to be given to `add`."""
        keys = row_keys(np.arange(start, start + count, dtype=np.uint64), self._seed)
        if len(self._heap) < self._size:
            return np.arange(count)
        return np.flatnonzero(keys < np.uint64(-self._heap[0][0])) if self._heap else np.empty(0, np.int64)

    def add(self, row: Sampled) -> None:
        key = int(row_keys(np.array([row.ordinal], np.uint64), self._seed)[0])
        item = (-key, -row.ordinal, row)
        if len(self._heap) < self._size:
            heapq.heappush(self._heap, item)
        else:
            heapq.heappushpop(self._heap, item)

    def rows(self) -> list[Sampled]:
        """The sample in the order of its keys, a random order: its first n rows are a sample of n."""
        return [row for _, _, row in sorted(self._heap, reverse=True)]


def row_keys(ordinals: NDArray[np.uint64], seed: int) -> NDArray[np.uint64]:
    """splitmix64 of each ordinal (n,), seeded."""
    with np.errstate(over="ignore"):
        z = ordinals + np.uint64((seed * 0x9E3779B97F4A7C15 + 0x9E3779B97F4A7C15) % (1 << 64))
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
        return z * np.uint64(0xD6E8FEB86659FD93) ^ (z >> np.uint64(32))


# ---- languages


@dataclass(frozen=True)
class Languages:
    """rows: texts looked at. counts: ISO 639-1 code -> texts. uncertain: none is CERTAIN. short: too short."""

    rows: int
    counts: dict[str, int]
    uncertain: int
    short: int


def languages(texts: Sequence[str]) -> Languages:
    """py3langid (97 languages, naive Bayes over byte n-grams), with its probabilities normalized."""
    identifier = _identifier()
    counts: Counter[str] = Counter()
    uncertain = short = 0
    for text in texts:
        if len(text) < LANGUAGE_CHARACTERS:
            short += 1
            continue
        language, probability = identifier.classify(text.lower() if text.isupper() else text)
        if probability < CERTAIN:
            uncertain += 1
        else:
            counts[language] += 1
    return Languages(len(texts), dict(sorted(counts.items(), key=lambda item: (-item[1], item[0]))), uncertain, short)


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


# ---- near-duplicates


@dataclass(frozen=True)
class NearDuplicates:
    """texts: different texts in the sample. duplicates: those with a near-duplicate in it, in `groups` groups.

    pairs: examples (index, index, Jaccard), the likest first.
    """

    texts: int
    duplicates: int
    groups: int
    largest: int
    pairs: list[tuple[int, int, float]] = field(default_factory=list)


def near_duplicates(texts: Sequence[str], shingle_words: int, similarity: float, seed: int) -> NearDuplicates:
    """Pairs of different texts whose sets of word shingles have a Jaccard index of `similarity` or more.

    MinHash (PERMUTATIONS hashes, in bands) proposes, the exact Jaccard index decides: no false find, and a pair at the
    threshold is missed with a probability that `bands` keeps under 5 %. Texts that are equal count once.
    """
    import rensa

    _, first = np.unique(hash_texts(texts), return_index=True)
    kept: list[int] = np.sort(first).tolist()
    sets = [shingles(texts[index], shingle_words) for index in kept]
    if len(sets) < 2:
        return NearDuplicates(len(sets), 0, 0, 0)
    offsets = np.cumsum([0, *map(len, sets)]).astype(np.uint64)
    hasher: Any = vars(rensa)["RMinHash"]  # an extension module without type stubs
    digests = hasher.digest_matrix_from_flat_token_hashes(np.concatenate(sets), offsets, PERMUTATIONS, seed)
    signatures = np.array(digests.to_rows(), np.uint32)  # (texts, PERMUTATIONS)
    parents = list(range(len(sets)))
    found: dict[tuple[int, int], float] = {}
    for left, right in _candidates(signatures, *bands(similarity)):
        if (left, right) in found:
            continue
        jaccard = _jaccard(sets[left], sets[right])
        found[left, right] = jaccard
        if jaccard >= similarity:
            parents[_root(parents, right)] = _root(parents, left)
    sizes = [size for size in Counter(_root(parents, index) for index in range(len(sets))).values() if size > 1]
    alike = sorted(((-jaccard, pair) for pair, jaccard in found.items() if jaccard >= similarity))[:10]
    pairs = [(kept[left], kept[right], -negative) for negative, (left, right) in alike]
    return NearDuplicates(len(sets), sum(sizes), len(sizes), max(sizes, default=0), pairs)


def shingles(text: str, words: int) -> NDArray[np.uint64]:
    """Hashes of the different runs of `words` words (lower case), sorted; of the whole text when it has fewer words."""
    tokens = text.lower().split()
    if len(tokens) <= words:
        return hash_texts([" ".join(tokens)])
    hashes = np.array([zlib.crc32(token.encode("utf-8", "surrogatepass")) for token in tokens], np.uint64)
    with np.errstate(over="ignore"):
        total = np.zeros(len(tokens) - words + 1, np.uint64)
        for offset in range(words):
            total = total * np.uint64(0x9E3779B97F4A7C15) + hashes[offset : len(tokens) - words + 1 + offset]
            total ^= total >> np.uint64(29)
    return np.unique(total)


def bands(similarity: float, missed: float = 0.05) -> tuple[int, int]:
    """(bands, rows per band) of PERMUTATIONS hashes: the most rows with which at most `missed` of the pairs at
    `similarity` share no band.
    """
    for rows in (32, 16, 8, 4, 2):
        number = PERMUTATIONS // rows
        if (1 - similarity**rows) ** number <= missed:
            return number, rows
    return PERMUTATIONS, 1


def _candidates(signatures: NDArray[np.uint32], number: int, rows: int) -> Iterator[tuple[int, int]]:
    """Pairs that share a band: each text with the one before it in its bucket and with the bucket's first, so that many
    texts of one bucket do not make quadratically many pairs.
    """
    for band in range(number):
        part = np.ascontiguousarray(signatures[:, band * rows : (band + 1) * rows])
        _, bucket, size = np.unique(part, axis=0, return_inverse=True, return_counts=True)
        bucket = bucket.reshape(-1)
        shared = np.flatnonzero(size[bucket] > 1)
        order = shared[np.argsort(bucket[shared], kind="stable")]
        first = previous = -1
        for index in order.tolist():
            if first < 0 or bucket[index] != bucket[first]:
                first = index
            else:
                yield first, index
                if previous != first:
                    yield previous, index
            previous = index


def _jaccard(a: NDArray[np.uint64], b: NDArray[np.uint64]) -> float:
    both = len(np.intersect1d(a, b, assume_unique=True))
    return both / (len(a) + len(b) - both)


def _root(parents: list[int], index: int) -> int:
    while parents[index] != index:
        parents[index] = parents[parents[index]]
        index = parents[index]
    return index
