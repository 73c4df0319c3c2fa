"""A transformers model to be trained: from safetensors, without remote code, as the training wants it held."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from patentft.config import ConfigError
from patentft.models.load import is_adapter


@dataclass(frozen=True)
class Loading:
    """How a base model is held."""

    dropout: float | None = None
    """Every dropout rate of the model; None keeps its own."""
    dtype: torch.dtype = torch.float32
    """Of the weights. Whatever is trained is fp32, see `train.worker.build`."""
    quantization: Mapping[str, Any] | None = None
    """Arguments of transformers' BitsAndBytesConfig, for a base that stays frozen."""
    device: torch.device | None = None
    """Where a quantized base is put: it is quantized as it is loaded. The meta device: only the model's shapes are
    wanted, no weights are read and nothing is quantized (see `train.rehearse`)."""
    tokenizer: str | None = None
    """The folder of the run's own tokenizer, where the objective has added tokens; None: the base's."""


def load_backbone(folder: str, auto_class: Any, loading: Loading, **options: Any) -> nn.Module:
    """`auto_class.from_pretrained(folder)`; `options` are set in its configuration.

    Its attribute `new_parameters` names those that the folder has no weights for, drawn at random: an adapter that
    leaves them so could not be saved without them.
    Raises ConfigError for an encoder-decoder and for an adapter alone.
    """
    from transformers import AutoConfig, BitsAndBytesConfig
    from transformers.utils import logging as transformers_logging

    if is_adapter(Path(folder)):
        raise ConfigError(
            f"model {folder} is an adapter alone: start from the model it was trained on, or from the export of an "
            f"adapter that can be merged (lora, qlora, ia3)"
        )
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()  # a new head is meant to be new: no table of missing weights
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False, **options)
    if getattr(config, "is_encoder_decoder", False):
        raise ConfigError(f"model {folder} is an encoder-decoder ({config.model_type}): choose an encoder or a decoder")
    if loading.dropout is not None:
        for name, value in vars(config).items():
            if "dropout" in name and isinstance(value, float):
                setattr(config, name, loading.dropout)
    if loading.device is not None and loading.device.type == "meta":
        with loading.device:
            return auto_class.from_config(config, dtype=loading.dtype, trust_remote_code=False)
    quantized: dict[str, Any] = {}
    if loading.quantization is not None:
        quantized["quantization_config"] = BitsAndBytesConfig(**loading.quantization)
        quantized["device_map"] = {"": loading.device or torch.device("cpu")}
    model, report = auto_class.from_pretrained(
        folder,
        config=config,
        use_safetensors=True,
        trust_remote_code=False,
        dtype=loading.dtype,
        output_loading_info=True,
        **quantized,
    )
    model.new_parameters = tuple(sorted(report["missing_keys"]))
    return model
