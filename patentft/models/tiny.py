"""Stage `tiny_model`: a model that has learned nothing, with a tokenizer made for the texts at hand.

    texts of other stages -> byte-level BPE (decoders) or WordPiece (encoders) -> export/: tokenizer, random weights

Another stage names it as its `model` or `tokenizer`. It serves to try a pipeline before a large model is fetched, to
train from nothing, and to measure what a start is worth. The tokenizer has pad, end, begin (decoders) or pad, unk,
cls, sep, mask (encoders) tokens, and for decoders the chat template `CHAT_TEMPLATE`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from patentft.config import Config, ConfigError
from patentft.stage import Context, Stage, StageRef
from patentft.store import StageFolder

COLUMNS: dict[str, tuple[str, ...]] = {
    "texts": ("text",),
    "views": ("text",),
    "sections": ("title", "text"),
    "techniques": ("title", "text"),
    "patents": ("title", "abstract"),
    "qa": ("context", "question", "answer"),
    "preferences": ("context", "question", "chosen", "rejected"),
}
"""Table -> the columns that the tokenizer learns from."""
DECODERS = ("llama", "mistral", "qwen2")
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] | trim }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""The form of Qwen's."""


class TinyModelConfig(Config):
    """A tokenizer and random weights."""

    data: list[StageRef] = Field(min_length=1)
    """Stages with the texts that the tokenizer learns from: any of the tables texts, views, sections, techniques,
    patents, qa, preferences. Give those that are trained on only, or held-out words become tokens."""
    family: Literal["llama", "mistral", "qwen2", "bert", "mpnet"] = "llama"
    vocabulary_size: int = Field(default=1000, ge=320)
    """At most: texts with few different words give fewer tokens."""
    hidden_size: int = Field(default=64, ge=8)
    layers: int = Field(default=2, ge=1)
    heads: int = Field(default=4, ge=1)
    intermediate_size: int | None = Field(default=None, ge=8)
    """Of the feed-forward layers; unset: twice hidden_size."""
    max_positions: int = Field(default=512, ge=16)
    """Longest text in tokens."""
    seed: int = Field(default=0, ge=0)
    """Of the weights."""

    @model_validator(mode="after")
    def _heads_divide(self) -> TinyModelConfig:
        if self.hidden_size % (2 * self.heads):
            raise ValueError(f"hidden_size {self.hidden_size} must be an even multiple of heads {self.heads}")
        return self


def run_tiny_model(config: TinyModelConfig, context: Context) -> dict[str, Any]:
    """export/: a folder in Hugging Face format. Counts: texts, vocabulary size, parameters."""
    import torch

    texts = [text for name in config.data for text in _texts(context.input(name))]
    if not texts:
        raise ConfigError(
            f"{', '.join(config.data)}: no texts to learn a tokenizer from; give stages with one of the tables "
            f"{', '.join(COLUMNS)}"
        )
    tokenizer = word_pieces(texts, config) if config.family in ("bert", "mpnet") else byte_pairs(texts, config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = random_model(config, tokenizer)
    with tempfile.TemporaryDirectory() as scratch:
        tokenizer.save_pretrained(scratch)
        model.save_pretrained(scratch)
        for path in sorted(Path(scratch).rglob("*")):
            if path.is_file():
                context.folder.write_file(f"export/{path.relative_to(scratch).as_posix()}", path.read_bytes())
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return {"texts": len(texts), "vocabulary_size": len(tokenizer), "parameters": parameters}


def _texts(stage: StageFolder) -> Iterator[str]:
    assert stage.manifest is not None
    for table in (name for name in COLUMNS if name in stage.manifest.tables):
        for part in stage.iter_parts(table, COLUMNS[table]):
            for column in COLUMNS[table]:
                yield from (text for text in part[column].to_pylist() if text)


def byte_pairs(texts: Sequence[str], config: TinyModelConfig) -> Any:
    """A byte-level BPE tokenizer that puts nothing around a text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocabulary_size,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|endoftext|>",
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        chat_template=CHAT_TEMPLATE,
        model_max_length=config.max_positions,
        model_input_names=["input_ids", "attention_mask"],
    )


def word_pieces(texts: Sequence[str], config: TinyModelConfig) -> Any:
    """A lower-case WordPiece tokenizer with [CLS] text [SEP]."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    # MPNet counts positions from its padding token, so that is number 1, as in its own tokenizer
    specials = ["[UNK]", "[PAD]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))  # pyright: ignore[reportCallIssue]
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=config.vocabulary_size, special_tokens=specials, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=config.max_positions,
        model_input_names=["input_ids", *(["token_type_ids"] if config.family == "bert" else []), "attention_mask"],
        **{f"{name}_token": f"[{name.upper()}]" for name in ("unk", "pad", "cls", "sep", "mask")},
    )


def random_model(config: TinyModelConfig, tokenizer: Any) -> Any:
    """The family's model with its language-model head, in fp32."""
    import transformers

    sizes = {
        "vocab_size": len(tokenizer),
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "intermediate_size": config.intermediate_size or 2 * config.hidden_size,
        "pad_token_id": tokenizer.pad_token_id,
        # at the usual .02 a narrow model has logits of nearly 0, which an adapter on frozen weights could not move
        "initializer_range": config.hidden_size**-0.5,
    }
    if config.family in DECODERS:
        sizes |= {
            "num_key_value_heads": config.heads,
            "max_position_embeddings": config.max_positions,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "tie_word_embeddings": True,
        }
    else:
        sizes["max_position_embeddings"] = config.max_positions + tokenizer.pad_token_id + 1
    name = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "bert": "Bert", "mpnet": "MPNet"}[config.family]
    head = "ForCausalLM" if config.family in DECODERS else "ForMaskedLM"
    return getattr(transformers, f"{name}{head}")(getattr(transformers, f"{name}Config")(**sizes))


TINY_MODEL = Stage("tiny_model", TinyModelConfig, run_tiny_model, uses_ray=False)
