"""A shuffle of n rows that is computed, not stored: row number <-> position, from (seed, epoch) alone.

A Feistel network permutes the numbers below the smallest power of four that is at least n; a result beyond n is put
through again until it is below (cycle walking: Black and Rogaway 2002). Any position costs about a microsecond and no
memory, so a run can go on at step 10^6 of 10^9 rows at once.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

ROUNDS = 6


class Order:
    """The rows 0..n-1 in the order of one epoch."""

    def __init__(self, num_rows: int, seed: int, epoch: int) -> None:
        self.num_rows = num_rows
        self._half_bits = np.uint64(max(1, (max(num_rows - 1, 1).bit_length() + 1) // 2))
        self._half_mask = np.uint64((1 << int(self._half_bits)) - 1)
        self._keys = np.random.SeedSequence([seed, epoch]).generate_state(ROUNDS, np.uint64)

    def rows(self, positions: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """The rows at these positions, each in 0..n-1. Raises IndexError beyond the last."""
        places = np.asarray(positions, dtype=np.uint64)
        if places.size and int(places.max()) >= self.num_rows:
            raise IndexError(f"position {int(places.max())} of {self.num_rows} rows")
        found = self._permuted(places)
        while (beyond := found >= self.num_rows).any():
            found[beyond] = self._permuted(found[beyond])
        return found.astype(np.int64)

    def _permuted(self, values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
        left, right = values >> self._half_bits, values & self._half_mask
        for key in self._keys:
            left, right = right, left ^ (_mixed(right ^ key) & self._half_mask)
        return (left << self._half_bits) | right


def _mixed(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Steele's splitmix64 finisher: every bit of the input moves every bit of the output."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
