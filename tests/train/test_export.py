"""The export folder: what each library loads from it gives the outputs of the model that was trained."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import peft
import pytest
import torch
import transformers
from safetensors.torch import save_file

from patentft.config import ConfigError, build
from patentft.location import Location
from patentft.models.adapters.state import load_trainable_state, trainable_state
from patentft.models.backbone import Loading
from patentft.models.load import fingerprint, load_encoder, load_tokenizer_and_limit, load_trained, resolve
from patentft.models.pool import pool
from patentft.objectives.table import OBJECTIVES
from patentft.scoring.scorer import load_scorer
from patentft.train import export
from patentft.train.checkpoint import seal
from patentft.train.config import TrainConfig
from tests.tiny import save_tiny_bert, save_tiny_llama, save_tiny_mpnet

TEXT, OTHER = "a filter removes dust from the gas", "lime and water"
ADAPTERS = {
    "full": {"kind": "full"},
    "last_layers": {"kind": "last_layers", "blocks": 1},
    "lora": {"kind": "lora", "rank": 4},
    "qlora": {"kind": "qlora", "rank": 4, "compute_dtype": "float32"},
    "ia3": {"kind": "ia3"},
    "bottleneck": {"kind": "bottleneck", "reduction": 8},
    "prefix": {"kind": "prefix", "tokens": 4},
    "prompt": {"kind": "prompt", "tokens": 4},
}
INPUTS = {"causal": {"packed": "a", "packed_valid": "b"}}


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folders = {name: tmp_path_factory.mktemp(name) for name in ("bert", "mpnet", "llama")}
    return {
        "bert": save_tiny_bert(folders["bert"]),
        "mpnet": save_tiny_mpnet(folders["mpnet"]),
        "llama": save_tiny_llama(folders["llama"]),
    }


def settings(objective: str, adapter: str, blend: float = 1.0, **changes: Any) -> TrainConfig:
    inputs = INPUTS.get(objective, {"data": "d", "roles": "r", "pairs": "p", "techniques": "t"})
    values = {
        **inputs, "model": "m", "objective": {"kind": objective, **changes}, "adapter": ADAPTERS[adapter],
        "keep": "last", "blend": blend,
    }  # fmt: skip
    return build(TrainConfig, values)


def exported(config: TrainConfig, base: str, folder: Path) -> tuple[Any, Path]:
    """(the trained backbone, the export folder): weights are drawn, as if an hour of training had moved them."""
    module: Any = export._build(config, base, Loading(config.dropout))
    generator = torch.Generator().manual_seed(3)
    state = {
        name: value + 0.1 * torch.randn(value.shape, generator=generator)
        for name, value in trainable_state(module).items()
    }
    checkpoint = folder / "checkpoint"
    checkpoint.mkdir()
    save_file(state, checkpoint / "trained.safetensors")
    history = [{"step": 1, "train_loss": 0.5}]
    progress = {"next_step": 1, "best_metric": None, "best_step": None, "history": history}
    (checkpoint / "progress.json").write_text(json.dumps(progress))
    seal(checkpoint, 0)
    stage: Any = SimpleNamespace(name="model", inputs={"corpus": "id"}, location=Location(folder / "stage"))
    export.export_model(config, base, checkpoint, folder / "export", stage)
    load_trainable_state(module, state)
    return OBJECTIVES[config.objective.kind].backbone(module.eval()), folder / "export"


def encoded(folder: Path) -> Any:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    return tokenizer([TEXT, OTHER], padding=True, return_tensors="pt", return_token_type_ids=False)


@pytest.mark.parametrize("family", ["bert", "llama"])
@pytest.mark.parametrize("adapter", list(ADAPTERS))
def test_a_ranker_scores_as_it_was_trained(bases, tmp_path: Path, adapter: str, family: str) -> None:
    model, folder = exported(settings("rank", adapter), bases[family], tmp_path)
    with torch.inference_mode():
        expected = model(**encoded(folder)).logits
        again = load_trained(str(folder), transformers.AutoModelForSequenceClassification)
        torch.testing.assert_close(again(**encoded(folder)).logits, expected, atol=1e-4, rtol=1e-3)
    scorer, weight = load_scorer(
        str(folder), device=torch.device("cpu"), max_tokens=64, patent_tokens=32, tokens_per_batch=256
    )
    assert weight == pytest.approx(20.0)
    assert scorer.model.config.patentft["cosine_center"] == 0.5
    card = (folder / "README.md").read_text()
    assert "AutoModelForSequenceClassification" in card
    assert "cosine weight" in card
    beside = adapter in ("bottleneck", "prefix", "prompt")
    assert (folder / "model.safetensors").exists() != beside
    assert ("num_labels=1" in card) == beside
    if adapter in ("lora", "qlora", "ia3"):
        assert "merge parity" in card
        assert ("quantized base" in card) == (adapter == "qlora")
        plain = transformers.AutoModelForSequenceClassification.from_pretrained(bases[family], num_labels=1)
        alone = peft.PeftModel.from_pretrained(plain, str(folder / "adapter")).eval()
        with torch.inference_mode():
            torch.testing.assert_close(alone(**encoded(folder)).logits, expected, atol=1e-4, rtol=1e-3)


ENCODERS = [
    (adapter, family)
    for adapter in ("full", "lora", "bottleneck", "prefix", "prompt")
    for family in ("bert", "mpnet", "llama")
    if (adapter, family) != ("prefix", "mpnet")  # refused
]


@pytest.mark.parametrize(("adapter", "family"), ENCODERS)
def test_an_encoder_gives_the_vectors_it_was_trained_to_give(bases, tmp_path: Path, adapter: str, family: str) -> None:
    config = settings("contrastive", adapter, section_tokens=250)
    model, folder = exported(config, bases[family], tmp_path)
    given = encoded(folder)
    with torch.inference_mode():
        hidden = model(**given).last_hidden_state
    expected = torch.nn.functional.normalize(pool(hidden, given["attention_mask"], "mean"), dim=1)
    assert resolve(str(folder)) == str(folder.resolve())
    encoder = load_encoder(str(folder))
    with torch.inference_mode():
        found = encoder.forward(given["input_ids"], given["attention_mask"])
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)
    room = 256 - 4 if adapter in ("prefix", "prompt") else 250
    assert encoder.max_tokens == min(room, 250) == load_tokenizer_and_limit(str(folder))[1]
    assert fingerprint(str(folder)).startswith("sha256:")
    card = (folder / "README.md").read_text()
    if adapter in ("full", "lora"):
        from sentence_transformers import SentenceTransformer

        vectors = SentenceTransformer(str(folder), device="cpu").encode([TEXT, OTHER])
        torch.testing.assert_close(torch.from_numpy(vectors), expected, atol=1e-4, rtol=1e-3)
        assert "SentenceTransformer('.')" in card
    else:
        assert "load_encoder('.')" in card


@pytest.mark.parametrize("adapter", ["full", "lora", "bottleneck"])
def test_a_decoder_predicts_as_it_was_trained(bases, tmp_path: Path, adapter: str) -> None:
    model, folder = exported(settings("causal", adapter), bases["llama"], tmp_path)
    again = load_trained(str(folder), transformers.AutoModelForCausalLM)
    with torch.inference_mode():
        torch.testing.assert_close(
            again(**encoded(folder)).logits, model(**encoded(folder)).logits, atol=1e-4, rtol=1e-3
        )


@pytest.mark.parametrize("adapter", list(ADAPTERS))
def test_the_card_runs(bases, tmp_path: Path, adapter: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lines under Use, as they stand, in the folder of the export."""
    for objective, family, given in (
        ("rank", "bert", {"section": TEXT, "patent": OTHER}),
        ("contrastive", "llama", {"texts": [TEXT, OTHER]}),
    ):
        (tmp_path / objective).mkdir()
        _, folder = exported(settings(objective, adapter), bases[family], tmp_path / objective)
        monkeypatch.chdir(folder)
        code = (folder / "README.md").read_text().split("```python\n")[1].split("```")[0]
        exec(compile(code, "README.md", "exec"), given)
        assert "logit" in given or len(given["vectors"]) == 2


@pytest.mark.parametrize("adapter", ["full", "lora"])
def test_a_blend_lies_between_the_base_and_what_was_learned(bases, tmp_path: Path, adapter: str) -> None:
    """Weight by weight, merged: the factors of an adapter could not be blended one by one."""
    weights = []
    for share in (1.0, 0.25):
        (tmp_path / str(share)).mkdir()
        _, folder = exported(settings("rank", adapter, blend=share), bases["bert"], tmp_path / str(share))
        model = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
        weights.append((model.state_dict(), model.config.patentft))
    base = transformers.AutoModel.from_pretrained(bases["bert"]).state_dict()
    (whole, _), (quarter, carried) = weights
    for name, value in quarter.items():
        start = base.get(name.removeprefix("bert."), torch.zeros_like(value))  # the new head starts at zero
        torch.testing.assert_close(value, start + 0.25 * (whole[name] - start), atol=1e-5, rtol=1e-4)
    assert carried["cosine_weight"] == 20.0


def test_what_cannot_be_merged_cannot_be_blended(bases, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="adapter prompt cannot be blended"):
        exported(settings("rank", "prompt", blend=0.5), bases["bert"], tmp_path)


def test_outputs_that_differ_stop_the_export() -> None:
    with pytest.raises(ArithmeticError, match="outputs differ"):
        export._parity(torch.ones(3), torch.tensor([1.0, 1.0, float("nan")]))
