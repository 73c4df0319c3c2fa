"""Low-rank updates of a frozen base's linear layers (PEFT); Hu et al. 2021, arXiv:2106.09685."""

from __future__ import annotations

from typing import Literal

from torch import nn

from patentft.config import Config, ConfigError
from patentft.models.adapters.task import Task


class LoraConfig(Config):
    """Low-rank adapters; see Hu et al. 2021 (arXiv:2106.09685)."""

    kind: Literal["lora"] = "lora"
    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    target_modules: list[str] | Literal["all-linear"] = "all-linear"


def apply(model: nn.Module, config: LoraConfig, task: Task) -> nn.Module:
    """A PEFT model around `model`. Raises ConfigError when a name in `target_modules` matches nothing."""
    import peft

    lora = peft.LoraConfig(
        r=config.rank,
        lora_alpha=int(config.alpha) if config.alpha == int(config.alpha) else config.alpha,  # type: ignore[arg-type]
        lora_dropout=config.dropout,
        target_modules=config.target_modules,
        modules_to_save=list(task.heads) or None,
    )
    try:
        return peft.get_peft_model(model, lora)  # type: ignore[arg-type]
    except ValueError as error:
        raise ConfigError(f"adapter.target_modules: {error}") from error
