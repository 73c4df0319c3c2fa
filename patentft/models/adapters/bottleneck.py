"""Small networks after the sublayers of each block, the base frozen; Houlsby et al. 2019, arXiv:1902.00751."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import nn

from patentft.config import Config
from patentft.models.adapters.task import Layout, Task, TaskKind
from patentft.models.blocks import find_blocks, in_heads
from patentft.models.bottleneck import PLACES, Nonlinearity, Place, Shape, insert

EXPORT = "beside"


class BottleneckConfig(Config):
    """Bottleneck adapters; the file `models/bottleneck.py` says what they are."""

    kind: Literal["bottleneck"] = "bottleneck"
    reduction: int = Field(default=16, ge=1)
    """Hidden size divided by the adapter's width."""
    nonlinearity: Nonlinearity = "relu"
    after: list[Place] = Field(default=["attention", "feed_forward"], min_length=1)
    """Both: Houlsby et al. 2019. The feed-forward layer alone: Pfeiffer et al. 2020 (arXiv:2005.00247)."""
    norms: bool = False
    """Whether the blocks' norms are trained too, as by Houlsby et al."""


def refusal(config: BottleneckConfig, task_kind: TaskKind, family: str, layout: Layout) -> str | None:
    """Why this cannot be trained, and what can; None when it can."""
    if family not in PLACES:
        return (
            f"adapter bottleneck does not know the blocks of {family} (it knows {', '.join(PLACES)}): choose lora"
        )
    return None


def apply(model: nn.Module, config: BottleneckConfig, task: Task) -> nn.Module:
    """`model` itself, with the adapters in its blocks. Raises ConfigError for a family it does not know."""
    model.requires_grad_(False)
    insert(model, Shape(config.reduction, config.nonlinearity, tuple(dict.fromkeys(config.after))))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".bottleneck." in name or in_heads(task.heads, name))
    if config.norms:
        for module in find_blocks(model)[1].modules():
            if type(module).__name__.lower().endswith("norm"):
                module.requires_grad_(True)
    return model
