"""Masked-language modelling: domain adaptation of an encoder (BERT, Devlin et al. 2019, arXiv:1810.04805).

Every token of a text sees every other of it. Weight of a row in the step: its masked tokens. On the valid side the draw
is that of epoch 0, so evaluations can be compared. Logits are made at the masked tokens only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy.typing as npt
import torch
from pydantic import Field
from torch import nn

from patentft.config import Config, ConfigError
from patentft.models.adapters.task import Task
from patentft.models.backbone import Loading, load_backbone
from patentft.models.export import Card
from patentft.objectives import masking, packed
from patentft.objectives.encoded import SpecialTokens, Unit
from patentft.objectives.packed import IGNORED, LanguageModel, Rows

INPUTS = ("packed",)
MODELS = "encoder"
TASK = "masked_lm"
METRIC = "log_likelihood"
UNITS_PER_BATCH = None


class MaskedConfig(Config):
    """Predict tokens that are masked from those on both sides."""

    kind: Literal["masked"] = "masked"
    layout: packed.Layout = "packed"
    """How texts lie in a batch: several in a row, or each in a padded row of its own, which prompt and prefix tuning
    need."""
    share: float = Field(default=0.15, gt=0.0, le=1.0)
    """Share of each text's tokens that are predicted. Of these .8 become the mask token, .1 a random one, .1 stay."""


def build(folder: str, config: MaskedConfig, loading: Loading) -> nn.Module:
    """The encoder with its head for masked tokens. Raises ConfigError for a decoder or a tokenizer without a mask."""
    check(folder)
    return load_encoder_with_head(folder, loading)


def load_encoder_with_head(folder: str, loading: Loading) -> nn.Module:
    """transformers' AutoModelForMaskedLM of the folder."""
    from transformers import AutoModelForMaskedLM

    return load_backbone(folder, AutoModelForMaskedLM, loading)


def check(folder: str) -> None:
    """Raises ConfigError when the model in the folder cannot learn masked tokens."""
    from transformers import AutoConfig, AutoTokenizer
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    kind = AutoConfig.from_pretrained(folder, trust_remote_code=False).model_type
    if kind not in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        raise ConfigError(
            f"model {folder} is of type {kind}, which has no head for masked tokens; choose an encoder (BERT, MPNet, "
            f"RoBERTa, ModernBERT, ...), or for a decoder objective.kind: mntp or causal"
        )
    if AutoTokenizer.from_pretrained(folder, trust_remote_code=False).mask_token_id is None:
        raise ConfigError(f"model {folder}: its tokenizer has no mask token; choose a model that has one")


def task(model: nn.Module, config: MaskedConfig) -> Task:
    return Task("masked_lm")


def units(rows: Rows, config: MaskedConfig, epoch: int, seed: int) -> packed.Units:
    return packed.units(rows, config.layout, (seed, epoch))


def collate(rows: Rows, chosen: Sequence[Unit], tokens: SpecialTokens) -> dict[str, torch.Tensor]:
    """input_ids (B, T) as they are, with segment_ids and position_ids or attention_mask, and order, becomes and
    candidates (B, T), see `masking`; all int64.
    """
    ids, segments = packed.stack(rows, chosen, tokens)
    drawn = masking.draws(ids, segments, chosen, tokens, first=True)
    return packed.tensors({**packed.inputs(ids, segments, chosen), **drawn})


def masked(batch: Mapping[str, torch.Tensor], config: MaskedConfig) -> dict[str, torch.Tensor]:
    """The batch as the model sees it: input_ids with masks, and labels (B, T), IGNORED where nothing is masked."""
    there = masking.masked(batch, config.share)
    ids = batch["input_ids"]
    labels = torch.where(there, ids, IGNORED)
    return {**batch, "input_ids": torch.where(there, batch["becomes"], ids), "labels": labels}


def weight(batch: Mapping[str, torch.Tensor], config: MaskedConfig) -> float:
    """A masked token counts 1."""
    return float(masking.masked(batch, config.share).sum())


def wrap(backbone: nn.Module, config: MaskedConfig) -> nn.Module:
    return LanguageModel(backbone, causal=False, labelled_only=True)


def backbone(module: nn.Module) -> nn.Module:
    """The transformers (or PEFT) model inside."""
    assert isinstance(module, LanguageModel)
    return module.model


def parameter_groups(module: nn.Module, lr: float, weight_decay: float, config: MaskedConfig) -> list[dict[str, Any]]:
    return packed.parameter_groups(module, lr, weight_decay)


def loss(
    module: nn.Module, batch: Mapping[str, torch.Tensor], config: MaskedConfig
) -> tuple[torch.Tensor, torch.Tensor, dict[str, float]]:
    """(summed cross-entropy, masked tokens, logs)."""
    shown = masked(batch, config)
    return packed.token_loss(module(shown), shown["labels"])


@torch.inference_mode()
def predict(module: nn.Module, batch: Mapping[str, torch.Tensor], config: MaskedConfig) -> dict[str, npt.NDArray]:
    return packed.predicted(module, masked(batch, config))


def metrics(parts: Sequence[Mapping[str, npt.NDArray]], config: MaskedConfig) -> dict[str, float]:
    return packed.metrics(parts)


def card(module: nn.Module, config: MaskedConfig) -> Card:
    return Card(
        intro="An encoder that has read more text of this field: trained on, by predicting masked tokens.",
        auto_class="AutoModelForMaskedLM",
        use=(
            "text = f'A method of {tokenizer.mask_token} waste water.'\n"
            "print(tokenizer.decode(model(**tokenizer(text, return_tensors='pt')).logits[0].argmax(-1)))"
        ),
        tags=("patents", "fill-mask", "domain-adaptation"),
    )
