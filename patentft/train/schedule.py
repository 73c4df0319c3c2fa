"""Step number -> its units. Known from (seed, epoch) alone: a run that goes on needs the step's number, nothing else.

Units of even length (packed rows) are shuffled by computation, see `train.order`; others are listed and bucketed by
length, see `train.plan`.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from patentft.objectives.encoded import Encoded, Unit
from patentft.objectives.packed import Rows
from patentft.train import plan
from patentft.train.order import Order


class Schedule(Protocol):
    @property
    def steps_per_epoch(self) -> int: ...

    def units(self, step: int) -> list[Unit]:
        """The units of 0-based `step`, counted over all epochs."""
        ...


class ListedSchedule:
    """Any units: an epoch's are listed when its first step is asked for."""

    def __init__(self, objective: Any, data: Encoded | Rows, config: Any, units_per_step: int, seed: int) -> None:
        self._objective, self._data, self._config = objective, data, config
        self._units_per_step, self._seed = units_per_step, seed
        self._epoch: tuple[int, list[Unit], list[list[int]]] = (-1, [], [])
        self.steps_per_epoch = len(self._of_epoch(0)[1])

    def units(self, step: int) -> list[Unit]:
        epoch, within = divmod(step, self.steps_per_epoch)
        units, steps = self._of_epoch(epoch)
        return [units[index] for index in steps[within]]

    def _of_epoch(self, epoch: int) -> tuple[list[Unit], list[list[int]]]:
        if self._epoch[0] != epoch:
            units = self._objective.units(self._data, self._config, epoch, self._seed)
            bucketed = getattr(self._objective, "BUCKETED", True)
            lengths = [unit.tokens if bucketed else 0 for unit in units]
            steps = plan.steps_of_epoch(lengths, self._units_per_step, self._seed, epoch)
            self._epoch = (epoch, units, steps)
        return self._epoch[1], self._epoch[2]


class RowSchedule:
    """Packed rows: position p of an epoch is row `Order(seed, epoch)[p]`; nothing is listed."""

    def __init__(self, rows: Rows, units_per_step: int, seed: int) -> None:
        self._filled = np.flatnonzero(rows.num_tokens > rows.num_segments)  # the others predict nothing
        self._tokens, self._units_per_step, self._seed = rows.tokens_per_row, units_per_step, seed
        self.steps_per_epoch = -(-len(self._filled) // units_per_step)

    def units(self, step: int) -> list[Unit]:
        epoch, within = divmod(step, self.steps_per_epoch)
        first = within * self._units_per_step
        last = min(first + self._units_per_step, len(self._filled))
        chosen = self._filled[Order(len(self._filled), self._seed, epoch).rows(np.arange(first, last))]
        return [Unit((row,), self._tokens, (self._seed, epoch, row)) for row in chosen.tolist()]


def schedule_of(objective: Any, data: Encoded | Rows, config: Any, units_per_step: int, seed: int) -> Schedule:
    """config: the objective's."""
    if not isinstance(data, Encoded) and getattr(config, "layout", "packed") == "packed":
        return RowSchedule(data, units_per_step, seed)
    return ListedSchedule(objective, data, config, units_per_step, seed)
