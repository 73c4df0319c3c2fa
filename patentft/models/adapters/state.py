"""The trained part of a model: counted, taken out, put back, merged into its base."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from patentft.config import ConfigError


def merged(model: nn.Module, adapter_model: nn.Module) -> nn.Module:
    """The plain model with the adapter folded in; `model` unchanged when it has none."""
    import peft

    if isinstance(adapter_model, peft.PeftModel):
        return adapter_model.merge_and_unload()  # type: ignore[operator,return-value]
    return model


def count_parameters(module: nn.Module) -> dict[str, int]:
    """Trainable and total parameters."""
    return {
        "trainable": sum(p.numel() for p in module.parameters() if p.requires_grad),
        "total": sum(p.numel() for p in module.parameters()),
    }


def trainable_state(module: nn.Module) -> dict[str, torch.Tensor]:
    """The trainable parameters by name, on the CPU: what a checkpoint must hold besides the base."""
    return {name: p.detach().cpu().contiguous().clone() for name, p in module.named_parameters() if p.requires_grad}


def load_trainable_state(module: nn.Module, state: dict[str, Any]) -> None:
    """Put a `trainable_state` back. Raises ConfigError when names or shapes differ: it is of another configuration."""
    own = {name: p for name, p in module.named_parameters() if p.requires_grad}
    if own.keys() != state.keys():
        odd = sorted(own.keys() ^ state.keys())
        raise ConfigError(f"checkpoint and model differ in {len(odd)} trainable parameters, such as {odd[0]}")
    with torch.no_grad():
        for name, parameter in own.items():
            if parameter.shape != state[name].shape:
                raise ConfigError(
                    f"checkpoint: {name} has shape {tuple(state[name].shape)}, expected {tuple(parameter.shape)}"
                )
            parameter.copy_(state[name])
