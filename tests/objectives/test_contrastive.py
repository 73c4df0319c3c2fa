import math

import numpy as np
import pytest
import torch

from patentft.objectives import contrastive
from patentft.objectives.contrastive import ContrastiveConfig, block_loss
from patentft.objectives.encoded import SpecialTokens
from patentft.objectives.texts import PairTexts
from tests.tiny import save_tiny_bert


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(save_tiny_bert(tmp_path_factory.mktemp("tiny")))


def slow_loss(cosines, allowed, temperature):
    rows, columns = cosines.shape
    total = 0.0
    for i in range(rows):
        over = sum(math.exp(cosines[i, j] / temperature) for j in range(columns) if allowed[i, j])
        total += (math.log(over) - cosines[i, i] / temperature) / 2
        over = sum(math.exp(cosines[j, i] / temperature) for j in range(rows) if allowed[j, i])
        total += (math.log(over) - cosines[i, i] / temperature) / 2
    return total


def test_loss_equals_the_slow_reference():
    rng = np.random.default_rng(0)
    cosines = rng.uniform(-1, 1, size=(4, 6))
    allowed = rng.random((4, 6)) < 0.7
    allowed[np.arange(4), np.arange(4)] = True
    total, weight, _ = block_loss(torch.tensor(cosines), torch.tensor(allowed), 0.1)
    assert float(total) == pytest.approx(slow_loss(cosines, allowed, 0.1), rel=1e-9)
    assert float(weight) == 4


def _texts():
    # group: a match and one near miss of its technique. T0 ~ T1 (similar); P2 is matched to both T2 and T3
    rows = [
        ("T0", "P0", 1, 0), ("T0", "P3", 0, 0), ("T1", "P1", 1, 1), ("T1", "P3", 0, 1),
        ("T2", "P2", 1, 2), ("T3", "P2", 1, 3), ("T4", "P3", 1, 4),
    ]  # fmt: skip
    return PairTexts(
        sections=[f"section {t}" for t, *_ in rows],
        patents=[f"patent {p}" for _, p, *_ in rows],
        technique_ids=[t for t, *_ in rows],
        patent_ids=[p for _, p, *_ in rows],
        label=[label for *_, label, _ in rows],
        group=[group for *_, group in rows],
        weight=[1.0] * len(rows),
        cosine=[0.5] * len(rows),
        similar=frozenset({("T0", "T1"), ("T1", "T0")}),
    )


def test_false_negatives_are_masked(tokenizer):
    config = ContrastiveConfig(block_size=8, near_negatives=True)
    texts = _texts()
    encoded, _ = contrastive.encode(texts, tokenizer, config)
    (unit,) = contrastive.units(encoded, config, 0, 0)
    batch = contrastive.collate(encoded, [unit], SpecialTokens())
    allowed = batch["allowed"].numpy()
    matched = [row for row in unit.rows if texts.label[row]]
    columns = matched + [row for row in unit.rows if not texts.label[row]]
    like = {("T0", "T1"), ("T1", "T0")}
    own = {"P0": {"T0"}, "P1": {"T1"}, "P2": {"T2", "T3"}, "P3": {"T4"}}
    for i, row in enumerate(matched):
        technique = texts.technique_ids[row]
        for j, column in enumerate(columns):
            patent = texts.patent_ids[column]
            bad = any(technique == mine or (technique, mine) in like for mine in own[patent])
            other_group = not texts.label[column] and texts.group[column] != texts.group[row]
            assert allowed[i, j] == (i == j or not (bad or other_group)), (technique, patent)


def test_blocks_hold_every_match_once_and_change_with_the_epoch(tokenizer):
    config = ContrastiveConfig(block_size=3)
    encoded, _ = contrastive.encode(_texts(), tokenizer, config)
    first = contrastive.units(encoded, config, 0, 0)
    assert sorted(row for unit in first for row in unit.rows) == [0, 2, 4, 5, 6]
    others = {tuple(unit.rows for unit in contrastive.units(encoded, config, epoch, 0)) for epoch in range(6)}
    assert len(others) > 1
    batches = [contrastive.collate(encoded, [unit], SpecialTokens()) for unit in first]
    assert [contrastive.weight(batch, config) for batch in batches] == [3.0, 2.0]
