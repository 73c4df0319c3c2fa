"""Every rank holds the whole model: torch's DistributedDataParallel; with one rank, the module as it is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from patentft.config import Config
from patentft.models.adapters.state import load_trainable_state, trainable_state
from patentft.train import optimizer as optimizers
from patentft.train.optimizer import OptimizerConfig
from patentft.train.place import Place


class DdpConfig(Config):
    """The whole model on every rank."""

    kind: Literal["ddp"] = "ddp"


class Ddp:
    """State is the same on every rank: rank 0 writes it, and a resume may have another world size."""

    lockstep = False
    any_world_size = True

    def __init__(
        self,
        config: DdpConfig,
        module: nn.Module,
        groups: list[dict[str, Any]],
        settings: OptimizerConfig,
        place: Place,
        precision: str,
    ) -> None:
        self.module, self.place, self.precision = module.to(place.device), place, precision
        self.optimizer = optimizers.make(settings, groups)
        self.rates = [group["lr"] for group in self.optimizer.param_groups]
        self.clip_norm = settings.clip_norm
        self.model: nn.Module = self.module
        self.scored = self.module
        if place.world_size > 1:
            ids = [place.device.index] if place.device.type == "cuda" else None
            self.model = DistributedDataParallel(
                self.module, device_ids=ids, find_unused_parameters=False, forward_sync_buffers=False
            )

    @contextmanager
    def micro_batch(self, last: bool) -> Iterator[None]:
        with ExitStack() as stack:
            if self.precision == "bf16":
                stack.enter_context(torch.autocast(self.place.device.type, torch.bfloat16))
            if isinstance(self.model, DistributedDataParallel) and not last:
                stack.enter_context(self.model.no_sync())
            yield

    def backward(self, loss: torch.Tensor) -> None:
        loss.backward()

    def step(self, factor: float) -> float:
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        norm = float(nn.utils.clip_grad_norm_(parameters, self.clip_norm))
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm

    def trained(self) -> dict[str, torch.Tensor] | None:
        return trainable_state(self.module) if self.place.rank == 0 else None

    def save(self, folder: Path) -> None:
        if self.place.rank == 0:
            save_file(trainable_state(self.module), folder / "state.safetensors")
            save_file(optimizers.tensors_of(self.optimizer), folder / "optimizer.safetensors")
            (folder / "optimizer.json").write_text(json.dumps(optimizers.numbers_of(self.optimizer)))

    def load(self, folder: Path) -> None:
        load_trainable_state(self.module, load_file(folder / "state.safetensors"))
        numbers = json.loads((folder / "optimizer.json").read_text())
        optimizers.put_back(self.optimizer, load_file(folder / "optimizer.safetensors"), numbers)
