"""Masks are drawn as they should be, whatever the batch; packed rows and padded texts give one loss and gradient."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer, BloomConfig

from patentft.config import ConfigError, build
from patentft.corpus.texts.pack import packed_table
from patentft.models.backbone import Loading
from patentft.objectives import causal, masked, masking, packed
from patentft.objectives.causal import CausalConfig
from patentft.objectives.encoded import SpecialTokens, Unit
from patentft.objectives.masked import MaskedConfig
from patentft.objectives.packed import IGNORED, ArrayRows
from patentft.train import worker
from patentft.train.config import TrainConfig
from patentft.train.place import Place
from tests.tiny import save_tiny_bert, save_tiny_llama, save_tiny_mpnet

CONFIG = MaskedConfig()
TOKENS = SpecialTokens(0, 4, frozenset(range(5)), 90)
MPNET_TOKENS = SpecialTokens(1, 4, frozenset(range(5)), 90)


def text(number: int, rng: np.random.Generator) -> np.ndarray:
    """[CLS] words [SEP] of 1 to 22 words."""
    return np.concatenate([[2], rng.integers(5, 90, 1 + 7 * number % 22), [3]]).astype(np.int32)


TEXTS = [text(n, np.random.default_rng(n)) for n in range(24)]


def rows_of(rows: list[list[int]], tokens_per_row: int, pad: int = 0) -> ArrayRows:
    table = packed_table([[TEXTS[n] for n in row] for row in rows], tokens_per_row, pad)
    return ArrayRows(*(np.stack(table[name].to_numpy()).astype(np.int32) for name in ("input_ids", "segment_ids")))


def together(pad: int = 0) -> ArrayRows:
    return rows_of([[n, n + 8, n + 16] for n in range(8)], 80, pad)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    """With a head over the vocabulary."""
    folder = save_tiny_bert(tmp_path_factory.mktemp("bert"))
    AutoModelForMaskedLM.from_pretrained(folder).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def mpnet(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_tiny_mpnet(tmp_path_factory.mktemp("mpnet"))


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_tiny_llama(tmp_path_factory.mktemp("llama"))


# The draw


def test_the_shares_of_what_masked_tokens_become() -> None:
    rng = np.random.default_rng(0)
    ids = rng.integers(5, 90, (40, 2000)).astype(np.int32)
    rows = ArrayRows(ids, np.ones_like(ids))
    batch = masked.collate(rows, masked.units(rows, CONFIG, 0, 0), TOKENS)
    shown = masked.masked(batch, CONFIG)
    there = shown["labels"] != IGNORED
    assert (there.sum(dim=1) == 300).all()
    before, after = batch["input_ids"][there], shown["input_ids"][there]
    assert torch.equal(shown["input_ids"][~there], batch["input_ids"][~there])
    assert torch.equal(shown["labels"][there], before)
    became_mask, stayed = (after == 4).float().mean(), (after == before).float().mean()
    error = 4 * (0.8 * 0.2 / 12_000) ** 0.5
    assert abs(float(became_mask) - 0.8) < error
    assert abs(float(stayed) - (0.1 + 0.1 / 85)) < error  # a random token may be the token itself
    random = after[(after != 4) & (after != before)]
    assert set(random.tolist()) == set(range(5, 90))
    places = there.float().mean(dim=0)  # no place is preferred: 300 of 2000 in each of 40 rows
    assert abs(float(places[:1000].sum()) * 40 - 6000) < 4 * (12_000 * 0.25) ** 0.5


@pytest.mark.parametrize(
    ("words", "share", "quota"), [(1, 0.15, 1), (3, 0.15, 1), (10, 0.15, 2), (30, 0.15, 5), (8, 1.0, 8)]
)
def test_so_many_of_each_text_are_masked_and_never_a_special_token(words: int, share: float, quota: int) -> None:
    ids = np.array([[2, *range(10, 10 + words), 3, 2, 50, 51, 3]], dtype=np.int32)
    segments = np.array([[1] * (words + 2) + [2] * 4])
    rows = ArrayRows(ids, segments)
    for epoch in range(20):
        batch = masked.collate(rows, masked.units(rows, CONFIG, epoch, 0), TOKENS)
        there = masking.masked(batch, share)
        assert int(there[:, : words + 2].sum()) == quota
        assert int(there[:, words + 2 :].sum()) == (1 if share < 1 else 2)
        assert not bool(there[torch.from_numpy(ids) < 5].any())


def test_the_draw_is_the_unit_s_own_and_differs_by_epoch() -> None:
    rows = together()
    units = masked.units(rows, CONFIG, 0, 7)
    whole = masked.masked(masked.collate(rows, units, TOKENS), CONFIG)
    for index, unit in enumerate(units):  # alone, as a small micro-batch or another rank would see it
        alone = masked.masked(masked.collate(rows, [unit], TOKENS), CONFIG)
        assert torch.equal(alone["input_ids"][0], whole["input_ids"][index])
        assert torch.equal(alone["labels"][0], whole["labels"][index])
    for other in (masked.units(rows, CONFIG, 1, 7), masked.units(rows, CONFIG, 0, 8)):
        assert not torch.equal(masked.masked(masked.collate(rows, other, TOKENS), CONFIG)["labels"], whole["labels"])


def test_padded_units_are_the_segments_with_the_same_draw() -> None:
    rows, padded = together(), MaskedConfig(layout="padded")
    units = masked.units(rows, padded, 3, 7)
    assert [unit.rows for unit in units[:4]] == [(0, 1), (0, 2), (0, 3), (1, 1)]
    assert [unit.tokens for unit in units] == [len(TEXTS[n + 8 * k]) for n in range(8) for k in range(3)]
    whole = masked.masked(masked.collate(rows, masked.units(rows, CONFIG, 3, 7), TOKENS), CONFIG)
    each = masked.masked(masked.collate(rows, units, TOKENS), padded)
    assert each["input_ids"].shape == (24, max(len(each) for each in TEXTS))
    for index, unit in enumerate(units):
        row, segment = unit.rows
        there = whole["segment_ids"][row] == segment
        real = each["attention_mask"][index] == 1
        for name in ("input_ids", "labels"):
            assert torch.equal(each[name][index][real], whole[name][row][there])
        assert (each["labels"][index][~real] == IGNORED).all()
        assert (each["input_ids"][index][~real] == TOKENS.pad).all()
    assert masked.weight(masked.collate(rows, units, TOKENS), padded) == int((whole["labels"] != IGNORED).sum())


def test_a_text_of_one_token_is_no_unit_and_never_masked() -> None:
    rows = ArrayRows(np.array([[7, 8, 9, 10, 0], [7, 8, 9, 0, 0]]), np.array([[1, 2, 2, 2, 0], [1, 2, 3, 0, 0]]))
    assert [unit.rows for unit in packed.units(rows)] == [(0,)]
    assert [unit.rows for unit in packed.units(rows, "padded")] == [(0, 2)]
    batch = masked.collate(rows, masked.units(rows, CONFIG, 0, 0), TOKENS)
    assert masking.masked(batch, 1.0)[0].tolist() == [False, True, True, True, False]
    assert rows.segment_tokens.tolist() == [1, 3, 1, 1, 1]


def test_a_tokenizer_without_a_mask_is_refused() -> None:
    with pytest.raises(ConfigError, match="no mask token"):
        masked.collate(together(), [Unit((0,), 80, (0, 0, 0))], SpecialTokens(0, None, frozenset(), 90))


# The model


def learned(module: torch.nn.Module, objective: Any, batch: dict[str, torch.Tensor], config: Any) -> tuple[float, dict]:
    total, count, _ = objective.loss(module, batch, config)
    (total / count).backward()
    assert float(count) == objective.weight(batch, config)
    gradients = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
    return float(total.detach()), gradients


@pytest.mark.parametrize("adapter", [{"kind": "full"}, {"kind": "lora", "rank": 4}])
@pytest.mark.parametrize(("kind", "model"), [("masked", "bert"), ("masked", "mpnet"), ("causal", "llama")])
def test_packed_rows_learn_as_padded_texts(
    kind: str, model: str, adapter: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(model)
    objective: Any = {"masked": masked, "causal": causal}[kind]
    tokens = MPNET_TOKENS if model == "mpnet" else TOKENS
    rows = together(tokens.pad)
    found = []
    for layout in ("packed", "padded"):
        config = build(TrainConfig, {**SETTINGS, "objective": {"kind": kind, "layout": layout}, "adapter": adapter})
        module = worker.build(config, folder)
        torch.manual_seed(1)
        with torch.no_grad():  # LoRA's second matrix starts at zero, and its first then has no gradient
            for name, parameter in module.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(0, 0.1)
        units = objective.units(rows, config.objective, 0, 0)
        found.append(learned(module, objective, objective.collate(rows, units, tokens), config.objective))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
    assert found[0][1].keys() == found[1][1].keys()
    for name, gradient in found[0][1].items():
        torch.testing.assert_close(gradient, found[1][1][name], atol=2e-6, rtol=2e-3)


def test_logits_at_masked_tokens_are_those_of_the_plain_model(bert: str) -> None:
    model = AutoModelForMaskedLM.from_pretrained(bert).eval()
    rows, config = together(), MaskedConfig(layout="padded")
    shown = masked.masked(masked.collate(rows, masked.units(rows, config, 0, 0), TOKENS), config)
    with torch.inference_mode():
        own = model(input_ids=shown["input_ids"], attention_mask=shown["attention_mask"]).logits
        module = masked.wrap(model, config)
        sparse = module(shown)
        torch.testing.assert_close(sparse, own[shown["labels"] != IGNORED])
        again = model(input_ids=shown["input_ids"], attention_mask=shown["attention_mask"]).logits
    assert torch.equal(again, own)  # outside of the module the model is as it was


@pytest.mark.parametrize("kind", ["causal", "masked"])
@pytest.mark.parametrize("tuning", ["PromptTuningConfig", "PrefixTuningConfig"])
def test_padded_texts_with_virtual_tokens(kind: str, tuning: str, bert: str, llama: str) -> None:
    """What comes before a text moves none of its labels, and the padding of a batch none of its loss."""
    import peft

    objective: Any = {"causal": causal, "masked": masked}[kind]
    config: Any = {"causal": CausalConfig(layout="padded"), "masked": MaskedConfig(layout="padded")}[kind]
    model: Any = (AutoModelForCausalLM if kind == "causal" else AutoModelForMaskedLM).from_pretrained(
        llama if kind == "causal" else bert
    )
    task = "CAUSAL_LM" if kind == "causal" else "FEATURE_EXTRACTION"
    torch.manual_seed(0)
    module = objective.wrap(
        peft.get_peft_model(model, getattr(peft, tuning)(task_type=task, num_virtual_tokens=4)), config
    )
    rows = together()
    units = objective.units(rows, config, 0, 0)[:6]
    batch = objective.collate(rows, units, TOKENS)
    total, _, _ = objective.loss(module.eval(), batch, config)
    each = [objective.loss(module, objective.collate(rows, [unit], TOKENS), config)[0] for unit in units]
    assert float(total) == pytest.approx(sum(map(float, each)), rel=1e-5)
    total.backward()
    assert all(bool((p.grad != 0).any()) for p in module.parameters() if p.requires_grad)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_packed_rows_with_either_attention(llama: str, attention: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(llama, attn_implementation=attention).eval()
    rows = together()
    batch = causal.collate(rows, causal.units(rows, CausalConfig(), 0, 0), TOKENS)
    with torch.inference_mode():
        logits = causal.wrap(model, CausalConfig())(batch)[0][batch["segment_ids"][0] == 2]
        own = model(input_ids=torch.from_numpy(TEXTS[8].astype(np.int64))[None]).logits[0]
    torch.testing.assert_close(logits, own, atol=2e-5, rtol=1e-4)


def test_models_that_cannot_are_refused_by_name(llama: str, tmp_path: Path) -> None:
    bloom = AutoModelForCausalLM.from_config(BloomConfig(vocab_size=90, hidden_size=32, n_layer=1, n_head=2))
    batch = causal.collate(together(), causal.units(together(), CausalConfig(), 0, 0)[:1], TOKENS)
    with pytest.raises(ConfigError, match=r"type bloom: its attention .* set objective\.layout: padded"):
        causal.wrap(bloom, CausalConfig())(batch)
    with pytest.raises(ConfigError, match=r"of type llama, which has no head for masked tokens.*mntp or causal"):
        masked.build(llama, CONFIG, Loading())
    folder = save_tiny_bert(tmp_path)
    tokenizer_config = Path(folder) / "tokenizer_config.json"
    settings = json.loads(tokenizer_config.read_text())
    del settings["mask_token"]
    tokenizer_config.write_text(json.dumps(settings))
    with pytest.raises(ConfigError, match="has no mask token"):
        masked.build(folder, CONFIG, Loading())


# The loop

SETTINGS: dict[str, Any] = {
    "packed": "p", "packed_valid": "v", "model": "m", "objective": {"kind": "masked"}, "optimizer": {"lr": 5e-3},
    "epochs": 3, "units_per_step": 4, "checkpoint_seconds": 1e9,
}  # fmt: skip


def run(folder: Path, model: str, config: TrainConfig, tokens: SpecialTokens, latest: Path | None = None) -> list[dict]:
    """Train, keep every checkpoint as <folder>/<step>, and return the history."""
    torch.set_num_threads(1)
    folder.mkdir()

    def report(metrics: dict[str, Any], checkpoint: Path) -> None:
        shutil.move(checkpoint, folder / f"{metrics['step']:04d}")

    hooks = worker.Hooks(Place(0, 1, torch.device("cpu")), report, latest, lambda line: None)
    worker.train(config, model, worker.Data(together(tokens.pad), together(tokens.pad), tokens), hooks)
    return json.loads((max(folder.iterdir()) / "progress.json").read_text())["history"]


def final(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(max(folder.iterdir()) / "state.safetensors")


def difference(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    assert a.keys() == b.keys()
    return max(float((a[name] - b[name]).abs().max()) for name in a)


def test_it_learns_whatever_the_micro_batches(bert: str, tmp_path: Path) -> None:
    stable = {"lr": 5e-3, "epsilon": 1e-4}
    histories = [
        run(
            tmp_path / str(budget),
            bert,
            build(TrainConfig, {**SETTINGS, "optimizer": stable, "micro_batch_tokens": budget}),
            TOKENS,
        )
        for budget in (400, 80)
    ]
    assert difference(final(tmp_path / "400"), final(tmp_path / "80")) < 2e-5
    assert histories[0][-1]["perplexity"] < histories[0][0]["perplexity"]


def test_a_resumed_run_is_bit_equal(mpnet: str, tmp_path: Path) -> None:
    objective = {"kind": "masked", "layout": "padded"}
    config = build(
        TrainConfig,
        {**SETTINGS, "objective": objective, "adapter": {"kind": "lora", "rank": 4}, "dropout": 0.1, "epochs": 2},
    )
    run(tmp_path / "one", mpnet, config, MPNET_TOKENS)
    steps = sorted(path.name for path in (tmp_path / "one").iterdir())
    run(tmp_path / "two", mpnet, config, MPNET_TOKENS, tmp_path / "one" / steps[0])
    assert difference(final(tmp_path / "one"), final(tmp_path / "two")) == 0


def test_special_tokens_of_a_tokenizer(bert: str) -> None:
    tokens = SpecialTokens.of(AutoTokenizer.from_pretrained(bert))
    assert (tokens.pad, tokens.mask, tokens.special) == (0, 4, frozenset(range(5)))
    assert masking.ordinary(tokens).tolist() == list(range(5, tokens.vocabulary_size))
