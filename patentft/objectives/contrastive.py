"""Bi-encoder: a technique and its patent should have a higher cosine than either has with the others in its block.

The way of a block: `block_size` known matches, drawn anew each epoch so that techniques seldom meet themselves -> both
sides encoded once -> (B, B) cosines / temperature -> cross-entropy in both directions. A pair of the block that is a
known match, or whose technique is too like the patent's own (SIMILAR), is masked: unknown is not No. The negatives of
PAIRS (near misses) join the block as further patents, seen by the technique that they were drawn for only.

A block is a unit: it is never divided, so the loss does not depend on world size or accumulation. Gradient caching and
gathering across ranks, which would allow blocks larger than memory, are not here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from patentft.config import Config
from patentft.models.adapters.task import Task
from patentft.models.backbone import Loading, load_backbone
from patentft.models.export import Card
from patentft.models.pool import pool
from patentft.objectives.encoded import Encoded, SpecialTokens, Unit, pad
from patentft.objectives.texts import PairTexts

INPUTS = ("pairs",)
METRIC = "mrr"
UNITS_PER_BATCH = 1


class ContrastiveConfig(Config):
    """What a block is and how its loss is made."""

    kind: Literal["contrastive"] = "contrastive"
    section_tokens: int = 192
    patent_tokens: int = 192
    block_size: int = 32
    """Matches in a block: each has block_size - 1 others as negatives, in both directions."""
    temperature: float = 0.05
    pooling: Literal["mean", "cls", "last"] = "mean"
    """How token states become a vector; must be that of the embed stages that will use the model."""
    near_negatives: bool = False
    """Whether the negatives of the pairs stage join their technique's row."""


def build(folder: str, config: ContrastiveConfig, loading: Loading) -> nn.Module:
    """The encoder without a head. BERT's own pooler is not used, so not trained: DDP would wait for its gradient."""
    from transformers import AutoModel

    model = load_backbone(folder, AutoModel, loading)
    for name, parameter in model.named_parameters():
        if "pooler." in name:
            parameter.requires_grad_(False)
    return model


def task(model: nn.Module, config: ContrastiveConfig) -> Task:
    return Task("encoder")


def encode(texts: PairTexts, tokenizer: Any, config: ContrastiveConfig) -> tuple[Encoded, dict[str, int]]:
    """Token ids of every pair's section and patent, and for each the techniques that must not be its negatives."""
    encoded = Encoded()
    cut = {}
    for name, values, limit in (
        ("section", texts.sections, config.section_tokens),
        ("patent", texts.patents, config.patent_tokens),
    ):
        whole = tokenizer(list(values), add_special_tokens=True)["input_ids"]
        cut[f"{name}s_cut"] = sum(len(ids) > limit for ids in whole)
        encoded.put_ragged(name, tokenizer(list(values), truncation=True, max_length=limit)["input_ids"])
    names = {technique: index for index, technique in enumerate(dict.fromkeys(texts.technique_ids))}
    patents = {patent: index for index, patent in enumerate(dict.fromkeys(texts.patent_ids))}
    forbidden: dict[int, set[int]] = {index: {index} for index in names.values()}
    for technique, other in texts.similar:
        if technique in names and other in names:
            forbidden[names[technique]].add(names[other])
    encoded.arrays["technique"] = np.array([names[technique] for technique in texts.technique_ids], dtype=np.int64)
    encoded.arrays["patent_number"] = np.array([patents[patent] for patent in texts.patent_ids], dtype=np.int64)
    encoded.arrays["label"] = np.asarray(texts.label, dtype=np.int8)
    encoded.arrays["group"] = np.asarray(texts.group, dtype=np.int64)
    # patent -> every technique that is no negative for it: its own and those like them
    excluded: dict[int, set[int]] = {}
    for technique, patent, label in zip(
        encoded["technique"].tolist(), encoded["patent_number"].tolist(), encoded["label"].tolist(), strict=True
    ):
        if label:
            excluded.setdefault(patent, set()).update(forbidden[technique])
    encoded.put_ragged("excluded", [sorted(excluded.get(patent, ())) for patent in range(len(patents))])
    return encoded, {"pairs": len(texts.label), **cut}


def units(encoded: Encoded, config: ContrastiveConfig, epoch: int, seed: int) -> list[Unit]:
    """Blocks of the known matches, shuffled anew each epoch; the last, smaller block joins only if it has two."""
    positives = np.flatnonzero(encoded["label"] == 1)
    order = np.random.default_rng([seed, epoch]).permutation(positives)
    sections, patents = encoded.lengths("section"), encoded.lengths("patent")
    negatives: dict[int, list[int]] = {}
    if config.near_negatives:
        for row in np.flatnonzero(encoded["label"] == 0).tolist():
            negatives.setdefault(int(encoded["group"][row]), []).append(row)
    found = []
    for start in range(0, len(order), config.block_size):
        rows = order[start : start + config.block_size].tolist()
        if len(rows) < 2:
            continue
        extra = [row for positive in rows for row in negatives.get(int(encoded["group"][positive]), ())]
        tokens = int(sections[rows].max() * len(rows) + patents[rows + extra].max() * len(rows + extra))
        found.append(Unit((*rows, *extra), tokens))
    return found


def collate(encoded: Encoded, chosen: Sequence[Unit], tokens: SpecialTokens) -> dict[str, torch.Tensor]:
    """One block: section_ids, section_mask (S, T); patent_ids, patent_mask (P, T'); allowed (S, P) bool."""
    (unit,) = chosen
    labels = encoded["label"]
    matched = [row for row in unit.rows if labels[row] == 1]
    extra = [row for row in unit.rows if labels[row] == 0]
    columns = matched + extra
    section = pad([encoded.row("section", row) for row in matched], tokens.pad)
    patent = pad([encoded.row("patent", row) for row in columns], tokens.pad)
    techniques = encoded["technique"][matched]
    allowed = np.ones((len(matched), len(columns)), dtype=bool)
    for column, row in enumerate(columns):
        excluded = encoded.row("excluded", int(encoded["patent_number"][row]))
        allowed[:, column] = ~np.isin(techniques, excluded)
        if column >= len(matched):  # a near miss: only for the technique it was drawn for
            allowed[:, column] &= encoded["group"][matched] == encoded["group"][row]
    allowed[np.arange(len(matched)), np.arange(len(matched))] = True
    return {
        "section_ids": section["input_ids"],
        "section_mask": section["attention_mask"],
        "patent_ids": patent["input_ids"],
        "patent_mask": patent["attention_mask"],
        "allowed": torch.from_numpy(allowed),
    }


class BiEncoder(nn.Module):
    """Encoder, pooling, unit length."""

    def __init__(self, encoder: nn.Module, pooling: str) -> None:
        super().__init__()
        self.encoder = encoder
        self.pooling = pooling

    def embed(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """(B, T) ids -> (B, dim) float32 of unit length."""
        hidden = self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        return functional.normalize(pool(hidden, mask, self.pooling).float(), dim=-1)  # type: ignore[arg-type]

    def forward(self, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """(S, P) cosines."""
        sections = self.embed(batch["section_ids"], batch["section_mask"])
        patents = self.embed(batch["patent_ids"], batch["patent_mask"])
        return sections @ patents.T


def wrap(backbone: nn.Module, config: ContrastiveConfig) -> nn.Module:
    return BiEncoder(backbone, config.pooling)


def backbone(module: nn.Module) -> nn.Module:
    """The transformers (or PEFT) model inside."""
    assert isinstance(module, BiEncoder)
    return module.encoder


def parameter_groups(
    module: nn.Module, lr: float, weight_decay: float, config: ContrastiveConfig
) -> list[dict[str, Any]]:
    return [{"params": [p for p in module.parameters() if p.requires_grad], "lr": lr, "weight_decay": weight_decay}]


def loss(
    module: nn.Module, batch: Mapping[str, torch.Tensor], config: ContrastiveConfig
) -> tuple[torch.Tensor, torch.Tensor, dict[str, float]]:
    """(sum over the block's matches, number of matches, logs)."""
    return block_loss(module(batch), batch["allowed"], config.temperature)


def block_loss(
    cosines: torch.Tensor, allowed: torch.Tensor, temperature: float
) -> tuple[torch.Tensor, torch.Tensor, dict[str, float]]:
    """Symmetric softmax loss. cosines, allowed (S, P), P >= S; the match of row i is column i."""
    logits = torch.where(allowed, cosines / temperature, -torch.inf)
    matches = logits.shape[0]
    target = torch.arange(matches, device=logits.device)
    over_patents = functional.cross_entropy(logits, target, reduction="sum")
    over_techniques = functional.cross_entropy(logits[:, :matches].T, target, reduction="sum")
    total = (over_patents + over_techniques) / 2
    return total, total.new_tensor(float(matches)), {"over_patents": float(over_patents.detach())}


def weight(batch: Mapping[str, torch.Tensor], config: ContrastiveConfig) -> float:
    """A block counts by its matches."""
    return float(len(batch["section_ids"]))


@torch.inference_mode()
def predict(module: nn.Module, batch: Mapping[str, torch.Tensor], config: ContrastiveConfig) -> dict[str, npt.NDArray]:
    """For `metrics`: the reciprocal rank of each match among its row's allowed patents, and the block's loss."""
    cosines = module(batch)
    total, count, _ = block_loss(cosines, batch["allowed"], config.temperature)
    shown = torch.where(batch["allowed"], cosines, -torch.inf)
    reciprocal = 1.0 / (1 + (shown > shown.diagonal()[:, None]).sum(dim=1))
    return {
        "reciprocal_rank": reciprocal.cpu().numpy(),
        "loss": np.array([float(total)]),
        "weight": np.array([float(count)]),
    }


def metrics(parts: Sequence[Mapping[str, npt.NDArray]], config: ContrastiveConfig) -> dict[str, float]:
    """On the valid side's blocks: mean reciprocal rank of a technique's match among the block's patents, the loss."""
    return {
        METRIC: float(np.concatenate([part["reciprocal_rank"] for part in parts]).mean()),
        "loss": float(sum(part["loss"][0] for part in parts) / sum(part["weight"][0] for part in parts)),
    }


def card(module: nn.Module, config: ContrastiveConfig) -> Card:
    return Card(
        intro="A bi-encoder: the cosine of a technique's and a patent's vector says how well they match.",
        auto_class="AutoModel",
        use="",
        tags=("patents", "sentence-similarity"),
        pooling=config.pooling,
        max_tokens=config.section_tokens,
    )
