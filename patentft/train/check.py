"""Which objective goes with which adapter, strategy and model family: the one table, asked before Ray starts.

A combination is either trained by the test suite, or refused here with the reason and the nearest thing that works.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from patentft.config import ConfigError
from patentft.models.adapters.table import ADAPTERS, ENCODERS, AdapterConfig
from patentft.models.adapters.table import refusal as adapter_refusal
from patentft.objectives.table import OBJECTIVES, ObjectiveConfig
from patentft.train.config import TrainConfig
from patentft.train.strategies.table import StrategyConfig

SWITCHED_OFF = ("lora", "qlora", "ia3")
"""Adapters without which the model is its start again, as DPO's reference wants it."""


def refusal(
    objective: ObjectiveConfig,
    adapter: AdapterConfig,
    strategy: StrategyConfig,
    family: str,
    *,
    optimizer: str = "adamw",
) -> str | None:
    """Why this cannot be trained, and the nearest that can; None when it can.

    family: transformers' `config.model_type`. optimizer: OptimizerConfig.kind.
    """
    checks = (
        _of_the_model(objective, family),
        adapter_refusal(adapter, OBJECTIVES[objective.kind].TASK, family, layout_of(objective)),
        _of_objective_and_adapter(objective, adapter, family),
        _of_the_strategy(objective, adapter, strategy, optimizer),
    )
    return next((reason for reason in checks if reason), None)


def layout_of(objective: Any) -> Any:
    """ "packed" where several texts share a row, kept apart by a mask of four dimensions."""
    return getattr(objective, "layout", "padded")


def _of_the_model(objective: ObjectiveConfig, family: str) -> str | None:
    wants = OBJECTIVES[objective.kind].MODELS
    encoder = family in ENCODERS
    if wants == "decoder" and encoder:
        nearest = {"causal": "masked", "mntp": "masked", "instruct": "classify or rank", "dpo": "reward"}
        return f"objective {objective.kind} trains a decoder, {family} is an encoder: choose {nearest[objective.kind]}"
    if wants == "encoder" and not encoder:
        nearest = {"masked": "causal or mntp", "techtoken": "an encoder"}
        return f"objective {objective.kind} trains an encoder, {family} is a decoder: choose {nearest[objective.kind]}"
    return None


def _of_objective_and_adapter(objective: Any, adapter: AdapterConfig, family: str) -> str | None:
    if objective.kind == "dpo" and objective.reference == "adapter_off" and adapter.kind not in SWITCHED_OFF:
        return (
            f"dpo's reference is the model with the adapter off, and {adapter.kind} cannot be switched off: choose "
            f"lora, or objective.reference: precomputed"
        )
    if ADAPTERS[adapter.kind].EXPORT == "beside":
        if objective.kind == "mntp":
            return f"mntp exports the model without the head that {adapter.kind} is saved with: choose lora"
        if objective.kind == "techtoken":
            return f"techtoken trains new rows of the vocabulary, which {adapter.kind} cannot export: choose lora"
    return None


def _of_the_strategy(objective: Any, adapter: AdapterConfig, strategy: Any, optimizer: str) -> str | None:
    if adapter.kind == "qlora" and strategy.kind == "fsdp":
        return "FSDP2 cannot divide weights of 4 or 8 bits: choose ddp, or deepspeed with zero 1 or 2"
    if adapter.kind == "qlora" and strategy.kind == "deepspeed" and strategy.zero == 3:
        return "ZeRO-3 cannot divide weights of 4 or 8 bits: choose zero 2"
    if optimizer != "adamw" and strategy.kind == "fsdp":
        return f"optimizer {optimizer} keeps its moments in blocks that fsdp cannot divide: choose adamw or deepspeed"
    if strategy.kind == "deepspeed" and strategy.offload_parameters and strategy.zero != 3:
        return "offload_parameters moves divided weights, which only zero 3 has: set zero: 3"
    return None


def check(config: TrainConfig, family: str, stage: str) -> None:
    """Raises ConfigError with the reason when `config` cannot be trained on a model of this family."""
    reason = refusal(config.objective, config.adapter, config.strategy, family, optimizer=config.optimizer.kind)
    if reason:
        raise ConfigError(f"stage {stage}: {reason}")
    if config.input == "plain" and config.dropout == 0.0:
        raise ConfigError(
            f"stage {stage}: single texts are told apart by dropout alone, and dropout is 0.0: set dropout (such as "
            f"0.1), or leave it out"
        )


# ---- the table


FAMILIES = ("bert", "mpnet", "llama")
STRATEGY_COLUMNS: dict[str, dict[str, Any]] = {
    "ddp": {"kind": "ddp"},
    "fsdp": {"kind": "fsdp"},
    "zero 1": {"kind": "deepspeed", "zero": 1},
    "zero 2": {"kind": "deepspeed", "zero": 2},
    "zero 3": {"kind": "deepspeed", "zero": 3},
}
VARIANTS: dict[str, Sequence[dict[str, Any]]] = {
    "causal": ({"layout": "packed"}, {"layout": "padded"}),
    "masked": ({"layout": "packed"}, {"layout": "padded"}),
    "mntp": ({"layout": "packed"}, {"layout": "padded"}),
    "dpo": ({"reference": "adapter_off"}, {"reference": "precomputed"}),
}
"""Settings of an objective that are a row of their own."""


def cells() -> list[tuple[str, dict[str, Any], dict[str, Any], str, dict[str, Any], str | None]]:
    """(family, objective, adapter, strategy's column, strategy, why it is refused or None) of every combination."""
    from pydantic import TypeAdapter

    objectives, adapters = TypeAdapter(ObjectiveConfig), TypeAdapter(AdapterConfig)
    strategies: TypeAdapter[Any] = TypeAdapter(StrategyConfig)
    found = []
    for family in FAMILIES:
        for kind in OBJECTIVES:
            for variant in VARIANTS.get(kind, ({},)):
                objective = {"kind": kind, **variant}
                for name in ADAPTERS:
                    for column, strategy in STRATEGY_COLUMNS.items():
                        reason = refusal(
                            objectives.validate_python(objective),
                            adapters.validate_python({"kind": name}),
                            strategies.validate_python(strategy),
                            family,
                        )
                        found.append((family, objective, {"kind": name}, column, strategy, reason))
    return found


def matrix() -> str:
    """The table in Markdown: a row for objective and adapter, a column for each family; what is refused is numbered."""
    reasons: dict[str, int] = {}
    by_row: dict[tuple[str, str], dict[str, dict[str, str | None]]] = {}
    for family, objective, adapter, column, _, reason in cells():
        variant = ", ".join(str(value) for name, value in objective.items() if name != "kind")
        row = (f"{objective['kind']}{f' ({variant})' if variant else ''}", adapter["kind"])
        by_row.setdefault(row, {}).setdefault(family, {})[column] = reason

    def shown(by_column: dict[str, str | None]) -> str:
        refused = {column: reason for column, reason in by_column.items() if reason}
        if not refused:
            return "ok"
        if len(refused) == len(by_column) and len(set(refused.values())) == 1:
            return f"[{reasons.setdefault(next(iter(refused.values())) or '', len(reasons) + 1)}]"
        allowed = ", ".join(column for column in by_column if column not in refused)
        numbers = sorted({reasons.setdefault(reason, len(reasons) + 1) for reason in refused.values()})
        return f"{allowed or 'none'} {''.join(f'[{number}]' for number in numbers)}"

    lines = [f"| objective | adapter | {' | '.join(FAMILIES)} |", "|---|---|" + "---|" * len(FAMILIES)]
    for (objective, adapter), by_family in by_row.items():
        lines.append(f"| {objective} | {adapter} | {' | '.join(shown(by_family[family]) for family in FAMILIES)} |")
    notes = [f"[{number}] {reason}" for reason, number in reasons.items()]
    head = f"`ok`: with every strategy ({', '.join(STRATEGY_COLUMNS)}); {len(by_row)} rows, {len(ADAPTERS)} adapters.\n"
    return "\n".join([head, *lines, "", *(f"{note}  " for note in notes)]) + "\n"
