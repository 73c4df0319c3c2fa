"""Cross-encoder ranking of (technique, patent) pairs: log-odds = head(section, patent) + a * (cosine - c).

The way of a pair: [CLS] title. best-matching chunk of the section [SEP] patent [SEP] -> encoder -> one logit, to which
`cosine_weight` times the prefilter's cosine, less a constant, is added. The head starts at zero: before the first step
the ranking is the cosine's, and training can only move away from it where that lowers the loss. Cost: one forward of at
most `max_tokens` for each pair.

Loss: `listwise` x softmax cross-entropy over each group (a match against negatives of the same technique) plus
`pairwise` x binary cross-entropy over its pairs. Weight of a group in the step: 1, so groups of any size count alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from patentft import stats
from patentft.config import Config
from patentft.models.adapters.task import Task
from patentft.models.backbone import Loading, load_backbone
from patentft.models.export import Card
from patentft.objectives.encoded import Encoded, SpecialTokens, Unit, pad
from patentft.objectives.texts import PairTexts

INPUTS = ("pairs",)
MODELS = "any"
TASK = "classifier"
METRIC = "within_technique_auc"
UNITS_PER_BATCH = None


class RankConfig(Config):
    """What a pair looks like and how its loss is made."""

    kind: Literal["rank"] = "rank"
    max_tokens: int = 384
    """Of the whole pair. The patent is kept whole up to `patent_tokens`; the section is cut to what is left."""
    patent_tokens: int = 224
    listwise: float = 1.0
    """Weight of the softmax loss over a technique's group."""
    pairwise: float = 1.0
    """Weight of the binary loss over single pairs."""
    cosine_weight: float = 20.0
    """Where the learned weight of the cosine starts; 0 trains the cross-encoder alone, and keeps it so."""
    cosine_center: float = 0.5
    """The cosine that counts as even odds: log-odds = logit + cosine_weight * (cosine - cosine_center)."""
    cosine_lr: float = 0.0
    """Learning rate of that weight; 0 keeps it at its start."""


def build(folder: str, config: RankConfig, loading: Loading) -> nn.Module:
    """The encoder with a head of one logit that starts at zero: the first ranking is the cosine's."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokens = SpecialTokens.of(AutoTokenizer.from_pretrained(folder, trust_remote_code=False))
    model = load_backbone(folder, AutoModelForSequenceClassification, loading, num_labels=1)
    model.config.get_text_config().pad_token_id = tokens.pad  # type: ignore[union-attr,operator] a decoder pools before it
    for parameter in head(model).parameters():
        nn.init.zeros_(parameter)
    return model


def head(model: nn.Module) -> nn.Module:
    """The classification head of a transformers sequence classifier."""
    name = head_name(model)
    module = getattr(model, name)
    return module.out_proj if hasattr(module, "out_proj") else module


def head_name(model: nn.Module) -> str:
    """ "classifier" (BERT, MPNet, ...) or "score" (Llama, ...)."""
    return "classifier" if hasattr(model, "classifier") else "score"


def task(model: nn.Module, config: RankConfig) -> Task:
    return Task("classifier", (head_name(model),))


def encode(texts: PairTexts, tokenizer: Any, config: RankConfig) -> tuple[Encoded, dict[str, int]]:
    """Token ids and segment ids of every pair. Counts: pairs, and how many patents and sections were cut."""
    encoded, counts = encode_pairs(texts.sections, texts.patents, tokenizer, config.max_tokens, config.patent_tokens)
    encoded.arrays["cosine"] = np.asarray(texts.cosine, dtype=np.float32)
    encoded.arrays["label"] = np.asarray(texts.label, dtype=np.float32)
    encoded.arrays["group"] = np.asarray(texts.group, dtype=np.int64)
    encoded.arrays["weight"] = np.asarray(texts.weight, dtype=np.float32)
    return encoded, counts


def encode_pairs(
    sections: Sequence[str], patents: Sequence[str], tokenizer: Any, max_tokens: int, patent_tokens: int
) -> tuple[Encoded, dict[str, int]]:
    """input_ids (and token_type_ids where the tokenizer gives them) of [CLS] section [SEP] patent [SEP].

    A patent keeps at most its first `patent_tokens`; then the section is cut so that the pair has at most `max_tokens`.
    Counts: pairs, patents_cut, sections_cut.
    """
    whole_patents = {
        text: tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        for text in dict.fromkeys(patents)
    }
    kept = {
        text: text if len(offsets) <= patent_tokens else text[: offsets[patent_tokens - 1][1]]
        for text, offsets in whole_patents.items()
    }
    section_lengths = {
        text: len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in dict.fromkeys(sections)
    }
    encoded = Encoded()
    ids: list[list[int]] = []
    types: list[list[int]] = []
    for start in range(0, len(patents), 1024):  # a batch at a time: the tokenizer's own objects are large
        stop = start + 1024
        out = tokenizer(
            list(sections[start:stop]),
            [kept[text] for text in patents[start:stop]],
            truncation="only_first",
            max_length=max_tokens,
        )
        ids += out["input_ids"]
        types += out.get("token_type_ids", [])
    encoded.put_ragged("input_ids", ids)
    if types:
        encoded.put_ragged("token_type_ids", types)
    room = max_tokens - tokenizer.num_special_tokens_to_add(pair=True)
    cut_sections = sum(
        section_lengths[section] + min(len(whole_patents[patent]), patent_tokens) > room
        for section, patent in zip(sections, patents, strict=True)
    )
    cut_patents = sum(len(whole_patents[patent]) > patent_tokens for patent in patents)
    return encoded, {"pairs": len(patents), "patents_cut": cut_patents, "sections_cut": cut_sections}


def units(encoded: Encoded, config: RankConfig, epoch: int, seed: int) -> list[Unit]:
    """A unit is a group. The same in every epoch; the plan shuffles."""
    lengths = encoded.lengths("input_ids")
    by_group: dict[int, list[int]] = {}
    for row, group in enumerate(encoded["group"].tolist()):
        by_group.setdefault(group, []).append(row)
    return [Unit(tuple(rows), int(lengths[rows].max()) * len(rows)) for rows in by_group.values()]


def collate(encoded: Encoded, chosen: Sequence[Unit], tokens: SpecialTokens) -> dict[str, torch.Tensor]:
    """input_ids, attention_mask (B, T) int64; label, cosine, weight (B,) float32; group (B,) int64, 0-based."""
    rows = [row for unit in chosen for row in unit.rows]
    batch = pad([encoded.row("input_ids", row) for row in rows], tokens.pad)
    if "token_type_ids" in encoded.arrays:
        batch["token_type_ids"] = pad([encoded.row("token_type_ids", row) for row in rows], 0)["input_ids"]
    for name in ("label", "cosine", "weight"):
        batch[name] = torch.from_numpy(encoded[name][rows])
    batch["group"] = torch.tensor([index for index, unit in enumerate(chosen) for _ in unit.rows])
    return batch


class PairScorer(nn.Module):
    """A sequence classifier with one logit, plus a * cosine."""

    def __init__(self, classifier: nn.Module, config: RankConfig) -> None:
        super().__init__()
        self.classifier = classifier
        learned = config.cosine_lr > 0
        # (1,): FSDP and DeepSpeed take no parameter without a dimension
        self.cosine_weight = nn.Parameter(torch.tensor([float(config.cosine_weight)]), requires_grad=learned)
        self.cosine_center = config.cosine_center

    def cross_logits(self, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The cross-encoder's part alone, (B,) float32."""
        inputs = {key: batch[key] for key in ("input_ids", "attention_mask", "token_type_ids") if key in batch}
        return self.classifier(**inputs).logits.squeeze(-1).float()

    def forward(self, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return self.cross_logits(batch) + self.cosine_weight * (batch["cosine"] - self.cosine_center)


def wrap(backbone: nn.Module, config: RankConfig) -> nn.Module:
    return PairScorer(backbone, config)


def backbone(module: nn.Module) -> nn.Module:
    """The transformers (or PEFT) model inside."""
    assert isinstance(module, PairScorer)
    return module.classifier


def parameter_groups(module: nn.Module, lr: float, weight_decay: float, config: RankConfig) -> list[dict[str, Any]]:
    """The cosine's weight has a rate of its own: it is one number of size ~20, the others are many of size ~.05."""
    own = [parameter for name, parameter in module.named_parameters() if name.endswith("cosine_weight")]
    rest = [p for name, p in module.named_parameters() if not name.endswith("cosine_weight") and p.requires_grad]
    groups: list[dict[str, Any]] = [{"params": rest, "lr": lr, "weight_decay": weight_decay}]
    if config.cosine_lr > 0:
        groups.append({"params": own, "lr": config.cosine_lr, "weight_decay": 0.0})
    return groups


def loss(
    module: nn.Module, batch: Mapping[str, torch.Tensor], config: RankConfig
) -> tuple[torch.Tensor, torch.Tensor, dict[str, float]]:
    """(sum over groups, number of groups, logs)."""
    return group_loss(module(batch), batch["label"], batch["group"], batch["weight"], config)


def group_loss(
    logits: torch.Tensor, label: torch.Tensor, group: torch.Tensor, weight: torch.Tensor, config: RankConfig
) -> tuple[torch.Tensor, torch.Tensor, dict[str, float]]:
    """Listwise and pairwise loss. logits, label, weight (B,) float32; group (B,) int64 from 0."""
    num_groups = int(group.max()) + 1
    member = functional.one_hot(group, num_groups).bool()  # (B, G)
    log_normalizer = torch.where(member, logits[:, None], -torch.inf).logsumexp(dim=0)  # (G,)
    size = member.sum(dim=0).float()
    positives = (label * weight).new_zeros(num_groups).index_add(0, group, label * weight)
    listwise = logits.new_zeros(num_groups).index_add(0, group, label * weight * (log_normalizer[group] - logits))
    listwise = listwise / positives.clamp(min=1e-9)
    single = functional.binary_cross_entropy_with_logits(logits, label, weight=weight, reduction="none")
    pairwise = logits.new_zeros(num_groups).index_add(0, group, single) / size
    total = (config.listwise * listwise + config.pairwise * pairwise).sum()
    logs = {"listwise": float(listwise.detach().sum()), "pairwise": float(pairwise.detach().sum())}
    return total, logits.new_tensor(float(num_groups)), logs


def weight(batch: Mapping[str, torch.Tensor], config: RankConfig) -> float:
    """A group counts 1, whatever its size."""
    return float(batch["group"].max()) + 1.0


@torch.inference_mode()
def predict(module: nn.Module, batch: Mapping[str, torch.Tensor], config: RankConfig) -> dict[str, npt.NDArray]:
    """For `metrics`: logit, label, group of each pair, and the batch's loss."""
    logits = module(batch)
    total, count, _ = group_loss(logits, batch["label"], batch["group"], batch["weight"], config)
    return {
        "logit": logits.cpu().numpy(),
        "label": batch["label"].cpu().numpy(),
        "group": batch["group"].cpu().numpy(),
        "loss": np.array([float(total)]),
        "weight": np.array([float(count)]),
    }


def metrics(parts: Sequence[Mapping[str, npt.NDArray]], config: RankConfig) -> dict[str, float]:
    """On the valid side: mean AUC of a match against its group's negatives, the AUC over all pairs, the loss."""
    starts = np.concatenate([[0], np.cumsum([part["weight"][0] for part in parts])[:-1]]).astype(np.int64)
    groups = np.concatenate([part["group"] + start for part, start in zip(parts, starts, strict=True)])
    logits = np.concatenate([part["logit"] for part in parts])
    labels = np.concatenate([part["label"] for part in parts]) > 0.5
    total = sum(part["loss"][0] for part in parts) / sum(part["weight"][0] for part in parts)
    return {
        METRIC: float(stats.grouped_auc(logits, labels, groups).mean),
        "pooled_auc": float(stats.auc(logits, labels)),
        "loss": float(total),
    }


def card(module: nn.Module, config: RankConfig) -> Card:
    assert isinstance(module, PairScorer)
    return Card(
        intro=(
            "A cross-encoder for (BREF technique, patent) pairs. Its log-odds are "
            "`logit + cosine_weight * (cosine - cosine_center)`, where "
            "`cosine` is the prefilter's; the two constants are in `config.json` under `patentft`."
        ),
        auto_class="AutoModelForSequenceClassification",
        use="logit = model(**tokenizer(section, patent, return_tensors='pt')).logits[0, 0]",
        tags=("patents", "text-classification", "cross-encoder"),
        carries={"cosine_weight": float(module.cosine_weight.detach()), "cosine_center": module.cosine_center},
    )
