"""Which weights are trained: all of them, or low-rank adapters (PEFT) on a frozen base.

`full` trains every parameter but those named in `freeze`. `lora` freezes the base and adds rank-r updates to the linear
layers; `merge` folds them back into an unquantized copy of the base, whose outputs must agree with the adapter's.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import nn

from patentft.config import Config, ConfigError


class FullConfig(Config):
    """Train the whole model."""

    kind: Literal["full"] = "full"
    freeze: list[str] = []
    """Parameters whose name holds one of these are not trained, such as "embeddings"."""


class LoraConfig(Config):
    """Low-rank adapters; see Hu et al. 2021 (arXiv:2106.09685)."""

    kind: Literal["lora"] = "lora"
    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    target_modules: list[str] | Literal["all-linear"] = "all-linear"


AdapterConfig = FullConfig | LoraConfig


def adapt(model: nn.Module, config: AdapterConfig, new_modules: list[str]) -> nn.Module:
    """`model` with only the chosen parameters trainable. new_modules: heads that are always trained and saved whole.

    Raises ConfigError when a name in `freeze` or `target_modules` matches nothing.
    """
    if isinstance(config, FullConfig):
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
    import peft

    lora = peft.LoraConfig(
        r=config.rank,
        lora_alpha=int(config.alpha) if config.alpha == int(config.alpha) else config.alpha,  # type: ignore[arg-type]
        lora_dropout=config.dropout,
        target_modules=config.target_modules,
        modules_to_save=new_modules or None,
    )
    try:
        return peft.get_peft_model(model, lora)  # type: ignore[arg-type]
    except ValueError as error:
        raise ConfigError(f"adapter.target_modules: {error}") from error


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
