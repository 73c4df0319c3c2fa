"""What an objective over a whole step (SCOPE "step") is given of the other ranks and of the strategy."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from patentft.train.place import Place
from patentft.train.strategies.table import Strategy


@dataclass(frozen=True)
class Across:
    place: Place
    strategy: Strategy
    shares: Sequence[float]
    """By micro-batch: 1, or 0 for one that only keeps this rank in step with the others and must not count."""

    @property
    def rank(self) -> int:
        return self.place.rank

    @property
    def world_size(self) -> int:
        return self.place.world_size

    def gather(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        """Every rank's tensor, detached; they may differ in the first dimension."""
        mine = tensor.detach().contiguous()
        if self.world_size == 1:
            return [mine]
        sizes = [torch.zeros(1, dtype=torch.int64, device=mine.device) for _ in range(self.world_size)]
        dist.all_gather(sizes, torch.tensor([len(mine)], device=mine.device))
        lengths = [int(size) for size in sizes]
        padded = mine.new_zeros((max(lengths), *mine.shape[1:]))
        padded[: len(mine)] = mine
        found = [torch.empty_like(padded) for _ in range(self.world_size)]
        dist.all_gather(found, padded)
        return [each[:length] for each, length in zip(found, lengths, strict=True)]

    def micro_batch(self, last: bool) -> AbstractContextManager[Any]:
        """Around a forward pass whose backward pass is to come; last: the rank's last of the step."""
        return self.strategy.micro_batch(last)

    def backward(self, loss: torch.Tensor) -> None:
        self.strategy.backward(loss)
