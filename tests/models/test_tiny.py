"""Stage tiny_model: what it writes loads as it is, and is the same again."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from patentft import pipeline
from patentft.config import ConfigError
from patentft.progress import Progress
from patentft.store import StageFolder

CORPUS = {"kind": "synth", "patents": 40, "techniques": 10, "matches": 20}


def made(out: Path, **keys: Any) -> tuple[Path, StageFolder]:
    values = {"out": str(out), "corpus": CORPUS, "model": {"kind": "tiny_model", "data": ["corpus"], **keys}}
    folder = pipeline.run(pipeline.parse(values), Progress(quiet=True))["model"]
    return Path(folder.location.path) / "export", folder


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "bert", "mpnet"])
def test_loads(family: str, tmp_path: Path) -> None:
    export, folder = made(tmp_path, family=family, hidden_size=32, vocabulary_size=500, max_positions=64)
    tokenizer = transformers.AutoTokenizer.from_pretrained(export)
    model = transformers.AutoModel.from_pretrained(export)
    assert model.config.model_type == family
    assert model.config.hidden_size == 32
    text = "the filter removes dust from " * 40
    batch = tokenizer([text, "dust"], padding=True, truncation=True, max_length=64, return_tensors="pt")
    assert batch["input_ids"].shape == (2, 64)  # every position that was asked for is there
    with torch.inference_mode():
        assert torch.isfinite(model(**batch).last_hidden_state).all()
    assert tokenizer.decode(tokenizer("the filter")["input_ids"], skip_special_tokens=True) == "the filter"
    assert folder.manifest is not None
    assert folder.manifest.counts["vocabulary_size"] == len(tokenizer) <= 500
    assert ("chat_template" in vars(tokenizer) and bool(tokenizer.chat_template)) == (family not in ("bert", "mpnet"))


def test_is_a_function_of_its_configuration(tmp_path: Path) -> None:
    """The weights of a seed are the same again, those of another seed are not."""
    digests = [
        hashlib.sha256((made(tmp_path / name, seed=seed)[0] / "model.safetensors").read_bytes()).hexdigest()
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    ]
    assert digests[0] == digests[1] != digests[2]


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="even multiple of heads"):
        made(tmp_path / "a", hidden_size=20, heads=4)
    empty = {"kind": "tiny_model", "data": ["encoder"]}
    values = {
        "out": str(tmp_path / "b"), "corpus": CORPUS, "encoder": {"kind": "tiny_model", "data": ["corpus"]},
        "model": empty,
    }  # fmt: skip
    with pytest.raises(ConfigError, match="no texts to learn a tokenizer from"):
        pipeline.run(pipeline.parse(values), Progress(quiet=True))
