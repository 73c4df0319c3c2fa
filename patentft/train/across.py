"""What the loop gives an objective whose rows interact over the whole step (SCOPE = "step", see `objectives.table`)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
import torch.distributed as dist


@dataclass(frozen=True)
class Across:
    """This rank among the ranks of a step."""

    rank: int
    world_size: int
    share: float
    """1.0, or 0.0 on a rank that has no unit of the step: its batches stand in, and count for nothing."""
    gather: Callable[[torch.Tensor], list[torch.Tensor]]
    """Every rank's tensor, in the order of ranks, detached; they may differ in the first dimension, which may be 0."""
    around: Callable[[bool], AbstractContextManager]
    """Encloses a forward and its backward: `around(last)`. Before the rank's last one, gradients stay on the rank: DDP
    must know at the forward (`no_sync`), FSDP at the backward (`set_requires_gradient_sync`)."""
    backward: Callable[[torch.Tensor, bool], None]
    """`backward(loss, last)`: adds the gradient of a scalar; at the rank's last one, averages it over the ranks."""


def gather_rows(tensor: torch.Tensor, world_size: int) -> list[torch.Tensor]:
    """Every rank's `tensor` (rows, ...): rows may differ between ranks, the rest may not. A collective."""
    own = tensor.detach().contiguous()
    if world_size == 1:
        return [own]
    count = torch.tensor([len(own)], device=own.device)
    counts = [torch.empty_like(count) for _ in range(world_size)]
    dist.all_gather(counts, count)
    rows = [int(each) for each in counts]
    padded = own.new_zeros((max(rows), *own.shape[1:]))
    padded[: len(own)] = own
    found = [torch.empty_like(padded) for _ in range(world_size)]
    if max(rows):
        dist.all_gather(found, padded)
    return [each[:number] for each, number in zip(found, rows, strict=True)]
