"""LoRA on a frozen base of 4 or 8 bits a weight (bitsandbytes); Dettmers et al. 2023, arXiv:2305.14314.

The base is quantized as it is loaded, see `quantization`. Of what PEFT's prepare_model_for_kbit_training does, nothing
is left to do: LoRA freezes the base, what is not quantized is loaded in the dtype that the run asks for, and
checkpointed blocks need no gradient at their input unless they are re-entrant.
"""

from __future__ import annotations

import logging
from typing import Any, Literal

from pydantic import Field, model_validator
from torch import nn

from patentft.models.adapters import lora
from patentft.models.adapters.lora import LowRank, rate_factors
from patentft.models.adapters.task import Layout, Task, TaskKind

EXPORT = "merged"
UNQUANTIZED = ("lm_head", "embed_out", "cls", "classifier", "score", "pooler.dense")
"""Heads, by the beginning or the end of their modules' names: they are new, or read by a loss."""

__all__ = ["EXPORT", "QloraConfig", "apply", "quantization", "rate_factors", "refusal"]


class QloraConfig(LowRank):
    """Low-rank adapters on a quantized base."""

    kind: Literal["qlora"] = "qlora"
    base: Literal["nf4", "int8"] = "nf4"
    """nf4: about 0.5 bytes a weight. int8: 1 byte, and activations are rounded to 8 bits too (Dettmers et al. 2022,
    arXiv:2208.07339)."""
    double_quantization: bool | None = None
    """nf4: whether the blocks' scales are quantized too, which saves 0.4 bits a weight; unset: yes."""
    compute_dtype: Literal["bfloat16", "float32"] | None = None
    """nf4: dtype of the products; unset: bfloat16. On a CPU float32 is no slower."""
    outlier_threshold: float | None = Field(default=None, ge=0.0)
    """int8: columns of activations with a larger value are not rounded; unset: 6. The columns are those of the whole
    batch, so padding can move an output by its rounding; 0 rounds all, row by row."""

    @model_validator(mode="after")
    def _of_its_base(self) -> QloraConfig:
        others = {"nf4": ("outlier_threshold",), "int8": ("double_quantization", "compute_dtype")}[self.base]
        given = [name for name in others if getattr(self, name) is not None]
        if given:
            raise ValueError(f"{', '.join(given)}: not for a base of {self.base}; leave that out")
        return self


def refusal(config: QloraConfig, task_kind: TaskKind, family: str, layout: Layout) -> str | None:
    """Why this cannot be trained, and what can; None when it can."""
    if config.dora and config.base == "int8":
        return "adapter qlora: PEFT cannot read the lengths that dora needs from an int8 base: set base: nf4"
    return None


def quantization(config: QloraConfig) -> dict[str, Any]:
    """Arguments of transformers' BitsAndBytesConfig, for `models.backbone.Loading.quantization`."""
    skipped = {"llm_int8_skip_modules": list(UNQUANTIZED)}  # of 4 bits too, whatever its name says
    if config.base == "int8":
        threshold = 6.0 if config.outlier_threshold is None else config.outlier_threshold
        return {"load_in_8bit": True, "llm_int8_threshold": threshold, **skipped}
    return {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": config.double_quantization is not False,
        "bnb_4bit_compute_dtype": config.compute_dtype or "bfloat16",
        **skipped,
    }


def apply(model: nn.Module, config: QloraConfig, task: Task) -> nn.Module:
    """A PEFT model around `model`, which is quantized for training and plain for merging.

    Raises ConfigError when a name in `target_modules` matches nothing.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            # bitsandbytes repacks such a layer for inference at the first evaluation, for good: after it no gradient
            # would pass through the layer, without a word
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)  # int8: a line at every product
    return lora.apply(model, config, task)
