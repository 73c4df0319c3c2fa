"""Weights, gradients and moments are divided over the ranks: torch's FSDP2 (`fully_shard`), block by block.

A checkpoint is one safetensors file a rank: its rows of every divided tensor. A resume puts the rows of all files
together again, so it may have another world size.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from patentft.config import Config, ConfigError
from patentft.models.blocks import find_blocks
from patentft.train import optimizer as optimizers
from patentft.train.optimizer import OptimizerConfig
from patentft.train.place import Place


class FsdpConfig(Config):
    """A share of every weight on each rank; whole blocks are gathered when they are used."""

    kind: Literal["fsdp"] = "fsdp"
    reshard_after_forward: bool = True
    """Give a block's weights back after the forward pass (least memory), or keep them for the backward pass."""
    offload: bool = False
    """Keep weights, gradients and moments in the CPU's memory, and bring a block to the GPU when it is used."""


class Fsdp:
    lockstep = True
    any_world_size = True

    def __init__(
        self,
        config: FsdpConfig,
        module: nn.Module,
        groups: list[dict[str, Any]],
        settings: OptimizerConfig,
        place: Place,
        precision: str,
    ) -> None:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, OffloadPolicy, fully_shard

        self.place, self.clip_norm = place, settings.clip_norm
        mesh = init_device_mesh(place.device.type, (place.world_size,))
        policy = MixedPrecisionPolicy()
        if precision == "bf16":
            policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
        options: dict[str, Any] = {
            "mesh": mesh,
            "reshard_after_forward": config.reshard_after_forward,
            "mp_policy": policy,
            "offload_policy": CPUOffloadPolicy() if config.offload else OffloadPolicy(),
        }
        names = {parameter: name for name, parameter in module.named_parameters()}
        wanted = [[names[parameter] for parameter in group["params"]] for group in groups]
        if not config.offload:
            module.to(place.device)
        for block in find_blocks(module)[1]:
            fully_shard(block, **options)
        fully_shard(module, **options)  # in place
        self.model = module
        self.scored = self.model
        # sharding has put new parameters in the place of the old ones
        self.parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
        divided = [
            {**group, "params": [self.parameters[name] for name in named]}
            for group, named in zip(groups, wanted, strict=True)
        ]
        self.optimizer = optimizers.make(settings, divided)
        self.rates = [group["lr"] for group in self.optimizer.param_groups]

    def micro_batch(self, last: bool) -> AbstractContextManager[Any]:
        return nullcontext()  # gradients are reduced at once: whole ones would not fit

    def backward(self, loss: torch.Tensor) -> None:
        loss.backward()

    def step(self, factor: float) -> float:
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor
        norm = nn.utils.clip_grad_norm_(self.parameters.values(), self.clip_norm)
        whole = norm.full_tensor() if hasattr(norm, "full_tensor") else norm  # type: ignore[operator]
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return float(whole)

    def trained(self) -> dict[str, torch.Tensor] | None:
        whole = {}
        for name, parameter in self.parameters.items():  # one at a time: only rank 0 keeps it
            full = _whole(parameter)
            if self.place.rank == 0:
                whole[name] = full.cpu().contiguous().clone()
        return whole if self.place.rank == 0 else None

    def save(self, folder: Path) -> None:
        mine: dict[str, torch.Tensor] = {}
        for name, parameter in self.parameters.items():
            mine[f"weight/{name}"] = _local(parameter)
            for key, value in self.optimizer.state.get(parameter, {}).items():
                mine[f"{key}/{name}"] = _local(value)
        save_file(mine, folder / f"shard-{self.place.rank:05d}-of-{self.place.world_size:05d}.safetensors")

    def load(self, folder: Path) -> None:
        from torch.distributed.tensor import DTensor, distribute_tensor

        files = sorted(folder.glob("shard-*.safetensors"))
        if not files or not files[0].stem.endswith(f"-of-{len(files):05d}"):
            raise ConfigError(f"checkpoint {folder} holds {len(files)} of its shards")
        shards = [safe_open(file, framework="pt") for file in files]
        saved = {key for key in shards[0].keys() if key.startswith("weight/")}  # noqa: SIM118 it is no mapping
        if saved != {f"weight/{name}" for name in self.parameters}:
            raise ConfigError(f"checkpoint {folder} is of other trainable parameters than this run's")
        for name, parameter in self.parameters.items():
            state: dict[str, Any] = {}
            for key in ("weight", "exp_avg", "exp_avg_sq", "step"):
                if f"{key}/{name}" not in shards[0].keys():  # noqa: SIM118
                    continue  # a parameter without a gradient has no moments yet
                pieces = [shard.get_tensor(f"{key}/{name}") for shard in shards]
                if key == "step":
                    state[key] = pieces[0]
                    continue
                assert isinstance(parameter, DTensor)
                whole = torch.cat(pieces).to(parameter.device)
                if whole.shape != parameter.shape:
                    raise ConfigError(
                        f"checkpoint: {name} has shape {tuple(whole.shape)}, expected {tuple(parameter.shape)}"
                    )
                divided = distribute_tensor(whole, parameter.device_mesh, parameter.placements)
                if key == "weight":
                    with torch.no_grad():
                        parameter.copy_(divided)
                else:
                    state[key] = divided
            if state:
                self.optimizer.state[parameter] = state


def _whole(tensor: torch.Tensor) -> torch.Tensor:
    return (tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor).detach()  # type: ignore[operator]


def _local(tensor: torch.Tensor) -> torch.Tensor:
    return (tensor.to_local() if hasattr(tensor, "to_local") else tensor).detach().cpu().contiguous().clone()  # type: ignore[operator]
