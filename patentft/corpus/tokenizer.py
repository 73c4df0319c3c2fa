"""A tokenizer without its model: load it from a folder, count the tokens of texts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from patentft.config import ConfigError

TEXTS_PER_CALL = 1024


def load_tokenizer(folder: str) -> Any:
    """The transformers tokenizer in a local folder. No code of a model is run. Raises ConfigError naming the folder."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, ImportError, KeyError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
        raise ConfigError(f"tokenizer {folder!r} cannot be loaded: {reason}") from error
    settings = Path(folder) / "sentence_bert_config.json"
    if settings.is_file() and json.loads(settings.read_text(encoding="utf-8")).get("do_lower_case"):
        from tokenizers import normalizers

        backend = tokenizer.backend_tokenizer
        before = [backend.normalizer] if backend.normalizer is not None else []
        backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), *before])
    return tokenizer


def counter(tokenizer: Any) -> Callable[[list[str]], list[int]]:
    """Texts -> tokens of each, whole (whatever length the tokenizer itself would cut at), without special tokens."""

    def count(texts: list[str]) -> list[int]:
        found: list[int] = []
        for start in range(0, len(texts), TEXTS_PER_CALL):
            encoded = tokenizer(
                texts[start : start + TEXTS_PER_CALL],
                add_special_tokens=False,
                truncation=False,
                padding=False,
                return_attention_mask=False,
                return_token_type_ids=False,
                verbose=False,
            )
            found += [len(ids) for ids in encoded["input_ids"]]
        return found

    return count
