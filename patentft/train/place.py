"""Where a worker stands among the workers of its run."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist


@dataclass(frozen=True)
class Place:
    rank: int
    world_size: int
    device: torch.device

    def sum(self, value: float) -> float:
        """The sum over all ranks, in float64."""
        return self._reduced(value, dist.ReduceOp.SUM)

    def max(self, value: float) -> float:
        """The largest of all ranks."""
        return self._reduced(value, dist.ReduceOp.MAX)

    def from_first(self, value: float) -> float:
        """Rank 0's value, on every rank."""
        if self.world_size == 1:
            return value
        tensor = torch.tensor([value], dtype=torch.float64, device=self.device)
        dist.broadcast(tensor, src=0)
        return float(tensor)

    def _reduced(self, value: float, how: dist.ReduceOp.RedOpType) -> float:
        if self.world_size == 1:
            return value
        tensor = torch.tensor([value], dtype=torch.float64, device=self.device)
        dist.all_reduce(tensor, how)
        return float(tensor)
