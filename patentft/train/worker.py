"""The training loop. One process of `world_size`, plain PyTorch: Ray starts it, but is not needed to run it.

    encoded arrays -> plan.steps_of_epoch -> for each step: this rank's units -> micro-batches
      -> objective.loss (a sum) -> scaled by world_size / total weight of the step -> backward (DDP averages)
      -> clip -> AdamW at the scheduled rate
      -> sometimes: score the valid side, keep the best weights, report a checkpoint

A rank draws all its micro-batches of a step first; their weights are summed over ranks, so the gradient is that of the
mean over the whole step whatever the packing, padding, world size or accumulation. The random state of step s on rank r
is seeded by (seed, s, r): a run that resumes at step s goes on exactly as if it had not stopped.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from patentft.models.adapters.state import trainable_state
from patentft.models.adapters.table import adapt
from patentft.models.backbone import Loading
from patentft.objectives.encoded import Encoded, SpecialTokens, Unit
from patentft.objectives.packed import Rows
from patentft.objectives.table import OBJECTIVES
from patentft.train import checkpoint, plan
from patentft.train.config import TrainConfig


@dataclass(frozen=True)
class Hooks:
    """What the loop needs of whoever runs it."""

    rank: int
    world_size: int
    device: torch.device
    report: Callable[[dict[str, Any], Path | None], None]
    """Every rank calls it at the same steps; the folder is the checkpoint (rank 0) or None."""
    latest: Path | None
    """The checkpoint to go on from."""
    say: Callable[[str], None] = print


@dataclass(frozen=True)
class Data:
    """Both sides: Rows for packed tokens, else what the objective's `encode` made."""

    train: Encoded | Rows
    valid: Encoded | Rows
    tokens: SpecialTokens


def build(config: TrainConfig, model_folder: str) -> nn.Module:
    """The objective's module around the adapted backbone, in fp32. The same on every rank: seeded by the config."""
    torch.manual_seed(config.seed)
    objective: Any = OBJECTIVES[config.objective.kind]
    backbone = objective.build(model_folder, config.objective, Loading(config.dropout))
    adapted = adapt(backbone, config.adapter, objective.task(backbone, config.objective))
    return objective.wrap(adapted, config.objective)


def train(config: TrainConfig, model_folder: str, data: Data, hooks: Hooks) -> None:
    """Run (or go on with) the training; the last report holds the final weights."""
    objective: Any = OBJECTIVES[config.objective.kind]
    module = build(config, model_folder).to(hooks.device)
    groups = objective.parameter_groups(module, config.optimizer.lr, config.optimizer.weight_decay, config.objective)
    base_rates = [group["lr"] for group in groups]
    optimizer = torch.optim.AdamW(
        groups, betas=(config.optimizer.beta1, config.optimizer.beta2), eps=config.optimizer.epsilon
    )
    progress, best = checkpoint.Progress(), None
    if hooks.latest is not None:
        progress, best = checkpoint.load(hooks.latest, module, optimizer)
        hooks.say(f"going on from the checkpoint at step {progress.next_step}")
    wrapped = _distribute(module, hooks)
    schedule = _schedule(config, objective, data.train)
    num_steps = sum(len(steps) for _, steps in schedule)
    evaluate_at = _evaluation_steps(schedule, config.evaluations_per_epoch)
    parameters = [p for group in groups for p in group["params"]]
    saved, told = time.monotonic(), time.monotonic()
    step = 0
    for units, steps in schedule:
        for chosen in steps:
            if step < progress.next_step:
                step += 1
                continue
            torch.manual_seed(int(np.random.SeedSequence([config.seed, step, hooks.rank]).generate_state(1)[0]))
            module.train()
            factor = plan.learning_rate_factor(
                step, num_steps, config.optimizer.warmup_fraction, config.optimizer.schedule
            )
            for group, rate in zip(optimizer.param_groups, base_rates, strict=True):
                group["lr"] = rate * factor
            mean_loss = _optimizer_step(config, objective, wrapped, data, units, chosen, hooks)
            norm = float(nn.utils.clip_grad_norm_(parameters, config.optimizer.clip_norm))
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            step += 1
            progress.next_step = step
            evaluating = step in evaluate_at
            if evaluating:
                metrics = evaluate(config, objective, module, data, hooks)
                progress.history.append({"step": step, "train_loss": mean_loss, "gradient_norm": norm, **metrics})
                if progress.best_metric is None or metrics[objective.METRIC] > progress.best_metric:
                    progress.best_metric, progress.best_step = metrics[objective.METRIC], step
                    best = trainable_state(module) if config.keep == "best" and hooks.rank == 0 else None
                hooks.say(f"step {step} of {num_steps}: loss {mean_loss:.4f}, " + _shown(metrics))
            elif hooks.rank == 0 and time.monotonic() - told > 15:
                told = time.monotonic()
                hooks.say(f"step {step} of {num_steps}: loss {mean_loss:.4f}")
            if _all_agree(evaluating or time.monotonic() - saved > config.checkpoint_seconds, hooks):
                _report(hooks, module, optimizer, progress, best, num_steps)
                saved = time.monotonic()


def _schedule(config: TrainConfig, objective: Any, encoded: Encoded | Rows) -> list[tuple[list[Unit], list[list[int]]]]:
    """For each epoch: its units, and the unit indices of each step."""
    schedule = []
    for epoch in range(config.epochs):
        units = objective.units(encoded, config.objective, epoch, config.seed)
        lengths = [unit.tokens for unit in units]
        schedule.append((units, plan.steps_of_epoch(lengths, config.units_per_step, config.seed, epoch)))
    return schedule


def _evaluation_steps(schedule: Sequence[tuple[Any, list[list[int]]]], per_epoch: int) -> set[int]:
    """1-based step numbers after which the valid side is scored; the last of each epoch is always one."""
    found, before = set(), 0
    for _, steps in schedule:
        found |= {before + round(len(steps) * part / per_epoch) for part in range(1, per_epoch + 1)}
        before += len(steps)
    return found - {0}


def _optimizer_step(
    config: TrainConfig,
    objective: Any,
    wrapped: nn.Module,
    data: Data,
    units: list[Unit],
    chosen: list[int],
    hooks: Hooks,
) -> float:
    """Accumulate the gradient of the step's mean loss over all ranks; returns this rank's share of that mean."""
    mine = plan.deal(chosen, hooks.rank, hooks.world_size)
    # DDP needs a backward pass on every rank: a rank without units runs one with weight zero
    share = 0.0 if not mine else 1.0
    batches = [
        objective.collate(data.train, [units[index] for index in batch], data.tokens)
        for batch in plan.micro_batches(
            mine or chosen[:1], [unit.tokens for unit in units], config.micro_batch_tokens, objective.UNITS_PER_BATCH
        )
    ]
    total = _over_ranks(share * sum(objective.weight(batch, config.objective) for batch in batches), hooks)
    summed = 0.0
    for number, batch in enumerate(batches):
        tensors = {name: tensor.to(hooks.device) for name, tensor in batch.items()}
        last = number == len(batches) - 1
        silent = nullcontext() if last or not isinstance(wrapped, DistributedDataParallel) else wrapped.no_sync()
        with silent:
            loss, _, _ = objective.loss(wrapped, tensors, config.objective)
            if not torch.isfinite(loss):
                raise FloatingPointError(
                    f"the loss is {loss.item()} in micro-batch {number} of rank {hooks.rank}: lower optimizer.lr (now "
                    f"{config.optimizer.lr}) or look at these rows"
                )
            (loss * (share * hooks.world_size / total)).backward()
        summed += share * float(loss.detach())
    return summed * hooks.world_size / total


def _over_ranks(value: float, hooks: Hooks) -> float:
    """The sum over all ranks, in float64."""
    if hooks.world_size == 1:
        return value
    summed = torch.tensor([value], dtype=torch.float64, device=hooks.device)
    dist.all_reduce(summed)
    return float(summed)


def evaluate(config: TrainConfig, objective: Any, module: nn.Module, data: Data, hooks: Hooks) -> dict[str, float]:
    """The objective's metrics on the whole valid side; each rank scores its share."""
    module.eval()
    units = objective.units(data.valid, config.objective, 0, config.seed)
    order = sorted(range(len(units)), key=lambda index: units[index].tokens)
    budget = config.micro_batch_tokens * 2  # no activations are kept
    parts = []
    for batch in plan.micro_batches(
        plan.deal(order, hooks.rank, hooks.world_size),
        [unit.tokens for unit in units],
        budget,
        objective.UNITS_PER_BATCH,
    ):
        tensors = objective.collate(data.valid, [units[index] for index in batch], data.tokens)
        tensors = {name: tensor.to(hooks.device) for name, tensor in tensors.items()}
        parts.append(objective.predict(module, tensors, config.objective))
    if hooks.world_size > 1:
        gathered: list[Any] = [None] * hooks.world_size
        dist.all_gather_object(gathered, parts)
        parts = [part for share in gathered for part in share]
    return objective.metrics(parts, config.objective)


def _distribute(module: nn.Module, hooks: Hooks) -> nn.Module:
    if hooks.world_size == 1:
        return module
    ids = [hooks.device.index] if hooks.device.type == "cuda" else None
    return DistributedDataParallel(module, device_ids=ids, find_unused_parameters=False)


def _all_agree(mine: bool, hooks: Hooks) -> bool:
    """Clocks differ: rank 0 decides when a checkpoint is due, since every rank must report at the same step."""
    if hooks.world_size == 1:
        return mine
    flag = torch.tensor([1.0 if mine and hooks.rank == 0 else 0.0], device=hooks.device)
    dist.broadcast(flag, src=0)
    return bool(flag.item())


def _report(
    hooks: Hooks,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    progress: checkpoint.Progress,
    best: dict[str, torch.Tensor] | None,
    num_steps: int,
) -> None:
    metrics = {"step": progress.next_step, "num_steps": num_steps, "best_metric": progress.best_metric}
    if hooks.rank != 0:
        hooks.report(metrics, None)
        return
    with tempfile.TemporaryDirectory() as folder:
        checkpoint.save(Path(folder), module, optimizer, progress, best)
        hooks.report(metrics, Path(folder))


def _shown(metrics: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4f}" for name, value in metrics.items() if np.isfinite(value))
