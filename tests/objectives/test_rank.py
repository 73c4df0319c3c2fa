import math

import numpy as np
import pytest
import torch

from patentft.models.backbone import Loading
from patentft.objectives import rank
from patentft.objectives.encoded import SpecialTokens
from patentft.objectives.rank import PairScorer, RankConfig, group_loss
from patentft.objectives.texts import PairTexts
from tests.tiny import save_tiny_bert


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return save_tiny_bert(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def tokenizer(tiny):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny)


def slow_loss(logits, label, group, config):
    """The definition, one group and one pair at a time."""
    total = 0.0
    for number in sorted(set(group)):
        rows = [row for row in range(len(group)) if group[row] == number]
        normalizer = math.log(sum(math.exp(logits[row]) for row in rows))
        positives = [row for row in rows if label[row]]
        total += config.listwise * sum(normalizer - logits[row] for row in positives) / len(positives)
        single = [math.log1p(math.exp(-logits[row] if label[row] else logits[row])) for row in rows]
        total += config.pairwise * sum(single) / len(rows)
    return total


def test_loss_equals_the_slow_reference():
    rng = np.random.default_rng(0)
    config = RankConfig(listwise=0.7, pairwise=1.3)
    group = [0, 0, 0, 1, 1, 2, 2, 2, 2]
    label = [1, 0, 0, 1, 0, 1, 0, 1, 0]
    logits = rng.normal(size=9) * 3
    total, weight, _ = group_loss(
        torch.tensor(logits),
        torch.tensor(label, dtype=torch.float64),
        torch.tensor(group),
        torch.ones(9).double(),
        config,
    )
    assert float(total) == pytest.approx(slow_loss(logits, label, group, config), rel=1e-9)
    assert float(weight) == 3


def test_loss_does_not_depend_on_how_groups_are_packed():
    config = RankConfig()
    logits, label = torch.randn(8, generator=torch.Generator().manual_seed(1)), torch.tensor([1.0, 0, 0, 0, 1, 0, 0, 0])
    ones = torch.ones(8)
    whole, _, _ = group_loss(logits, label, torch.tensor([0] * 4 + [1] * 4), ones, config)
    parts = [
        group_loss(logits[half], label[half], torch.zeros(4, dtype=torch.int64), ones[half], config)[0]
        for half in (slice(0, 4), slice(4, 8))
    ]
    assert float(whole) == pytest.approx(float(sum(parts)), rel=1e-6)


def test_the_first_ranking_is_the_cosines(tiny, tokenizer):
    config = RankConfig(cosine_weight=20.0, cosine_center=0.2)
    module = PairScorer(rank.build(tiny, config, Loading()), config).eval()
    texts = _texts(["catalyst bed"] * 3, ["a filter", "a catalyst", "a pump"], cosine=[0.1, 0.5, 0.3])
    encoded, _ = rank.encode(texts, tokenizer, config)
    batch = rank.collate(encoded, rank.units(encoded, config, 0, 0), SpecialTokens.of(tokenizer))
    assert module(batch).tolist() == pytest.approx([-2.0, 6.0, 2.0])


def test_the_patent_is_kept_whole_and_the_section_is_cut(tokenizer):
    config = RankConfig(max_tokens=40, patent_tokens=20)
    section, patent = "gas " * 100, "dust water"
    encoded, counts = rank.encode(_texts([section], [patent]), tokenizer, config)
    ids = encoded.row("input_ids", 0).tolist()
    assert len(ids) == 40
    assert tokenizer.decode(ids).endswith("dust water [SEP]")
    assert counts == {"pairs": 1, "patents_cut": 0, "sections_cut": 1}
    long = "dust " * 50
    encoded, counts = rank.encode(_texts(["gas"], [long]), tokenizer, config)
    types = encoded.row("token_type_ids", 0)
    assert int(types.sum()) == 20 + 1  # the patent's tokens and the last [SEP]
    assert counts["patents_cut"] == 1


def test_padding_does_not_move_a_logit(tiny, tokenizer):
    config = RankConfig()
    module = PairScorer(rank.build(tiny, config, Loading(0.0)), config).eval()
    torch.nn.init.normal_(rank.head(module.classifier).get_parameter("weight"))
    texts = _texts(
        ["catalyst bed", "a long section about dust " * 8], ["a filter", "water pump"], group=[0, 1], label=[1, 1]
    )
    encoded, _ = rank.encode(texts, tokenizer, config)
    units = rank.units(encoded, config, 0, 0)
    together = module(rank.collate(encoded, units, SpecialTokens()))
    alone = torch.cat([module(rank.collate(encoded, [unit], SpecialTokens())) for unit in units])
    assert torch.allclose(together, alone, atol=1e-5)


def test_metrics_do_not_depend_on_batches():
    config = RankConfig()
    rng = np.random.default_rng(3)
    logits, label = rng.normal(size=12).astype(np.float32), np.tile([1.0, 0, 0], 4).astype(np.float32)

    def part(groups):
        rows = np.concatenate([np.arange(3) + 3 * g for g in groups])
        return {
            "logit": logits[rows],
            "label": label[rows],
            "group": np.repeat(np.arange(len(groups)), 3),
            "loss": np.array([float(len(groups))]),
            "weight": np.array([float(len(groups))]),
        }

    whole, split = (
        rank.metrics([part([0, 1, 2, 3])], config),
        rank.metrics([part([0]), part([1, 2, 3])], config),
    )
    assert whole == pytest.approx(split)


def _texts(sections, patents, cosine=None, group=None, label=None):
    count = len(sections)
    return PairTexts(
        sections=sections,
        patents=patents,
        technique_ids=[f"T{g}" for g in group or [0] * count],
        patent_ids=[f"P{i}" for i in range(count)],
        label=label or [1] + [0] * (count - 1),
        group=group or [0] * count,
        weight=[1.0] * count,
        cosine=cosine or [0.0] * count,
        similar=frozenset(),
    )
