"""What every adapter of PEFT needs: the task type it is saved under, the heads, and errors that name a setting."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from patentft.config import ConfigError
from patentft.models.adapters.task import Layout, Task, TaskKind

TASK_TYPES = {"causal_lm": "CAUSAL_LM", "masked_lm": None, "classifier": "SEQ_CLS", "encoder": "FEATURE_EXTRACTION"}
"""PEFT has no type for a masked language model; without one the adapter's folder names the model's class instead."""
BY_ITSELF = ("classifier", "score")
"""The heads that PEFT trains and saves whole for SEQ_CLS without being told."""
DECODERS = ("llama", "mistral", "qwen2", "qwen3")


def peft_options(task: Task) -> dict[str, Any]:
    """task_type and modules_to_save of any PEFT configuration."""
    kind = TASK_TYPES[task.kind]
    heads = [head for head in task.heads if kind != "SEQ_CLS" or head not in BY_ITSELF]
    return {"task_type": kind, "modules_to_save": heads or None}


def unused_pooler(model: nn.Module, task: Task, targets: Sequence[str] | str) -> list[str] | None:
    """The pooler of an encoder whose token states are pooled by us: an adapter there would never get a gradient."""
    if task.kind != "encoder" or getattr(model, "pooler", None) is None:
        return None
    hit = targets == "all-linear" or any("pooler.dense".endswith(target) for target in targets)
    return ["pooler.dense"] if hit else None


def wrap(model: nn.Module, config: Any, setting: str = "adapter.target_modules") -> Any:
    """`peft.get_peft_model`. Raises ConfigError naming `setting`, such as when a target matches nothing."""
    import peft

    try:
        return peft.get_peft_model(model, config)  # type: ignore[arg-type]
    except ValueError as error:
        raise ConfigError(f"{setting}: {error}") from error


def virtual_options(task: Task) -> dict[str, Any]:
    """As `peft_options`, for prompt and prefix tuning, which need a type that only passes states through."""
    return {**peft_options(task), "task_type": TASK_TYPES[task.kind] or "FEATURE_EXTRACTION"}


def virtual_refusal(
    kind: str, families: Sequence[str], task_kind: TaskKind, family: str, layout: Layout
) -> str | None:
    """Why virtual tokens cannot be trained here, and what can; None when they can."""
    if layout == "packed":
        return (
            f"adapter {kind}: its virtual tokens stand in front of one text, and rows are packed with several: set "
            f"objective.layout: padded, or choose lora"
        )
    if family not in families:
        return f"adapter {kind} is tested on {', '.join(families)}, not on {family}: choose lora"
    if task_kind == "masked_lm" and family in DECODERS:
        return f"adapter {kind}: a decoder that sees both sides needs a mask of its own: choose lora"
    return None
