"""A tiny BERT with a WordPiece tokenizer, and a small pipeline on synthetic patents: real parts, in seconds."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    MPNetConfig,
    MPNetModel,
    PreTrainedTokenizerFast,
)

from patentft.corpus import synth

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def words_of_synth(count: int = 1500) -> list[str]:
    """The most frequent words of a few synthetic texts."""
    spec = synth.SynthSpec(patents=200, techniques=30, matches=90, seed=0)
    texts = [row["abstract"] for batch in synth.patents(spec) for row in batch.to_pylist()]
    texts += [row["text"] for batch in synth.techniques(spec) for row in batch.to_pylist()]
    counts: dict[str, int] = {}
    for word in re.findall(r"\w+", " ".join(texts).lower()):
        counts[word] = counts.get(word, 0) + 1
    return sorted(counts, key=lambda word: (-counts[word], word))[:count]


def tiny_tokenizer(folder: Path, specials: list[str] = SPECIALS) -> dict[str, int]:
    """Writes a WordPiece tokenizer into the folder; returns its vocabulary. `specials` come first, in this order."""
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)] + list("0123456789.,;:()-/")
    pieces = [*specials, *letters, *(f"##{letter}" for letter in letters), *words_of_synth()]
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])],
    )
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=256,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        **names,
    ).save_pretrained(folder)
    return vocabulary


def save_tiny_bert(folder: Path, hidden: int = 32, layers: int = 2, seed: int = 0) -> str:
    """A random BERT (hidden size 32, 2 layers) and its tokenizer, in Hugging Face format; returns the folder."""
    vocabulary = tiny_tokenizer(folder)
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=2 * hidden,
        max_position_embeddings=256,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    BertModel(config).save_pretrained(folder)
    return str(folder)


def save_tiny_mpnet(folder: Path, hidden: int = 32, layers: int = 2, seed: int = 0) -> str:
    """A random MPNet (hidden size 32, 2 layers) and its tokenizer; returns the folder. Padding is 1, as it must be."""
    vocabulary = tiny_tokenizer(folder, ["[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]"])
    torch.manual_seed(seed)
    config = MPNetConfig(
        vocab_size=len(vocabulary),
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=2 * hidden,
        max_position_embeddings=258,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    MPNetModel(config).save_pretrained(folder)
    return str(folder)


def save_tiny_llama(folder: Path, hidden: int = 32, layers: int = 2, seed: int = 0) -> str:
    """A random Llama (hidden size 32, 2 layers, grouped queries) with the tiny BERT's tokenizer; returns the folder."""
    vocabulary_size = len(tiny_tokenizer(folder))
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary_size,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=2 * hidden,
        max_position_embeddings=256,
        bos_token_id=2,
        eos_token_id=3,
        pad_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return str(folder)


def small_pipeline(out: Path, model: str, **changes: dict[str, Any]) -> dict[str, Any]:
    """A whole run, synth to scores, as a pipeline mapping. `changes`: stage name -> keys to set."""
    common = {"data": "corpus"}
    both = {**common, "patents": "patents", "techniques": "techniques", "roles": "split"}
    stages: dict[str, dict[str, Any]] = {
        "corpus": {"kind": "synth", "patents": 160, "techniques": 16, "matches": 80, "seed": 3},
        "techniques": {"kind": "embed", **common, "table": "techniques", "model": model, "max_tokens": 64},
        "patents": {"kind": "embed", **common, "table": "patents", "model": model, "max_tokens": 64},
        "split": {"kind": "split", **common, "techniques": "techniques", "valid_fraction": 0.4, "similar_cosine": 1.0},
        "search": {"kind": "search", **both, "top_k": 40},
        "pairs": {"kind": "pairs", **both, "negatives_random": 2, "negatives_near": 2},
        "scorer": {
            "kind": "train",
            **common,
            "roles": "split",
            "pairs": "pairs",
            "techniques": "techniques",
            "model": model,
            "objective": {"kind": "rank", "max_tokens": 96, "patent_tokens": 48},
            "epochs": 2,
            "units_per_step": 8,
            "optimizer": {"lr": 1e-3},
        },
        "scores": {
            "kind": "score",
            **common,
            "candidates": "search",
            "techniques": "techniques",
            "model": "scorer",
            "max_tokens": 96,
            "patent_tokens": 48,
            "pairs_per_shard": 64,
            "swaps": 20,
            "calibration": "none",  # a random model's scores need not rise with the labels
        },
    }
    for name, keys in changes.items():
        stages[name] = {**stages[name], **keys}
    return {"out": str(out), **stages}
