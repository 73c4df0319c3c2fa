"""AdamW, in fp32 or with 8-bit moments, and what its state looks like in a file."""

from __future__ import annotations

from typing import Any, Literal

import torch

from patentft.config import Config


class OptimizerConfig(Config):
    """AdamW, with a warm-up and a decay."""

    kind: Literal["adamw", "adamw_8bit", "paged_adamw_8bit"] = "adamw"
    """Moments in fp32, or in 8 bits (bitsandbytes: 2 bytes a parameter instead of 8), or these in pages that move to
    the CPU's memory when the GPU's is full."""
    lr: float = 2e-5
    weight_decay: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    clip_norm: float = 1.0
    """Largest norm of the whole gradient."""
    schedule: Literal["linear", "cosine", "constant", "wsd"] = "linear"
    """How the rate goes after the warm-up: down to zero at the last step, along a line or a cosine; or not at all; or
    (wsd: warm-up, stable, decay) not at all and then to zero along a line in the last `decay_fraction` of the steps."""
    warmup_fraction: float = 0.1
    decay_fraction: float = 0.2
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
        f"{index}.{name}": value.detach().cpu().contiguous().clone().reshape(value.shape)
        for index, state in optimizer.state_dict()["state"].items()
        for name, value in state.items()
        if isinstance(value, torch.Tensor)
    }


def numbers_of(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The state's plain numbers, by the same keys (bitsandbytes counts steps in one)."""
    return {
        f"{index}.{name}": value
        for index, state in optimizer.state_dict()["state"].items()
        for name, value in state.items()
        if isinstance(value, int | float | str)
    }


def put_back(optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor], numbers: dict[str, Any]) -> None:
    """Undo `tensors_of` and `numbers_of`."""
    state: dict[int, dict[str, Any]] = {}
    for key, value in {**tensors, **numbers}.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
