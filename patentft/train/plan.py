"""Which units make each optimizer step, and which rank and micro-batch each goes to. Pure functions of plain values.

    units of an epoch -> shuffled by (seed, epoch) -> sorted by length inside windows -> cut into steps -> shuffled
    a step -> dealt to ranks -> packed into micro-batches under a token budget

The steps do not know the world size or the budget, so the optimizer sees the same batches on any hardware, and a
resumed run continues at a step number: there is no state to save.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")
WINDOW_STEPS = 32
"""Sorting within this many steps' worth of units: batches are even in length, and still mixed."""


def steps_of_epoch(lengths: Sequence[int], units_per_step: int, seed: int, epoch: int) -> list[list[int]]:
    """Unit indices of each step, every unit exactly once; the last step may be smaller."""
    rng = np.random.default_rng([seed, epoch, 1])
    order = rng.permutation(len(lengths))
    window = units_per_step * WINDOW_STEPS
    steps: list[list[int]] = []
    for start in range(0, len(order), window):
        inside = sorted(order[start : start + window].tolist(), key=lambda index: lengths[index])
        steps += [inside[cut : cut + units_per_step] for cut in range(0, len(inside), units_per_step)]
    return [steps[index] for index in rng.permutation(len(steps))]


def deal(step: Sequence[T], rank: int, world_size: int) -> list[T]:
    """This rank's units of a step: every world_size-th, so that lengths are even over the ranks. May be empty."""
    return list(step[rank::world_size])


def micro_batches(
    units: Sequence[int], tokens: Sequence[int], budget: int, largest: int | None = None
) -> list[list[int]]:
    """`units` in order, packed so that no batch holds more than `budget` tokens once all its units are padded to the
    longest (a longer unit stands alone).

    tokens: by unit index. largest: at most this many units in a batch, None for no limit.
    """
    batches: list[list[int]] = []
    longest = 0
    for unit in units:
        full = largest is not None and batches and len(batches[-1]) >= largest
        if not batches or full or (len(batches[-1]) + 1) * max(longest, tokens[unit]) > budget:
            batches.append([])
            longest = 0
        batches[-1].append(unit)
        longest = max(longest, tokens[unit])
    return batches


def learning_rate_factor(
    step: int, num_steps: int, warmup_fraction: float, schedule: str, decay_fraction: float = 0.0
) -> float:
    """Factor on the base rate at 0-based `step`: linear warm-up to 1, then as `OptimizerConfig.schedule` says."""
    warmup = round(warmup_fraction * num_steps)
    if step < warmup:
        return (step + 1) / warmup
    if schedule == "constant":
        return 1.0
    if schedule == "wsd":
        decay = max(1, round(decay_fraction * num_steps))
        return min(1.0, (num_steps - step) / decay)
    progress = (step - warmup) / max(1, num_steps - warmup)
    return 1.0 - progress if schedule == "linear" else 0.5 * (1.0 + float(np.cos(np.pi * progress)))
