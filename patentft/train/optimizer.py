"""AdamW, in fp32 or with 8-bit moments, and what its state looks like in a file."""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field

from patentft.config import Config


class OptimizerConfig(Config):
    """AdamW, with a warm-up and a decay."""

    kind: Literal["adamw", "adamw_8bit", "paged_adamw_8bit"] = "adamw"
    """Moments in fp32, or in 8 bits (bitsandbytes: 2 bytes a parameter instead of 8), or these in pages that move to
    the CPU's memory when the GPU's is full."""
    lr: float = Field(default=2e-5, gt=0)
    weight_decay: float = Field(default=0.01, ge=0)
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.999, ge=0, lt=1)
    epsilon: float = Field(default=1e-8, gt=0)
    clip_norm: float = Field(default=1.0, gt=0)
    """Largest norm of the whole gradient."""
    schedule: Literal["linear", "cosine", "constant", "wsd"] = "linear"
    """How the rate goes after the warm-up: down to zero at the last step, along a line or a cosine; or not at all; or
    (wsd: warm-up, stable, decay) not at all and then to zero along a line in the last `decay_fraction` of the steps."""
    warmup_fraction: float = Field(default=0.1, ge=0, le=1)
    decay_fraction: float = Field(default=0.2, gt=0, le=1)
    """For schedule wsd (Hu et al. 2024, arXiv:2404.06395)."""


def make(config: OptimizerConfig, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """The optimizer over parameter groups, each with its own lr and weight_decay."""
    options: dict[str, Any] = {"betas": (config.beta1, config.beta2), "eps": config.epsilon}
    if config.kind == "adamw":
        return torch.optim.AdamW(groups, **options)
    from bitsandbytes.optim.adamw import AdamW8bit, PagedAdamW8bit

    kinds = {"adamw_8bit": AdamW8bit, "paged_adamw_8bit": PagedAdamW8bit}
    return kinds[config.kind](groups, **options)


def tensors_of(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """ "3.exp_avg": the state's tensors by parameter number, on the CPU, each with memory of its own."""
    return {
        name: value.detach().cpu().contiguous().clone().reshape(value.shape)
        for name, value in _state_of(optimizer).items()
        if isinstance(value, torch.Tensor)
    }


def numbers_of(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The state's plain numbers, by the same keys (bitsandbytes counts steps in one)."""
    return {name: value for name, value in _state_of(optimizer).items() if not isinstance(value, torch.Tensor)}


def _state_of(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The state, flat. Raises TypeError for what a checkpoint could not hold."""
    found: dict[str, Any] = {}
    for index, state in optimizer.state_dict()["state"].items():
        for name, value in state.items():
            # bitsandbytes wraps its moments and their scales in a mapping, and takes them back without it
            for inner, single in (value if isinstance(value, dict) else {name: value}).items():
                if not isinstance(single, torch.Tensor | int | float | str):
                    raise TypeError(f"state {inner!r} of {type(optimizer).__name__} is a {type(single).__name__}")
                found[f"{index}.{inner}"] = single
    return found


def put_back(optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor], numbers: dict[str, Any]) -> None:
    """Undo `tensors_of` and `numbers_of`."""
    state: dict[int, dict[str, Any]] = {}
    for key, value in {**tensors, **numbers}.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
