"""Each text of a packed row attended by itself, against transformers' own attention under the mask."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM

from patentft.models.text_attention import ATTENTION, FAMILIES, Segments
from patentft.objectives.packed import LanguageModel, attention_mask, positions

SIZES: dict[str, Any] = {
    "vocab_size": 60, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 64, "attention_dropout": 0.0, "attention_probs_dropout_prob": 0.0,
    "hidden_dropout_prob": 0.0, "pad_token_id": 0,
}  # fmt: skip
SEGMENTS = np.array([[1] * 9 + [2] * 1 + [3] * 12 + [0] * 2, [1] * 24, [1] * 3 + [2] * 4 + [0] * 17])


def model_of(family: str) -> Any:
    torch.manual_seed(0)
    sizes = {**SIZES, "num_key_value_heads": 2, "head_dim": 8} if family != "bert" else SIZES
    config = AutoConfig.for_model(family, **sizes)
    return (AutoModelForMaskedLM if family == "bert" else AutoModelForCausalLM).from_config(config)


def batch() -> dict[str, torch.Tensor]:
    ids = np.random.default_rng(1).integers(1, 60, SEGMENTS.shape)
    arrays = {"input_ids": ids, "segment_ids": SEGMENTS, "position_ids": positions(SEGMENTS)}
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}


def logits_and_gradient(model: Any, causal: bool, reference: bool) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Of the tokens that are no padding; reference: transformers' sdpa, given the mask."""
    given = batch()
    model.zero_grad()
    if reference:
        mask = attention_mask(given["segment_ids"], causal=causal)
        logits = model(input_ids=given["input_ids"], position_ids=given["position_ids"], attention_mask=mask).logits
        assert model.config._attn_implementation == "sdpa"
    else:
        logits = LanguageModel(model, causal=causal)(given)
        assert model.config._attn_implementation == ATTENTION
    logits = logits[given["segment_ids"] > 0]
    (logits.softmax(-1) ** 2).sum().backward()
    return logits.detach(), [p.grad.clone() for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("checkpointed", [False, True])
def test_logits_and_gradients_are_those_under_the_mask(family: str, checkpointed: bool) -> None:
    causal = family != "bert"
    model = model_of(family).train()
    if checkpointed:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    theirs = logits_and_gradient(model, causal, reference=True)
    ours = logits_and_gradient(model, causal, reference=False)
    torch.testing.assert_close(ours[0], theirs[0], atol=2e-6, rtol=1e-4)
    assert len(ours[1]) == len(theirs[1]) > 10
    for mine, other in zip(ours[1], theirs[1], strict=True):
        torch.testing.assert_close(mine, other, atol=2e-6, rtol=1e-3)


def test_a_decoder_that_sees_both_ways() -> None:
    from patentft.models.bidirectional import make_bidirectional

    model = model_of("llama")
    make_bidirectional(model)
    theirs = logits_and_gradient(model, False, reference=True)
    ours = logits_and_gradient(model, False, reference=False)
    torch.testing.assert_close(ours[0], theirs[0], atol=2e-6, rtol=1e-4)


def test_no_product_between_texts_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    from patentft.models import text_attention

    shapes: list[tuple[int, int]] = []
    kernel = torch.nn.functional.scaled_dot_product_attention

    def counted(query: torch.Tensor, key: torch.Tensor, *rest: Any, **others: Any) -> torch.Tensor:
        shapes.append((query.shape[2], key.shape[2]))
        return kernel(query, key, *rest, **others)

    monkeypatch.setattr(text_attention.functional, "scaled_dot_product_attention", counted)
    LanguageModel(model_of("llama"), causal=True)(batch())
    assert shapes == [(n, n) for n in (9, 1, 12, 24, 3, 4)] * 2  # in each of two layers


def test_the_switched_model_is_otherwise_as_it_was() -> None:
    """Padded batches, generation, and what is saved."""
    model = model_of("llama").eval()
    ids = batch()["input_ids"][:, :10]
    mask = torch.ones_like(ids)
    mask[0, 6:] = 0
    before = model(input_ids=ids, attention_mask=mask).logits
    written = model.generate(ids[1:2], max_new_tokens=5, do_sample=False)
    LanguageModel(model, causal=True)(batch())
    torch.testing.assert_close(model(input_ids=ids, attention_mask=mask).logits, before)
    assert torch.equal(model.generate(ids[1:2], max_new_tokens=5, do_sample=False), written)
    assert ATTENTION not in str(model.config.to_dict())


def test_runs_of_a_row() -> None:
    found = Segments.of(torch.from_numpy(SEGMENTS), causal=True)
    assert found.rows == [[(9, True), (1, True), (12, True), (2, False)], [(24, True)],
                          [(3, True), (4, True), (17, False)]]  # fmt: skip
