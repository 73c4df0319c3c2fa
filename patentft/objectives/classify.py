"""Texts with labels: green or not, the eight subclasses of Y02, or a vocabulary of codes. (Pairs of texts are `rank`.)

    green               two classes, one of them true: softmax over "other" and "green"
    y02, all            several labels a text, or none: a sigmoid each
    y02, all, single    exactly one label a text: softmax

The way of a text: tokens, cut to `max_tokens` -> transformers sequence classifier -> one logit a label -> cross-entropy
(softmax) or the mean over labels of binary cross-entropies (sigmoid). Weight of a text in the step: its own, so a text
of weight 5 counts as five texts of weight 1; texts with a gold label have `gold_weight`.
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
from patentft.config import Config, ConfigError, nearest
from patentft.corpus.cpc import Y02
from patentft.models.adapters.task import Task
from patentft.models.backbone import Loading, load_backbone
from patentft.models.export import Card
from patentft.objectives.encoded import Encoded, SpecialTokens, Unit, pad, tokenized
from patentft.objectives.rank import head_name
from patentft.objectives.texts import LabelledTexts

INPUTS = ("labelled",)
MODELS = "any"
TASK = "classifier"
METRIC = "average_precision"
UNITS_PER_BATCH = None

GREEN = ("other", "green")
MOST_LISTED = 32
"""With more labels than this, metrics are averages only: a table of thousands of numbers is no log line."""


class ClassifyConfig(Config):
    """Which labels are learned, and how."""

    kind: Literal["classify"] = "classify"
    target: Literal["green", "y02", "all"] = "green"
    """green: any Y02 symbol or none. y02: its eight subclasses. all: the vocabulary of the labels stage."""
    single: bool = False
    """For y02 and all: every text has exactly one label."""
    names: list[str] | None = None
    """For y02 and all: the labels to learn, in the order of the outputs; others are left out. Unset: every label."""
    max_tokens: int = 256
    class_weights: Literal["none", "balanced"] = "none"
    """balanced: a label's rare and frequent sides (its classes, if single) weigh alike: texts / (classes x texts of the
    class), King & Zeng 2001."""
    gold_weight: float = Field(default=5.0, gt=0)
    """Weight of a text whose label is from the gold stage; others weigh 1."""
    bootstrap: int = Field(default=200, ge=0)
    """Resamples behind the intervals of the metrics; 0: no intervals."""

    @model_validator(mode="after")
    def _green_is_single(self) -> ClassifyConfig:
        if self.target == "green" and (self.single or self.names is not None):
            raise ValueError("target green has its own two classes; leave out single and names, or set y02 or all")
        if self.names is not None and (len(set(self.names)) < len(self.names) or len(self.names) < 1 + self.single):
            raise ValueError(f"names must be different labels, two at least if single; got {self.names}")
        return self

    @property
    def softmax(self) -> bool:
        """Whether exactly one label is true of a text."""
        return self.single or self.target == "green"


def settled(config: ClassifyConfig, counts: Mapping[str, Any]) -> ClassifyConfig:
    """`config` with the label names that `encode` counted in the train side: the model's outputs are made of them."""
    return config if config.target == "green" else config.model_copy(update={"names": list(counts["labels"])})


def label_names(config: ClassifyConfig) -> tuple[str, ...]:
    """The model's outputs in order. Raises ConfigError while only the labels stage knows them."""
    if config.target == "green":
        return GREEN
    if config.names is not None:
        return tuple(config.names)
    if config.target == "y02":
        return Y02
    raise ConfigError("objective.names is not set, and the labels stage was not read: set names, or encode first")


def build(folder: str, config: ClassifyConfig, loading: Loading) -> nn.Module:
    """The sequence classifier; its configuration names the labels.

    A decoder's classifier looks for the last token that is no padding by its id: it is told which one the batches hold.
    """
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    names = label_names(config)
    tokens = SpecialTokens.of(AutoTokenizer.from_pretrained(folder, trust_remote_code=False))
    return load_backbone(
        folder,
        AutoModelForSequenceClassification,
        loading,
        num_labels=len(names),
        id2label=dict(enumerate(names)),
        label2id={name: index for index, name in enumerate(names)},
        problem_type="single_label_classification" if config.softmax else "multi_label_classification",
        pad_token_id=tokens.pad,
    )


def task(model: nn.Module, config: ClassifyConfig) -> Task:
    return Task("classifier", (head_name(model),))


def encode(texts: LabelledTexts, tokenizer: Any, config: ClassifyConfig) -> tuple[Encoded, dict[str, Any]]:
    """input_ids and labels (ragged), weight (N,) float32, num_labels (1,), class_weight (2, labels) float32.

    Counts: texts, texts_cut, the labels' names, and how many texts have each. Raises ConfigError for a name in `names`
    that there is none of, for a text without exactly one label if `single`, and when a class is missing altogether.
    """
    names, labels = _chosen(texts, config)
    if config.softmax:
        for text_id, found in zip(texts.text_ids, labels, strict=True):
            if len(found) != 1:
                listed = ", ".join(names[index] for index in found) or "none"
                raise ConfigError(
                    f"text {text_id!r} has {len(found)} labels ({listed}); objective.single wants exactly one: leave "
                    f"single out, or choose texts or names so that each has one"
                )
    encoded = Encoded()
    ids, num_cut = tokenized(texts.texts, tokenizer, config.max_tokens)
    encoded.put_ragged("input_ids", ids)
    encoded.put_ragged("labels", labels)
    weights = np.asarray(texts.weights, dtype=np.float32)
    encoded.arrays["weight"] = weights
    encoded.arrays["num_labels"] = np.array([len(names)], dtype=np.int64)
    rows = np.repeat(np.arange(len(labels)), [len(found) for found in labels])
    with_label = np.bincount(encoded["labels"], weights=weights[rows], minlength=len(names))
    counted = np.bincount(encoded["labels"], minlength=len(names))
    seen = np.count_nonzero(counted) if config.softmax else np.count_nonzero((counted > 0) & (counted < len(labels)))
    if seen < 1 + config.softmax:
        shares = ", ".join(f"{name} {count:,}" for name, count in list(zip(names, counted, strict=True))[:5])
        raise ConfigError(
            f"objective classify: nothing to tell apart in {len(labels):,} texts ({shares}): add texts of another "
            f"class, or another target"
        )
    encoded.arrays["class_weight"] = _class_weights(with_label, float(weights.sum()), config)
    count_of = {name: int(count) for name, count in zip(names, counted, strict=True)}
    return encoded, {"texts": len(ids), "texts_cut": num_cut, "labels": list(names), "texts_of_label": count_of}


def _chosen(texts: LabelledTexts, config: ClassifyConfig) -> tuple[tuple[str, ...], list[list[int]]]:
    """(label names, the labels of each text as indices into them), cut down to config.names."""
    if config.names is None:
        return tuple(texts.names), [list(found) for found in texts.labels]
    index_of = {name: index for index, name in enumerate(config.names)}
    for name in config.names:
        if name not in texts.names:
            raise ConfigError(f"objective.names: the labels stage has no label {name!r}{nearest(name, texts.names)}")
    new = {old: index_of[name] for old, name in enumerate(texts.names) if name in index_of}
    return tuple(config.names), [sorted(new[old] for old in found if old in new) for found in texts.labels]


def _class_weights(with_label: npt.NDArray, total: float, config: ClassifyConfig) -> npt.NDArray[np.float32]:
    """(2, labels): the weight of a text without and with the label; without is not used by softmax."""
    if config.class_weights == "none":
        return np.ones((2, len(with_label)), np.float32)
    sides = np.stack([total - with_label, with_label])
    num_classes = np.count_nonzero(with_label) if config.softmax else 2
    return np.divide(total, num_classes * sides, out=np.zeros_like(sides), where=sides > 0).astype(np.float32)


def units(encoded: Encoded, config: ClassifyConfig, epoch: int, seed: int) -> list[Unit]:
    """A unit is a text. The same in every epoch; the plan shuffles."""
    return [Unit((row,), length) for row, length in enumerate(encoded.lengths("input_ids").tolist())]


def collate(encoded: Encoded, chosen: Sequence[Unit], tokens: SpecialTokens) -> dict[str, torch.Tensor]:
    """input_ids, attention_mask (B, T) int64; labels (B, L) float32 of 0 and 1; weight (B,) and class_weight (2, L)
    float32."""
    rows = [unit.rows[0] for unit in chosen]
    batch = pad([encoded.row("input_ids", row) for row in rows], tokens.pad)
    labels = np.zeros((len(rows), int(encoded["num_labels"][0])), dtype=np.float32)
    for place, row in enumerate(rows):
        labels[place, encoded.row("labels", row)] = 1
    batch["labels"] = torch.from_numpy(labels)
    batch["weight"] = torch.from_numpy(encoded["weight"][rows])
    batch["class_weight"] = torch.from_numpy(encoded["class_weight"])
    return batch


class TextClassifier(nn.Module):
    """A sequence classifier, given batches."""

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """(B, labels) logits, float32."""
        return self.classifier(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.float()


def wrap(backbone: nn.Module, config: ClassifyConfig) -> nn.Module:
    return TextClassifier(backbone)


def backbone(module: nn.Module) -> nn.Module:
    """The transformers (or PEFT) model inside."""
    assert isinstance(module, TextClassifier)
    return module.classifier


def parameter_groups(module: nn.Module, lr: float, weight_decay: float, config: ClassifyConfig) -> list[dict[str, Any]]:
    return [{"params": [p for p in module.parameters() if p.requires_grad], "lr": lr, "weight_decay": weight_decay}]


def loss(
    module: nn.Module, batch: Mapping[str, torch.Tensor], config: ClassifyConfig
) -> tuple[torch.Tensor, torch.Tensor, dict[str, float]]:
    """(sum over texts of weight x loss, sum of weights, logs)."""
    total = label_loss(module(batch), batch["labels"], batch["weight"], batch["class_weight"], config)
    return total, batch["weight"].sum(), {}


def label_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    weight: torch.Tensor,
    class_weight: torch.Tensor,
    config: ClassifyConfig,
) -> torch.Tensor:
    """Summed loss. logits, labels (B, L); weight (B,); class_weight (2, L): of a text without, with the label."""
    if config.softmax:
        of_text = -(labels * class_weight[1] * logits.log_softmax(dim=-1)).sum(dim=-1)
    else:
        each = functional.binary_cross_entropy_with_logits(logits, labels, reduction="none")
        of_text = (each * torch.where(labels > 0, class_weight[1], class_weight[0])).mean(dim=-1)
    return (weight * of_text).sum()


def weight(batch: Mapping[str, torch.Tensor], config: ClassifyConfig) -> float:
    """The sum of the texts' weights."""
    return float(batch["weight"].double().sum())


# The valid side


@torch.inference_mode()
def predict(module: nn.Module, batch: Mapping[str, torch.Tensor], config: ClassifyConfig) -> dict[str, npt.NDArray]:
    """For `metrics`: logits (B, L) float32, labels (B, L) uint8, the batch's summed loss and weight."""
    logits = module(batch)
    total = label_loss(logits, batch["labels"], batch["weight"], batch["class_weight"], config)
    return {
        "logits": logits.cpu().numpy(),
        "labels": batch["labels"].cpu().numpy().astype(np.uint8),
        "loss": np.array([float(total)]),
        "weight": np.array([float(batch["weight"].double().sum())]),
    }


def metrics(parts: Sequence[Mapping[str, npt.NDArray]], config: ClassifyConfig) -> dict[str, float]:
    """On the valid side, every text counting once; the loss as learned.

    Two classes: auc, average_precision, f1 at even odds, each with _low and _high (95 %, bootstrap; left out where too
    few texts of a class make a resample say nothing), mcc, accuracy, confusion.<true>.<predicted> (0, 1).
    More, one of them true: average_precision (mean over classes, each against the rest), f1_macro, f1_micro (which is
    the accuracy), confusion.<true>.<predicted> by name.
    Several labels: average_precision and f1_macro (means over labels), f1_micro, confusion.<label>.<true>.<predicted>.
    By class or label: average_precision., f1., precision., recall., texts.<name>; these and the confusions for 32
    labels at most. A mean leaves out labels that all or no texts of the valid side have: labels_scored says how many
    are in it.
    """
    logits = np.concatenate([part["logits"] for part in parts]).astype(np.float64)
    labels = np.concatenate([part["labels"] for part in parts]) > 0
    total = sum(part["loss"][0] for part in parts) / sum(part["weight"][0] for part in parts)
    names = label_names(config)
    found = {"loss": float(total)}
    if config.softmax and len(names) == 2:
        return found | _of_two_classes(logits[:, 1] - logits[:, 0], labels[:, 1], config)
    if not config.softmax:
        return found | _of_labels(logits, logits > 0, labels, names, softmax=False)
    predicted = np.zeros_like(labels)
    predicted[np.arange(len(logits)), logits.argmax(axis=1)] = True
    # against the rest: the log-odds of the class's own softmax probability
    odds = np.stack([logits[:, k] - _log_sum(np.delete(logits, k, axis=1)) for k in range(len(names))], axis=1)
    found |= _of_labels(odds, predicted, labels, names, softmax=True)
    if len(names) <= MOST_LISTED:
        table = labels.T.astype(np.int64) @ predicted
        for true, row in zip(names, table, strict=True):
            found |= {f"confusion.{true}.{name}": float(count) for name, count in zip(names, row, strict=True)}
    return found


def _log_sum(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    top = logits.max(axis=1)
    return top + np.log(np.exp(logits - top[:, None]).sum(axis=1))


def _of_two_classes(scores: npt.NDArray, labels: npt.NDArray[np.bool_], config: ClassifyConfig) -> dict[str, float]:
    predicted = scores > 0
    measures = {
        "auc": (stats.auc, scores),
        METRIC: (stats.average_precision, scores),
        "f1": (stats.f1, predicted),
    }
    found: dict[str, float] = {}
    for name, (measure, given) in measures.items():
        found[name] = measure(given, labels)
        if config.bootstrap:
            try:
                interval = stats.bootstrap_statistic(measure, [given, labels], num_resamples=config.bootstrap)
            except ValueError:  # many resamples have texts of one class only: there is no interval to tell
                continue
            found |= {f"{name}_low": interval.low, f"{name}_high": interval.high}
    found |= {"mcc": stats.mcc(predicted, labels), "accuracy": float((predicted == labels).mean())}
    return found | _confusion("confusion", labels, predicted)


def _confusion(key: str, labels: npt.NDArray[np.bool_], predicted: npt.NDArray[np.bool_]) -> dict[str, float]:
    return {
        f"{key}.{true}.{said}": float(((labels == true) & (predicted == said)).sum())
        for true in (0, 1)
        for said in (0, 1)
    }


def _of_labels(
    scores: npt.NDArray,
    predicted: npt.NDArray[np.bool_],
    labels: npt.NDArray[np.bool_],
    names: Sequence[str],
    *,
    softmax: bool,
) -> dict[str, float]:
    """Means over labels, and by label. scores, predicted, labels (N, L)."""
    scored = [k for k in range(len(names)) if 0 < labels[:, k].sum() < len(labels)]
    if not scored:
        raise ConfigError("the valid side has no label that some of its texts have and others lack: add texts to it")
    precision = {k: stats.average_precision(scores[:, k], labels[:, k]) for k in scored}
    f1 = {k: stats.f1(predicted[:, k], labels[:, k]) for k in scored}
    found = {
        METRIC: float(np.mean(list(precision.values()))),
        "f1_macro": float(np.mean(list(f1.values()))),
        "f1_micro": stats.f1(predicted.ravel(), labels.ravel()),
        "labels_scored": float(len(scored)),
    }
    if len(names) > MOST_LISTED:
        return found
    for k, name in enumerate(names):
        right = float((labels[:, k] & predicted[:, k]).sum())
        found[f"texts.{name}"] = float(labels[:, k].sum())
        if k in precision:
            found |= {f"{METRIC}.{name}": precision[k], f"f1.{name}": f1[k]}
        if predicted[:, k].any():
            found[f"precision.{name}"] = right / float(predicted[:, k].sum())
        if labels[:, k].any():
            found[f"recall.{name}"] = right / float(labels[:, k].sum())
        if not softmax:
            found |= _confusion(f"confusion.{name}", labels[:, k], predicted[:, k])
    return found


def card(module: nn.Module, config: ClassifyConfig) -> Card:
    return Card(
        intro="A classifier of patent texts; `config.json` names its labels (`id2label`).",
        auto_class="AutoModelForSequenceClassification",
        use=(
            "logits = model(**tokenizer(text, return_tensors='pt')).logits[0]\n"
            "print({model.config.id2label[index]: float(logit) for index, logit in enumerate(logits)})"
        ),
        tags=("patents", "text-classification"),
    )
