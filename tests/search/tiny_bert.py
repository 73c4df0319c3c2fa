"""A tiny random BERT with a WordPiece tokenizer, so that tests need neither network nor real weights."""

from __future__ import annotations

import string
from pathlib import Path

import torch

WORDS = [
    "a",
    "the",
    "of",
    "and",
    "for",
    "to",
    "in",
    "is",
    "with",
    "method",
    "device",
    "apparatus",
    "waste",
    "gas",
    "water",
    "heat",
    "recovery",
    "kiln",
    "furnace",
    "dust",
    "filter",
    "bag",
    "catalyst",
    "ammonia",
    "reactor",
    "nitrogen",
    "oxide",
    "sulphur",
    "reduction",
    "scrubber",
    "treatment",
    "plant",
    "steel",
    "cement",
    "glass",
    "ceramic",
    "paper",
    "emission",
    "pollution",
    "abatement",
    "technique",
    "process",
    "air",
    "flow",
    "pressure",
    "temperature",
    "system",
    "energy",
    "fuel",
    "burner",
    "oxygen",
]


def build_bert(folder: Path, *, positions: int = 64, seed: int = 0, kind: str = "bert", size: int = 32) -> Path:
    """Write a random two-layer BERT (or MPNet, ...) and its fast tokenizer as an HF folder."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast

    letters = list(string.ascii_lowercase)
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pieces = dict.fromkeys(specials + WORDS + letters + ["##" + each for each in letters] + list(".,:;-"))
    tokenizer = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )
    fast.save_pretrained(folder)
    torch.manual_seed(seed)
    config = AutoConfig.for_model(
        kind,
        vocab_size=len(pieces),
        hidden_size=size,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=2 * size,
        max_position_embeddings=positions,
        pad_token_id=1 if kind in ("mpnet", "roberta") else 0,
        initializer_range=0.3,  # so that random vectors differ
    )
    AutoModel.from_config(config).save_pretrained(folder)
    return folder
