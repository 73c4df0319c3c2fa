"""A masked token is predicted from the place before it, by a decoder that sees both sides."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from patentft.config import ConfigError, build
from patentft.models.backbone import Loading
from patentft.objectives import masked, mntp
from patentft.objectives.encoded import SpecialTokens
from patentft.objectives.masked import MaskedConfig
from patentft.objectives.mntp import MntpConfig
from patentft.objectives.packed import IGNORED
from patentft.train import worker
from patentft.train.config import TrainConfig
from tests.objectives.test_masked import SETTINGS, TOKENS, learned, run, together
from tests.tiny import save_tiny_decoder

CONFIG = MntpConfig()
MNTP = {"kind": "mntp", "mask_token": ":"}  # the tiny tokenizer has no "_"


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_tiny_decoder(tmp_path_factory.mktemp("llama"), "llama", mask=False)


def test_labels_stand_one_place_before_their_tokens() -> None:
    rows = together()
    batch = mntp.collate(rows, mntp.units(rows, CONFIG, 0, 0), TOKENS)
    shown = mntp.masked(batch, CONFIG)
    labels, ids, segments = shown["labels"], batch["input_ids"], batch["segment_ids"]
    rows_with, places = torch.nonzero(labels != IGNORED, as_tuple=True)
    assert torch.equal(labels[rows_with, places], ids[rows_with, places + 1])
    assert torch.equal(segments[rows_with, places], segments[rows_with, places + 1])
    changed = torch.nonzero(shown["input_ids"] != ids)
    assert {(row, place - 1) for row, place in changed.tolist()} <= set(
        zip(rows_with.tolist(), places.tolist(), strict=True)
    )
    assert mntp.weight(batch, CONFIG) == len(places)


def test_the_draw_is_that_of_masked() -> None:
    rows, share = together(), MaskedConfig(share=CONFIG.share)
    one = masked.masked(masked.collate(rows, masked.units(rows, share, 2, 5), TOKENS), share)
    other = mntp.masked(mntp.collate(rows, mntp.units(rows, CONFIG, 2, 5), TOKENS), CONFIG)
    assert torch.equal(one["input_ids"], other["input_ids"])  # each text begins with a special token, never masked


def test_packed_rows_learn_as_padded_texts(llama: str) -> None:
    rows, found = together(), []
    for layout in ("packed", "padded"):
        config = build(TrainConfig, {**SETTINGS, "objective": {**MNTP, "layout": layout}})
        module = worker.build(config, llama)
        units = mntp.units(rows, config.objective, 0, 0)  # type: ignore[arg-type]
        found.append(learned(module, mntp, mntp.collate(rows, units, TOKENS), config.objective))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
    assert found[0][1].keys() == found[1][1].keys()
    for name, gradient in found[0][1].items():
        torch.testing.assert_close(gradient, found[1][1][name], atol=2e-6, rtol=2e-3)


def test_the_loss_sees_what_comes_after(llama: str) -> None:
    """By hand: the model without its causal mask, on one text, at the place before the masked token."""
    config = build(TrainConfig, {**SETTINGS, "objective": {**MNTP, "layout": "padded"}})
    module: Any = worker.build(config, llama).eval()
    rows = together()
    unit = mntp.units(rows, config.objective, 0, 0)[5]  # type: ignore[arg-type]
    batch = mntp.collate(rows, [unit], TOKENS)
    shown = mntp.masked(batch, config.objective)  # type: ignore[arg-type]
    with torch.inference_mode():
        logits = module.model(input_ids=shown["input_ids"]).logits[0]
        places = torch.nonzero(shown["labels"][0] != IGNORED)[:, 0]
        wanted = -sum(float(logits[p].log_softmax(-1)[batch["input_ids"][0, p + 1]]) for p in places)
        total, count, _ = mntp.loss(module, batch, config.objective)  # type: ignore[arg-type]
        assert float(total) == pytest.approx(wanted, rel=1e-5)
        assert int(count) == len(places)
        batch["input_ids"][0, -1] = 50  # the last token, after all masks
        assert float(mntp.loss(module, batch, config.objective)[0]) != pytest.approx(wanted, rel=1e-6)  # type: ignore[arg-type]


@pytest.mark.parametrize("adapter", [{"kind": "full"}, {"kind": "lora", "rank": 4}])
def test_it_learns(llama: str, adapter: dict[str, Any], tmp_path: Path) -> None:
    config = build(TrainConfig, {**SETTINGS, "objective": MNTP, "adapter": adapter})
    history = run(tmp_path / "run", llama, config, TOKENS)
    assert history[-1]["perplexity"] < history[0]["perplexity"]


def test_the_mask_of_a_tokenizer_without_one(llama: str, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(llama)
    assert SpecialTokens.of(tokenizer).mask is None
    colon = tokenizer.get_vocab()[":"]
    tokens = SpecialTokens.of(tokenizer, ":")
    assert tokens.mask == colon
    assert colon in tokens.special
    model: Any = mntp.build(llama, MntpConfig(mask_token=":"), Loading())
    assert model.config.is_causal is False
    with pytest.raises(ConfigError, match=r"objective\.mask_token: '_' is no token of the tokenizer"):
        mntp.build(llama, CONFIG, Loading())
    own = save_tiny_decoder(tmp_path, "llama")
    assert SpecialTokens.of(AutoTokenizer.from_pretrained(own), "_").mask == 4
