"""The training loop. One process of `world_size`, plain PyTorch: Ray starts it, but is not needed to run it.

    data -> schedule.units(step) -> this rank's units -> micro-batches
      -> objective.loss (a sum) -> scaled by world_size / total weight of the step -> backward (the strategy averages)
      -> clip -> AdamW at the scheduled rate
      -> sometimes: score the valid side, keep the best weights, report a checkpoint

A rank draws all its micro-batches of a step first; their weights are summed over ranks, so the gradient is that of the
mean over the whole step whatever the packing, padding, world size or accumulation. The random state of step s on rank r
is seeded by (seed, s, r): a run that resumes at step s goes on exactly as if it had not stopped. A thread draws the
next step's batches while this one is computed.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from patentft.config import ConfigError
from patentft.models.adapters.table import adapt, quantization, scale_rates
from patentft.models.backbone import Loading
from patentft.objectives.encoded import Encoded, SpecialTokens, Unit
from patentft.objectives.packed import Rows
from patentft.objectives.table import OBJECTIVES
from patentft.progress import duration
from patentft.train import checkpoint, plan, tracking
from patentft.train.across import Across, gather_rows
from patentft.train.config import TrainConfig
from patentft.train.place import Place
from patentft.train.schedule import Schedule, schedule_of
from patentft.train.strategies.table import Strategy, wrap
from patentft.train.tracking import Tracker

Batch = Mapping[str, torch.Tensor]

TELL_SECONDS = 15.0
PREEMPTION_SECONDS = 5.0


@dataclass(frozen=True)
class Hooks:
    """What the loop needs of whoever runs it."""

    place: Place
    report: Callable[[dict[str, Any], Path], None]
    """Every rank calls it at the same steps, with the folder of its files of a checkpoint, and gives that away."""
    latest: Path | None = None
    """The checkpoint to go on from."""
    say: Callable[[str], None] = print
    trackers: Callable[[int], Sequence[Tracker]] = lambda steps_done: ()
    """Called on rank 0 with the number of steps that were done before."""
    preempted: Callable[[], bool] = lambda: False
    """Whether a worker's machine will soon be taken away. Every rank calls it at the same steps."""
    folder: Callable[[], Path] = lambda: Path(tempfile.mkdtemp(prefix="patentft-checkpoint-"))
    """An empty one for these files. It waits while the rank's checkpoint before is still being copied."""
    busy: Callable[[], bool] = lambda: False
    """Whether it would wait: a checkpoint that need not be now is written later."""


@dataclass(frozen=True)
class Data:
    """Both sides: Rows for packed tokens, else what the objective's `encode` made."""

    train: Encoded | Rows
    valid: Encoded | Rows
    tokens: SpecialTokens
    tokenizer: str | None = None
    """The folder of the run's own tokenizer, of an objective that adds tokens."""


@dataclass
class _Clock:
    """When something was last done, by rank 0's clock."""

    saved: float = field(default_factory=time.monotonic)
    told: float = field(default_factory=time.monotonic)
    asked: float = field(default_factory=time.monotonic)
    began: float = field(default_factory=time.monotonic)
    lapped: float = field(default_factory=time.monotonic)
    steps: int = 0
    tokens: float = 0.0

    def lap(self) -> float:
        """Seconds since the step before was done, evaluation and checkpoint of that step included."""
        before, self.lapped = self.lapped, time.monotonic()
        return self.lapped - before


def build(
    config: TrainConfig, model_folder: str, device: torch.device | None = None, tokenizer: str | None = None
) -> nn.Module:
    """The objective's module around the adapted backbone. The same on every rank: seeded by the config.

    What is trained is fp32; with precision bf16 the rest is bfloat16. tokenizer: the folder of the run's own, of an
    objective that adds tokens.
    """
    torch.manual_seed(config.seed)
    objective: Any = OBJECTIVES[config.objective.kind]
    dtype = torch.bfloat16 if config.precision == "bf16" and config.adapter.kind != "full" else torch.float32
    loading = Loading(config.dropout, dtype, quantization(config.adapter), device, tokenizer)
    backbone = objective.build(model_folder, config.objective, loading)
    if config.activation_checkpointing:
        backbone.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    adapted = adapt(backbone, config.adapter, objective.task(backbone, config.objective))
    module = objective.wrap(adapted, config.objective)
    for parameter in module.parameters():
        if parameter.requires_grad and parameter.dtype != torch.float32:
            parameter.data = parameter.data.float()
    return module


def parameter_groups(config: TrainConfig, module: nn.Module) -> list[dict[str, Any]]:
    """The objective's groups, of trainable parameters only, each with lr and weight_decay."""
    objective: Any = OBJECTIVES[config.objective.kind]
    optimizer = config.optimizer
    groups = objective.parameter_groups(module, optimizer.lr, optimizer.weight_decay, config.objective)
    return scale_rates(groups, module, config.adapter)


def train(config: TrainConfig, model_folder: str, data: Data, hooks: Hooks) -> None:
    """Run (or go on with) the training; the last report holds the final weights."""
    objective: Any = OBJECTIVES[config.objective.kind]
    place = hooks.place
    module = build(config, model_folder, place.device, data.tokenizer)
    if hasattr(objective, "prepare"):  # what must be known of the starting weights, also when the run goes on
        data = _prepared(config, objective, module.to(place.device), data, place)
    groups = parameter_groups(config, module)
    strategy = wrap(config.strategy, module, groups, config.optimizer, place, config.precision)
    progress, best = checkpoint.Progress(), None
    if hooks.latest is not None:
        progress, best = checkpoint.load(hooks.latest, strategy, place)
        hooks.say(f"going on from the checkpoint at step {progress.next_step}")
    schedule = schedule_of(objective, data.train, config.objective, config.units_per_step, config.seed)
    num_steps = schedule.steps_per_epoch * config.epochs
    evaluate_at = evaluation_steps(schedule.steps_per_epoch, config.epochs, config.evaluations_per_epoch)
    trackers = hooks.trackers(progress.next_step) if place.rank == 0 else ()
    clock = _Clock()
    with tracking.closing(trackers), ThreadPoolExecutor(1, "batches") as pool:
        ahead: Future[_Drawn] | None = None
        for step in range(progress.next_step, num_steps):
            drawn = (ahead or pool.submit(_draw, config, objective, data, schedule, step, place)).result()
            if step + 1 < num_steps:
                ahead = pool.submit(_draw, config, objective, data, schedule, step + 1, place)
            torch.manual_seed(int(np.random.SeedSequence([config.seed, step, place.rank]).generate_state(1)[0]))
            strategy.model.train()
            optimizer = config.optimizer
            factor = plan.learning_rate_factor(
                step, num_steps, optimizer.warmup_fraction, optimizer.schedule, optimizer.decay_fraction
            )
            loss = _optimizer_step(config, objective, strategy, drawn, place)
            norm = strategy.step(factor)
            progress.next_step = step + 1
            clock.steps, clock.tokens = clock.steps + 1, clock.tokens + drawn.num_tokens
            record = {"loss": loss, "gradient_norm": norm, "learning_rate": optimizer.lr * factor}
            record |= {"epoch": step // schedule.steps_per_epoch, "padded_tokens": drawn.num_tokens}
            record["seconds"] = clock.lap()
            evaluating = progress.next_step in evaluate_at
            if evaluating:
                metrics = evaluate(config, objective, strategy, data, place)
                progress.history.append(
                    {"step": progress.next_step, "train_loss": loss, "gradient_norm": norm, **metrics}
                )
                reached = metrics[objective.METRIC]
                if np.isfinite(reached) and (progress.best_metric is None or reached > progress.best_metric):
                    progress.best_metric, progress.best_step = reached, progress.next_step
                    best = strategy.trained() if config.keep == "best" else None
                record |= {f"valid/{name}": value for name, value in metrics.items()}
            for tracker in trackers:
                tracker.log(progress.next_step, {name: v for name, v in record.items() if np.isfinite(v)})
            _tell(hooks, clock, progress.next_step, num_steps, record, evaluating)
            final = progress.next_step == num_steps
            if _checkpoint_is_due(config, hooks, clock, evaluating or final):
                for tracker in trackers:
                    tracker.commit()
                _report(hooks, strategy, progress, best, num_steps, final=final)
                clock.saved = time.monotonic()


def evaluation_steps(steps_per_epoch: int, epochs: int, per_epoch: int) -> set[int]:
    """1-based step numbers after which the valid side is scored; the last of each epoch is always one."""
    within = {round(steps_per_epoch * part / per_epoch) for part in range(1, per_epoch + 1)} - {0}
    return {epoch * steps_per_epoch + step for epoch in range(epochs) for step in within}


@dataclass(frozen=True)
class _Drawn:
    """A rank's part of a step, on the CPU."""

    batches: list[Batch]
    shares: list[float]
    """1, or 0 for a batch of another rank's, which a rank without units computes to take part in the reduction."""
    num_tokens: int
    """Of the whole step, padding included."""


def _draw(config: TrainConfig, objective: Any, data: Data, schedule: Schedule, step: int, place: Place) -> _Drawn:
    units = schedule.units(step)
    mine = plan.deal(units, place.rank, place.world_size)
    batches = _micro_batches(config, objective, data.train, data.tokens, mine or units[:1], config.micro_batch_tokens)
    shares = [1.0 if mine else 0.0] * len(batches)
    return _Drawn(batches, shares, sum(unit.tokens for unit in units))


def _micro_batches(
    config: TrainConfig, objective: Any, side: Encoded | Rows, tokens: SpecialTokens, units: Sequence[Unit], budget: int
) -> list[Batch]:
    if not getattr(objective, "BUCKETED", True):
        units = sorted(units, key=lambda unit: unit.tokens)  # inside a step the order does not matter
    chosen = plan.micro_batches(range(len(units)), [unit.tokens for unit in units], budget, objective.UNITS_PER_BATCH)
    return [objective.collate(side, [units[index] for index in batch], tokens) for batch in chosen]


def _optimizer_step(config: TrainConfig, objective: Any, strategy: Strategy, drawn: _Drawn, place: Place) -> float:
    """Accumulate the gradient of the step's mean loss over all ranks, and return that loss."""
    weights = [objective.weight(batch, config.objective) for batch in drawn.batches]
    total = place.sum(sum(weight * share for weight, share in zip(weights, drawn.shares, strict=True)))
    if total == 0:
        raise ConfigError("a step has nothing to learn from: its texts hold only special tokens; leave such texts out")
    batches = [{name: tensor.to(place.device) for name, tensor in batch.items()} for batch in drawn.batches]
    if getattr(objective, "SCOPE", "unit") == "step":
        across = Across(
            place.rank,
            place.world_size,
            drawn.shares[0],
            lambda tensor: gather_rows(tensor, place.world_size),
            strategy.micro_batch,
            lambda loss, last: strategy.backward(loss),
        )
        mean = objective.step(strategy.model, batches, config.objective, total, across)
        if not np.isfinite(mean):
            raise FloatingPointError(f"the loss is {mean}: lower optimizer.lr (now {config.optimizer.lr})")
        return mean
    # where each forward pass gathers weights, all ranks must make equally many
    missing = int(place.max(len(batches))) - len(batches) if strategy.lockstep else 0
    batches, shares = batches + batches[:1] * missing, drawn.shares + [0.0] * missing
    summed = 0.0
    for number, (batch, share) in enumerate(zip(batches, shares, strict=True)):
        with strategy.micro_batch(number == len(batches) - 1):
            loss, _, _ = objective.loss(strategy.model, batch, config.objective)
            if not torch.isfinite(loss):
                raise FloatingPointError(
                    f"the loss is {loss.item()} in micro-batch {number} of rank {place.rank}: lower optimizer.lr (now "
                    f"{config.optimizer.lr}) or look at these rows"
                )
            strategy.backward(loss * (share * place.world_size / total))
        summed += share * float(loss.detach())
    return place.sum(summed) / total


def evaluate(config: TrainConfig, objective: Any, strategy: Strategy, data: Data, place: Place) -> dict[str, float]:
    """The objective's metrics on the whole valid side; each rank scores its share."""
    strategy.scored.eval()
    units = objective.units(data.valid, config.objective, 0, config.seed)
    mine = plan.deal(sorted(units, key=lambda unit: unit.tokens), place.rank, place.world_size)
    budget = config.micro_batch_tokens * 2  # no activations are kept
    batches = _micro_batches(config, objective, data.valid, data.tokens, mine or units[:1], budget)
    counted = len(batches) if mine else 0
    missing = int(place.max(len(batches))) - len(batches) if strategy.lockstep else 0
    parts = []
    for number, batch in enumerate(batches + batches[:1] * missing):
        moved = {name: tensor.to(place.device) for name, tensor in batch.items()}
        with strategy.micro_batch(True):
            part = objective.predict(strategy.scored, moved, config.objective)
        if number < counted:
            parts.append(part)
    return objective.metrics(_gathered(parts, place), config.objective)


def _gathered(parts: list[Any], place: Place) -> list[Any]:
    """The parts of all ranks, on every rank."""
    if place.world_size == 1:
        return parts
    shares: list[Any] = [None] * place.world_size
    dist.all_gather_object(shares, parts)
    return [part for share in shares for part in share]


def _prepared(config: TrainConfig, objective: Any, module: nn.Module, data: Data, place: Place) -> Data:
    """Both sides, with what the objective adds to them by the starting weights; each rank computes its share."""

    def batches(side: Encoded | Rows) -> Iterator[Batch]:
        units = sorted(objective.units(side, config.objective, 0, config.seed), key=lambda unit: unit.tokens)
        mine = plan.deal(units, place.rank, place.world_size)
        for batch in _micro_batches(config, objective, side, data.tokens, mine, config.micro_batch_tokens * 2):
            yield {name: tensor.to(place.device) for name, tensor in batch.items()}

    # in the precision of the training: what is compared with the trained model must not differ from it by rounding
    with torch.autocast(place.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
        sides = [
            objective.prepare(module, side, config.objective, batches, lambda parts: _gathered(parts, place))
            for side in (data.train, data.valid)
        ]
    return replace(data, train=sides[0], valid=sides[1])


def _checkpoint_is_due(config: TrainConfig, hooks: Hooks, clock: _Clock, now: bool) -> bool:
    """Clocks differ, and every rank must report at the same step: rank 0 decides."""
    ask = time.monotonic() - clock.asked > PREEMPTION_SECONDS
    due = now or (time.monotonic() - clock.saved > config.checkpoint_seconds and not hooks.busy())
    wanted = 2.0 * due + 1.0 * ask
    wanted = int(hooks.place.from_first(wanted))
    if wanted & 1:  # asking is a barrier across the workers: not at every step
        clock.asked = time.monotonic()
        if hooks.preempted():
            return True
    return bool(wanted & 2)


def _report(
    hooks: Hooks,
    strategy: Strategy,
    progress: checkpoint.Progress,
    best: dict[str, torch.Tensor] | None,
    num_steps: int,
    *,
    final: bool,
) -> None:
    metrics = {"step": progress.next_step, "num_steps": num_steps, "best_metric": progress.best_metric}
    folder = hooks.folder()
    what = f"cannot write a checkpoint into {folder}, on the worker's own disk"
    remedy = "free space there, or set TMPDIR where the workers start to a folder with more of it"
    try:
        with checkpoint.explained(what, remedy):
            checkpoint.save(folder, strategy, progress, best, hooks.place, final=final)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    hooks.report(metrics, folder)


def _tell(hooks: Hooks, clock: _Clock, step: int, num_steps: int, record: Mapping[str, float], evaluated: bool) -> None:
    if hooks.place.rank != 0 or not (evaluated or time.monotonic() - clock.told > TELL_SECONDS):
        return
    clock.told = time.monotonic()
    seconds = clock.told - clock.began
    shown = [f"loss {record['loss']:.4f}"]
    valid = {name.removeprefix("valid/"): value for name, value in record.items() if name.startswith("valid/")}
    shown += [f"{name} {value:.4f}" for name, value in valid.items() if "." not in name]  # no tables
    shown += [f"{clock.tokens / seconds:,.0f} tokens/s", f"{duration(seconds / clock.steps * (num_steps - step))} left"]
    hooks.say(f"step {step} of {num_steps}: {', '.join(shown)}")
