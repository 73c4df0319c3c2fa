"""The shipped domain adaptation, tiny: real claims -> packed rows -> LoRA on a decoder -> an export that loads."""

from __future__ import annotations

from pathlib import Path

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from patentft import pipeline
from patentft.progress import Progress
from tests.conftest import REPOSITORY
from tests.tiny import save_tiny_llama

TEXT = "A method of filtering gas, wherein the filter is heated."


@pytest.mark.ray
@pytest.mark.slow
def test_claims_domain(
    data_root: Path, ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATENTFT_DATA", str(data_root))
    (tmp_path / "llama").mkdir()
    tiny = save_tiny_llama(tmp_path / "llama")
    overrides = [
        f"out={tmp_path / 'run'}",
        f"tokens.tokenizer={tiny}",
        "packed.tokens_per_row=256",
        f"model.model={tiny}",
        "model.adapter.rank=4",
        "model.optimizer.lr=0.02",
        "model.gpus_per_worker=0",
        "model.workers=2",
        "model.units_per_step=16",
    ]
    config = REPOSITORY / "ray_jobs" / "configs" / "train" / "claims_domain.yaml"
    folders = pipeline.run(pipeline.load(config, overrides), Progress(quiet=True))
    manifest = folders["model"].manifest
    assert manifest is not None
    history = manifest.counts["history"]
    assert history[-1]["perplexity"] < history[0]["perplexity"]
    packed = folders["packed-train"].manifest
    assert packed is not None
    assert manifest.counts["train"]["tokens"] == packed.counts["tokens"]

    export = Path(folders["model"].location.path) / "export"
    merged = AutoModelForCausalLM.from_pretrained(export)
    adapted = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny), export / "adapter")
    inputs = AutoTokenizer.from_pretrained(export)(TEXT, return_tensors="pt")
    with torch.inference_mode():
        logits = [model(input_ids=inputs["input_ids"]).logits for model in (merged, adapted)]
    torch.testing.assert_close(*logits, atol=1e-4, rtol=1e-3)
    card = (export / "README.md").read_text()
    assert "perplexity" in card
    assert "AutoModelForCausalLM" in card
