"""States on shared prefixes equal those of the plain forward, family by family; what would not is refused by name."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers

from patentft.config import ConfigError
from patentft.scoring.prefix_cache import ATTENTION, FAMILIES, PrefixDecoder

CLASSES = {
    "llama": "Llama",
    "mistral": "Mistral",
    "qwen2": "Qwen2",
    "qwen3": "Qwen3",
    "gemma": "Gemma",
    "gemma2": "Gemma2",
    "gemma3_text": "Gemma3",
}
VOCABULARY = 300


def decoder(kind: str, **changes: Any) -> Any:
    """A random one, grouped queries, weights large enough for states to differ."""
    torch.set_num_threads(1)
    name = CLASSES[kind]
    config_class = getattr(transformers, f"{name}{'TextConfig' if kind == 'gemma3_text' else 'Config'}")
    values = {
        "vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 8, "intermediate_size": 64, "max_position_embeddings": 256,
        "initializer_range": 0.2, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3,
    }  # fmt: skip
    torch.manual_seed(0)
    return getattr(transformers, f"{name}ForCausalLM")(config_class(**{**values, **changes})).eval()


def text(tokens: int, seed: int) -> list[int]:
    return torch.randint(4, VOCABULARY, (tokens,), generator=torch.Generator().manual_seed(seed)).tolist()


ROOT, SECTIONS = text(7, 1), [text(20, 2), text(31, 3)]
TAILS = [(0, text(5, 4)), (0, text(9, 5)), (0, text(1, 6)), (1, text(13, 7)), (1, text(13, 8))]


@torch.inference_mode()
def plain(model: Any) -> torch.Tensor:
    """The last token's state of every prompt by itself, by the model as transformers runs it."""
    prompts = [ROOT + SECTIONS[section] + tail for section, tail in TAILS]
    return torch.cat(
        [model(input_ids=torch.tensor([p]), output_hidden_states=True).hidden_states[-1][:, -1] for p in prompts]
    )


def shared(model: Any, levels: int = 2, order: list[int] | None = None, **options: Any) -> torch.Tensor:
    """levels 0: whole prompts; 1: the section's prefix holds the root; 2: it stands on the root."""
    reader = PrefixDecoder(model, **options)
    if levels == 2:
        (root,) = reader.prefixes([ROOT], [None])
        prefixes = reader.prefixes(SECTIONS, [root, root])
    else:
        prefixes = reader.prefixes([ROOT + section for section in SECTIONS], [None, None])
    chosen = [TAILS[place] for place in order or range(len(TAILS))]
    if levels == 0:
        return reader.last_states([ROOT + SECTIONS[section] + tail for section, tail in chosen], [None] * len(chosen))
    return reader.last_states([tail for _, tail in chosen], [prefixes[section] for section, _ in chosen])


@pytest.mark.parametrize("levels", [0, 1, 2])
@pytest.mark.parametrize("kind", FAMILIES)
def test_states_equal_the_plain_forward(kind: str, levels: int) -> None:
    model = decoder(kind)
    wanted = plain(model)
    torch.testing.assert_close(shared(model, levels), wanted, atol=1e-5, rtol=1e-5)
    assert wanted.std(dim=0).min() > 0.1  # they are told apart
    torch.testing.assert_close(plain(model), wanted, atol=0, rtol=0)  # the model is left as it was
    assert model.config._attn_implementation != ATTENTION


@pytest.mark.parametrize("kind", FAMILIES)
def test_the_last_layer_for_the_last_tokens_alone_changes_nothing(kind: str) -> None:
    model = decoder(kind)
    torch.testing.assert_close(shared(model), shared(model, whole_last_layer=True), atol=2e-6, rtol=1e-5)


def test_the_last_layer_skips_what_is_not_read() -> None:
    model = decoder("llama")
    rows: list[int] = []
    model.model.layers[-1].mlp.gate_proj.register_forward_hook(
        lambda _, inputs, output: rows.append(inputs[0].shape[1])
    )
    shared(model, levels=1)
    assert rows == [len(SECTIONS), len(TAILS)]


def test_order_does_not_matter() -> None:
    model = decoder("qwen3")
    order = [3, 0, 4, 2, 1]  # the two prefixes alternate
    torch.testing.assert_close(shared(model, order=order), shared(model)[order], atol=2e-6, rtol=1e-5)


def test_same_call_same_bits() -> None:
    model = decoder("llama")
    assert torch.equal(shared(model), shared(model))


def test_prefixes_are_shared_not_copied() -> None:
    """The keys that the attention function reads are the prefix's own memory, whatever the number of texts."""
    reader = PrefixDecoder(decoder("llama"))
    (prefix,) = reader.prefixes([ROOT], [None])
    segments = reader._segments([tail for _, tail in TAILS], [prefix] * len(TAILS))
    assert [(count, found is prefix) for count, found in segments.levels[0]] == [(len(TAILS), True)]


def test_lora_unmerged_equals_its_plain_forward() -> None:
    import peft

    model = decoder("llama")
    before = shared(model)
    config = peft.LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
    torch.manual_seed(1)
    wrapped = peft.get_peft_model(model, config).eval()
    found = shared(wrapped)
    torch.testing.assert_close(found, plain(wrapped), atol=1e-5, rtol=1e-5)
    assert (found - before).abs().max() > 0.1


def test_bfloat16_is_as_near_to_fp32_as_the_plain_forward_in_bfloat16() -> None:
    exact = plain(decoder("llama"))
    model = decoder("llama").to(torch.bfloat16)
    own, theirs = ((found(model).float() - exact).abs().mean() for found in (shared, plain))
    assert own < 1.3 * theirs


def test_nf4_equals_its_plain_forward(tmp_path) -> None:
    decoder("llama", hidden_size=64).save_pretrained(tmp_path)
    quantized = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path,
        quantization_config=transformers.BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32
        ),
        device_map={"": "cpu"},
        dtype=torch.float32,
    ).eval()
    torch.testing.assert_close(shared(quantized), plain(quantized), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("mistral", {"sliding_window": 20}),
        ("qwen2", {"sliding_window": 20, "use_sliding_window": True, "max_window_layers": 1}),
        ("gemma3_text", {"sliding_window": 20}),
    ],
)
def test_a_window_short_of_a_prompt_is_refused_and_one_as_long_is_exact(kind: str, changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"a prompt has 38 tokens, but \w+ sees 20 back: shorten the prompts"):
        shared(decoder(kind, **changes), levels=1)
    longest = len(ROOT) + len(SECTIONS[1]) + 13
    model = decoder(kind, **{**changes, "sliding_window": longest})
    torch.testing.assert_close(shared(model), plain(model), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("kind", "changes", "reason"),
    [
        ("gemma2", {}, "'gemma2' cannot share prefixes: it caps the logits of its attention"),
        ("gemma2", {"attn_logit_softcapping": None}, "'gemma2' cannot share prefixes: it is proven for llama"),
        ("llama", {"is_causal": False}, "bidirectional"),
        ("gemma3_text", {"use_bidirectional_attention": True}, "bidirectional"),
        (
            "llama",
            {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}},
            "rotation .dynamic.",
        ),
    ],
)
def test_what_needs_another_attention_is_refused_by_name(kind: str, changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=f"{reason}.*choose another model"):
        PrefixDecoder(decoder(kind, **changes))


def test_sinks_padding_and_masks_of_a_models_own_are_refused() -> None:
    model = decoder("llama")
    reader = PrefixDecoder(model)
    segments = reader._segments([ROOT], [None])
    model.config._attn_implementation = ATTENTION
    ids = torch.tensor([ROOT])
    with pytest.raises(ConfigError, match="asks for s_aux"):
        model.model(input_ids=ids, segments=segments, s_aux=torch.zeros(4), use_cache=False)
    with pytest.raises(ConfigError, match="asks for padding"):
        model.model(input_ids=ids, attention_mask=torch.zeros_like(ids), segments=segments, use_cache=False)


def test_rotations_that_depend_on_positions_alone_are_exact() -> None:
    rope = {
        "rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    }  # fmt: skip
    model = decoder("llama", rope_parameters=rope)
    torch.testing.assert_close(shared(model), plain(model), atol=1e-5, rtol=1e-5)


def test_a_prompt_beyond_the_models_positions_is_refused() -> None:
    with pytest.raises(ConfigError, match="a prompt has 38 tokens, but the model has 24 positions"):
        shared(decoder("llama", max_position_embeddings=24), levels=1)


def test_virtual_tokens_are_refused() -> None:
    import peft

    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
    with pytest.raises(ConfigError, match="virtual tokens"):
        PrefixDecoder(peft.get_peft_model(decoder("llama"), config))
