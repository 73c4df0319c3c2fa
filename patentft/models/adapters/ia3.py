"""A learned factor for each key, value and inner feed-forward activation (PEFT); Liu et al. 2022, arXiv:2205.05638."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import model_validator
from torch import nn

from patentft.config import Config, ConfigError
from patentft.models.adapters.task import Layout, Task, TaskKind
from patentft.models.adapters.wrap import peft_options, unused_pooler, wrap

EXPORT = "merged"

_BERT = (r".*layer\.\d+\.attention\.self\.(key|value)", r".*layer\.\d+\.output\.dense")
_LLAMA = (r".*layers\.\d+\.self_attn\.(k_proj|v_proj)", r".*layers\.\d+\.mlp\.down_proj")
PLACES = {
    "bert": _BERT,
    "roberta": _BERT,
    "xlm-roberta": _BERT,
    "mpnet": (r".*layer\.\d+\.attention\.attn\.(k|v)", r".*layer\.\d+\.output\.dense"),
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
}
"""Model type -> whole names of the layers (regular expressions) whose output, and whose input, is multiplied."""


class Ia3Config(Config):
    """Learned factors; see Liu et al. 2022 (arXiv:2205.05638)."""

    kind: Literal["ia3"] = "ia3"
    target_modules: list[str] | None = None
    """Endings of the linear layers' names; unset: keys, values and the second feed-forward layer of families that are
    known."""
    feedforward_modules: list[str] = []
    """Those of `target_modules` whose input is multiplied, and not their output."""

    @model_validator(mode="after")
    def _subset(self) -> Ia3Config:
        strangers = sorted(set(self.feedforward_modules) - set(self.target_modules or ()))
        if strangers:
            raise ValueError(f"feedforward_modules: {', '.join(strangers)}: name them in target_modules too")
        return self


def refusal(config: Ia3Config, task_kind: TaskKind, family: str, layout: Layout) -> str | None:
    """Why this cannot be trained, and what can; None when it can."""
    if config.target_modules is None and family not in PLACES:
        return (
            f"adapter ia3 does not know the layers of {family} (it knows {', '.join(PLACES)}): set "
            f"adapter.target_modules and adapter.feedforward_modules, or choose lora"
        )
    return None


def apply(model: nn.Module, config: Ia3Config, task: Task) -> nn.Module:
    """A PEFT model around `model`. Raises ConfigError for a family it does not know and a name that matches nothing."""
    import peft

    base: Any = model.config
    reason = refusal(config, task.kind, base.model_type, "padded")
    if reason:
        raise ConfigError(reason)
    targets: Any = config.target_modules
    inputs: Any = config.feedforward_modules
    if targets is None:
        outputs, inputs = PLACES[base.model_type]
        targets = f"{outputs}|{inputs}"
    excluded = unused_pooler(model, task, config.target_modules or ())
    return wrap(
        model,
        peft.IA3Config(
            target_modules=targets, feedforward_modules=inputs, exclude_modules=excluded, **peft_options(task)
        ),
    )
