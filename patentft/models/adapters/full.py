"""Train the whole model, but for the parameters named in `freeze`."""

from __future__ import annotations

from typing import Literal

from torch import nn

from patentft.config import Config, ConfigError
from patentft.models.adapters.task import Layout, Task, TaskKind

EXPORT = "whole"


class FullConfig(Config):
    """Train the whole model."""

    kind: Literal["full"] = "full"
    freeze: list[str] = []
    """Parameters whose name holds one of these are not trained, such as "embeddings"."""


def refusal(config: FullConfig, task_kind: TaskKind, family: str, layout: Layout) -> str | None:
    """Why this cannot be trained, and what can; None when it can."""
    return None


def apply(model: nn.Module, config: FullConfig, task: Task) -> nn.Module:
    """`model` itself. Raises ConfigError when a name in `freeze` matches nothing."""
    for pattern in config.freeze:
        matching = [parameter for name, parameter in model.named_parameters() if pattern in name]
        if not matching:
            names = sorted({name.rsplit(".", 1)[0] for name, _ in model.named_parameters()})
            raise ConfigError(
                f"adapter.freeze: no parameter's name holds {pattern!r}; there are: {', '.join(names[:20])} …"
            )
        for parameter in matching:
            parameter.requires_grad_(False)
    return model
