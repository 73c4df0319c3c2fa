"""Next-token prediction: domain adaptation of a decoder.

The last token of a segment predicts nothing: what follows it is another text. Weight of a row in the step: the tokens
it predicts, so every token of the step counts alike however the texts were packed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from patentft.config import Config
from patentft.models.adapters.task import Task
from patentft.models.backbone import Loading, load_backbone
from patentft.models.export import Card
from patentft.objectives import packed
from patentft.objectives.encoded import SpecialTokens, Unit
from patentft.objectives.packed import IGNORED, LanguageModel, Rows

INPUTS = ("packed",)
MODELS = "decoder"
TASK = "causal_lm"
METRIC = "log_likelihood"
UNITS_PER_BATCH = None


class CausalConfig(Config):
    """Predict each token from those before it in its text."""

    kind: Literal["causal"] = "causal"
    layout: packed.Layout = "packed"
    """How texts lie in a batch: several in a row, or each in a padded row of its own, which prompt and prefix tuning
    need."""


def build(folder: str, config: CausalConfig, loading: Loading) -> nn.Module:
    """The decoder with its language-model head."""
    from transformers import AutoModelForCausalLM

    return load_backbone(folder, AutoModelForCausalLM, loading)


def task(model: nn.Module, config: CausalConfig) -> Task:
    return Task("causal_lm")


def units(rows: Rows, config: CausalConfig, epoch: int, seed: int) -> packed.Units:
    return packed.units(rows, config.layout)


def weight(batch: Mapping[str, torch.Tensor], config: CausalConfig) -> float:
    """A token that is predicted counts 1."""
    return packed.num_predicted(batch["labels"])


def collate(rows: Rows, chosen: Sequence[Unit], tokens: SpecialTokens) -> dict[str, torch.Tensor]:
    """input_ids and labels (B, T), with segment_ids and position_ids or attention_mask (B, T), all int64.

    A label is the token that follows, IGNORED where none does.
    """
    ids, segments = packed.stack(rows, chosen, tokens)
    labels = np.full_like(ids, IGNORED)
    follows = (segments[:, 1:] == segments[:, :-1]) & (segments[:, 1:] > 0)
    labels[:, :-1][follows] = ids[:, 1:][follows]
    return packed.tensors({**packed.inputs(ids, segments, chosen), "labels": labels})


def wrap(backbone: nn.Module, config: CausalConfig) -> nn.Module:
    return LanguageModel(backbone, causal=True)


def backbone(module: nn.Module) -> nn.Module:
    """The transformers (or PEFT) model inside."""
    assert isinstance(module, LanguageModel)
    return module.model


def parameter_groups(module: nn.Module, lr: float, weight_decay: float, config: CausalConfig) -> list[dict[str, Any]]:
    return packed.parameter_groups(module, lr, weight_decay)


def loss(
    module: nn.Module, batch: Mapping[str, torch.Tensor], config: CausalConfig
) -> tuple[torch.Tensor, torch.Tensor, dict[str, float]]:
    """(summed cross-entropy, tokens predicted, logs)."""
    return packed.token_loss(module(batch), batch["labels"])


@torch.inference_mode()
def predict(module: nn.Module, batch: Mapping[str, torch.Tensor], config: CausalConfig) -> dict[str, npt.NDArray]:
    return packed.predicted(module, batch)


def metrics(parts: Sequence[Mapping[str, npt.NDArray]], config: CausalConfig) -> dict[str, float]:
    return packed.metrics(parts)


def card(module: nn.Module, config: CausalConfig) -> Card:
    return Card(
        intro="A decoder that has read more text of this field: trained on, by next-token prediction on packed rows.",
        auto_class="AutoModelForCausalLM",
        use=(
            "ids = model.generate(**tokenizer('A method of', return_tensors='pt'), max_new_tokens=50)\n"
            "print(tokenizer.decode(ids[0]))"
        ),
        tags=("patents", "text-generation", "domain-adaptation"),
    )
