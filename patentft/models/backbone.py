"""A transformers model to be trained: fp32, from safetensors, without remote code, with the dropout asked for."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from patentft.config import ConfigError


def load_backbone(folder: str, auto_class: Any, dropout: float | None, **options: Any) -> nn.Module:
    """`auto_class.from_pretrained(folder)` in fp32.

    dropout: every dropout rate of the model (None keeps its own). Raises ConfigError for an encoder-decoder.
    """
    from transformers import AutoConfig
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()  # a new head is meant to be new: no table of missing weights
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False, **options)
    if getattr(config, "is_encoder_decoder", False):
        raise ConfigError(f"model {folder} is an encoder-decoder ({config.model_type}): choose an encoder or a decoder")
    if dropout is not None:
        for name, value in vars(config).items():
            if "dropout" in name and isinstance(value, float):
                setattr(config, name, dropout)
    return auto_class.from_pretrained(
        folder, config=config, use_safetensors=True, trust_remote_code=False, dtype=torch.float32
    )
