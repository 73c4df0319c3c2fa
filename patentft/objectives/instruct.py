"""Instruction tuning of a decoder: the answer's tokens are predicted, the prompt's are only read.

    QA     context, question -> answer
    PAIRS  does the patent help with the technique of this section? -> Yes or No

Weight of an example in the step: the tokens of its answer, end token included, times the pair's own weight: every token
of the step counts alike, however examples are packed. The log-odds of a pair are log P(Yes) - log P(No) where the two
answers' tokens first differ; other spellings of them (" yes", "YES") are not summed, since the training teaches this
one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from patentft import stats
from patentft.config import ConfigError
from patentft.models.adapters.task import Task
from patentft.models.backbone import Loading
from patentft.models.export import Card
from patentft.objectives import packed
from patentft.objectives.answers import AnswerModel, answer_labels, answer_lengths, per_row, token_log_likelihoods
from patentft.objectives.encoded import Encoded, SpecialTokens, Unit
from patentft.objectives.prompts import (
    PairPrompt,
    Prompter,
    answer_batch,
    asked_pair,
    cut_texts,
    load_decoder,
    put_answers,
    question,
)
from patentft.objectives.texts import PairTexts, QaTexts

INPUTS = ("qa", "pairs")
MODELS = "decoder"
TASK = "causal_lm"
METRIC = "choice"
"""The AUC of the log-odds for pairs, the log-likelihood of an answer's token for questions."""
UNITS_PER_BATCH = None


class InstructConfig(PairPrompt):
    """What is asked, and how long it may be."""

    kind: Literal["instruct"] = "instruct"


def build(folder: str, config: InstructConfig, loading: Loading) -> nn.Module:
    return load_decoder(folder, config.max_tokens, loading)


def task(model: nn.Module, config: InstructConfig) -> Task:
    return Task("causal_lm")


def encode(texts: QaTexts | PairTexts, tokenizer: Any, config: InstructConfig) -> tuple[Encoded, dict[str, int]]:
    """Prompt and answer of every row: input_ids (ragged), prompt_tokens, weight; for pairs what log-odds need too.

    Counts: rows, and how many contexts (sections), patents and answers were cut. Raises ConfigError naming the row when
    nothing of its answer fits into max_tokens.
    """
    prompter = Prompter(tokenizer, config.prompt, config.max_tokens)
    if isinstance(texts, PairTexts):
        return _encode_pairs(texts, prompter, config)
    encoded = Encoded()
    examples = [
        prompter.encode(question(f"question {name}", context, text, [answer]))
        for name, context, text, answer in zip(
            texts.qa_ids, texts.contexts, texts.questions, texts.answers, strict=True
        )
    ]
    put_answers(encoded, [(example.prompt, example.answers[0]) for example in examples])
    encoded.arrays["weight"] = np.ones(len(examples), dtype=np.float32)
    return encoded, {"questions": len(examples), **prompter.counts}


def _encode_pairs(texts: PairTexts, prompter: Prompter, config: InstructConfig) -> tuple[Encoded, dict[str, int]]:
    if len(set(texts.label)) < 2:
        raise ConfigError(
            f"objective instruct on pairs: every pair has the label {texts.label[0]}, so there is nothing to tell "
            f"apart; give the pairs stage matches and negatives on both sides"
        )
    patents = cut_texts(texts.patents, prompter.tokenizer, config.patent_tokens)
    cut = sum(patents[text] != text for text in texts.patents)
    rows: list[tuple[list[int], list[int]]] = []
    odds: list[tuple[int, int, int]] = []  # token of Yes, token of No, their place in the answer
    for technique, patent, section, text, label in zip(
        texts.technique_ids, texts.patent_ids, texts.sections, texts.patents, texts.label, strict=True
    ):
        name = f"pair {technique}, {patent}"
        example = prompter.encode(asked_pair(config, name, section, patents[text]))
        yes, no = example.answers
        place = next((place for place, (a, b) in enumerate(zip(yes, no, strict=False)) if a != b), None)
        if place is None:
            raise ConfigError(
                f"{name}: within objective.max_tokens = {config.max_tokens:,} the answers {config.yes!r} and "
                f"{config.no!r} are the same tokens: raise it, or lower objective.patent_tokens"
            )
        rows.append((example.prompt, yes if label else no))
        odds.append((yes[place], no[place], place))
    encoded = Encoded()
    put_answers(encoded, rows)
    encoded.arrays["odds"] = np.asarray(odds, dtype=np.int32)
    encoded.arrays["label"] = np.asarray(texts.label, dtype=np.int8)
    encoded.arrays["group"] = np.asarray(texts.group, dtype=np.int64)
    encoded.arrays["weight"] = np.asarray(texts.weight, dtype=np.float32)
    return encoded, {"pairs": len(rows), "patents_cut": cut, **prompter.counts}


def units(encoded: Encoded, config: InstructConfig, epoch: int, seed: int) -> list[Unit]:
    """A unit is an example. The same in every epoch; the plan shuffles."""
    return [Unit((row,), length) for row, length in enumerate(encoded.lengths("input_ids").tolist())]


def collate(encoded: Encoded, chosen: Sequence[Unit], tokens: SpecialTokens) -> dict[str, torch.Tensor]:
    """input_ids, attention_mask, labels (B, T) int64; weight (B,) float32; for pairs odds (B, 3), label, group (B,)."""
    rows = [row for unit in chosen for row in unit.rows]
    batch = answer_batch(encoded, rows, tokens.pad)
    batch["weight"] = torch.from_numpy(encoded["weight"][rows])
    for name in ("odds", "label", "group"):
        if name in encoded.arrays:
            batch[name] = torch.from_numpy(encoded[name][rows].astype(np.int64))
    return batch


def wrap(backbone: nn.Module, config: InstructConfig) -> nn.Module:
    return AnswerModel(backbone)


def backbone(module: nn.Module) -> nn.Module:
    """The transformers (or PEFT) model inside."""
    assert isinstance(module, AnswerModel)
    return module.model


def parameter_groups(module: nn.Module, lr: float, weight_decay: float, config: InstructConfig) -> list[dict[str, Any]]:
    return packed.parameter_groups(module, lr, weight_decay)


def weight(batch: Mapping[str, torch.Tensor], config: InstructConfig) -> float:
    """A token of an answer counts as much as its row: 1, or the pair's weight."""
    return float((answer_lengths(batch) * batch["weight"]).sum())


def loss(
    module: nn.Module, batch: Mapping[str, torch.Tensor], config: InstructConfig
) -> tuple[torch.Tensor, torch.Tensor, dict[str, float]]:
    """(weighted sum of the answer tokens' cross-entropy in nats, sum of the weights, logs)."""
    labels, rows = answer_labels(batch)
    weights = batch["weight"][rows]
    total = -(token_log_likelihoods(module(batch), labels) * weights).sum()
    return total, weights.sum(), {}


@torch.inference_mode()
def predict(module: nn.Module, batch: Mapping[str, torch.Tensor], config: InstructConfig) -> dict[str, npt.NDArray]:
    """For `metrics`, (B,) each: log-likelihood of the answer, its tokens, those that were the likeliest token; for
    pairs the log-odds, label and group too.
    """
    logits = module(batch)
    labels, rows = answer_labels(batch)
    size = len(batch["labels"])
    likely = (logits.argmax(dim=-1) == labels).float()
    tokens = answer_lengths(batch)
    found = {
        "log_likelihood": per_row(token_log_likelihoods(logits, labels), rows, size),
        "tokens": tokens,
        "right": per_row(likely, rows, size),
    }
    if "odds" in batch:
        yes, no, place = batch["odds"].unbind(dim=1)
        first = (tokens.cumsum(0) - tokens).long()  # (B,) where each row's answer begins in `logits`
        found["log_odds"] = logits[first + place, yes] - logits[first + place, no]
        found |= {"label": batch["label"], "group": batch["group"]}
    return {name: values.cpu().numpy() for name, values in found.items()}


def metrics(parts: Sequence[Mapping[str, npt.NDArray]], config: InstructConfig) -> dict[str, float]:
    """On the valid side, over all answer tokens: mean log-likelihood, perplexity, share predicted right; exact_match is
    the share of answers of which every token was, given those before it. For pairs the AUC of the log-odds, over all
    pairs and as a mean over groups (a match against the negatives of its technique).
    """
    whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    tokens = float(whole["tokens"].sum())
    mean = float(whole["log_likelihood"].sum(dtype=np.float64)) / tokens
    found = {
        "log_likelihood": mean,
        "perplexity": float(np.exp(min(-mean, 700.0))),
        "accuracy": float(whole["right"].sum()) / tokens,
        "exact_match": float((whole["right"] == whole["tokens"]).mean()),
    }
    if "log_odds" not in whole:
        return {METRIC: mean, **found}
    odds, labels = whole["log_odds"], whole["label"] > 0
    found["auc"] = float(stats.auc(odds, labels))
    found["within_technique_auc"] = float(stats.grouped_auc(odds, labels, whole["group"]).mean)
    return {METRIC: found["auc"], **found}


def card(module: nn.Module, config: InstructConfig) -> Card:
    return Card(
        intro=(
            "A decoder that was taught answers. The prompt must be written as in training: with "
            "`objective.prompt` of the configuration below."
        ),
        auto_class="AutoModelForCausalLM",
        use=(
            "ids = model.generate(**tokenizer(prompt, return_tensors='pt'), max_new_tokens=100)\n"
            "print(tokenizer.decode(ids[0]))"
        ),
        tags=("patents", "text-generation", "instruct"),
    )
