"""Masked next-token prediction: a decoder that learns to look ahead (LLM2Vec, BehnamGhader et al. 2024,
arXiv:2404.05961, section 2.2).

The causal mask is removed, tokens are masked as in `masked`, and the token at position i is predicted from the output
at i - 1, which is where a decoder has learned to predict it. So the first token of a text is never masked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy.typing as npt
import torch
from pydantic import Field
from torch import nn

from patentft.config import Config
from patentft.models.adapters.task import Task
from patentft.models.backbone import Loading, load_backbone
from patentft.models.bidirectional import make_bidirectional
from patentft.models.export import Card
from patentft.objectives import masking, packed
from patentft.objectives.encoded import SpecialTokens, Unit
from patentft.objectives.masked import backbone, metrics, parameter_groups, units, weight
from patentft.objectives.packed import IGNORED, LanguageModel, Rows

# what `masked` does alike: the model and where a label stands are this objective's own
__all__ = ["MntpConfig", "backbone", "metrics", "parameter_groups", "units", "weight"]

INPUTS = ("packed",)
MODELS = "decoder"
TASK = "causal_lm"
METRIC = "log_likelihood"
UNITS_PER_BATCH = None


class MntpConfig(Config):
    """Predict tokens that are masked from those on both sides, with a decoder."""

    kind: Literal["mntp"] = "mntp"
    layout: packed.Layout = "packed"
    """How texts lie in a batch: several in a row, or each in a padded row of its own, which prompt and prefix tuning
    need."""
    share: float = Field(default=0.2, gt=0.0, le=1.0)
    """Share of each text's tokens that are predicted. Of these .8 become the mask token, .1 a random one, .1 stay."""
    mask_token: str = "_"
    """What stands for a masked token where the tokenizer has no mask token of its own."""


def build(folder: str, config: MntpConfig, loading: Loading) -> nn.Module:
    """The decoder with its language-model head and without its causal mask.

    Raises ConfigError for a family that cannot be made bidirectional, and for a `mask_token` that is no token.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    SpecialTokens.of(AutoTokenizer.from_pretrained(folder, trust_remote_code=False), config.mask_token)
    model = load_backbone(folder, AutoModelForCausalLM, loading)
    make_bidirectional(model)
    return model


def task(model: nn.Module, config: MntpConfig) -> Task:
    return Task("causal_lm")


def collate(rows: Rows, chosen: Sequence[Unit], tokens: SpecialTokens) -> dict[str, torch.Tensor]:
    """As `masked.collate`; the first token of a text is no candidate."""
    ids, segments = packed.stack(rows, chosen, tokens)
    drawn = masking.draws(ids, segments, chosen, tokens, first=False)
    return packed.tensors({**packed.inputs(ids, segments, chosen), **drawn})


def masked(batch: Mapping[str, torch.Tensor], config: MntpConfig) -> dict[str, torch.Tensor]:
    """The batch as the model sees it: input_ids with masks, and labels (B, T), each one place before its token."""
    there = masking.masked(batch, config.share)
    ids = batch["input_ids"]
    labels = torch.full_like(ids, IGNORED)
    labels[:, :-1] = torch.where(there, ids, IGNORED)[:, 1:]
    return {**batch, "input_ids": torch.where(there, batch["becomes"], ids), "labels": labels}


def wrap(backbone: nn.Module, config: MntpConfig) -> nn.Module:
    return LanguageModel(backbone, causal=False, decoder=True, labelled_only=True)


def loss(
    module: nn.Module, batch: Mapping[str, torch.Tensor], config: MntpConfig
) -> tuple[torch.Tensor, torch.Tensor, dict[str, float]]:
    """(summed cross-entropy, masked tokens, logs)."""
    shown = masked(batch, config)
    return packed.token_loss(module(shown), shown["labels"])


@torch.inference_mode()
def predict(module: nn.Module, batch: Mapping[str, torch.Tensor], config: MntpConfig) -> dict[str, npt.NDArray]:
    return packed.predicted(module, masked(batch, config))


def card(module: nn.Module, config: MntpConfig) -> Card:
    return Card(
        intro=(
            "A decoder without its causal mask: every token sees those after it too. It was trained on by masked "
            "next-token prediction (LLM2Vec, arXiv:2404.05961): a start for an encoder of texts, not a model that"
            " writes. `config.json` says so twice: transformers 5.23 reads `is_causal: false` and runs the model "
            "as it was trained; a transformers that does not know this key **loads it causally without a "
            "warning**, and its outputs are then not those of this model. patentft reads "
            "`patentft.bidirectional`. An adapter in `adapter/` says nothing of it: a base that it is put on must"
            " be made bidirectional first."
        ),
        auto_class="AutoModel",
        use=(
            "assert model.config.is_causal is False\n"
            "vector = model(**tokenizer(text, return_tensors='pt')).last_hidden_state.mean(dim=1)"
        ),
        tags=("patents", "feature-extraction", "llm2vec", "domain-adaptation"),
    )
