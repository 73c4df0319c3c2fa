"""How one model is trained by several processes: the strategies by name.

A strategy is a file with a Config and a class, made of (config, module, groups, optimizer's config, place, precision).
It averages gradients over the ranks, so the loop scales each loss by world_size. It owns the optimizer, because
sharding decides what the optimizer sees.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated, Any, Protocol

import torch
from pydantic import Field
from torch import nn

from patentft.train.optimizer import OptimizerConfig
from patentft.train.place import Place
from patentft.train.strategies import ddp, deepspeed, fsdp


class Strategy(Protocol):
    """A model spread over the ranks, with its optimizer."""

    @property
    def model(self) -> nn.Module:
        """What is called."""
        ...

    @property
    def scored(self) -> nn.Module:
        """What is called to evaluate."""
        ...

    @property
    def lockstep(self) -> bool:
        """Whether every rank must call the model equally often: its weights are gathered by each call."""
        ...

    @property
    def any_world_size(self) -> bool:
        """Whether `load` takes what another world size saved."""
        ...

    def micro_batch(self, last: bool) -> AbstractContextManager[Any]:
        """Around the forward pass; last: of the rank's micro-batches in this step."""
        ...

    def backward(self, loss: torch.Tensor) -> None: ...

    def step(self, factor: float) -> float:
        """Clip, move the weights at `factor` times the groups' rates, forget the gradients. Returns the gradient's norm
        before clipping, the same on every rank.
        """
        ...

    def trained(self) -> dict[str, torch.Tensor] | None:
        """The trainable parameters, whole, on the CPU of rank 0; None on the others, which must call it too."""
        ...

    def save(self, folder: Path) -> None:
        """This rank's files of a resume checkpoint, into an empty folder. All ranks' files go into one."""
        ...

    def load(self, folder: Path) -> None:
        """Put a checkpoint back. Raises ConfigError when it cannot be put back exactly."""
        ...


STRATEGIES: dict[str, Any] = {"ddp": ddp.Ddp, "fsdp": fsdp.Fsdp, "deepspeed": deepspeed.Deepspeed}

StrategyConfig = Annotated[ddp.DdpConfig | fsdp.FsdpConfig | deepspeed.DeepspeedConfig, Field(discriminator="kind")]


def wrap(
    config: StrategyConfig,
    module: nn.Module,
    groups: list[dict[str, Any]],
    optimizer: OptimizerConfig,
    place: Place,
    precision: str,
) -> Strategy:
    """The strategy around `module`, whose parameter groups carry their own lr and weight_decay."""
    return STRATEGIES[config.kind](config, module, groups, optimizer, place, precision)
