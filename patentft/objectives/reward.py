"""A reward model: a sequence classifier with one logit that is higher for the better of two (Bradley-Terry).

    PREFERENCES  prompt + chosen answer over prompt + rejected answer
    PAIRS        section, matched patent over section, negative of the same group: a re-ranker, read by the scoring
                 stage as any sequence classifier with one logit

loss of a group = mean of -log sigmoid(r(better) - r(worse)) over its pairs of a better and a worse row, each pair
weighing as much as the product of its rows' weights (Ouyang et al. 2022, arXiv:2203.02155, equation 1). Weight of a
group in the step: 1. Only differences are learned: a logit by itself means nothing before it is calibrated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field, model_validator
from torch import nn
from torch.nn import functional

from patentft import stats
from patentft.config import Config, ConfigError
from patentft.models.adapters.task import Task
from patentft.models.backbone import Loading, load_backbone
from patentft.models.export import Card
from patentft.objectives import packed
from patentft.objectives.encoded import Encoded, SpecialTokens, Unit, pad
from patentft.objectives.prompts import PromptConfig, encode_preferences, require_positions
from patentft.objectives.rank import encode_pairs, head_name
from patentft.objectives.texts import PairTexts, PreferenceTexts

INPUTS = ("preferences", "pairs")
MODELS = "any"
TASK = "classifier"
METRIC = "preference_accuracy"
UNITS_PER_BATCH = None


class RewardConfig(Config):
    """What the model reads."""

    kind: Literal["reward"] = "reward"
    prompt: PromptConfig = PromptConfig()
    """For preferences. Pairs are read as objective rank reads them, so that the scoring stage asks in the same way."""
    max_tokens: int = Field(default=384, ge=2)
    """Of prompt and answer, or of section and patent. The context, or the section, is cut at its end."""
    patent_tokens: int = Field(default=224, ge=1)
    """For pairs: the patent is kept whole up to this many tokens."""

    @model_validator(mode="after")
    def _possible(self) -> RewardConfig:
        if self.patent_tokens >= self.max_tokens:
            raise ValueError(f"patent_tokens {self.patent_tokens} leaves no room in max_tokens {self.max_tokens}")
        return self


def build(folder: str, config: RewardConfig, loading: Loading) -> nn.Module:
    """The model with a new head of one logit.

    A decoder's head reads the last token that is not padding, so the model must know the token that batches are padded
    with, here and in the export.
    """
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokens = SpecialTokens.of(AutoTokenizer.from_pretrained(folder, trust_remote_code=False))
    model = load_backbone(folder, AutoModelForSequenceClassification, loading, num_labels=1)
    model.config.get_text_config().pad_token_id = tokens.pad  # type: ignore[union-attr,operator]
    require_positions(model, config.max_tokens)
    return model


def task(model: nn.Module, config: RewardConfig) -> Task:
    return Task("classifier", (head_name(model),))


def encode(texts: PreferenceTexts | PairTexts, tokenizer: Any, config: RewardConfig) -> tuple[Encoded, dict[str, int]]:
    """input_ids (ragged; token_type_ids where the tokenizer gives them for pairs), label, group, weight of each row."""
    if isinstance(texts, PairTexts):
        encoded, counts = encode_pairs(
            texts.sections, texts.patents, tokenizer, config.max_tokens, config.patent_tokens
        )
        encoded.arrays["label"] = np.asarray(texts.label, dtype=np.int8)
        encoded.arrays["group"] = np.asarray(texts.group, dtype=np.int64)
        encoded.arrays["weight"] = np.asarray(texts.weight, dtype=np.float32)
        groups = set(texts.group)
        usable = len(_groups(encoded))
        if not usable:
            raise ConfigError(
                "objective reward: no group of the pairs has both a match and a negative; raise the negatives of the "
                "pairs stage"
            )
        return encoded, {**counts, "groups": len(groups), "groups_without_both": len(groups) - usable}
    encoded, counts = encode_preferences(texts, tokenizer, config.prompt, config.max_tokens)
    number = len(texts.preference_ids)
    encoded.arrays["label"] = np.tile(np.array([1, 0], dtype=np.int8), number)
    encoded.arrays["group"] = np.repeat(np.arange(number), 2)
    encoded.arrays["weight"] = np.ones(2 * number, dtype=np.float32)
    return encoded, counts


def _groups(encoded: Encoded) -> list[list[int]]:
    """The rows of every group that has both a better and a worse row."""
    by_group: dict[int, list[int]] = {}
    for row, group in enumerate(encoded["group"].tolist()):
        by_group.setdefault(group, []).append(row)
    return [rows for rows in by_group.values() if len(set(encoded["label"][rows].tolist())) == 2]


def units(encoded: Encoded, config: RewardConfig, epoch: int, seed: int) -> list[Unit]:
    """A unit is a group. The same in every epoch; the plan shuffles."""
    lengths = encoded.lengths("input_ids")
    return [Unit(tuple(rows), int(lengths[rows].max()) * len(rows)) for rows in _groups(encoded)]


def collate(encoded: Encoded, chosen: Sequence[Unit], tokens: SpecialTokens) -> dict[str, torch.Tensor]:
    """input_ids, attention_mask (B, T) int64; label, group (B,) int64, groups from 0; weight (B,) float32."""
    rows = [row for unit in chosen for row in unit.rows]
    batch = pad([encoded.row("input_ids", row) for row in rows], tokens.pad)
    if "token_type_ids" in encoded.arrays:
        batch["token_type_ids"] = pad([encoded.row("token_type_ids", row) for row in rows], 0)["input_ids"]
    batch["label"] = torch.from_numpy(encoded["label"][rows].astype(np.int64))
    batch["weight"] = torch.from_numpy(encoded["weight"][rows])
    batch["group"] = torch.tensor([index for index, unit in enumerate(chosen) for _ in unit.rows])
    return batch


class RewardModel(nn.Module):
    """A sequence classifier with one logit."""

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """(B,) float32."""
        inputs = {key: batch[key] for key in ("input_ids", "attention_mask", "token_type_ids") if key in batch}
        return self.classifier(**inputs).logits.squeeze(-1).float()


def wrap(backbone: nn.Module, config: RewardConfig) -> nn.Module:
    return RewardModel(backbone)


def backbone(module: nn.Module) -> nn.Module:
    """The transformers (or PEFT) model inside."""
    assert isinstance(module, RewardModel)
    return module.classifier


def parameter_groups(module: nn.Module, lr: float, weight_decay: float, config: RewardConfig) -> list[dict[str, Any]]:
    return packed.parameter_groups(module, lr, weight_decay)


def weight(batch: Mapping[str, torch.Tensor], config: RewardConfig) -> float:
    """A group counts 1, whatever its size."""
    return float(batch["group"].max()) + 1.0


def loss(
    module: nn.Module, batch: Mapping[str, torch.Tensor], config: RewardConfig
) -> tuple[torch.Tensor, torch.Tensor, dict[str, float]]:
    """(sum over groups, number of groups, logs)."""
    losses, gaps = group_losses(module(batch), batch["label"], batch["group"], batch["weight"])
    return losses.sum(), losses.new_tensor(float(len(losses))), {"margin": float(gaps.detach().sum())}


def group_losses(
    logits: torch.Tensor, label: torch.Tensor, group: torch.Tensor, weight: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """(loss, mean difference of logits) of each group, (G,) float32 both.

    logits, weight (B,) float32; label (B,) of 1 and 0; group (B,) int64 from 0, each with both labels.
    """
    differ = (label[:, None] == 1) & (label[None] == 0)
    better, worse = (differ & (group[:, None] == group[None])).nonzero(as_tuple=True)
    gap = logits[better] - logits[worse]  # (pairs,)
    share = weight[better] * weight[worse]
    num_groups = int(group.max()) + 1
    empty = logits.new_zeros(num_groups)
    whole = empty.index_add(0, group[better], share).clamp(min=1e-9)
    losses = empty.index_add(0, group[better], -functional.logsigmoid(gap) * share) / whole
    return losses, empty.index_add(0, group[better], gap * share) / whole


@torch.inference_mode()
def predict(module: nn.Module, batch: Mapping[str, torch.Tensor], config: RewardConfig) -> dict[str, npt.NDArray]:
    """For `metrics`: logit, label, group (B,) of each row, and loss and margin (G,) of each group."""
    logits = module(batch)
    losses, gaps = group_losses(logits, batch["label"], batch["group"], batch["weight"])
    found = {"logit": logits, "label": batch["label"], "group": batch["group"], "loss": losses, "margin": gaps}
    return {name: values.cpu().numpy() for name, values in found.items()}


def metrics(parts: Sequence[Mapping[str, npt.NDArray]], config: RewardConfig) -> dict[str, float]:
    """On the valid side: the share of (better, worse) that are the right way round, ties half, as a mean over groups
    (for pairs: the AUC within a technique); the AUC over all rows; the mean margin; the loss.
    """
    starts = np.cumsum([0, *(len(part["loss"]) for part in parts[:-1])])
    groups = np.concatenate([part["group"] + start for part, start in zip(parts, starts, strict=True)])
    whole = {name: np.concatenate([part[name] for part in parts]) for name in ("logit", "label", "loss", "margin")}
    labels = whole["label"] > 0
    return {
        METRIC: float(stats.grouped_auc(whole["logit"], labels, groups).mean),
        "pooled_auc": float(stats.auc(whole["logit"], labels)),
        "reward_margin": float(whole["margin"].mean()),
        "loss": float(whole["loss"].mean()),
    }


def card(module: nn.Module, config: RewardConfig) -> Card:
    return Card(
        intro="A reward model: of two texts that it is given, the better one has the higher logit.",
        auto_class="AutoModelForSequenceClassification",
        use="logit = model(**tokenizer(text, return_tensors='pt')).logits[0, 0]",
        tags=("patents", "text-classification", "reward-model"),
        carries={"cosine_weight": 0.0},  # so that the scoring stage takes the logit alone
    )
