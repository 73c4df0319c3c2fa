"""TechTokens: the classification codes of a patent as tokens before or after its text, masked and predicted.

Two published forms: codes first (CodeFest 2024), or last, [CLS] text [SEP] codes [SEP] ("Anticipating Innovation Using
Large Language Models", arXiv:2605.04875). The way of a text: its codes, cut to a level, are tokens of their own, which
`prepare_tokenizer` has added; in each epoch their order is drawn anew, because it means nothing, and some of them are
masked (see `masking`): .8 become the mask token, .1 another code, .1 stay. The vector of a code in its context is the
hidden state at its token.

Weight of a text in the step: its masked tokens. On the valid side every chosen code is replaced by the mask token,
words are left alone, and a code is ranked among the codes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import nn

from patentft.config import Config, ConfigError
from patentft.corpus import cpc
from patentft.models.adapters.task import Task
from patentft.models.backbone import Loading
from patentft.models.export import Card
from patentft.models.vocabulary import NewTokens, grow, join, trained_rows
from patentft.objectives import masked, masking, packed
from patentft.objectives.encoded import Encoded, SpecialTokens, Unit, pad
from patentft.objectives.packed import IGNORED, LanguageModel
from patentft.objectives.texts import CodedTexts

INPUTS = ("coded",)
MODELS = "encoder"
TASK = "masked_lm"
METRIC = "mrr"
UNITS_PER_BATCH = None
PREFIX = "<cpc:"
"""A code's token is <cpc:H01M10/00>: no text has it, and it is told from the tokens that were there before."""


class TechTokenConfig(Config):
    """Predict masked codes from a patent's text and its other codes."""

    kind: Literal["techtoken"] = "techtoken"
    level: Literal["section", "class", "subclass", "main_group", "group"] = "main_group"
    """Codes are cut to this level: A, A01, A01B, A01B1/00 or A01B1/02."""
    min_texts: int = Field(default=1, ge=1)
    """A code with fewer texts of the train side than this is no token."""
    max_codes: int = Field(default=10, ge=1)
    """Of a text with more codes, so many are drawn in each epoch."""
    place: Literal["first", "last"] = "last"
    """Whether the codes stand before the text or after it."""
    max_tokens: int = Field(default=512, ge=16)
    """Of the whole; the text is cut to what the codes leave."""
    share: float = Field(default=0.15, gt=0.0, le=1.0)
    """Share of each text's codes that are masked; one at least."""
    share_words: float = Field(default=0.0, ge=0.0, le=1.0)
    """Share of each text's words that are masked too; 0: none."""
    train_rows: Literal["new", "all"] = "new"
    """Which rows of the embedding matrix (and of the head, where it has its own) are trained: those of the codes, the
    others frozen, or all."""
    start: Literal["mean", "symbol"] = "mean"
    """Where a code's row starts: at the mean of all old rows, or of those of the word pieces of its symbol."""


def prepare_tokenizer(tokenizer: Any, data: CodedTexts, config: TechTokenConfig) -> Any:
    """The tokenizer with a token for each code of the train side, in alphabetical order; codes it has are kept.

    Raises ConfigError when no code is frequent enough.
    """
    counts = Counter(code for codes in data.codes for code in cut(codes, config.level))
    wanted = sorted(code for code, texts in counts.items() if texts >= config.min_texts)
    if not wanted:
        raise ConfigError(
            f"no code at objective.level {config.level} has objective.min_texts {config.min_texts} texts on the train "
            f"side (there are {len(counts)} codes in {len(data.texts)} texts); lower it, or give texts with codes"
        )
    from tokenizers import AddedToken

    there = tokenizer.get_vocab()
    names = [name for code in wanted if (name := f"{PREFIX}{code}>") not in there]
    tokenizer.add_tokens([AddedToken(name, normalized=False) for name in names])
    return tokenizer


def cut(codes: Iterable[str], level: str) -> list[str]:
    """The distinct codes at `level`, sorted; those of a higher level only are left out."""
    found = set()
    for code in codes:
        symbol = cpc.parse(code)
        if level == "main_group":
            at = f"{symbol.at('subclass')}{symbol.main_group}/00" if symbol.main_group else None
        else:
            at = symbol.at(level)  # type: ignore[arg-type]
        found |= {at} - {None}
    return sorted(found)


def code_tokens(tokenizer: Any) -> dict[str, int]:
    """Code -> id, rising by id. Raises ConfigError when there are none, or others between them."""
    found = sorted((id, name) for name, id in tokenizer.get_added_vocab().items() if name.startswith(PREFIX))
    ids = [id for id, _ in found]
    if not ids or ids[-1] - ids[0] + 1 != len(ids):
        raise ConfigError(
            "the tokenizer has no codes as tokens, or other tokens between them: give a model without such tokens, or "
            "one that was trained with objective.kind: techtoken"
        )
    return {name[len(PREFIX) : -1]: id for id, name in found}


def encode(texts: CodedTexts, tokenizer: Any, config: TechTokenConfig) -> tuple[Encoded, dict[str, int]]:
    """Token ids of words and codes of every text that has a code; `tokenizer` is that of `prepare_tokenizer`.

    Counts: texts, texts_without_codes (left out), texts_cut, unknown_codes (their texts keep their other codes).
    Raises ConfigError when no text is left, and for a tokenizer without [CLS], [SEP] or their like.
    """
    if tokenizer.cls_token_id is None or tokenizer.sep_token_id is None:
        raise ConfigError("objective techtoken needs a tokenizer with a first token and a separator: choose an encoder")
    known = code_tokens(tokenizer)
    codes, kept, unknown = [], [], 0
    for index, given in enumerate(texts.codes):
        there = cut(given, config.level)
        ids = [known[code] for code in there if code in known]
        unknown += len(there) - len(ids)
        if ids:
            codes.append(ids)
            kept.append(index)
    if not kept:
        raise ConfigError(
            f"none of {len(texts.texts)} texts has a code at objective.level {config.level} that the train side has; "
            f"raise the level, or give texts with codes"
        )
    words, num_cut = [], 0
    for start in range(0, len(kept), 1024):  # a batch at a time: the tokenizer's own objects are large
        batch = [texts.texts[index] for index in kept[start : start + 1024]]
        for ids in tokenizer(batch, add_special_tokens=False)["input_ids"]:
            room = max(0, config.max_tokens - 3 - min(len(codes[len(words)]), config.max_codes))
            num_cut += len(ids) > room
            words.append(ids[:room])
    encoded = Encoded()
    encoded.put_ragged("words", words)
    encoded.put_ragged("codes", codes)
    encoded.arrays["frame"] = np.array([tokenizer.cls_token_id, tokenizer.sep_token_id, config.place == "first"])
    encoded.arrays["known_codes"] = np.array([min(known.values()), len(known), config.max_codes])
    return encoded, {
        "texts": len(kept),
        "texts_without_codes": len(texts.texts) - len(kept),
        "texts_cut": num_cut,
        "unknown_codes": unknown,
    }


def build(folder: str, config: TechTokenConfig, loading: Loading) -> nn.Module:
    """The encoder with its head for masked tokens, grown by the codes of `loading.tokenizer`.

    Raises ConfigError for a decoder, a tokenizer without a mask, and a tokenizer that `prepare_tokenizer` has not seen.
    """
    from transformers import AutoTokenizer

    masked.check(folder)
    base = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    own = AutoTokenizer.from_pretrained(loading.tokenizer or folder, trust_remote_code=False)
    codes = code_tokens(own)
    model: Any = masked.load_encoder_with_head(folder, loading)
    known = min(len(base), model.get_input_embeddings().num_embeddings)
    pieces = [base(code, add_special_tokens=False)["input_ids"] if config.start == "symbol" else [] for code in codes]
    grow(model, NewTokens(min(codes.values()), known, pieces), separate=config.train_rows == "new")
    return model


def finish(model: nn.Module) -> None:
    """Make a trained model, adapters merged, a plain one of transformers, in place."""
    join(model)


def task(model: nn.Module, config: TechTokenConfig) -> Task:
    return Task("masked_lm")


def units(encoded: Encoded, config: TechTokenConfig, epoch: int, seed: int) -> list[Unit]:
    """A unit is a text."""
    lengths = encoded.lengths("words") + np.minimum(encoded.lengths("codes"), config.max_codes) + 3
    return [Unit((row,), tokens, (seed, epoch, row)) for row, tokens in enumerate(lengths.tolist())]


def collate(encoded: Encoded, chosen: Sequence[Unit], tokens: SpecialTokens) -> dict[str, torch.Tensor]:
    """input_ids, attention_mask (B, T); is_code, is_word, order, becomes and candidates (B, T), see `masking`;
    mask () and known_codes (2,): first id and number. All int64, but is_code and is_word bool.
    """
    assert tokens.mask is not None  # the build's own check
    cls, sep, first = encoded["frame"].tolist()
    first_code, num_codes, max_codes = encoded["known_codes"].tolist()
    every_code, every_word = _ids(tokens, first_code, num_codes)
    rows: dict[str, list[npt.NDArray]] = {
        name: [] for name in ("ids", "code", "word", "order", "becomes", "candidates")
    }
    for unit in chosen:
        words = encoded.row("words", unit.rows[0]).astype(np.int64)
        codes = encoded.row("codes", unit.rows[0]).astype(np.int64)
        codes = np.random.default_rng(unit.draw).permutation(codes)[:max_codes]
        parts = [(codes, 1), (words, 2)] if first else [(words, 2), (codes, 1)]
        ids = np.concatenate([[cls], parts[0][0], [sep], parts[1][0], [sep]]).astype(np.int64)
        kind = np.concatenate(
            [[0], np.full(len(parts[0][0]), parts[0][1]), [0], np.full(len(parts[1][0]), parts[1][1]), [0]]
        )
        code, word = kind == 1, (kind == 2) & ~np.isin(ids, np.fromiter(tokens.special, dtype=np.int64))
        code_order, code_becomes = masking.draw(ids, code, (*unit.draw, 1), tokens.mask, every_code)
        word_order, word_becomes = masking.draw(ids, word, (*unit.draw, 2), tokens.mask, every_word)
        found = (
            ids,
            code,
            word,
            np.where(code, code_order, word_order),
            np.where(code, code_becomes, word_becomes),
            np.where(code, code.sum(), np.where(word, word.sum(), 0)),
        )
        for name, values in zip(rows, found, strict=True):
            rows[name].append(values.astype(np.int32))
    batch = pad(rows["ids"], tokens.pad)
    filled = {
        name: pad(rows[name], masking.NEVER if name == "order" else 0)["input_ids"] for name in rows if name != "ids"
    }
    return {
        **batch,
        "is_code": filled["code"].bool(),
        "is_word": filled["word"].bool(),
        **{name: filled[name] for name in ("order", "becomes", "candidates")},
        "mask": torch.tensor(tokens.mask),
        "known_codes": torch.tensor([first_code, num_codes]),
    }


@lru_cache(maxsize=4)
def _ids(tokens: SpecialTokens, first_code: int, num_codes: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The ids of codes and of words."""
    codes = np.arange(first_code, first_code + num_codes)
    return codes, np.setdiff1d(masking.ordinary(tokens), codes)


def chosen(batch: Mapping[str, torch.Tensor], config: TechTokenConfig) -> torch.Tensor:
    """(B, T) bool: which tokens are masked."""
    there = batch["is_code"] & masking.masked(batch, config.share)
    if config.share_words > 0:
        there = there | (batch["is_word"] & masking.masked(batch, config.share_words))
    return there


def weight(batch: Mapping[str, torch.Tensor], config: TechTokenConfig) -> float:
    """A masked token counts 1."""
    return float(chosen(batch, config).sum())


def wrap(backbone: nn.Module, config: TechTokenConfig) -> nn.Module:
    """The rows of the codes are trained whatever the adapter: they were never trained before."""
    if hasattr(backbone, "peft_config"):
        for parameter in trained_rows(backbone):
            parameter.requires_grad_(True)
    return LanguageModel(backbone, causal=False, labelled_only=True)


def backbone(module: nn.Module) -> nn.Module:
    """The transformers (or PEFT) model inside."""
    assert isinstance(module, LanguageModel)
    return module.model


def parameter_groups(
    module: nn.Module, lr: float, weight_decay: float, config: TechTokenConfig
) -> list[dict[str, Any]]:
    return packed.parameter_groups(module, lr, weight_decay)


def loss(
    module: nn.Module, batch: Mapping[str, torch.Tensor], config: TechTokenConfig
) -> tuple[torch.Tensor, torch.Tensor, dict[str, float]]:
    """(summed cross-entropy over the whole vocabulary, masked tokens, logs)."""
    there, ids = chosen(batch, config), batch["input_ids"]
    labels = torch.where(there, ids, IGNORED)
    shown = {**batch, "input_ids": torch.where(there, batch["becomes"], ids), "labels": labels}
    return packed.token_loss(module(shown), labels)


@torch.inference_mode()
def predict(module: nn.Module, batch: Mapping[str, torch.Tensor], config: TechTokenConfig) -> dict[str, npt.NDArray]:
    """For `metrics`: for each masked code how many codes score higher and as high; the batch's loss on them."""
    there, ids = batch["is_code"] & masking.masked(batch, config.share), batch["input_ids"]
    labels = torch.where(there, ids, IGNORED)
    shown = {**batch, "input_ids": torch.where(there, batch["mask"], ids), "labels": labels}
    logits = module(shown)  # (N, V)
    total, count, _ = packed.token_loss(logits, labels)
    first, number = batch["known_codes"].tolist()
    among = logits[:, first : first + number]
    own = among.gather(1, (ids[there] - first)[:, None])
    return {
        "higher": (among > own).sum(dim=1).cpu().numpy(),
        "equal": (among == own).sum(dim=1).cpu().numpy(),  # itself too
        "loss": np.array([float(total)]),
        "weight": np.array([float(count)]),
    }


def metrics(parts: Sequence[Mapping[str, npt.NDArray]], config: TechTokenConfig) -> dict[str, float]:
    """Of masked codes among all codes: mean reciprocal rank, accuracy at 1 and 5, mean loss over the vocabulary.

    Codes that score alike share their ranks: before the first step they all do, and none may count as found.
    """
    higher = np.concatenate([part["higher"] for part in parts]).astype(np.float64)
    equal = np.concatenate([part["equal"] for part in parts])
    total, count = (float(sum(part[name][0] for part in parts)) for name in ("loss", "weight"))
    return {
        METRIC: float((1.0 / (higher + (equal + 1) / 2)).mean()),
        "accuracy_at_1": float(np.clip((1 - higher) / equal, 0, 1).mean()),
        "accuracy_at_5": float(np.clip((5 - higher) / equal, 0, 1).mean()),
        "loss": total / max(count, 1.0),
    }


def card(module: nn.Module, config: TechTokenConfig) -> Card:
    return Card(
        intro=(
            "An encoder whose vocabulary has a token for each classification code, such as `<cpc:H01M10/00>`: "
            "trained to predict masked codes from a patent's text and its other codes. The vector of a code in a "
            "patent is the hidden state at its token."
        ),
        auto_class="AutoModelForMaskedLM",
        use=(
            "ids = tokenizer(text, f'<cpc:H01M10/00>{tokenizer.mask_token}', return_tensors='pt')['input_ids']\n"
            "logits = model(input_ids=ids).logits[0, -2]  # at the mask; codes are placed as objective.place says"
        ),
        tags=("patents", "fill-mask", "techtoken"),
    )
