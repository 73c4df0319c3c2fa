"""The trained part of a model: counted, taken out, put back, merged into its base."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import nn

from patentft.config import ConfigError


def merge(base: nn.Module, folder: Path) -> nn.Module:
    """`base`, plain and unquantized, with the PEFT adapter of `folder` folded into its weights and its heads in place.

    Into a quantized base it would be folded with rounding: outputs would change.
    """
    import peft

    return fold(peft.PeftModel.from_pretrained(base, str(folder)))  # type: ignore[arg-type]


def fold(wrapped: Any) -> nn.Module:
    """The plain model of a PEFT model whose method can be merged, in place."""
    from peft.utils import ModulesToSaveWrapper

    model = wrapped.get_base_model()
    for name, module in list(model.named_modules()):
        if isinstance(module, ModulesToSaveWrapper):  # PEFT itself fails on a head of several layers beside IA3
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, module.modules_to_save[wrapped.active_adapter])
    return wrapped.merge_and_unload()


def count_parameters(module: nn.Module) -> dict[str, int]:
    """Trainable and total parameters; a weight held in 4 bits counts as one."""
    return {
        "trainable": sum(_size(p) for p in module.parameters() if p.requires_grad),
        "total": sum(_size(p) for p in module.parameters()),
    }


def _size(parameter: nn.Parameter) -> int:
    state = getattr(parameter, "quant_state", None)  # bitsandbytes stores two weights in a byte
    return parameter.numel() if state is None else math.prod(state.shape)


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
