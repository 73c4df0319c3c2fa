from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from patentft.config import build
from patentft.corpus.texts import pack
from patentft.corpus.texts.pack import PackConfig

LENGTHS = st.lists(st.integers(0, 90), max_size=60)


def config(**values) -> PackConfig:
    return build(PackConfig, {"tokens": "tokens", **values})


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(1, 32), max_size=60))
def test_best_fit_places_everything_once_and_no_two_rows_could_be_one(lengths):
    rows = pack.best_fit(lengths, 32)
    assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
    filled = sorted(sum(lengths[index] for index in row) for row in rows)
    assert all(each <= 32 for each in filled)
    assert len(filled) < 2 or filled[0] + filled[1] > 32  # first- and best-fit never leave two rows half empty


def reference_best_fit(lengths: list[int], capacity: int) -> list[list[int]]:
    rows: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        room = [(capacity - sum(lengths[i] for i in row), number) for number, row in enumerate(rows)]
        fitting = [free for free, _ in room if free >= lengths[index]]
        if fitting:
            # of the rows that are equally full, the one that came to be so last
            rows[max(number for free, number in room if free == min(fitting))].append(index)
        else:
            rows.append([index])
    return rows


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 20), max_size=40))
def test_best_fit_fills_as_many_rows_as_the_slow_one(lengths):
    assert len(pack.best_fit(lengths, 20)) == len(reference_best_fit(lengths, 20))


@settings(max_examples=150, deadline=None)
@given(LENGTHS, st.sampled_from(["split", "truncate", "drop"]), st.integers(1, 7), st.integers(0, 3))
def test_every_token_is_in_one_row_and_parts_are_equal(lengths, long_text, rows_per_part, seed):
    keys = np.random.default_rng(seed).integers(0, 2**64, len(lengths), dtype=np.uint64)
    limit = 32
    settings_ = config(tokens_per_row=limit, rows_per_part=rows_per_part, long_text=long_text)
    plan = pack.plan(np.array(lengths, np.int64), keys, settings_)
    assert plan.rows_per_part <= rows_per_part
    rows = [row for part in range(plan.num_parts) for row in plan.rows_of_part(part)]
    assert len(rows) == plan.num_parts * plan.rows_per_part
    assert len(rows) - plan.num_rows < plan.num_parts or plan.num_rows == 0
    seen = [np.zeros(length, int) for length in lengths]
    for row in rows:
        assert plan.pieces.length[row].sum() <= limit
        for piece in row:
            start = plan.pieces.start[piece]
            seen[plan.pieces.text[piece]][start : start + plan.pieces.length[piece]] += 1
    for length, tokens in zip(lengths, seen, strict=True):
        whole = {"split": length, "truncate": min(length, limit), "drop": length if length <= limit else 0}[long_text]
        assert (tokens[:whole] == 1).all()
        assert not tokens[whole:].any()


def test_padding_is_below_3_percent_on_the_lengths_of_claims():
    rng = np.random.default_rng(0)
    words = np.exp(rng.normal(np.log(142), 0.62, 30_000)).clip(8, 1500)  # p5 51, p50 142, p95 394 words
    lengths = (words * 1.33).astype(np.int64)
    keys = rng.integers(0, 2**64, len(lengths), dtype=np.uint64)
    for tokens_per_row in (512, 2048):
        plan = pack.plan(lengths, keys, config(tokens_per_row=tokens_per_row, rows_per_part=256))
        capacity = plan.num_parts * plan.rows_per_part * tokens_per_row
        assert 1 - lengths.sum() / capacity < 0.03


def test_the_order_follows_the_keys_not_the_table():
    lengths = np.arange(10, 40, dtype=np.int64)
    keys = np.random.default_rng(1).integers(0, 2**64, 30, dtype=np.uint64)
    settings_ = config(tokens_per_row=64, rows_per_part=4)
    order = np.random.default_rng(2).permutation(30)
    one, other = pack.plan(lengths, keys, settings_), pack.plan(lengths[order], keys[order], settings_)
    for part in range(one.num_parts):
        for row, same in zip(one.rows_of_part(part), other.rows_of_part(part), strict=True):
            assert one.pieces.text[row].tolist() == order[other.pieces.text[same]].tolist()


@pytest.mark.parametrize("causal", [True, False])
def test_attention_kept_inside_segments_equals_each_text_alone(causal):
    """A packed row through a real model, with the mask that segment_ids stand for, against one text at a time."""
    from transformers import BertConfig, BertModel, LlamaConfig, LlamaModel

    torch.manual_seed(0)
    sizes = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64}
    sizes["num_attention_heads"] = 4
    model = (LlamaModel(LlamaConfig(**sizes)) if causal else BertModel(BertConfig(**sizes))).eval()
    runs = [np.arange(3, 3 + n, dtype=np.int32) for n in (5, 9, 2)]
    row = pack.packed_table([runs], 20, pad_id=0).to_pylist()[0]
    ids, positions, segments = (torch.tensor([row[name]]) for name in ("input_ids", "position_ids", "segment_ids"))
    allowed = (segments[:, :, None] == segments[:, None, :]) & (segments[:, :, None] > 0)
    allowed |= torch.eye(20, dtype=torch.bool)
    if causal:
        allowed = allowed.tril()
    mask = torch.zeros(1, 1, 20, 20).masked_fill(~allowed[:, None], torch.finfo(torch.float32).min)
    with torch.no_grad():
        packed = model(input_ids=ids, position_ids=positions, attention_mask=mask).last_hidden_state[0]
        start = 0
        for run in runs:
            alone = model(input_ids=torch.tensor(run[None].astype(np.int64))).last_hidden_state[0]
            assert torch.allclose(packed[start : start + len(run)], alone, atol=1e-5)
            start += len(run)
    assert (segments[0, start:] == 0).all()
