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
WITHOUT_DATA = ("bref_instruct", "distill")
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
@pytest.mark.parametrize("recipe", RECIPES)
def test_runs(recipe: str, ray_cluster: None, tmp_path: Path, request: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    root = "/nowhere" if recipe in WITHOUT_DATA else str(request.getfixturevalue("data_root"))
    monkeypatch.setenv("PATENTFT_DATA", root)
    _run(recipe, tmp_path)


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
