"""A bounded, seeded sample of rows, and what is estimated on it: languages and near-duplicates. Never of the whole."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from patentft.corpus.language import detector
from patentft.corpus.texts.duplicates import Shingler, band_keys, candidate_pairs, groups, jaccard
from patentft.report.profile.count import hash_texts

CHARACTERS = 4000
"""What is kept of a sampled text: enough for its language and its likeness to another."""
LANGUAGE_CHARACTERS = 20
"""A shorter text tells too little of its language."""
EXAMPLES = 10


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
    """rows: texts looked at. counts: ISO 639-1 code -> texts. uncertain: CLD2 is not sure. short: too short."""

    rows: int
    counts: dict[str, int]
    uncertain: int
    short: int


def languages(texts: Sequence[str]) -> Languages:
    """By CLD2. Upper case is read as lower: a title in capitals is no other language."""
    detect = detector()
    counts: Counter[str] = Counter()
    uncertain = short = 0
    for text in texts:
        if len(text) < LANGUAGE_CHARACTERS:
            short += 1
            continue
        language = detect(text.lower() if text.isupper() else text)
        if language is None:
            uncertain += 1
        else:
            counts[language] += 1
    return Languages(len(texts), dict(sorted(counts.items(), key=lambda item: (-item[1], item[0]))), uncertain, short)


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

    Proposed by MinHash, decided by the exact Jaccard index, as in the near_duplicates stage. Texts that are equal count
    once.
    """
    _, first = np.unique(hash_texts(texts), return_index=True)
    kept: list[int] = np.sort(first).tolist()
    shingler = Shingler(shingle_words)
    pairs = candidate_pairs(band_keys([texts[index] for index in kept], shingle_words, seed))
    sets = {int(index): shingler(texts[kept[int(index)]]) for index in np.unique(pairs)}
    values = np.array([jaccard(sets[left], sets[right]) for left, right in pairs.tolist()], np.float64)
    sizes = Counter(first_of_group for _, first_of_group, _ in groups(pairs, values, similarity))
    likest = np.argsort(-values, kind="stable")[:EXAMPLES]
    examples = [
        (kept[left], kept[right], float(value))
        for (left, right), value in zip(pairs[likest].tolist(), values[likest], strict=True)
        if value >= similarity
    ]
    return NearDuplicates(len(kept), sizes.total(), len(sizes), max(sizes.values(), default=0), examples)
