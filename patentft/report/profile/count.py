"""Exact counts in bounded memory: lengths by histogram, repeats by 64-bit hashes, few distinct values by name."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

PERCENTS = (1, 5, 25, 50, 75, 95, 99)
DENSE = 1 << 16
"""Lengths below this are counted in an array, the few above it one by one."""


class Lengths:
    """How often each length occurs: quantiles of integers are exact, whatever the number of rows."""

    def __init__(self) -> None:
        self._dense = np.zeros(DENSE, np.int64)
        self._long: Counter[int] = Counter()

    def add(self, lengths: NDArray[np.integer]) -> None:
        """Lengths (n,), each >= 0."""
        lengths = np.asarray(lengths, np.int64)
        small = lengths < DENSE
        self._dense += np.bincount(lengths[small], minlength=DENSE)
        self._long.update(lengths[~small].tolist())

    def table(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The lengths that occur, rising, and how often each does."""
        present = np.flatnonzero(self._dense)
        long = sorted(self._long)
        values = np.concatenate([present, np.array(long, np.int64)])
        counts = np.concatenate([self._dense[present], np.array([self._long[length] for length in long], np.int64)])
        return values, counts

    @property
    def count(self) -> int:
        return int(self._dense.sum()) + self._long.total()

    @property
    def total(self) -> int:
        """The sum of all lengths."""
        values, counts = self.table()
        return int(values @ counts) if len(values) else 0

    def quantile(self, percent: float) -> int:
        """The smallest length that at least `percent` % of the rows do not exceed. Raises ValueError without rows."""
        values, counts = self.table()
        if not len(values):
            raise ValueError("no rows: no quantile")
        rank = max(1, math.ceil(round(percent * int(counts.sum()) / 100, 9)))
        return int(values[np.searchsorted(np.cumsum(counts), rank)])

    def above(self, limit: int) -> tuple[int, int]:
        """How many are longer than `limit`, and by how much all together."""
        values, counts = self.table()
        over = values > limit
        return int(counts[over].sum()), int((values[over] - limit) @ counts[over])

    def summary(self) -> dict[str, float]:
        """mean, p1 ... p99, max; empty without rows."""
        if not self.count:
            return {}
        values, _ = self.table()
        quantiles = {f"p{percent}": self.quantile(percent) for percent in PERCENTS}
        return {"mean": self.total / self.count, **quantiles, "max": int(values[-1])}


@dataclass(frozen=True)
class Repeats:
    """rows: values counted. distinct: different ones. largest: rows of the commonest value."""

    rows: int
    distinct: int
    largest: int

    @property
    def repeated(self) -> int:
        """Rows whose value an earlier row has."""
        return self.rows - self.distinct


class Hashes:
    """Which values occur more than once, by 64-bit hash: 8 bytes per row (16 for a moment, at the end).

    Two different values of n share a hash with probability n²/2^65: 5e-8 for 1.37 million.
    """

    def __init__(self) -> None:
        self._chunks: list[NDArray[np.uint64]] = []
        self._values: NDArray[np.uint64] | None = None
        self._counts: NDArray[np.int64] | None = None

    def add(self, texts: Sequence[str]) -> None:
        self._chunks.append(hash_texts(texts))

    def finish(self) -> Repeats:
        """To be called once, after the last `add`."""
        hashes = np.concatenate([np.empty(0, np.uint64), *self._chunks])
        self._chunks.clear()
        hashes.sort()
        starts = (
            np.flatnonzero(np.concatenate([[True], hashes[1:] != hashes[:-1]])) if len(hashes) else np.empty(0, int)
        )
        counts = np.diff(np.append(starts, len(hashes)))
        several = counts > 1
        self._values, self._counts = hashes[starts[several]], counts[several]
        return Repeats(len(hashes), len(starts), int(counts.max(initial=0)))

    def occurrences(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """How often each text (n,) was added, 1 for one that was added at most once. After `finish`."""
        assert self._values is not None
        assert self._counts is not None
        wanted = hash_texts(texts)
        if not len(self._values):
            return np.ones(len(wanted), np.int64)
        at = np.minimum(np.searchsorted(self._values, wanted), len(self._values) - 1)
        return np.where(self._values[at] == wanted, self._counts[at], 1)


def hash_texts(texts: Iterable[str]) -> NDArray[np.uint64]:
    """64-bit BLAKE2b of each text (n,): the same in every process."""
    blake = hashlib.blake2b
    joined = b"".join(blake(text.encode("utf-8", "surrogatepass"), digest_size=8).digest() for text in texts)
    return np.frombuffer(joined, "<u8").astype(np.uint64)


class Values:
    """How often each value occurs, as long as there are few different ones."""

    def __init__(self, limit: int = 50) -> None:
        self._limit = limit
        self._counts: Counter[str] | None = Counter()

    def add(self, counts: Iterable[tuple[str, int]]) -> None:
        if self._counts is None:
            return
        for value, count in counts:
            self._counts[value] += count
        if len(self._counts) > self._limit:
            self._counts = None

    @property
    def counts(self) -> dict[str, int] | None:
        """Value -> rows, the commonest first; None when there are too many different ones."""
        if self._counts is None:
            return None
        return dict(sorted(self._counts.items(), key=lambda item: (-item[1], item[0])))
