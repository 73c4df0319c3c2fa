"""Which weights are trained: the adapters by name.

An adapter is a module with

    Config                                        a Config with `kind`
    EXPORT                                        how the trained model leaves, see EXPORTS
    NOTE                                          a sentence for the model card, only where loading needs one
    apply(model, config, task) -> Module          the model with only the chosen parameters and the task's heads
                                                  trainable; ConfigError for what the model lacks
    refusal(config, task_kind, family, layout)    why it cannot be trained, and what can; None when it can
    quantization(config) -> mapping               only where the base is quantized: for `Loading.quantization`
    rate_factors(module, config) -> mapping       only where some parameters have a learning rate of their own
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any

from pydantic import Field
from torch import nn

from patentft.config import ConfigError
from patentft.models.adapters import bottleneck, full, ia3, last_layers, lora, prefix, prompt, qlora
from patentft.models.adapters.task import Layout, Task, TaskKind
from patentft.models.blocks import in_heads

ADAPTERS: dict[str, Any] = {
    "full": full,
    "last_layers": last_layers,
    "lora": lora,
    "qlora": qlora,
    "ia3": ia3,
    "bottleneck": bottleneck,
    "prefix": prefix,
    "prompt": prompt,
}

AdapterConfig = Annotated[
    full.FullConfig
    | last_layers.LastLayersConfig
    | lora.LoraConfig
    | qlora.QloraConfig
    | ia3.Ia3Config
    | bottleneck.BottleneckConfig
    | prefix.PrefixConfig
    | prompt.PromptConfig,
    Field(discriminator="kind"),
]

EXPORTS = {
    "whole": "",
    "merged": "The weights here have the {kind} adapter merged; the adapter alone is in `adapter/`.",
    "beside": "Only the {kind} adapter is here: it cannot be merged, and is loaded on its base, `{base}`.",
}
"""What the model card says of each kind of export."""
ENCODERS = ("bert", "mpnet", "roberta", "xlm-roberta", "camembert", "distilbert", "electra", "modernbert", "deberta-v2")
"""Model types that read both sides of a token."""


def adapt(model: nn.Module, config: AdapterConfig, task: Task) -> nn.Module:
    """`model` with only the adapter's parameters and the task's heads trainable.

    Raises ConfigError for what `refusal` refuses of padded rows, and for what the model lacks.
    """
    family: str = model.config.model_type  # type: ignore[union-attr]
    reason = refusal(config, task.kind, family, "padded")  # packed ones allow less; the model itself refuses those
    if reason:
        raise ConfigError(reason)
    return ADAPTERS[config.kind].apply(model, config, replace(task, heads=_all_heads(model, config, task)))


def _all_heads(model: nn.Module, config: AdapterConfig, task: Task) -> tuple[str, ...]:
    """The task's heads, and what else is new in this model and read by it; see `load_backbone`."""
    unread = ("pooler",) if task.kind == "encoder" else ()  # token states are pooled by us
    names: tuple[str, ...] = getattr(model, "new_parameters", ())
    new = [name for name in names if not in_heads((*task.heads, *unread), name)]
    if config.kind == "full" or not new:
        return task.heads
    poolers = {name.rpartition(".pooler.")[0] + ".pooler" for name in new if ".pooler." in name}
    rest = [name for name in new if ".pooler." not in name]
    if rest:
        raise ConfigError(
            f"the model's weights lack {len(rest)} parameters of its head, such as {rest[0]}: they are new, and the "
            f"adapter {config.kind} does not train them; start from a model that has this head, or choose full"
        )
    return (*task.heads, *sorted(poolers))


def refusal(config: AdapterConfig, task_kind: TaskKind, family: str, layout: Layout) -> str | None:
    """Why this adapter cannot train this model, and the nearest that can; None when it can.

    family: transformers' `config.model_type`. layout: how the objective's rows are masked.
    """
    if task_kind == "causal_lm" and family in ENCODERS:
        return f"{family} reads both sides of a token and cannot be trained to predict the next: choose a decoder"
    return ADAPTERS[config.kind].refusal(config, task_kind, family, layout)


def quantization(config: AdapterConfig) -> Mapping[str, Any] | None:
    """For `models.backbone.Loading.quantization`; None where the base is not quantized."""
    adapter = ADAPTERS[config.kind]
    return adapter.quantization(config) if hasattr(adapter, "quantization") else None


def scale_rates(groups: Sequence[Mapping[str, Any]], module: nn.Module, config: AdapterConfig) -> list[dict[str, Any]]:
    """An objective's parameter groups, divided where the adapter gives some parameters a rate of their own (LoRA+).

    groups: as for a torch optimizer, each with "params" and "lr". module: what holds the parameters, as it was when the
    groups were made: for names, before a strategy wraps it.
    """
    adapter = ADAPTERS[config.kind]
    factors = adapter.rate_factors(module, config) if hasattr(adapter, "rate_factors") else {}
    if not factors:
        return [dict(group) for group in groups]
    by_parameter = {id(parameter): factors.get(name, 1.0) for name, parameter in module.named_parameters()}
    divided = []
    for group in groups:
        by_factor: dict[float, list[nn.Parameter]] = {}
        for parameter in group["params"]:
            by_factor.setdefault(by_parameter[id(parameter)], []).append(parameter)
        divided += [
            {**group, "params": parameters, "lr": group["lr"] * factor} for factor, parameters in by_factor.items()
        ]
    return divided
