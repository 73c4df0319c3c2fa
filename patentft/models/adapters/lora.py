"""Low-rank updates of a frozen base's linear layers (PEFT); Hu et al. 2021, arXiv:2106.09685."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import nn

from patentft.config import Config
from patentft.models.adapters.task import Layout, Task, TaskKind
from patentft.models.adapters.wrap import peft_options, unused_pooler, wrap

EXPORT = "merged"


class LowRank(Config):
    """What LoRA and QLoRA share: the weight is W + scale * B A, with B starting at zero."""

    rank: int = Field(default=16, ge=1)
    alpha: float = 32.0
    """scale = alpha / rank, or alpha / sqrt(rank) with `rslora`."""
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    target_modules: list[str] | Literal["all-linear"] = "all-linear"
    """Endings of the linear layers' names; all-linear: all but heads and the output embedding."""
    rslora: bool = False
    """Scale by 1 / sqrt(rank), so that a high rank learns as fast as a low one (Kalajdzievski 2023,
    arXiv:2312.03732)."""
    dora: bool = False
    """Learn the length of each weight's rows apart from their direction (Liu et al. 2024, arXiv:2402.09353); slower."""
    init: Literal["kaiming", "gaussian"] = "kaiming"
    """How A starts."""
    lora_plus_ratio: float = Field(default=1.0, ge=1.0)
    """Learning rate of B divided by that of A (LoRA+: Hayou et al. 2024, arXiv:2402.12354, take about 16)."""


class LoraConfig(LowRank):
    """Low-rank adapters; see Hu et al. 2021 (arXiv:2106.09685)."""

    kind: Literal["lora"] = "lora"


def refusal(config: LowRank, task_kind: TaskKind, family: str, layout: Layout) -> str | None:
    """Why this cannot be trained, and what can; None when it can."""
    return None


def apply(model: nn.Module, config: LowRank, task: Task) -> nn.Module:
    """A PEFT model around `model`. Raises ConfigError when a name in `target_modules` matches nothing."""
    import peft

    return wrap(
        model,
        peft.LoraConfig(
            r=config.rank,
            lora_alpha=int(config.alpha) if config.alpha == int(config.alpha) else config.alpha,  # type: ignore[arg-type]
            lora_dropout=config.dropout,
            target_modules=config.target_modules,
            exclude_modules=unused_pooler(model, task, config.target_modules),
            use_rslora=config.rslora,
            use_dora=config.dora,
            init_lora_weights=True if config.init == "kaiming" else "gaussian",
            **peft_options(task),
        ),
    )


def rate_factors(module: nn.Module, config: LowRank) -> dict[str, float]:
    """Name of each B -> `lora_plus_ratio`; nothing at a ratio of 1."""
    if config.lora_plus_ratio == 1.0:
        return {}
    return {name: config.lora_plus_ratio for name, _ in module.named_parameters() if ".lora_B." in name}
