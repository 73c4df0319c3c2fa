"""Train the last blocks of a model and its new heads, everything below them frozen: transfer learning."""

from __future__ import annotations

from typing import Literal

from torch import nn

from patentft.config import Config, ConfigError
from patentft.models.adapters.task import Layout, Task, TaskKind
from patentft.models.blocks import find_blocks, in_heads

EXPORT = "whole"


class LastLayersConfig(Config):
    """Train the last blocks."""

    kind: Literal["last_layers"] = "last_layers"
    blocks: int | list[int] = 2
    """How many of the last blocks, or the numbers of blocks from 0 (negative: from the end)."""
    final_norm: bool = False
    """Whether the norm after the last block is trained too, where the model has one (Llama's kin)."""
    pooler: bool = False
    """Whether the layer between the first token and a classifier is trained too, where the model has one (BERT)."""


def refusal(config: LastLayersConfig, task_kind: TaskKind, family: str, layout: Layout) -> str | None:
    """Why this cannot be trained, and what can; None when it can."""
    if config.pooler and task_kind != "classifier":
        return f"adapter.pooler: nothing reads the pooler when a model is trained as {task_kind}; set it false"
    return None


def apply(model: nn.Module, config: LastLayersConfig, task: Task) -> nn.Module:
    """`model` itself. Raises ConfigError for blocks, a norm or a pooler that it lacks."""
    name, blocks = find_blocks(model)
    chosen = {f"{name}.{index}." for index in _numbers(config, len(blocks))}
    if config.final_norm:
        chosen |= _final_norm(model, name)
    if config.pooler:
        chosen |= _pooler(model)
    for parameter_name, parameter in model.named_parameters():
        trained = any(parameter_name.startswith(prefix) for prefix in chosen) or in_heads(task.heads, parameter_name)
        parameter.requires_grad_(trained)
    return model


def _numbers(config: LastLayersConfig, count: int) -> list[int]:
    if isinstance(config.blocks, int):
        if not 1 <= config.blocks <= count:
            raise ConfigError(f"adapter.blocks is {config.blocks}; the model has {count} blocks: set 1 to {count}")
        return list(range(count - config.blocks, count))
    wrong = [index for index in config.blocks if not -count <= index < count]
    if wrong or not config.blocks:
        raise ConfigError(
            f"adapter.blocks: {wrong or 'the list is empty'}; the model has {count} blocks, numbered 0 to {count - 1} "
            f"(or -1 to -{count} from the end)"
        )
    return sorted({index % count for index in config.blocks})


def _final_norm(model: nn.Module, blocks: str) -> set[str]:
    """The norm that stands beside the list of blocks."""
    parent = blocks.rpartition(".")[0]
    beside = model.get_submodule(parent).named_children() if parent else model.named_children()
    found = [name for name, module in beside if type(module).__name__.lower().endswith("norm")]
    if not found:
        raise ConfigError("adapter.final_norm: this model has no norm after its last block; set it false")
    return {f"{parent}.{name}." if parent else f"{name}." for name in found}


def _pooler(model: nn.Module) -> set[str]:
    found = [name for name, _ in model.named_modules() if name.rpartition(".")[2] == "pooler"]
    if not found:
        raise ConfigError("adapter.pooler: this model has no pooler; set it false")
    return {f"{name}." for name in found}
