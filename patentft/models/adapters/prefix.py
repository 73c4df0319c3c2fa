"""Learned keys and values in front of every text in each block, the model frozen (PEFT); Li & Liang 2021,
arXiv:2101.00190."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import nn

from patentft.config import Config
from patentft.models.adapters.task import Layout, Task, TaskKind
from patentft.models.adapters.wrap import virtual_options, virtual_refusal, wrap

EXPORT = "beside"
FAMILIES = ("bert", "llama", "mistral", "qwen2", "qwen3")


class PrefixConfig(Config):
    """Prefix tuning; see Li & Liang 2021 (arXiv:2101.00190)."""

    kind: Literal["prefix"] = "prefix"
    tokens: int = Field(default=20, ge=1)
    """Virtual tokens; as many positions of the model are no longer free for the text."""
    projection: int | None = Field(default=None, ge=1)
    """Width of a network that makes the prefix while it is learned, which the paper found steadier; unset: none. It is
    not exported."""


def refusal(config: PrefixConfig, task_kind: TaskKind, family: str, layout: Layout) -> str | None:
    """Why this cannot be trained, and what can; None when it can."""
    if family == "mpnet":
        return "adapter prefix: MPNet's attention takes no keys from outside: choose prompt or lora"
    return virtual_refusal("prefix", FAMILIES, task_kind, family, layout)


def apply(model: nn.Module, config: PrefixConfig, task: Task) -> nn.Module:
    """`model` behind VirtualTokens; keys and values start near zero, so attention to them is even."""
    import peft

    from patentft.models.virtual import VirtualTokens

    wrapped = wrap(
        model,
        peft.PrefixTuningConfig(
            num_virtual_tokens=config.tokens,
            prefix_projection=config.projection is not None,
            encoder_hidden_size=config.projection,  # type: ignore[arg-type]
            **virtual_options(task),
        ),
        "adapter prefix",
    )
    if config.projection is None:
        nn.init.normal_(wrapped.prompt_encoder["default"].embedding.weight, std=0.02)  # PEFT draws with 1
    return VirtualTokens(wrapped)
