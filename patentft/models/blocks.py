"""Where a transformer's blocks are: adapters that choose among them must not guess their name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from patentft.config import ConfigError


def find_blocks(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """(name, list) of the model's transformer blocks: the list as long as the configuration's num_hidden_layers.

    model: a transformers model, or what an adapter or an objective has put around one. Raises ConfigError when there is
    no such list.
    """
    config = _config_of(model)
    number = int(config.num_hidden_layers)
    found = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == number
    ]
    if len(found) > 1:  # experts, or heads by layer: the blocks hold them, or are larger
        found = [max(found, key=lambda each: sum(parameter.numel() for parameter in each[1].parameters()))]
    if not found:
        raise ConfigError(
            f"model of type {config.model_type}: no list of its {number} blocks found; choose the adapter full, with "
            f"freeze, or lora, with target_modules"
        )
    return found[0]


def _config_of(model: nn.Module) -> Any:
    """The configuration of the outermost module that has a transformers model's."""
    for inner in model.modules():
        if hasattr(getattr(inner, "config", None), "num_hidden_layers"):
            return inner.config
    raise ConfigError(f"{type(model).__name__} has no transformers model inside")


def keep_blocks(model: nn.Module, chosen: Sequence[int]) -> None:
    """Leave only the blocks at the 0-based places `chosen`, in place. Raises ConfigError for a place it has not."""
    name, blocks = find_blocks(model)
    if not chosen or any(not 0 <= index < len(blocks) for index in chosen) or list(chosen) != sorted(set(chosen)):
        raise ConfigError(
            f"blocks {list(chosen)}: the model has {len(blocks)}; give places from 0 to {len(blocks) - 1}, rising"
        )
    parent, _, attribute = name.rpartition(".")
    kept = nn.ModuleList(blocks[index] for index in chosen)
    setattr(model.get_submodule(parent), attribute, kept)
    for place, block in enumerate(kept):
        for module in block.modules():
            if hasattr(module, "layer_idx"):
                module.layer_idx = place  # type: ignore[assignment]
    config: Any = model.config
    if getattr(config, "layer_types", None) is not None:
        config.layer_types = [config.layer_types[index] for index in chosen]
    config.num_hidden_layers = len(kept)


def in_heads(heads: tuple[str, ...], parameter: str) -> bool:
    """Whether a parameter, by its full name, is of one of the heads (names of modules, at any depth)."""
    return any(parameter.startswith(f"{head}.") or f".{head}." in parameter for head in heads)
