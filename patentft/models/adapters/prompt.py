"""Learned embeddings in front of every text, the model frozen (PEFT); Lester et al. 2021, arXiv:2104.08691."""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field
from torch import nn

from patentft.config import Config, ConfigError
from patentft.models.adapters.task import Layout, Task, TaskKind
from patentft.models.adapters.wrap import virtual_options, virtual_refusal, wrap

EXPORT = "beside"
NOTE = (
    "With PEFT alone the outputs begin with the virtual tokens' positions, which `patentft.models.load` cuts off, and "
    "a decoder that classifies must be given one text at a time, since it reads the last column, padding or not."
)
FAMILIES = ("bert", "mpnet", "llama", "mistral", "qwen2", "qwen3")


class PromptConfig(Config):
    """Prompt tuning; see Lester et al. 2021 (arXiv:2104.08691). It wants a high learning rate, about 0.1."""

    kind: Literal["prompt"] = "prompt"
    tokens: int = Field(default=20, ge=1)
    """Virtual tokens; as many positions of the model are no longer free for the text."""
    text: str | None = None
    """They start as the embeddings of this text, repeated or cut; unset: as those of random words of the vocabulary."""


def refusal(config: PromptConfig, task_kind: TaskKind, family: str, layout: Layout) -> str | None:
    """Why this cannot be trained, and what can; None when it can."""
    return virtual_refusal("prompt", FAMILIES, task_kind, family, layout)


def apply(model: nn.Module, config: PromptConfig, task: Task) -> nn.Module:
    """`model` behind VirtualTokens. Raises ConfigError for a text without a token."""
    import peft

    from patentft.models.virtual import VirtualTokens

    ids = None if config.text is None else _text_ids(model, config.text)
    settings = peft.PromptTuningConfig(num_virtual_tokens=config.tokens, **virtual_options(task))
    wrapped = wrap(model, settings, "adapter prompt")
    words = wrapped.word_embeddings.weight.detach()
    if ids is None:
        ids = torch.randperm(len(words))[: config.tokens].tolist()
    rows = [ids[index % len(ids)] for index in range(config.tokens)]
    with torch.no_grad():
        wrapped.prompt_encoder["default"].embedding.weight.copy_(words[rows])
    return VirtualTokens(wrapped)


def _text_ids(model: Any, text: str) -> list[int]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model.name_or_path, trust_remote_code=False)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    if not ids:
        raise ConfigError(f"adapter.text is {text!r}, which has no tokens; give words or leave it out")
    return ids
