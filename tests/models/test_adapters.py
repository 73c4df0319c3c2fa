"""Every adapter on every family and task it does not refuse: it learns, the base stays, it is saved, loaded, merged."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from pydantic import TypeAdapter
from torch import nn
from torch.nn import functional

from patentft.config import ConfigError
from patentft.models.adapters.state import count_parameters, load_trainable_state, merge, trainable_state
from patentft.models.adapters.table import ADAPTERS, AdapterConfig, adapt, quantization, refusal, scale_rates
from patentft.models.adapters.task import Task
from patentft.models.backbone import Loading, load_backbone
from patentft.models.bottleneck import load_bottleneck
from patentft.models.export import write_adapter, write_beside
from patentft.models.load import load_trained
from patentft.models.pool import pool
from patentft.models.virtual import VirtualTokens
from patentft.objectives import packed
from tests.tiny import save_tiny_bert

torch.set_num_threads(1)
VOCABULARY = 120
PADDING = {"bert": 0, "mpnet": 1}
CLASSES = {
    "causal_lm": "AutoModelForCausalLM",
    "masked_lm": "AutoModelForMaskedLM",
    "classifier": "AutoModelForSequenceClassification",
    "encoder": "AutoModel",
}
KINDS = {
    "full": {"kind": "full"},
    "last_layers": {"kind": "last_layers", "blocks": 1},
    "lora": {"kind": "lora", "rank": 4},
    "dora": {"kind": "lora", "rank": 4, "dora": True, "rslora": True, "init": "gaussian"},
    "nf4": {"kind": "qlora", "rank": 4, "compute_dtype": "float32"},
    "nf4_dora": {"kind": "qlora", "rank": 4, "dora": True},  # in bfloat16
    "int8": {"kind": "qlora", "rank": 4, "base": "int8"},
    "ia3": {"kind": "ia3"},
    "bottleneck": {"kind": "bottleneck", "reduction": 4, "norms": True},
    "pfeiffer": {"kind": "bottleneck", "reduction": 4, "after": ["feed_forward"], "nonlinearity": "gelu"},
    "prefix": {"kind": "prefix", "tokens": 3},
    "projected": {"kind": "prefix", "tokens": 3, "projection": 8},
    "prompt": {"kind": "prompt", "tokens": 3},
}
CASES = [("bert", task) for task in ("masked_lm", "classifier", "encoder")]
CASES += [("mpnet", task) for task in ("masked_lm", "classifier", "encoder")]
CASES += [("llama", task) for task in ("causal_lm", "masked_lm", "classifier", "encoder")]


def config_of(name: str, **changes: Any) -> Any:
    return TypeAdapter(AdapterConfig).validate_python({**KINDS[name], **changes})


COMBINATIONS = [
    (name, family, task)
    for name in KINDS
    for family, task in CASES
    if refusal(config_of(name), task, family, "padded") is None  # type: ignore[arg-type]
]
every_combination = pytest.mark.parametrize(("name", "family", "task"), COMBINATIONS)


def model_config(family: str, **changes: Any) -> Any:
    values = {
        "vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
        "intermediate_size": 64, "max_position_embeddings": 64, "pad_token_id": PADDING.get(family, 0),
        "initializer_range": 0.1,  # so that a text shows in its first token's state, as in a trained model
    }  # fmt: skip
    if family in PADDING:
        values |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    else:
        values |= {"num_key_value_heads": 2, "bos_token_id": 2, "eos_token_id": 3}
    return transformers.AutoConfig.for_model(family, **{**values, **changes})


def auto_class(family: str, task: str) -> Any:
    bidirectional = family not in PADDING and task == "masked_lm"  # a decoder, its mask opened by the objective
    return getattr(transformers, "AutoModelForCausalLM" if bidirectional else CLASSES[task])


@functools.cache
def base_folder(family: str, task: str) -> str:
    folder = tempfile.mkdtemp()
    torch.manual_seed(0)
    auto_class(family, task).from_config(model_config(family)).save_pretrained(folder)
    return folder


def task_of(family: str, task: str) -> Task:
    heads = () if task != "classifier" else ("classifier",) if family in PADDING else ("score",)
    return Task(task, heads)  # type: ignore[arg-type]


def base_model(family: str, task: str, quantized: Any = None) -> nn.Module:
    loading = Loading(quantization=quantized)
    return load_backbone(base_folder(family, task), auto_class(family, task), loading).eval()


def adapted(config: Any, family: str, task: str) -> nn.Module:
    torch.manual_seed(1)
    model = base_model(family, task, quantization(config))
    if task == "encoder" and family in PADDING:
        model.pooler.requires_grad_(False)  # type: ignore[union-attr]  # as the objectives do: nothing reads it
    return adapt(model, config, task_of(family, task))


def batch(family: str, extra: int = 0) -> dict[str, torch.Tensor]:
    """Four texts of 4 to 7 tokens, padded right to 7 + extra."""
    ids = torch.randint(5, VOCABULARY, (4, 7), generator=torch.Generator().manual_seed(2))
    mask = (torch.arange(7) < torch.tensor([4, 5, 6, 7])[:, None]).long()
    ids, mask = functional.pad(ids, (0, extra)), functional.pad(mask, (0, extra))
    return {"input_ids": ids.masked_fill(mask == 0, PADDING.get(family, 0)), "attention_mask": mask}


def outputs(model: nn.Module, family: str, task: str, extra: int = 0, **more: Any) -> torch.Tensor:
    """What a loss reads: (4, ...) logits or vectors of real tokens only."""
    given = batch(family, extra) | more
    mask = given["attention_mask"]
    if task == "masked_lm" and family not in PADDING:
        given["attention_mask"] = (mask[:, None, None, :] * mask.new_ones(1, 1, mask.shape[1], 1)).bool()
    output = model(**given)
    if task == "encoder":
        return pool(output.last_hidden_state, mask, "mean")
    return output.logits if task == "classifier" else output.logits[:, :7] * mask[:, :7, None]


def loss_of(found: torch.Tensor, family: str, task: str) -> torch.Tensor:
    if task == "encoder":
        unit = functional.normalize(found, dim=1)
        return (unit @ unit.T - torch.eye(4)).square().sum()
    if task == "classifier":
        return functional.cross_entropy(found, torch.tensor([0, 1, 1, 0]))
    given = batch(family)
    target = given["input_ids"].masked_fill(given["attention_mask"] == 0, -100)
    shift = 1 if task == "causal_lm" else 0
    return functional.cross_entropy(found[:, : 7 - shift].flatten(0, 1), target[:, shift:].flatten())


@functools.cache
def trained(name: str, family: str, task: str) -> tuple[nn.Module, dict[str, torch.Tensor], list[float]]:
    """(the model after 8 steps, its frozen weights before them, the losses)."""
    model = adapted(config_of(name), family, task)
    frozen = {key: p.detach().clone() for key, p in model.named_parameters() if not p.requires_grad}
    rate = 0.1 if name in ("ia3", "prompt", "prefix", "projected") else 0.01
    rate = {"encoder": min(rate, 0.05) / 10, "classifier": 0.01}.get(task, rate)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=rate)
    model.train()
    losses = []
    for _ in range(8):
        loss = loss_of(outputs(model, family, task), family, task)
        losses.append(loss.item())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        without = [key for key, p in model.named_parameters() if p.requires_grad and p.grad is None]
        assert not without, without
        optimizer.step()
    return model.eval(), frozen, losses


# ---- every combination


@every_combination
def test_it_learns_and_the_base_stays(name: str, family: str, task: str) -> None:
    model, frozen, losses = trained(name, family, task)
    assert losses[-1] < losses[0] - 0.01
    now = dict(model.named_parameters())
    assert all(torch.equal(now[key], value) for key, value in frozen.items())
    heads = [key for key, p in now.items() if p.requires_grad and ("classifier" in key or "score" in key)]
    assert bool(heads) == (task == "classifier")


@every_combination
def test_padding_does_not_change_outputs(name: str, family: str, task: str) -> None:
    model, _, _ = trained(name, family, task)
    with torch.inference_mode():
        near, far = (outputs(model, family, task, extra) for extra in (0, 9))
    atol = 5e-3 if name == "nf4_dora" else 1e-5  # products of bfloat16 round by the shape of the batch
    torch.testing.assert_close(near, far, atol=atol, rtol=1e-4)


@every_combination
def test_saved_and_loaded_it_gives_the_same_outputs(name: str, family: str, task: str, tmp_path: Path) -> None:
    model, _, _ = trained(name, family, task)
    with torch.inference_mode():
        expected = outputs(model, family, task)
    fresh = adapted(config_of(name), family, task).eval()
    load_trainable_state(fresh, trainable_state(model))
    folder, cls = base_folder(family, task), auto_class(family, task)
    form = ADAPTERS[KINDS[name]["kind"]].EXPORT
    if form == "whole":
        model.save_pretrained(tmp_path)  # type: ignore[operator]
        again = cls.from_pretrained(tmp_path)
    elif form == "merged":
        write_adapter(tmp_path, model, folder)
        again = peft.PeftModel.from_pretrained(base_model(family, task, quantization(config_of(name))), str(tmp_path))
    else:
        tokenizer = transformers.AutoTokenizer.from_pretrained(tiny())
        write_beside(tmp_path, model, tokenizer, folder, {"carried": 1})
        again = load_trained(str(tmp_path), cls)
        assert again.config.patentft == {"carried": 1}
    with torch.inference_mode():
        for loaded in (fresh, again.eval()):
            torch.testing.assert_close(outputs(loaded, family, task), expected, atol=1e-5, rtol=1e-4)


@functools.cache
def tiny() -> str:
    return save_tiny_bert(Path(tempfile.mkdtemp()))


@pytest.mark.parametrize(("family", "task"), CASES)
@pytest.mark.parametrize("name", ["lora", "dora", "ia3", "nf4"])
def test_merged_into_an_unquantized_base_it_gives_the_same_outputs(
    name: str, family: str, task: str, tmp_path: Path
) -> None:
    model, _, _ = trained(name, family, task)
    write_adapter(tmp_path, model, base_folder(family, task))
    beside = peft.PeftModel.from_pretrained(base_model(family, task), str(tmp_path)).eval()  # type: ignore[arg-type]
    merged = merge(base_model(family, task), tmp_path).eval()
    assert type(merged) is type(base_model(family, task))
    with torch.inference_mode():
        found, expected = outputs(merged, family, task), outputs(beside, family, task)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
        if name != "nf4":
            torch.testing.assert_close(found, outputs(model, family, task), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_what_parity_means_with_a_quantized_base(family: str, tmp_path: Path) -> None:
    """Outputs are those of training on the base as it was rounded; the unrounded base gives others, by its rounding."""
    model, _, _ = trained("nf4", family, "encoder")
    write_adapter(tmp_path, model, base_folder(family, "encoder"))
    rounded = base_model(family, "encoder", quantization(config_of("nf4"))).dequantize()  # type: ignore[operator]
    plain = base_model(family, "encoder")
    plain.load_state_dict(rounded.state_dict())
    with torch.inference_mode():
        expected = outputs(model, family, "encoder")
        torch.testing.assert_close(outputs(merge(plain, tmp_path), family, "encoder"), expected, atol=1e-5, rtol=1e-4)
        exact = outputs(merge(base_model(family, "encoder"), tmp_path), family, "encoder")
    error = (exact - expected).abs().max() / expected.abs().max()
    assert 1e-3 < error < 0.5


@pytest.mark.parametrize("family", ["bert", "mpnet", "llama"])
@pytest.mark.parametrize("name", ["lora", "dora", "ia3", "bottleneck", "pfeiffer"])
def test_at_the_start_the_model_is_its_base(name: str, family: str) -> None:
    with torch.inference_mode():
        expected = outputs(base_model(family, "encoder"), family, "encoder")
        found = outputs(adapted(config_of(name), family, "encoder").eval(), family, "encoder")
    atol = 1e-3 if name == "ia3" else 1e-6  # its factors start at one
    torch.testing.assert_close(found, expected, atol=atol, rtol=1e-5)


@pytest.mark.parametrize("family", ["bert", "mpnet", "llama"])
@pytest.mark.parametrize("name", ["last_layers", "lora", "dora", "nf4", "ia3", "bottleneck"])
def test_a_packed_row_gives_the_outputs_of_its_texts_alone(name: str, family: str) -> None:
    task = "masked_lm"
    assert refusal(config_of(name), task, family, "packed") is None
    model, _, _ = trained(name, family, task)
    ids = torch.randint(5, VOCABULARY, (1, 7))
    segments = torch.tensor([[1, 1, 1, 2, 2, 2, 2]])
    positions = torch.tensor([[0, 1, 2, 0, 1, 2, 3]]) + (2 if family == "mpnet" else 0)
    mask = packed.attention_mask(segments, causal=False)
    if family == "mpnet":  # its attention adds the mask
        mask = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)
    alone_mask = torch.ones(1, 1, 4, 4, dtype=torch.bool) if family == "llama" else torch.ones(1, 4)
    with torch.inference_mode():
        row = model(input_ids=ids, attention_mask=mask, position_ids=positions).logits
        alone = model(input_ids=ids[:, 3:], attention_mask=alone_mask, position_ids=positions[:, 3:]).logits
    torch.testing.assert_close(row[:, 3:], alone, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", ["mistral", "qwen2", "qwen3"])
@pytest.mark.parametrize("name", ["ia3", "bottleneck", "prefix", "prompt", "last_layers"])
def test_the_kin_of_llama(name: str, family: str) -> None:
    model, frozen, losses = trained(name, family, "causal_lm")
    assert losses[-1] < losses[0] - 0.01
    now = dict(model.named_parameters())
    assert all(torch.equal(now[key], value) for key, value in frozen.items())
    with torch.inference_mode():
        near, far = (outputs(model, family, "causal_lm", extra) for extra in (0, 9))
    torch.testing.assert_close(near, far, atol=1e-5, rtol=1e-4)


# ---- names and numbers


def trainable(model: nn.Module) -> dict[str, int]:
    return {name: p.numel() for name, p in model.named_parameters() if p.requires_grad}


def test_lora_on_mistral_7b_has_the_known_number() -> None:
    config = transformers.MistralConfig(
        vocab_size=32000, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32,
        num_key_value_heads=8,
    )  # fmt: skip
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
        wrapped = adapt(model, config_of("lora", rank=16), Task("causal_lm"))
    assert count_parameters(wrapped) == {"trainable": 41_943_040, "total": 7_241_732_096 + 41_943_040}


def test_the_numbers_follow_from_the_shapes() -> None:
    hidden, inner, vectors = 32, 64, 3
    head = 2 * hidden + 2
    count = {name: count_parameters(trained(name, "bert", "classifier")[0])["trainable"] for name in KINDS}
    block = 4 * (hidden + 1) * hidden + (hidden + 1) * inner + (inner + 1) * hidden + 4 * hidden
    assert count["last_layers"] == block + head
    linear = 4 * (hidden + hidden) + (hidden + inner) + (inner + hidden)
    assert count["lora"] == 4 * (2 * linear + 2 * hidden) + head  # and the pooler's layer
    assert count["nf4"] == count["int8"] == count["lora"]
    assert count["dora"] == count["lora"] + 2 * (5 * hidden + inner) + hidden  # a length for each output
    assert count["ia3"] == 2 * (hidden + hidden + inner) + head
    bottleneck = 2 * hidden * 8 + 8 + hidden  # Houlsby et al.: 2 m d + d + m
    assert count["bottleneck"] == 2 * (2 * bottleneck + 4 * hidden) + head
    assert count["pfeiffer"] == 2 * bottleneck + head
    assert count["prompt"] == vectors * hidden + head
    assert count["prefix"] == vectors * 2 * 2 * hidden + head
    total = {name: count_parameters(trained(name, "bert", "classifier")[0])["total"] for name in ("lora", "nf4")}
    assert total["lora"] == total["nf4"]


def test_trained_names() -> None:
    names = {name: list(trainable(trained(name, "llama", "encoder")[0])) for name in KINDS}
    assert all(name.startswith("layers.1.") for name in names["last_layers"])
    assert all(".lora_" in name for name in names["lora"] + names["nf4"])
    assert {name.split(".")[-3] for name in names["ia3"]} == {"k_proj", "v_proj", "down_proj"}
    assert all(".bottleneck." in name for name in names["pfeiffer"])
    assert len(names["prompt"]) == len(names["prefix"]) == 1


def test_blocks_by_number_the_last_norm_and_the_pooler() -> None:
    chosen = adapted(config_of("last_layers", blocks=[0, -1], final_norm=True), "llama", "causal_lm")
    assert {name.split(".")[1] + "." + name.split(".")[2] for name in trainable(chosen)} == {
        "layers.0", "layers.1", "norm.weight",
    }  # fmt: skip
    names = trainable(adapted(config_of("last_layers", pooler=True), "bert", "classifier"))
    assert any(".pooler." in name for name in names)
    assert "classifier.weight" in names
    for changes, words in (
        ({"blocks": 3}, r"blocks is 3; the model has 2 blocks"),
        ({"blocks": [0, 2]}, r"\[2\]; the model has 2 blocks, numbered 0 to 1"),
        ({"blocks": []}, "the list is empty"),
        ({"final_norm": True}, "no norm after its last block"),
        ({"pooler": True}, "nothing reads the pooler"),
    ):
        with pytest.raises(ConfigError, match=words):
            adapted(config_of("last_layers", **changes), "bert", "encoder")


def test_lora_plus_divides_the_groups() -> None:
    config = config_of("lora", lora_plus_ratio=16.0)
    model = adapted(config, "bert", "classifier")
    own = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in own if p.ndim > 1], "lr": 1e-3, "weight_decay": 0.1},
        {"params": [p for p in own if p.ndim == 1], "lr": 1e-3, "weight_decay": 0.0},
    ]
    found = scale_rates(groups, model, config)
    rates = {id(p): (group["lr"], group["weight_decay"]) for group in found for p in group["params"]}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            rate = 16e-3 if "lora_B" in name else 1e-3
            assert rates[id(parameter)] == (pytest.approx(rate), 0.1 if parameter.ndim > 1 else 0.0), name
    assert sum(len(group["params"]) for group in found) == len(own)
    assert scale_rates(groups, model, config_of("lora")) == groups
    torch.optim.AdamW(found)


def test_only_the_blocks_are_quantized() -> None:
    for family, task in CASES:
        for name in ("nf4", "int8"):
            model = base_model(family, task, quantization(config_of(name)))
            quantized = {key for key, module in model.named_modules() if "bit" in type(module).__name__.lower()}
            linear = {key for key, module in model.named_modules() if isinstance(module, nn.Linear)} - quantized
            assert quantized
            assert all(".layer" in f".{key}" for key in quantized)
            assert not any(".layer." in f".{key}" or ".layers." in f".{key}" for key in linear)


def test_quantized_layers_are_not_repacked_between_trainings() -> None:
    model = adapted(config_of("nf4"), "llama", "causal_lm")
    layers = [module for module in model.modules() if hasattr(module, "support_avx512bf16_for_cpu")]
    assert layers
    assert not any(layer.support_avx512bf16_for_cpu for layer in layers)


@pytest.mark.parametrize("text", [None, "a filter"])
def test_prompts_start_as_words(text: str | None) -> None:
    model = load_backbone(tiny(), transformers.AutoModel, Loading())
    words = model.get_input_embeddings().weight.detach()  # type: ignore[operator]
    wrapped = adapt(model, config_of("prompt", tokens=5, text=text), Task("encoder"))
    (found,) = [p.detach() for p in wrapped.parameters() if p.requires_grad]
    rows = [int((words == vector).all(dim=1).nonzero()[0]) for vector in found]
    if text is None:
        assert len(set(rows)) == 5
    else:
        ids = transformers.AutoTokenizer.from_pretrained(tiny())(text, add_special_tokens=False)["input_ids"]
        assert rows == (ids * 5)[:5]
        with pytest.raises(ConfigError, match="has no tokens"):
            adapt(model, config_of("prompt", text=" "), Task("encoder"))


@pytest.mark.parametrize("name", ["last_layers", "lora", "nf4", "ia3", "bottleneck", "prompt", "prefix"])
def test_a_pooler_that_the_base_lacks_is_trained_and_saved(name: str, tmp_path: Path) -> None:
    """As when a masked language model becomes a classifier: its pooler is drawn at random each time it is loaded."""
    folder = base_folder("bert", "masked_lm")
    cls = transformers.AutoModelForSequenceClassification
    config = config_of(name)

    def base() -> nn.Module:
        return load_backbone(folder, cls, Loading(quantization=quantization(config)))

    model = adapt(base(), config, Task("classifier", ("classifier",))).eval()
    assert any(".pooler." in key for key in trainable(model))
    with torch.inference_mode():
        expected = outputs(model, "bert", "classifier")
    if name == "last_layers":
        return
    write_adapter(tmp_path, model, folder)
    if name == "bottleneck":
        again = load_bottleneck(base(), tmp_path)
    else:
        again = peft.PeftModel.from_pretrained(base(), str(tmp_path))  # type: ignore[arg-type]
        again = VirtualTokens(again) if name in ("prompt", "prefix") else again
    with torch.inference_mode():
        torch.testing.assert_close(outputs(again.eval(), "bert", "classifier"), expected, atol=1e-5, rtol=1e-4)


def test_a_new_language_model_head_wants_the_whole_model_trained() -> None:
    folder, cls = base_folder("bert", "encoder"), transformers.AutoModelForMaskedLM
    with pytest.raises(ConfigError, match=r"lack 6 parameters of its head.*adapter lora.*choose full"):
        adapt(load_backbone(folder, cls, Loading()), config_of("lora"), Task("masked_lm"))
    adapt(load_backbone(folder, cls, Loading()), config_of("full"), Task("masked_lm"))
    whole_head = adapt(load_backbone(folder, cls, Loading()), config_of("last_layers"), Task("masked_lm", ("cls",)))
    assert "cls.predictions.transform.dense.weight" in trainable(whole_head)


# ---- virtual tokens against a slow reference


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_a_prompt_is_words_in_front(family: str) -> None:
    """Prompts that are the embeddings of words give what the words give, positions cut."""
    plain = base_model(family, "encoder")
    wrapped = adapted(config_of("prompt"), family, "encoder").eval()
    words = torch.tensor([[7, 8, 9]])
    with torch.inference_mode():
        (vectors,) = [p for p in wrapped.parameters() if p.requires_grad]
        vectors.copy_(plain.get_input_embeddings().weight[words[0]])  # type: ignore[operator,index]
        ids = torch.tensor([[20, 21, 22, 23]])
        expected = plain(input_ids=torch.cat([words, ids], dim=1)).last_hidden_state[:, 3:]
        torch.testing.assert_close(wrapped(input_ids=ids).last_hidden_state, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_peft_alone_gives_the_same_classes_one_text_at_a_time(family: str, tmp_path: Path) -> None:
    for name in ("prompt", "prefix"):
        model, _, _ = trained(name, family, "classifier")
        write_adapter(tmp_path / name, model, base_folder(family, "classifier"))
        alone = peft.AutoPeftModelForSequenceClassification.from_pretrained(tmp_path / name).eval()
        given = batch(family)
        with torch.inference_mode():
            expected = outputs(model, family, "classifier")
            for row, length in enumerate(given["attention_mask"].sum(dim=1).tolist()):
                found = alone(
                    input_ids=given["input_ids"][row : row + 1, :length], attention_mask=torch.ones(1, length)
                ).logits[0]
                torch.testing.assert_close(found, expected[row], atol=1e-5, rtol=1e-4)


def test_virtual_tokens_refuse_what_they_cannot_do() -> None:
    prompt = adapted(config_of("prompt"), "bert", "encoder")
    assert isinstance(prompt, VirtualTokens)
    ids = torch.full((1, 62), 7)
    for given, words in (
        ({"attention_mask": torch.ones(1, 1, 62, 62, dtype=torch.bool)}, "choose the adapter lora"),
        ({"position_ids": torch.zeros(1, 62, dtype=torch.long)}, "leave position_ids out"),
        ({"token_type_ids": torch.zeros(1, 62, dtype=torch.long)}, "leave them out"),
        ({}, r"62 tokens and 3 virtual ones: the model has 64 positions; set the objective's tokens to 61"),
    ):
        with pytest.raises(ConfigError, match=words):
            prompt(input_ids=ids, **given)
    prompt(input_ids=ids[:, :61])
    prefix = adapted(config_of("prefix"), "llama", "causal_lm").train()
    assert isinstance(prefix, VirtualTokens)
    prefix.peft_model.get_base_model().gradient_checkpointing_enable()
    with pytest.raises(ConfigError, match="does not work with recomputed activations"):
        prefix(input_ids=ids[:, :5])


# ---- folders that PEFT loads by itself, and mistakes


@pytest.mark.parametrize("name", ["lora", "ia3"])
@pytest.mark.parametrize(
    ("family", "task", "auto"),
    [
        ("llama", "causal_lm", "AutoPeftModelForCausalLM"),
        ("bert", "masked_lm", "AutoPeftModel"),
        ("llama", "masked_lm", "AutoPeftModel"),
        ("mpnet", "classifier", "AutoPeftModelForSequenceClassification"),
        ("bert", "encoder", "AutoPeftModelForFeatureExtraction"),
    ],
)
def test_an_adapter_folder_names_its_task_and_base(
    name: str, family: str, task: str, auto: str, tmp_path: Path
) -> None:
    model, _, _ = trained(name, family, task)
    write_adapter(tmp_path, model, base_folder(family, task))
    again = getattr(peft, auto).from_pretrained(tmp_path).eval()
    with torch.inference_mode():
        torch.testing.assert_close(
            outputs(again, family, task), outputs(model, family, task), atol=1e-5, rtol=1e-4
        )
    with pytest.raises(ConfigError, match="is an adapter alone"):
        load_backbone(str(tmp_path), auto_class(family, task), Loading())


def test_bottlenecks_are_put_back_only_where_they_were(tmp_path: Path) -> None:
    model, _, _ = trained("bottleneck", "bert", "classifier")
    write_adapter(tmp_path, model, base_folder("bert", "classifier"))
    with pytest.raises(ConfigError, match=r"trained on a BertForSequenceClassification \(bert\), not on a BertModel"):
        load_bottleneck(base_model("bert", "encoder"), tmp_path)
    wide = transformers.AutoModelForSequenceClassification.from_config(model_config("bert", num_labels=5))
    with pytest.raises(ConfigError, match=r"classifier.*num_labels"):
        load_bottleneck(wide, tmp_path)
    with pytest.raises(ConfigError, match=r"holds no bottleneck\.json"):
        load_bottleneck(wide, tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("name", "changes", "task", "family", "layout", "words"),
    [
        ("lora", {}, "causal_lm", "bert", "padded", "choose a decoder"),
        ("prefix", {}, "encoder", "mpnet", "padded", "choose prompt or lora"),
        ("int8", {"dora": True}, "encoder", "bert", "padded", "set base: nf4"),
        ("prompt", {}, "causal_lm", "llama", "packed", "choose lora"),
        ("prefix", {}, "causal_lm", "llama", "packed", "choose lora"),
        ("prompt", {}, "masked_lm", "llama", "padded", "choose lora"),
        ("prompt", {}, "encoder", "gpt2", "padded", "not on gpt2: choose lora"),
        ("ia3", {}, "causal_lm", "gpt2", "padded", "set adapter.target_modules"),
        ("bottleneck", {}, "causal_lm", "gpt2", "padded", "choose lora"),
        ("last_layers", {"pooler": True}, "encoder", "bert", "padded", "set it false"),
    ],
)
def test_refusals_say_what_works(name, changes, task, family, layout, words: str) -> None:
    reason = refusal(config_of(name, **changes), task, family, layout)
    assert reason is not None
    assert words in reason


def test_an_unknown_family_takes_named_layers() -> None:
    torch.manual_seed(0)
    gpt2 = transformers.AutoModel.from_config(
        transformers.AutoConfig.for_model("gpt_neox", vocab_size=50, hidden_size=32, num_hidden_layers=2,
                                          num_attention_heads=4, intermediate_size=64)
    )  # fmt: skip
    names = ["query_key_value", "dense_4h_to_h"]
    config = config_of("ia3", target_modules=names, feedforward_modules=names[1:])
    assert len(trainable(adapt(gpt2, config, Task("encoder")))) == 4


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("lora", {"target_modules": ["no_such_layer"]}, r"adapter\.target_modules.*no_such_layer"),
        ("ia3", {"target_modules": ["no_such_layer"]}, r"adapter\.target_modules.*no_such_layer"),
        ("full", {"freeze": ["embedings"]}, "no parameter's name holds 'embedings'"),
        ("bottleneck", {"reduction": 64}, "hidden size is 32: set it lower"),
    ],
)
def test_wrong_names_are_named(name: str, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        adapted(config_of(name, **changes), "bert", "encoder")


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("nf4", {"outlier_threshold": 0.0}, "not for a base of nf4"),
        ("int8", {"double_quantization": True}, "not for a base of int8"),
        ("ia3", {"feedforward_modules": ["output.dense"]}, "name them in target_modules too"),
        ("lora", {"lora_plus_ratio": 0.5}, "greater than or equal to 1"),
        ("bottleneck", {"after": []}, "at least 1 item"),
    ],
)
def test_settings_that_do_not_agree(name: str, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        config_of(name, **changes)


def test_a_configuration_survives_being_written() -> None:
    for name in KINDS:
        config = config_of(name)
        assert TypeAdapter(AdapterConfig).validate_python(config.model_dump(mode="json")) == config
