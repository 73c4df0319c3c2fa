"""A decoder made bidirectional sees ahead, is not moved by padding, and stays so when it is saved and loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

from patentft.config import ConfigError
from patentft.models.bidirectional import make_bidirectional
from patentft.models.export import write_model
from patentft.models.load import load_encoder
from patentft.objectives.packed import LanguageModel
from tests.tiny import save_tiny_bert, save_tiny_decoder

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
IDS = torch.tensor([[2, 40, 41, 42, 43, 44, 45, 3]])


def bidirectional(folder: str, attention: str = "sdpa") -> Any:
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation=attention).eval()
    make_bidirectional(model)
    return model


@torch.inference_mode()
def reach(model: Any, ids: torch.Tensor = IDS) -> torch.Tensor:
    """(T, T) bool: whether the output at a row's token changes with a column's."""
    outputs = model(input_ids=ids)[0][0]
    found = []
    for place in range(ids.shape[1]):
        other = ids.clone()
        other[0, place] = 77
        found.append((model(input_ids=other)[0][0] - outputs).abs().max(dim=-1).values > 1e-6)
    return torch.stack(found, dim=1)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", FAMILIES)
def test_every_token_sees_every_other_and_padding_moves_nothing(kind: str, attention: str, tmp_path: Path) -> None:
    folder = save_tiny_decoder(tmp_path, kind)
    causal = AutoModelForCausalLM.from_pretrained(folder, attn_implementation=attention).eval()
    assert torch.equal(reach(causal), torch.ones(8, 8, dtype=torch.bool).tril())
    model = bidirectional(folder, attention)
    assert bool(reach(model).all())
    with torch.inference_mode():
        alone = model(input_ids=IDS).logits
        whole = model(input_ids=IDS, attention_mask=torch.ones_like(IDS)).logits
        torch.testing.assert_close(whole, alone)
        padding = torch.zeros((1, 3), dtype=torch.int64)
        for side in ("left", "right"):
            order = (padding, IDS) if side == "left" else (IDS, padding)
            mask = torch.cat([part != 0 for part in order], dim=1).long()
            places = (mask.cumsum(dim=1) - 1).clamp(min=0)
            padded = model(input_ids=torch.cat(order, dim=1), attention_mask=mask, position_ids=places).logits
            torch.testing.assert_close(padded[mask == 1], alone[0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("mistral", {"sliding_window": 3}),
        ("qwen2", {"sliding_window": 3, "use_sliding_window": True, "max_window_layers": 0}),
        ("qwen3", {"sliding_window": 3, "use_sliding_window": True, "max_window_layers": 0}),
    ],
)
def test_a_sliding_window_reaches_to_both_sides(
    kind: str, changes: dict[str, Any], attention: str, tmp_path: Path
) -> None:
    model = bidirectional(save_tiny_decoder(tmp_path, kind, layers=1, **changes), attention)
    places = torch.arange(8)
    assert torch.equal(reach(model), (places[:, None] - places).abs() <= 3)
    batch = {"input_ids": IDS, "segment_ids": torch.ones_like(IDS), "position_ids": places[None]}
    with pytest.raises(ConfigError, match=r"type .*: it sees 3 tokens to a side.*set objective\.layout: padded"):
        LanguageModel(model, causal=False)(batch)


@pytest.mark.parametrize("kind", FAMILIES)
def test_it_stays_bidirectional_when_saved(kind: str, tmp_path: Path) -> None:
    folder = save_tiny_decoder(tmp_path / "base", kind)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = bidirectional(folder)
    (tmp_path / "out").mkdir()
    write_model(tmp_path / "out", model, tokenizer, {"objective": "mntp"})
    encoder = load_encoder(str(tmp_path / "out"))
    assert encoder.model.config.patentft == {"bidirectional": True, "objective": "mntp"}
    assert bool(reach(encoder.model).all())
    assert encoder.pooling == "mean"
    assert load_encoder(folder).pooling == "last"
    assert bool(reach(AutoModel.from_pretrained(tmp_path / "out").eval()).all())  # this transformers knows the flag
    mask = torch.ones_like(IDS)
    longer = torch.cat([IDS, torch.zeros((1, 2), dtype=torch.int64)], dim=1)
    with torch.inference_mode():
        vectors = encoder.forward(IDS, mask, padded=False)
        padded = encoder.forward(longer, (longer != 0).long())
    torch.testing.assert_close(padded, vectors, atol=1e-6, rtol=1e-5)


def test_an_adapter_around_a_head_is_refused_by_the_encoder(tmp_path: Path) -> None:
    import peft

    folder = save_tiny_decoder(tmp_path / "base", "llama")
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"])
    peft.get_peft_model(bidirectional(folder), config).save_pretrained(str(tmp_path / "adapter"))
    with pytest.raises(ConfigError, match=r"around a model with a head.*load the export folder that it lies in"):
        load_encoder(str(tmp_path / "adapter"))


def test_other_families_are_refused_by_name(tmp_path: Path) -> None:
    model = AutoModel.from_pretrained(save_tiny_bert(tmp_path))
    with pytest.raises(
        ConfigError, match=r"type 'bert' cannot be made bidirectional; choose one of type llama, mistral"
    ):
        make_bidirectional(model)
