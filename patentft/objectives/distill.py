"""Distillation: a small cross-encoder learns a teacher's log-odds of (technique, patent) pairs; Hinton et al. 2015,
arXiv:1503.02531.

The way of a pair: [CLS] title. the chunk that the teacher read [SEP] patent [SEP] -> encoder -> one logit, which is the
student's log-odds: the cosine has no part in it. The teacher is any score stage, such as an LLM's; only its log-odds
are read. Its pairs are candidates of techniques of the side with patents of the side, or of no side.

loss of a pair = alpha * T^2 * KL(teacher at temperature T || student at T) + (1 - alpha) * BCE(known label), where the
second term is there only if the label is known. T^2 keeps the gradient's size as T rises. Weight of a pair: 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
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
from patentft.models.blocks import keep_blocks
from patentft.models.export import Card
from patentft.models.load import load_trained
from patentft.models.quantize import Quantization, weight_bytes, write_quantized
from patentft.objectives import packed
from patentft.objectives.encoded import Encoded, SpecialTokens, Unit, pad
from patentft.objectives.prompts import require_positions
from patentft.objectives.rank import encode_pairs, head, head_name
from patentft.objectives.texts import DistilledTexts

INPUTS = ("distilled",)
MODELS = "any"
TASK = "classifier"
METRIC = "minus_kl"
UNITS_PER_BATCH = None

UNKNOWN = -1
"""The label of a pair that nobody has judged."""
PAIRS_PER_BATCH = 16
"""When quantized students are compared."""


class DistillConfig(Config):
    """What a pair looks like, how its loss is made, and which quantized students are written."""

    kind: Literal["distill"] = "distill"
    max_tokens: int = Field(default=384, ge=2)
    """Of the whole pair, as in objective rank."""
    patent_tokens: int = Field(default=224, ge=1)
    """The patent is kept whole up to this many tokens; the section is cut to what is left."""
    alpha: float = Field(default=0.7, ge=0.0, le=1.0)
    """Share of the teacher's log-odds in the loss, the rest the known labels'; 1: the teacher alone."""
    temperature: float = Field(default=2.0, gt=0.0)
    """Log-odds of both are divided by it in the loss: higher, and a sure teacher still tells more from less sure."""
    layers: list[int] | None = None
    """Which blocks of `model` the student keeps, counted from 0, rising (Sanh et al. 2019, arXiv:1910.01108, keep every
    other one); unset: all."""
    quantize: list[Quantization] = []
    """After training, the student is also written with weights of 4 bits (nf4) or 8 (int8), in folders of the export,
    and the card says what it loses by it."""
    quantize_pairs: int = Field(default=512, ge=1)
    """Pairs of the valid side, drawn evenly, on which that is measured."""
    seed: int = 0
    """Of that draw."""

    @model_validator(mode="after")
    def _possible(self) -> DistillConfig:
        if self.patent_tokens >= self.max_tokens:
            raise ValueError(f"patent_tokens {self.patent_tokens} leaves no room in max_tokens {self.max_tokens}")
        if len(set(self.quantize)) < len(self.quantize):
            raise ValueError(f"quantize names one twice: {self.quantize}")
        return self


def build(folder: str, config: DistillConfig, loading: Loading) -> nn.Module:
    """The student, `layers` of it, with a head of one logit that starts at zero: every pair at even odds.

    A decoder's head reads the last token that is not padding: it is told which one batches are padded with.
    """
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokens = SpecialTokens.of(AutoTokenizer.from_pretrained(folder, trust_remote_code=False))
    model = load_backbone(folder, AutoModelForSequenceClassification, loading, num_labels=1, pad_token_id=tokens.pad)
    require_positions(model, config.max_tokens)
    if config.layers is not None:
        keep_blocks(model, config.layers)
    for parameter in head(model).parameters():
        nn.init.zeros_(parameter)
    return model


def task(model: nn.Module, config: DistillConfig) -> Task:
    return Task("classifier", (head_name(model),))


def encode(texts: DistilledTexts, tokenizer: Any, config: DistillConfig) -> tuple[Encoded, dict[str, int]]:
    """Token ids (and segment ids) of every pair; teacher (N,) float32, label (N,) int8, technique (N,) int64.

    Counts: pairs, patents_cut, sections_cut, known_matches, known_negatives. Raises ConfigError for log-odds that are
    not finite, and when alpha is 0 and no label is known.
    """
    encoded, counts = encode_pairs(texts.sections, texts.patents, tokenizer, config.max_tokens, config.patent_tokens)
    teacher = np.asarray(texts.log_odds, dtype=np.float32)
    odd = np.flatnonzero(~np.isfinite(teacher))
    if len(odd):
        raise ConfigError(
            f"the teacher's log-odds of technique {texts.technique_ids[odd[0]]!r} and patent "
            f"{texts.patent_ids[odd[0]]!r} are {teacher[odd[0]]} (and {len(odd) - 1} more are not finite): score anew"
        )
    label = np.array([UNKNOWN if known is None else known for known in texts.label], dtype=np.int8)
    if config.alpha == 0 and not (label != UNKNOWN).any():
        raise ConfigError("objective.alpha is 0, and no pair has a known label: nothing would be learned; raise alpha")
    encoded.arrays["teacher"] = teacher
    encoded.arrays["label"] = label
    encoded.arrays["technique"] = np.unique(texts.technique_ids, return_inverse=True)[1].astype(np.int64)
    return encoded, {
        **counts,
        "known_matches": int((label == 1).sum()),
        "known_negatives": int((label == 0).sum()),
    }


def units(encoded: Encoded, config: DistillConfig, epoch: int, seed: int) -> list[Unit]:
    """A unit is a pair. The same in every epoch; the plan shuffles."""
    return [Unit((row,), length) for row, length in enumerate(encoded.lengths("input_ids").tolist())]


def collate(encoded: Encoded, chosen: Sequence[Unit], tokens: SpecialTokens) -> dict[str, torch.Tensor]:
    """input_ids, attention_mask (B, T) int64; teacher (B,) float32; label, technique, row (B,) int64."""
    rows = [row for unit in chosen for row in unit.rows]
    batch = pad([encoded.row("input_ids", row) for row in rows], tokens.pad)
    if "token_type_ids" in encoded.arrays:
        batch["token_type_ids"] = pad([encoded.row("token_type_ids", row) for row in rows], 0)["input_ids"]
    batch["teacher"] = torch.from_numpy(encoded["teacher"][rows])
    for name in ("label", "technique"):
        batch[name] = torch.from_numpy(encoded[name][rows].astype(np.int64))
    batch["row"] = torch.tensor(rows)
    return batch


class Student(nn.Module):
    """A sequence classifier whose one logit is the log-odds."""

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """(B,) float32."""
        return _logits(self.classifier, batch)


def _logits(classifier: nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    inputs = {key: batch[key] for key in ("input_ids", "attention_mask", "token_type_ids") if key in batch}
    return classifier(**inputs).logits.squeeze(-1).float()


def wrap(backbone: nn.Module, config: DistillConfig) -> nn.Module:
    return Student(backbone)


def backbone(module: nn.Module) -> nn.Module:
    """The transformers (or PEFT) model inside."""
    assert isinstance(module, Student)
    return module.classifier


def parameter_groups(module: nn.Module, lr: float, weight_decay: float, config: DistillConfig) -> list[dict[str, Any]]:
    return packed.parameter_groups(module, lr, weight_decay)


def weight(batch: Mapping[str, torch.Tensor], config: DistillConfig) -> float:
    """A pair counts 1."""
    return float(len(batch["row"]))


def loss(
    module: nn.Module, batch: Mapping[str, torch.Tensor], config: DistillConfig
) -> tuple[torch.Tensor, torch.Tensor, dict[str, float]]:
    """(sum over pairs, number of pairs, logs)."""
    losses = pair_losses(module(batch), batch["teacher"], batch["label"], config)
    return losses.sum(), losses.new_tensor(float(len(losses))), {}


def pair_losses(
    student: torch.Tensor, teacher: torch.Tensor, label: torch.Tensor, config: DistillConfig
) -> torch.Tensor:
    """(B,) from log-odds (B,) of both, and labels (B,) of 1, 0 and UNKNOWN."""
    soft = config.temperature**2 * kl(teacher / config.temperature, student / config.temperature)
    hard = functional.binary_cross_entropy_with_logits(student, (label == 1).to(student.dtype), reduction="none")
    return config.alpha * soft + (1 - config.alpha) * torch.where(label == UNKNOWN, 0.0, hard)


def kl(teacher: torch.Tensor, student: torch.Tensor) -> torch.Tensor:
    """(B,) nats: KL divergence of the student's Bernoulli from the teacher's, from their log-odds (B,)."""
    log_yes = functional.logsigmoid(teacher) - functional.logsigmoid(student)
    log_no = functional.logsigmoid(-teacher) - functional.logsigmoid(-student)
    return torch.sigmoid(teacher) * log_yes + torch.sigmoid(-teacher) * log_no


@torch.inference_mode()
def predict(module: nn.Module, batch: Mapping[str, torch.Tensor], config: DistillConfig) -> dict[str, npt.NDArray]:
    """For `metrics`, (B,) each: row, student, teacher, label, technique, and the loss."""
    student = module(batch)
    found = {name: batch[name] for name in ("row", "teacher", "label", "technique")}
    found |= {"student": student, "loss": pair_losses(student, batch["teacher"], batch["label"], config)}
    return {name: values.cpu().numpy() for name, values in found.items()}


def metrics(parts: Sequence[Mapping[str, npt.NDArray]], config: DistillConfig) -> dict[str, float]:
    """On the valid side: minus the KL (at temperature 1, as the log-odds are used), the KL and the loss; how near the
    student's log-odds are to the teacher's: correlation, and mean absolute difference; the share of the teacher's best
    tenth of each technique's candidates that is in the student's (.1 by chance); and, where both matches and negatives
    are known, the AUC of both.
    """
    whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    order = np.argsort(whole["row"])  # ranks do not depend on how batches were made
    whole = {name: values[order] for name, values in whole.items()}
    student, teacher = (whole[name].astype(np.float64) for name in ("student", "teacher"))
    agreement = _agreement(student, teacher, whole["label"])
    return {
        METRIC: -agreement["kl"],
        "loss": float(whole["loss"].astype(np.float64).mean()),
        **agreement,
        "correlation": _correlation(student, teacher),
        "mean_absolute_difference": float(np.abs(student - teacher).mean()),
        "top_tenth_overlap": _overlap(student, teacher, whole["technique"]),
    }


def _agreement(student: npt.NDArray, teacher: npt.NDArray, label: npt.NDArray) -> dict[str, float]:
    """kl; student_auc and teacher_auc where a match and a negative are known."""
    found = {"kl": float(kl(torch.from_numpy(teacher).double(), torch.from_numpy(student).double()).mean())}
    known = label != UNKNOWN
    if len(set(label[known].tolist())) == 2:
        found["student_auc"] = float(stats.auc(student[known], label[known] == 1))
        found["teacher_auc"] = float(stats.auc(teacher[known], label[known] == 1))
    return found


def _correlation(a: npt.NDArray, b: npt.NDArray) -> float:
    """Pearson's; 0 when one of them does not vary."""
    return float(np.corrcoef(a, b)[0, 1]) if a.std() > 0 and b.std() > 0 else 0.0


def _overlap(student: npt.NDArray, teacher: npt.NDArray, technique: npt.NDArray) -> float:
    """Mean over techniques. Equal scores are ranked at random: rows are in the prefilter's order."""
    tie_break = np.random.default_rng(0).permutation(len(student))
    best = np.maximum(1, np.bincount(technique) // 10)[technique]
    chosen = [stats.ranks_within(scores, technique, tie_break) < best for scores in (student, teacher)]
    there = np.unique(technique)
    both = np.bincount(technique[chosen[0] & chosen[1]], minlength=there.max() + 1)[there]
    return float((both / np.maximum(1, np.bincount(technique)[there] // 10)).mean())


def card(module: nn.Module, config: DistillConfig) -> Card:
    return Card(
        intro=(
            "A cross-encoder for (BREF technique, patent) pairs, taught by a larger scorer: its one logit is the "
            "log-odds, as near to the teacher's as it could come."
        ),
        auto_class="AutoModelForSequenceClassification",
        use="log_odds = model(**tokenizer(section, patent, return_tensors='pt')).logits[0, 0]",
        tags=("patents", "text-classification", "cross-encoder", "distillation"),
        carries={"cosine_weight": 0.0, "cosine_center": 0.0},  # so that the scoring stage takes the logit alone
    )


def after_export(
    folder: Path, valid: Callable[[], Encoded], tokens: SpecialTokens, config: DistillConfig
) -> tuple[dict[str, str], dict[str, Any]]:
    """Write the quantized students into subfolders of the export; returns (facts for its card, numbers).

    Each is loaded again from its folder as a user would load it, and that is what is measured: differences of log-odds
    to the fp32 student's, KL to the teacher and AUC of both, bytes of the weights.
    """
    if not config.quantize:
        return {}, {}
    from transformers import AutoModelForSequenceClassification

    side = valid()
    number = len(side["teacher"])
    drawn = np.random.default_rng(config.seed).permutation(number)[: config.quantize_pairs]
    rows = drawn[np.argsort(side.lengths("input_ids")[drawn], kind="stable")].tolist()
    teacher, label = side["teacher"][rows].astype(np.float64), side["label"][rows]
    plain: Any = load_trained(str(folder), AutoModelForSequenceClassification)
    exact = _scored(plain, side, rows, tokens)
    measured: dict[str, Any] = {"pairs": len(rows)}
    measured["fp32"] = {"bytes": weight_bytes(folder), **_agreement(exact, teacher, label)}
    del plain
    facts = {}
    for kind in config.quantize:
        write_quantized(folder, folder / kind, kind, AutoModelForSequenceClassification)
        model: Any = load_trained(str(folder / kind), AutoModelForSequenceClassification)
        rounded = _scored(model, side, rows, tokens)
        difference = np.abs(rounded - exact)
        measured[kind] = {
            "bytes": weight_bytes(folder / kind),
            "max_difference": float(difference.max()),
            "mean_difference": float(difference.mean()),
            **_agreement(rounded, teacher, label),
        }
        facts[f"{kind} (in `{kind}/`)"] = _sentence(measured[kind], measured["fp32"], len(rows))
    return facts, {"quantized": measured}


@torch.inference_mode()
def _scored(model: nn.Module, side: Encoded, rows: Sequence[int], tokens: SpecialTokens) -> npt.NDArray[np.float64]:
    """(rows,): log-odds."""
    found = []
    for start in range(0, len(rows), PAIRS_PER_BATCH):
        batch = collate(side, [Unit((row,), 0) for row in rows[start : start + PAIRS_PER_BATCH]], tokens)
        found.append(_logits(model, batch).numpy())
    return np.concatenate(found).astype(np.float64)


def _sentence(own: Mapping[str, float], exact: Mapping[str, float], pairs: int) -> str:
    parts = [
        f"log-odds differ by {own['max_difference']:.2g} at most, {own['mean_difference']:.2g} in the mean",
        f"KL to the teacher {own['kl']:.4f} (fp32 {exact['kl']:.4f})",
    ]
    if "student_auc" in own:
        parts.append(f"AUC {own['student_auc']:.4f} (fp32 {exact['student_auc']:.4f})")
    parts.append(f"{own['bytes'] / 1e6:,.1f} MB of weights (fp32 {exact['bytes'] / 1e6:,.1f})")
    return f"{', '.join(parts)}; on {pairs} pairs of the validation side"
