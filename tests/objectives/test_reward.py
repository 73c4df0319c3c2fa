"""The reward model against its formula, and as a re-ranker behind the scoring stage's own scorer."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from patentft.config import ConfigError, build
from patentft.models.backbone import Loading
from patentft.models.export import write_model
from patentft.objectives import reward
from patentft.objectives.encoded import SpecialTokens
from patentft.objectives.reward import RewardConfig, group_losses
from patentft.objectives.texts import PairTexts, PreferenceTexts
from patentft.scoring.scorer import load_scorer
from patentft.train import worker
from patentft.train.config import TrainConfig
from tests.objectives.loop import history
from tests.tiny import save_tiny_bert, save_tiny_chat

WORDS = ["catalyst", "dust", "water", "gas", "filter", "sludge", "furnace", "acid", "bed", "lime", "membrane", "steam"]
SMALL = {"kind": "reward", "max_tokens": 100, "patent_tokens": 40, "prompt": {"template": "plain"}}
CONFIG = build(RewardConfig, SMALL)


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    torch.set_num_threads(1)
    return save_tiny_chat(tmp_path_factory.mktemp("chat"))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return save_tiny_bert(tmp_path_factory.mktemp("bert"))


def preferences(count: int = 12) -> PreferenceTexts:
    word = [WORDS[n % len(WORDS)] for n in range(count)]
    return PreferenceTexts(
        preference_ids=[f"P{n}" for n in range(count)],
        contexts=[None if n % 4 == 3 else f"a {word[n]} " * (1 + n % 3) for n in range(count)],
        questions=[f"Is it {WORDS[(n * 5) % len(WORDS)]}?" for n in range(count)],
        chosen=[f"{word[n]} with steam" for n in range(count)],
        rejected=["sludge " * (1 + n % 4) for n in range(count)],
    )


def pairs(groups: int = 10) -> PairTexts:
    """Groups of one or two matches and up to three negatives; the last has a match only. Weights differ."""
    rows = []
    for group in range(groups):
        labels = [1] * (1 + group % 2) + [0] * (1 + group % 3) if group < groups - 1 else [1]
        rows += [(group, label, n) for n, label in enumerate(labels)]
    return PairTexts(
        sections=[f"{WORDS[group % 12]} " * (1 + group % 4) for group, _, _ in rows],
        patents=[f"a device {n} for {'steam' if label else 'sludge'} " * (1 + n) for _, label, n in rows],
        technique_ids=[f"T{group}" for group, _, _ in rows],
        patent_ids=[f"P{number}" for number in range(len(rows))],
        label=[label for _, label, _ in rows],
        group=[group for group, _, _ in rows],
        weight=[1.0 + n for _, _, n in rows],
        cosine=[0.5] * len(rows),
        similar=frozenset(),
    )


def settings(model: str, **changes) -> TrainConfig:
    values = {
        "preferences": "p", "preferences_valid": "v", "model": model, "objective": SMALL, "epochs": 3,
        "optimizer": {"lr": 5e-3}, "units_per_step": 4,
    }  # fmt: skip
    return build(TrainConfig, {**values, **changes})


def on_pairs(model: str, **changes) -> TrainConfig:
    keys = {"data": "d", "roles": "r", "pairs": "p", "techniques": "t", "preferences": None, "preferences_valid": None}
    return settings(model, **keys, **changes)


def slow_loss(logits, label, group, weight) -> list[float]:
    """The definition, one pair of rows at a time."""
    found = []
    for number in sorted(set(group)):
        rows = [row for row in range(len(group)) if group[row] == number]
        both = [(i, j) for i in rows for j in rows if label[i] and not label[j]]
        share = [weight[i] * weight[j] for i, j in both]
        losses = [math.log1p(math.exp(logits[j] - logits[i])) for i, j in both]
        found.append(sum(w * each for w, each in zip(share, losses, strict=True)) / sum(share))
    return found


def test_the_loss_is_the_formula():
    rng = np.random.default_rng(0)
    group, label = [0, 0, 1, 1, 1, 1, 2, 2, 2], [1, 0, 1, 0, 1, 0, 0, 0, 1]
    logits, weight = rng.normal(size=9) * 3, rng.uniform(0.5, 2, 9)
    losses, gaps = group_losses(*(torch.tensor(each) for each in (logits, label, group, weight)))
    assert losses.tolist() == pytest.approx(slow_loss(logits, label, group, weight), rel=1e-9)
    assert gaps[0].item() == pytest.approx(logits[0] - logits[1])


@pytest.mark.parametrize("model", ["decoder", "encoder"])
@pytest.mark.parametrize("texts", [preferences(), pairs()], ids=["preferences", "pairs"])
def test_padding_and_company_do_not_move_the_loss(model, texts, request):
    folder = request.getfixturevalue(model)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    torch.manual_seed(0)
    module = reward.wrap(reward.build(folder, CONFIG, Loading(0.0)), CONFIG).eval()
    encoded, _ = reward.encode(texts, tokenizer, CONFIG)
    units = reward.units(encoded, CONFIG, 0, 0)
    tokens = SpecialTokens.of(tokenizer)
    whole = reward.collate(encoded, units, tokens)
    together, count, _ = reward.loss(module, whole, CONFIG)
    assert float(count) == reward.weight(whole, CONFIG) == len(units)
    logits, wanted = [], 0.0
    for unit in units:
        batch = reward.collate(encoded, [unit], tokens)
        wanted += float(reward.loss(module, batch, CONFIG)[0].detach())
        with torch.no_grad():
            for row in unit.rows:  # without padding, by the plain model
                inputs = {"input_ids": torch.from_numpy(encoded.row("input_ids", row).astype(np.int64))[None]}
                if "token_type_ids" in encoded.arrays:
                    inputs["token_type_ids"] = torch.from_numpy(encoded.row("token_type_ids", row).astype(np.int64))[
                        None
                    ]
                logits.append(float(reward.backbone(module)(**inputs).logits[0, 0]))
    assert float(together.detach()) == pytest.approx(wanted, rel=1e-5)
    assert module(whole).tolist() == pytest.approx(logits, abs=1e-5)
    parts = [
        reward.predict(module, reward.collate(encoded, units[cut : cut + 3], tokens), CONFIG)
        for cut in range(0, len(units), 3)
    ]
    found = reward.metrics(parts, CONFIG)
    assert found["loss"] == pytest.approx(wanted / len(units), rel=1e-5)
    aucs = []
    for index in range(len(units)):
        rows = [row for row, group in enumerate(whole["group"].tolist()) if group == index]
        label = whole["label"].tolist()
        won = [logits[i] > logits[j] for i in rows for j in rows if label[i] > label[j]]
        aucs.append(sum(won) / len(won))
    assert found["preference_accuracy"] == pytest.approx(float(np.mean(aucs)))


def test_groups_without_a_comparison_are_left_out_and_counted(encoder):
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    encoded, counts = reward.encode(pairs(), tokenizer, CONFIG)
    assert (counts["groups"], counts["groups_without_both"]) == (10, 1)
    assert len(reward.units(encoded, CONFIG, 0, 0)) == 9
    alone = PairTexts(**{**vars(pairs()), "label": [1] * len(pairs().label)})
    with pytest.raises(ConfigError, match=r"no group of the pairs has both a match and a negative"):
        reward.encode(alone, tokenizer, CONFIG)


def test_a_decoder_without_a_padding_token_reads_the_last_one(tmp_path: Path):
    folder = save_tiny_chat(tmp_path)
    plain = AutoTokenizer.from_pretrained(folder)
    plain.pad_token = None
    plain.save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.pad_token_id is None
    module = reward.wrap(reward.build(folder, CONFIG, Loading()), CONFIG).eval()
    encoded, _ = reward.encode(preferences(), tokenizer, CONFIG)
    units = reward.units(encoded, CONFIG, 0, 0)
    tokens = SpecialTokens.of(tokenizer)
    alone = torch.cat([module(reward.collate(encoded, [unit], tokens)) for unit in units])
    torch.testing.assert_close(module(reward.collate(encoded, units, tokens)), alone, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("model", ["decoder", "encoder"])
@pytest.mark.parametrize("adapter", [{"kind": "full"}, {"kind": "lora", "rank": 4}])
def test_it_learns_preferences(model, adapter, request):
    folder = request.getfixturevalue(model)
    config = settings(folder, adapter=adapter)
    encoded, _ = reward.encode(preferences(), AutoTokenizer.from_pretrained(folder), config.objective)
    found = history(config, folder, encoded, encoded)
    assert found[-1]["loss"] < found[0]["loss"]
    assert found[-1]["preference_accuracy"] > 0.9


@pytest.mark.parametrize("model", ["decoder", "encoder"])
def test_trained_on_pairs_it_is_a_scorer(model, request, tmp_path: Path):
    folder = request.getfixturevalue(model)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    config = on_pairs(folder)
    encoded, _ = reward.encode(pairs(), tokenizer, config.objective)
    assert history(config, folder, encoded, encoded)[-1]["preference_accuracy"] > 0.9
    module = worker.build(config, folder).eval()
    write_model(tmp_path, reward.backbone(module), tokenizer, {"objective": "reward"})
    assert AutoModelForSequenceClassification.from_pretrained(tmp_path).config.num_labels == 1
    scorer, _ = load_scorer(
        str(tmp_path), device=torch.device("cpu"), max_tokens=100, patent_tokens=40, tokens_per_batch=200
    )
    logits, _ = scorer.logits(pairs().sections, pairs().patents)
    units = reward.units(encoded, config.objective, 0, 0)
    with torch.no_grad():
        mine = module(reward.collate(encoded, units, SpecialTokens.of(tokenizer)))
    rows = [row for unit in units for row in unit.rows]
    assert mine.tolist() == pytest.approx(logits[rows].tolist(), abs=1e-5)
