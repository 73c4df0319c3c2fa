"""What `patentft estimate` says of a pipeline's train stages, and what to change when a GPU's memory was too small.

Nothing runs and nothing is fetched: shapes are read from the model's config.json, numbers of rows from the manifests of
input stages that are finished.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from patentft.config import Config, ConfigError, build, nearest
from patentft.location import Location
from patentft.models.gpus import GPUS, Gpu, gpu_of
from patentft.models.load import config_folder, model_type
from patentft.store import StageFolder, finished_stage, load_stage
from patentft.train import check, estimate
from patentft.train.config import TrainConfig
from patentft.train.estimate import GIB, Memory
from patentft.train.rehearse import Rehearsal, prepare

ANSWER_SHARE = 0.5
"""Of a row's tokens, those of an answer, for which logits are made. Assumed: it is in the data."""


@dataclass(frozen=True)
class Load:
    """What a stage's data and settings make of a pass and of a step."""

    row_tokens: int
    """Tokens of the longest row."""
    unit_rows: int
    """Rows that stay together."""
    predicted_share: float
    """Of the tokens, those with logits over the vocabulary."""
    units: int | None = None
    """Of the train side; None when the data is not there yet."""
    missing: str = ""
    """What to run so that `units` is known."""

    def rows(self, micro_batch_tokens: int) -> int:
        """Of a pass."""
        whole = micro_batch_tokens // (self.row_tokens * self.unit_rows)
        return max(1, whole) * self.unit_rows

    def passes(self, config: TrainConfig) -> int:
        """Of a worker in a step."""
        units = -(-config.units_per_step // config.workers)
        return -(-units * self.unit_rows // self.rows(config.micro_batch_tokens))


Stages = Mapping[str, Config]
"""A pipeline's stages by name, in order."""


def report(out: Location, stages: Stages, stage: str | None, gpu_name: str | None) -> str:
    """What is known of the train stages before they run. out: the run's folder.

    Raises ConfigError for an unknown stage or GPU.
    """
    names = [name for name, config in stages.items() if isinstance(config, TrainConfig)]
    if not names:
        raise ConfigError("the pipeline has no stage of kind train, so there is nothing to estimate")
    if stage is not None and stage not in names:
        raise ConfigError(f"--stage {stage!r}: no train stage is called so{nearest(stage, names)}")
    gpu = None if gpu_name is None else gpu_of(gpu_name)
    return "\n\n".join(_of_stage(out, stages, name, gpu) for name in names if stage in (None, name))


def _of_stage(out: Location, stages: Stages, name: str, gpu: tuple[str, Gpu] | None) -> str:
    config = stages[name]
    assert isinstance(config, TrainConfig)
    load = load_of(out, stages, config)
    rehearsal = prepare(config, config_folder(_reference(out, stages, config.model)))
    on_gpu = gpu is not None or config.gpus_per_worker > 0
    rows = load.rows(config.micro_batch_tokens)
    worst = peak(rehearsal, config, load, rows, on_gpu=on_gpu)
    weights = rehearsal.weights
    lines = [
        f"{name}: {config.objective.kind}, {config.adapter.kind}, {config.strategy.kind} on {config.workers} "
        f"worker{'s' * (config.workers > 1)}, {config.precision}; {config.model}",
        f"  parameters          {weights.total:,}; trained {weights.trainable:,} "
        f"({weights.trainable / weights.total:.2%})",
        f"  GiB of {'a GPU' if on_gpu else 'a worker, without its programs and data'}",
        *_memory_lines(worst, f"{rows:,} rows of {load.row_tokens:,} tokens"),
    ]
    if 0 < load.predicted_share < 1:
        assumed = " (assumed)" if config.objective.kind in ("instruct", "dpo") else ""
        lines.append(f"  logits are made for {load.predicted_share:.0%} of the tokens{assumed}")
    if gpu is not None:
        lines += _fit_lines(gpu, rehearsal, config, load, worst)
    elif on_gpu:
        lines.append(f"  --gpu NAME says what fits and how long it takes; known: {', '.join(GPUS)}")
    if config.strategy.kind != "deepspeed" or config.strategy.zero < 3:
        host = (4 + estimate.MOMENT_BYTES[config.optimizer.kind] + 4 * (config.keep == "best")) * weights.trainable
        lines.append(f"  a checkpoint takes {host / GIB:.2f} GiB more of the host's memory while it is written")
    return "\n".join(lines + _time_lines(gpu, rehearsal, config, load))


def _memory_lines(worst: Memory, shape: str) -> list[str]:
    shown = [
        ("weights", worst.weights, ""),
        ("gradients", worst.gradients, ""),
        ("moments", worst.moments, ""),
        ("activations", worst.activations, f"  {shape}"),
        ("logits", worst.logits, ""),
        ("backward pass", worst.working, ""),
        ("bf16 copies", worst.weight_copies, ""),
        ("strategy", worst.buffers, ""),
    ]
    lines = [f"    {name:<16}{value / GIB:10.2f}{note}" for name, value, note in shown if value > 0]
    if worst.in_step > worst.in_pass:
        lines.append(f"    {'optimizer step':<16}{worst.in_step / GIB:10.2f}  in all, more than a pass")
    return [*lines, f"    {'peak':<16}{worst.peak / GIB:10.2f}"]


def _fit_lines(gpu: tuple[str, Gpu], rehearsal: Rehearsal, config: TrainConfig, load: Load, worst: Memory) -> list[str]:
    name, card = gpu
    limit = room(card, config.workers)
    whose = "CUDA and NCCL" if config.workers > 1 else "CUDA"
    apart = f"{card.memory_gib:.1f} GiB less {card.memory_gib - limit / GIB:.2f} for {whose}"
    verdict = "fits" if worst.peak <= limit else "does not fit"
    lines = [f"  {name:<20}{verdict}: {worst.peak / GIB:.2f} of {limit / GIB:.2f} GiB ({apart}, assumed)"]

    def of_rows(rows: int) -> float:
        return peak(rehearsal, config, load, rows, on_gpu=True).peak

    most = estimate.largest_rows(of_rows, limit, load.rows(config.micro_batch_tokens), load.unit_rows)
    if most:
        lines.append(f"  largest micro_batch_tokens that fits: {most * load.row_tokens:,} ({most:,} rows)")
    else:
        lines.append("  no micro-batch fits, not even the smallest")
    if not most or worst.peak > limit:
        lines.append(f"  {_changes(config, rehearsal, load, worst.peak)}")
    return lines


def _time_lines(gpu: tuple[str, Gpu] | None, rehearsal: Rehearsal, config: TrainConfig, load: Load) -> list[str]:
    step_tokens = config.units_per_step * load.unit_rows * load.row_tokens
    lines = [f"  tokens of a step    {step_tokens:,} at most, padding included"]
    flop = estimate.flop_per_token(rehearsal.weights, config, load.row_tokens, load.predicted_share)
    if load.units is None:
        lines.append(f"  steps               not known: {load.missing}")
    else:
        steps = -(-load.units // config.units_per_step) * config.epochs
        lines.append(f"  steps               {steps:,} ({load.units:,} units, {config.epochs} epochs)")
    if gpu is None:
        return lines
    name, card = gpu
    rate = card.bf16_tflops if config.precision == "bf16" else card.fp32_tflops
    assumed = f"{rate:g} TFLOP/s in {config.precision} at an assumed utilization (MFU) of {card.utilization:.0%}"
    tokens = step_tokens if load.units is None else load.units * load.unit_rows * load.row_tokens * config.epochs
    hours = estimate.gpu_hours(flop * tokens, card, config.precision)
    what = f"{name} seconds a step" if load.units is None else f"{name} GPU-hours"
    value = hours * 3600 if load.units is None else hours
    return [*lines, f"  {what}: {value:,.2f} at most: {assumed}, without evaluations"]


# What a pass is made of


def peak(rehearsal: Rehearsal, config: TrainConfig, load: Load, rows: int, *, on_gpu: bool) -> Memory:
    """The memory of a worker when its passes have `rows` rows."""
    units = -(-config.units_per_step // config.workers)
    kept = estimate.keeps_gradients(config, -(-units * load.unit_rows // rows))
    predicted = max(1, round(load.predicted_share * rows * load.row_tokens))
    where = "gpu" if on_gpu else "cpu"
    held = rehearsal.run(rows, load.row_tokens, predicted, where, keep_gradients=kept)
    return estimate.memory(rehearsal.weights, held.held, config, config.workers, gpu=on_gpu, kept=kept)


def room(gpu: Gpu, workers: int) -> float:
    """Bytes of a GPU that are left for tensors."""
    apart = estimate.CONTEXT_BYTES + (estimate.COMMUNICATION_BYTES if workers > 1 else 0)
    return gpu.memory_gib * GIB - apart


def predicted_share(config: TrainConfig) -> float:
    """Share of the tokens with logits over the vocabulary."""
    kind = config.objective.kind
    if kind == "causal":
        return 1.0
    if kind in ("instruct", "dpo"):
        return ANSWER_SHARE
    return float(getattr(config.objective, "share", 0.0))


def load_of(out: Location, stages: Stages, config: TrainConfig) -> Load:
    """From the configs of the stages that the run reads, and their manifests where they are finished."""
    units, missing = _units(out, config)
    return Load(_row_tokens(config, stages), _unit_rows(config, stages), predicted_share(config), units, missing)


def _row_tokens(config: TrainConfig, stages: Stages) -> int:
    if config.packed is not None:
        return int(getattr(stages[config.packed], "tokens_per_row"))  # noqa: B009 of the pack stage's config
    limits = {name: value for name, value in config.objective if name.endswith("_tokens") and isinstance(value, int)}
    return limits.get("max_tokens") or max(limits.values())


def _unit_rows(config: TrainConfig, stages: Stages) -> int:
    kind = config.objective.kind
    if config.input == "preferences":
        return 2
    if config.input != "pairs" or kind == "instruct":
        return 1
    assert config.pairs is not None
    made = stages[config.pairs]
    group = 1 + sum(int(getattr(made, name, 0)) for name in ("negatives_random", "negatives_near"))
    block = getattr(config.objective, "block_size", None)
    if kind == "contrastive":
        return 2 * block if block else 1 + group  # a match's technique, and the patents
    return group


def _units(out: Location, config: TrainConfig) -> tuple[int | None, str]:
    """Of the train side, and what to run when it is not known."""
    name = {
        "packed": config.packed, "pairs": config.pairs, "qa": config.qa, "preferences": config.preferences,
        "labelled": config.text_roles, "coded": config.text_roles,
    }[config.input]  # fmt: skip
    assert name is not None
    location = out / name
    if load_stage(location) is None:
        return None, f"stage {name!r} has not run; run the pipeline up to it, then ask again"
    folder = finished_stage(location)
    assert folder.manifest is not None
    if config.input == "packed":
        return int(folder.manifest.counts["rows"]), ""
    if config.input in ("qa", "preferences"):
        return int(folder.manifest.tables[config.input]["rows"]), ""
    if config.input == "pairs":
        return _units_of_pairs(folder, config), ""
    return sum(role == "train" for role in folder.read("roles", ["role"])["role"].to_pylist()), ""


def _units_of_pairs(folder: StageFolder, config: TrainConfig) -> int:
    rows = folder.read("pairs", ["role", "group"]).to_pylist()
    groups = [row["group"] for row in rows if row["role"] == "train"]
    if config.objective.kind == "instruct":
        return len(groups)
    return -(-len(set(groups)) // (getattr(config.objective, "block_size", None) or 1))


def _reference(out: Location, stages: Stages, model: str) -> str:
    """A model reference; of an earlier train stage its export, or until that is there what it starts from."""
    while model in stages:
        export = out / model / "export"
        if export.is_local and load_stage(out / model) is not None:
            return str(export)
        model = stages[model].model  # type: ignore[attr-defined]
    return model


# When memory was too small


def advice(config: TrainConfig, model_folder: str, row_tokens: int, workers: int, unit_rows: int = 1) -> str:
    """What to set when a GPU ran out of memory: three settings with what the estimate says of them.

    First those that change nothing in the result. row_tokens: of the longest row; unit_rows: rows that stay together.
    """
    given = config.model_copy(update={"workers": workers})
    load = Load(row_tokens, unit_rows, predicted_share(given))
    rehearsal = prepare(given, model_folder)
    now = peak(rehearsal, given, load, load.rows(given.micro_batch_tokens), on_gpu=True).peak
    return _changes(given, rehearsal, load, now)


def _changes(config: TrainConfig, rehearsal: Rehearsal, load: Load, now: float) -> str:
    found: list[tuple[bool, float, str]] = []
    for key, value in _candidates(config, load):
        values = config.model_dump(mode="json")
        values |= {key: value}
        changed = build(TrainConfig, values)
        try:
            check.check(changed, model_type(rehearsal.folder), "")
            again = prepare(changed, rehearsal.folder)
            rows = load.rows(changed.micro_batch_tokens)
            then = peak(again, changed, load, rows, on_gpu=True).peak
        except ConfigError:  # this model, or what else is set, cannot have it
            continue
        if then < 0.97 * now:
            shown = "{" + ", ".join(f"{k}: {v}" for k, v in value.items()) + "}" if isinstance(value, dict) else value
            changes_result = key in ("precision", "optimizer", "adapter")
            if isinstance(value, dict) and key == "optimizer":
                shown = f"{{kind: {value['kind']}}}"
            found.append((changes_result, then, f"{key}: {str(shown).lower()} ({then / GIB:.1f} GiB)"))
    if not found:
        return f"nothing here makes it smaller than the {now / GIB:.1f} GiB it takes: choose a smaller model"
    found.sort(key=lambda each: each[:2])
    listed = "; ".join(text for _, _, text in found[:3])
    return f"estimated {now / GIB:.1f} GiB; each of these alone makes it less: {listed}"


def _candidates(config: TrainConfig, load: Load) -> list[tuple[str, Any]]:
    """(key, value) of changes that may need less memory."""
    rows = load.rows(config.micro_batch_tokens)
    found: list[tuple[str, Any]] = []
    if not config.activation_checkpointing:
        found.append(("activation_checkpointing", True))
    if rows > load.unit_rows:
        fewer = max(1, rows // 2 // load.unit_rows) * load.unit_rows
        found.append(("micro_batch_tokens", fewer * load.row_tokens))
    if config.workers > 1 and config.strategy.kind == "ddp":
        found.append(("strategy", {"kind": "fsdp"}))
    if config.adapter.kind == "full":
        found.append(("adapter", {"kind": "lora"}))
    if config.optimizer.kind == "adamw":
        found.append(("optimizer", {**config.optimizer.model_dump(mode="json"), "kind": "adamw_8bit"}))
    if config.precision == "fp32":
        found.append(("precision", "bf16"))
    return found
