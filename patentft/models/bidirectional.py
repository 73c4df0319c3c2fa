"""A decoder whose tokens see those after them too (LLM2Vec, BehnamGhader et al. 2024, arXiv:2404.05961, section 2.1).

transformers builds the attention mask of these families from `config.is_causal`, and hands it to the attention kernel,
so that one flag turns a decoder into an encoder; it is written to config.json and read back from it. A transformers
that does not know the flag loads the model causally, without a word; `config.patentft` says the same for `models.load`.

A sliding window (Mistral, and Qwen where it is switched on) then reaches to both sides: a token sees those at most
`sliding_window` places away.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from patentft.config import ConfigError

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
"""Model types whose masks are known to follow the flag."""


def make_bidirectional(model: nn.Module) -> None:
    """Remove the causal mask of a transformers decoder, in place, and say so in its configuration.

    Raises ConfigError for a family that is not in FAMILIES, and for an attention kernel other than sdpa and eager.
    """
    config: Any = model.config
    if config.model_type not in FAMILIES:
        raise ConfigError(
            f"a model of type {config.model_type!r} cannot be made bidirectional; choose one of type "
            f"{', '.join(FAMILIES)}"
        )
    if config._attn_implementation not in ("sdpa", "eager"):
        raise ConfigError(
            f"a bidirectional {config.model_type} needs attention 'sdpa' or 'eager', this model has "
            f"{config._attn_implementation!r}"
        )
    config.is_causal = False
    config.patentft = {**(getattr(config, "patentft", None) or {}), "bidirectional": True}
    for module in model.modules():
        if hasattr(module, "is_causal"):
            module.is_causal = False  # type: ignore[assignment]


def is_bidirectional(config: Any) -> bool:
    """Whether a transformers configuration is of a decoder made so."""
    return bool((getattr(config, "patentft", None) or {}).get("bidirectional"))
