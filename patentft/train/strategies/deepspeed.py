"""DeepSpeed's ZeRO: moments (1), gradients too (2), weights too (3) are divided over the ranks; Rajbhandari et al.,
arXiv:1910.02054. A checkpoint is DeepSpeed's own, which holds pickles: it is read only after its checksums were found
right (see `train.checkpoint`), and only with the world size that wrote it.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from patentft.config import Config, ConfigError
from patentft.models.adapters.state import trainable_state
from patentft.train import optimizer as optimizers
from patentft.train.optimizer import OptimizerConfig
from patentft.train.place import Place

TAG = "deepspeed"


class DeepspeedConfig(Config):
    """ZeRO by DeepSpeed."""

    kind: Literal["deepspeed"] = "deepspeed"
    zero: Literal[1, 2, 3] = 2
    """What is divided: 1 the moments, 2 also the gradients, 3 also the weights."""
    offload_optimizer: bool = False
    """Keep the moments in the CPU's memory, and step there."""
    offload_parameters: bool = False
    """Keep the weights there too; needs zero: 3."""


class Deepspeed:
    any_world_size = False

    def __init__(
        self,
        config: DeepspeedConfig,
        module: nn.Module,
        groups: list[dict[str, Any]],
        settings: OptimizerConfig,
        place: Place,
        precision: str,
    ) -> None:
        if place.device.type == "cpu":
            os.environ["DS_ACCELERATOR"] = "cpu"
        import deepspeed

        self.place, self.zero = place, config.zero
        self.lockstep = config.zero >= 2  # which reduces gradients in every backward pass
        zero: dict[str, Any] = {"stage": config.zero, "overlap_comm": place.device.type == "cuda"}
        if config.offload_optimizer:
            zero["offload_optimizer"] = {"device": "cpu"}
        if config.offload_parameters:
            zero["offload_param"] = {"device": "cpu"}
        self.engine: Any
        self.engine, *_ = deepspeed.initialize(
            model=module.to(place.device),
            optimizer=optimizers.make(settings, groups),
            dist_init_required=False,
            config={
                "train_micro_batch_size_per_gpu": 1,  # not used: the loop makes the micro-batches
                "gradient_accumulation_steps": 1,
                "managed_gradient_accumulation": False,  # the loop says where a step ends
                "gradient_clipping": settings.clip_norm,
                "zero_optimization": zero,
                "zero_allow_untested_optimizer": True,
                "zero_force_ds_cpu_optimizer": False,
                "torch_autocast": {"enabled": precision == "bf16", "dtype": "bfloat16"},
                "steps_per_print": 2**31,
            },
        )
        self.model: nn.Module = self.engine
        self.scored: nn.Module = self.engine
        self.rates = [group["lr"] for group in self.engine.optimizer.param_groups]

    def micro_batch(self, last: bool) -> AbstractContextManager[Any]:
        return nullcontext()

    def backward(self, loss: torch.Tensor) -> None:
        self.engine.backward(loss, scale_wrt_gas=False)

    def step(self, factor: float) -> float:
        for group, rate in zip(self.engine.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor
        self.engine.step()
        norm = self.engine.get_global_grad_norm()
        return float(norm) if norm is not None else float("nan")

    def trained(self) -> dict[str, torch.Tensor] | None:
        module = self.engine.module
        if self.zero < 3:
            return trainable_state(module) if self.place.rank == 0 else None
        import deepspeed

        whole = {}
        for name, parameter in module.named_parameters():  # one at a time: only rank 0 keeps it
            if parameter.requires_grad:
                with deepspeed.zero.GatheredParameters([parameter]):
                    if self.place.rank == 0:
                        whole[name] = parameter.detach().cpu().contiguous().clone()
        return whole if self.place.rank == 0 else None

    def save(self, folder: Path) -> None:
        self.engine.save_checkpoint(str(folder), tag=TAG, save_latest=False, exclude_frozen_parameters=True)

    def load(self, folder: Path) -> None:
        found, _ = self.engine.load_checkpoint(str(folder), tag=TAG, load_module_strict=False)
        if found is None:  # it only warns
            raise ConfigError(f"checkpoint {folder} holds no files of DeepSpeed: begin anew with --redo")
