"""The shipped training recipes: all of them are valid, and each one runs, small, from raw files to an export."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from patentft import pipeline
from patentft.config import read_yaml
from patentft.progress import Progress
from patentft.train.config import TrainConfig
from tests.conftest import REPOSITORY

FOLDER = REPOSITORY / "ray_jobs" / "configs" / "train"
RECIPES = sorted(path.stem for path in FOLDER.glob("*.yaml"))
WITHOUT_DATA = ("bref_instruct", "miniature")
"""Recipes whose tiny run makes its texts itself."""


@pytest.mark.parametrize("recipe", RECIPES)
def test_is_valid(recipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATENTFT_DATA", "/nowhere")
    path = FOLDER / f"{recipe}.yaml"
    loaded = pipeline.load(path)
    small = pipeline.load(path, tiny=True)
    assert "train" in {step.stage.kind for step in loaded.steps}
    assert str(small.out) != str(loaded.out)
    for step in small.steps:
        if isinstance(step.config, TrainConfig):  # runs anywhere
            assert step.config.gpus_per_worker == 0
            assert step.config.precision == "fp32"
    assert "tiny" in read_yaml(path)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("recipe", [recipe for recipe in RECIPES if recipe != "miniature"])
def test_runs(recipe: str, ray_cluster: None, tmp_path: Path, request: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    root = "/nowhere" if recipe in WITHOUT_DATA else str(request.getfixturevalue("data_root"))
    monkeypatch.setenv("PATENTFT_DATA", root)
    _run(recipe, tmp_path)


@pytest.mark.ray
def test_bref_instruct_runs(ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATENTFT_DATA", "/nowhere")
    _run("bref_instruct", tmp_path)


def _run(recipe: str, out: Path) -> None:
    """Every train stage's loss fell, and its export loads and gives numbers."""
    import transformers

    loaded = pipeline.load(FOLDER / f"{recipe}.yaml", [f"out={out}"], tiny=True)
    folders = pipeline.run(loaded, Progress(quiet=True))
    stages = [step.name for step in loaded.steps if step.stage.kind == "train"]
    for name in stages:
        folder = Path(folders[name].location.path)
        losses = [json.loads(line)["loss"] for line in (folder / "steps.jsonl").read_text().splitlines()]
        third = max(1, len(losses) // 3)
        assert sum(losses[-third:]) / third < sum(losses[:third]) / third, f"{name}: {losses}"
        export = folder / "export"
        config = json.loads((export / "config.json").read_text())
        model = getattr(transformers, config["architectures"][0]).from_pretrained(export)
        tokenizer = transformers.AutoTokenizer.from_pretrained(export)
        with torch.inference_mode():
            output = model(**tokenizer("A method of filtering gas.", return_tensors="pt"))
        assert math.isfinite(float(output[0].abs().sum()))


def test_green_qlora_trains_as_many_weights_as_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of Mistral-7B on the meta device: 41,943,040 in the adapter, and the new head of two outputs."""
    import transformers

    from patentft.models.adapters.table import adapt
    from patentft.objectives import classify

    monkeypatch.setenv("PATENTFT_DATA", "/nowhere")
    steps = pipeline.load(FOLDER / "green_qlora.yaml").steps
    (config,) = (step.config for step in steps if isinstance(step.config, TrainConfig))
    assert config.model == "mistralai/Mistral-7B-v0.1"
    assert isinstance(config.objective, classify.ClassifyConfig)
    settings = transformers.MistralConfig(  # its config.json
        vocab_size=32000, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32,
        num_key_value_heads=8, num_labels=2,
    )  # fmt: skip
    with torch.device("meta"):
        model = transformers.AutoModelForSequenceClassification.from_config(settings)
        adapted = adapt(model, config.adapter, classify.task(model, config.objective))
    sizes = {name: parameter.numel() for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    assert sum(size for name, size in sizes.items() if "lora_" in name) == 41_943_040
    assert sum(size for name, size in sizes.items() if "lora_" not in name) == 2 * 4096
    assert 7.0e9 < sum(parameter.numel() for parameter in adapted.parameters()) < 7.5e9


@pytest.mark.ray
@pytest.mark.slow
def test_miniature(ray_cluster: None, tmp_path: Path) -> None:
    """Held-out sections are less surprising after the first stage; after the second, on a 4-bit base, patents of
    techniques that were never read are told apart, and before it they are not."""
    folders = pipeline.run(
        pipeline.load(FOLDER / "miniature.yaml", [f"out={tmp_path}"]), Progress(quiet=True)
    )
    before, after = (_perplexity(folders, name) for name in ("start", "domain"))
    untrained, trained = _auc(folders, trained=False), _auc(folders, trained=True)
    print(f"perplexity {before:.2f} -> {after:.2f}, AUC {untrained:.3f} -> {trained:.3f}")
    assert after < 0.5 * before
    assert 0.4 < untrained < 0.6
    assert trained >= 0.85


def _perplexity(folders: dict[str, Any], name: str) -> float:
    """Of the held-out sections, under the export of a stage."""
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(Path(folders[name].location.path) / "export")
    total = count = 0.0
    for row in folders["section_packed-valid"].read("packed").to_pylist():
        ids, segments = torch.tensor(row["input_ids"]), torch.tensor(row["segment_ids"])
        for number in range(1, int(segments.max()) + 1):
            text = ids[segments == number]
            if len(text) > 1:
                with torch.inference_mode():
                    scores = model(input_ids=text[None]).logits[0, :-1].log_softmax(-1)
                total -= float(scores.gather(1, text[1:, None]).sum())
                count += len(text) - 1
    return math.exp(total / count)


def _auc(folders: dict[str, Any], trained: bool) -> float:
    """Of the log-odds of the valid pairs, under the model that the second stage starts from, or its best."""
    if trained:
        return max(row["auc"] for row in folders["instruct"].manifest.counts["history"])
    from patentft.objectives import instruct
    from patentft.objectives.encoded import Encoded, SpecialTokens
    from patentft.train import worker

    stage = folders["instruct"]
    loaded = pipeline.load(FOLDER / "miniature.yaml")
    config = next(step.config for step in loaded.steps if step.name == "instruct")
    assert isinstance(config, TrainConfig)
    assert isinstance(config.objective, instruct.InstructConfig)
    module = worker.build(config, str(Path(folders["domain"].location.path) / "export")).eval()
    valid = Encoded.from_bytes((stage.location / "encoded/valid.safetensors").read_bytes())
    units = instruct.units(valid, config.objective, 0, 0)
    parts = [
        instruct.predict(module, instruct.collate(valid, units[first : first + 32], SpecialTokens()), config.objective)
        for first in range(0, len(units), 32)
    ]
    return instruct.metrics(parts, config.objective)["auc"]
