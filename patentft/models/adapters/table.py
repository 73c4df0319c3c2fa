"""Which weights are trained: the adapters by name.

An adapter is a module with a Config and `apply(model, config, task) -> nn.Module`, which returns the model with only
the chosen parameters trainable, heads of the task included, and raises ConfigError for what the model lacks.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field
from torch import nn

from patentft.models.adapters import full, lora
from patentft.models.adapters.task import Task

ADAPTERS: dict[str, Any] = {"full": full, "lora": lora}

AdapterConfig = Annotated[full.FullConfig | lora.LoraConfig, Field(discriminator="kind")]


def adapt(model: nn.Module, config: AdapterConfig, task: Task) -> nn.Module:
    """`model` with only the adapter's parameters and the task's heads trainable."""
    return ADAPTERS[config.kind].apply(model, config, task)
