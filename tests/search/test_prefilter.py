"""The streamed prefilter against a NumPy brute force: any split into parts, any chunking, ties, filters, ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from patentft.config import ConfigError, build
from patentft.search import prefilter as module
from patentft.search.embed import vector_column
from patentft.search.prefilter import (
    PART_SHIFT,
    TIE,
    Items,
    Part,
    Queries,
    Scorer,
    SearchConfig,
    check_same_space,
    mean_rank,
    merge,
    passes,
    prefilter,
    score_matches,
    vectors_of,
)


def make_items(name: str, chunks: list[int], dim: int, rng: np.random.Generator, copies: bool = False) -> Items:
    """Unit vectors; with `copies`, drawn from very few distinct ones, so that scores tie exactly."""
    total = sum(chunks)
    vectors = rng.standard_normal((total, dim)).astype(np.float32)
    if copies and total:
        vectors = vectors[rng.integers(0, min(total, 4), total)]
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.asarray(chunks, np.int64))])
    return Items(pa.array([f"{name}{i}" for i in range(len(chunks))], pa.string()), starts, vectors)


def split(items: Items, bounds: list[int]) -> Callable[[], Iterator[Part]]:
    """As part files cut at `bounds`; opened anew at each call."""
    edges = [0, *sorted(bounds), len(items)]

    def parts() -> Iterator[Part]:
        for number, (low, high) in enumerate(pairwise(edges)):
            which = np.arange(low, high)
            yield Part(items.take(which), (number << PART_SHIFT) + np.arange(high - low))

    return parts


def brute_force(techniques: Items, patents: Items, aggregate: str) -> tuple[np.ndarray, np.ndarray]:
    """(T, N) float64 scores, and the technique's best chunk, by loops over pairs."""
    scores = np.empty((len(techniques), len(patents)))
    best = np.empty((len(techniques), len(patents)), dtype=int)
    t_chunks = [techniques.vectors[a:b].astype(np.float64) for a, b in pairwise(techniques.starts)]
    p_chunks = [patents.vectors[a:b].astype(np.float64) for a, b in pairwise(patents.starts)]
    for t, t_vectors in enumerate(t_chunks):
        for p, p_vectors in enumerate(p_chunks):
            products = t_vectors @ p_vectors.T
            per_chunk = products.max(axis=1) if aggregate == "max" else products.mean(axis=1)
            scores[t, p] = per_chunk.max() if aggregate == "max" else per_chunk.mean()
            best[t, p] = per_chunk.argmax()
    return scores, best


def ids_of(hits, row: int) -> list[str]:
    positions = hits.positions[row]
    return hits.patent_ids(positions[positions >= 0]).to_pylist()


@pytest.mark.parametrize("aggregate", ["max", "mean"])
@pytest.mark.parametrize("chunked", ["none", "techniques", "patents", "both"])
def test_prefilter_equals_brute_force(aggregate: str, chunked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK_ROWS", 64)  # several blocks per part
    rng = np.random.default_rng(0)
    t_chunks = rng.integers(1, 5, 37).tolist() if chunked in ("techniques", "both") else [1] * 37
    p_chunks = rng.integers(1, 4, 301).tolist() if chunked in ("patents", "both") else [1] * 301
    techniques, patents = make_items("t", t_chunks, 24, rng), make_items("p", p_chunks, 24, rng)
    expected, best = brute_force(techniques, patents, aggregate)
    hits = prefilter(split(patents, [100, 100, 230]), Queries(techniques, aggregate), 20)
    assert hits.num_patents == 301
    for row in range(37):
        order = np.argsort(-expected[row], kind="stable")[:20]
        assert ids_of(hits, row) == [f"p{i}" for i in order]
        np.testing.assert_allclose(hits.scores[row], expected[row, order], atol=1e-6)
        assert hits.chunks[row].tolist() == best[row, order].tolist()


@settings(max_examples=60, deadline=None)
@given(
    data=st.data(),
    t_chunks=st.lists(st.integers(1, 3), min_size=1, max_size=6),
    p_chunks=st.lists(st.integers(1, 3), min_size=0, max_size=40),
    k=st.integers(1, 50),
    aggregate=st.sampled_from(["max", "mean"]),
    seed=st.integers(0, 2**31),
)
def test_ties_go_to_the_first_patent_however_the_parts_are_cut(data, t_chunks, p_chunks, k, aggregate, seed) -> None:
    rng = np.random.default_rng(seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK_ROWS", 64)
        _check_ties(data, t_chunks, p_chunks, k, aggregate, rng)


def _check_ties(data, t_chunks, p_chunks, k, aggregate, rng) -> None:
    techniques, patents = make_items("t", t_chunks, 8, rng, copies=True), make_items("p", p_chunks, 8, rng, copies=True)
    bounds = data.draw(st.lists(st.integers(0, len(p_chunks)), max_size=4))
    whole = prefilter(split(patents, []), Queries(techniques, aggregate), k)
    cut = prefilter(split(patents, bounds), Queries(techniques, aggregate), k)
    for row in range(len(t_chunks)):
        assert ids_of(cut, row) == ids_of(whole, row)
        scores, ids = whole.scores[row], [int(each[1:]) for each in ids_of(whole, row)]
        assert len(ids) == min(k, len(p_chunks))
        found = scores[: len(ids)]
        assert all((-a, i) < (-b, j) for a, b, i, j in zip(found[:-1], found[1:], ids[:-1], ids[1:], strict=True))
        assert not np.isfinite(scores[len(ids) :]).any()


def test_identical_vectors_score_identically_wherever_they_stand() -> None:
    """What makes ties ties: a pair's score does not depend on its place in a block, nor on the block's size."""
    rng = np.random.default_rng(1)
    techniques, patents = make_items("t", [1] * 70, 384, rng), make_items("p", [1] * 3000, 384, rng)
    patents.vectors[::7] = patents.vectors[3]
    queries = Queries(techniques, "max")
    columns = []
    for first, end, scores in Scorer(queries).blocks(patents):
        places = np.arange(first, end)
        columns.append(scores[:, torch.from_numpy(places[places % 7 == 0] - first)].clone())
    same = torch.cat(columns, dim=1)
    assert (same == same[:, :1]).all()


def test_merging_workers_is_searching_at_once() -> None:
    rng = np.random.default_rng(2)
    techniques, patents = make_items("t", [2, 1, 3], 16, rng), make_items("p", [1, 2] * 50, 16, rng, copies=True)
    queries, parts = Queries(techniques, "max"), split(patents, [30, 60])
    whole = prefilter(parts, queries, 12)
    single = [prefilter(lambda n=n: (p for i, p in enumerate(parts()) if i == n), queries, 12) for n in range(3)]
    merged = merge(single, 12)
    np.testing.assert_array_equal(merged.scores, whole.scores)
    np.testing.assert_array_equal(merged.positions, whole.positions)
    np.testing.assert_array_equal(merged.chunks, whole.chunks)
    assert [ids_of(merged, row) for row in range(3)] == [ids_of(whole, row) for row in range(3)]
    assert merged.num_patents == 100


def test_k_above_the_pool_and_an_empty_pool() -> None:
    rng = np.random.default_rng(3)
    techniques = make_items("t", [1, 1], 8, rng)
    hits = prefilter(split(make_items("p", [1] * 3, 8, rng), []), Queries(techniques, "max"), 10)
    assert [(row >= 0).sum() for row in hits.positions] == [3, 3]
    empty = prefilter(split(make_items("p", [], 8, rng), []), Queries(techniques, "max"), 10)
    assert (empty.positions == -1).all()
    assert empty.num_patents == 0
    assert len(empty.ids) == 0


def test_negative_scores_are_kept_and_padding_is_not() -> None:
    """All scores negative: a zero from the padding of a block would win."""
    vectors = np.tile(np.asarray([[-1.0, 0.0]], np.float32), (5, 1))
    patents = Items(pa.array(list("abcde")), np.arange(6), vectors)
    techniques = Items(pa.array(["t"]), np.arange(2), np.asarray([[1.0, 0.0]], np.float32))
    hits = prefilter(split(patents, [2]), Queries(techniques, "max"), 9)
    assert ids_of(hits, 0) == list("abcde")
    assert hits.scores[0, :5].tolist() == [-1.0] * 5


def test_a_patent_with_more_chunks_than_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK_ROWS", 64)
    rng = np.random.default_rng(4)
    techniques, patents = make_items("t", [1, 2], 8, rng), make_items("p", [1, 200, 3], 8, rng)
    hits = prefilter(split(patents, []), Queries(techniques, "max"), 3)
    expected, _ = brute_force(techniques, patents, "max")
    assert ids_of(hits, 0) == [f"p{i}" for i in np.argsort(-expected[0])]


def test_threads_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SLICE_PATENTS", 16)
    rng = np.random.default_rng(8)
    techniques, patents = make_items("t", [2, 1, 1], 16, rng), make_items("p", [1, 2] * 100, 16, rng, copies=True)
    queries, parts = Queries(techniques, "max"), split(patents, [70, 130])
    scored = score_matches(queries, patents, np.asarray([0, 1, 2]), np.asarray([5, 50, 199]))
    one = prefilter(parts, queries, 30, scored.targets)
    torch.set_num_threads(3)
    three = prefilter(parts, queries, 30, scored.targets)
    assert torch.get_num_threads() == 3
    for name in ("scores", "positions", "chunks", "greater", "equal"):
        np.testing.assert_array_equal(getattr(three, name), getattr(one, name))
    assert [ids_of(three, row) for row in range(3)] == [ids_of(one, row) for row in range(3)]
    assert three.num_patents == one.num_patents == 200


def test_an_error_while_reading_a_part_ends_the_search() -> None:
    rng = np.random.default_rng(9)
    torch.set_num_threads(2)

    def parts() -> Iterator[Part]:
        yield Part(make_items("p", [1] * 5, 8, rng), np.arange(5))
        raise ConfigError("part 1 is damaged")

    with pytest.raises(ConfigError, match="part 1 is damaged"):
        prefilter(parts, Queries(make_items("t", [1], 8, rng), "max"), 3)
    with pytest.raises(ValueError, match="dimension 8, technique vectors 16"):
        prefilter(split(make_items("p", [1], 8, rng), []), Queries(make_items("t", [1], 16, rng), "max"), 3)


def test_memory_of_ids_is_pruned(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(5)
    patents, queries = make_items("p", [1] * 400, 8, rng), Queries(make_items("t", [1], 8, rng), "max")
    held: list[int] = []
    add = module._Ids.add

    def watched(self, *args) -> None:
        self.most = 50
        add(self, *args)
        held.append(self._held)

    monkeypatch.setattr(module._Ids, "add", watched)
    hits = prefilter(split(patents, list(range(20, 400, 20))), queries, 5)
    assert max(held) <= 50
    assert len(hits.ids) == 5


@pytest.mark.parametrize("aggregate", ["max", "mean"])
@pytest.mark.parametrize("copies", [False, True])
def test_ranks_equal_brute_force_in_both_directions(aggregate: str, copies: bool) -> None:
    rng = np.random.default_rng(6)
    techniques = make_items("t", rng.integers(1, 4, 23).tolist(), 12, rng, copies)
    patents = make_items("p", rng.integers(1, 3, 150).tolist(), 12, rng, copies)
    technique, patent = rng.integers(0, 23, 300), rng.integers(0, 150, 300)
    expected, _ = brute_force(techniques, patents, aggregate)
    queries = Queries(techniques, aggregate)
    scored = score_matches(queries, patents, technique, patent)
    hits = prefilter(split(patents, [40, 90]), queries, 3, scored.targets)
    mine = expected[technique, patent]

    def ranks(others: np.ndarray) -> np.ndarray:  # others (R, n) includes the pair itself
        return mean_rank(
            (others > mine[:, None] + TIE).sum(axis=1), (np.abs(others - mine[:, None]) <= TIE).sum(axis=1)
        )

    np.testing.assert_allclose(scored.targets.score, mine, atol=1e-6)
    np.testing.assert_array_equal(mean_rank(hits.greater, hits.equal), ranks(expected[technique]))
    np.testing.assert_array_equal(scored.rank_in_patent, ranks(expected[:, patent].T))


def test_vectors_come_from_arrow_without_a_copy() -> None:
    vectors = np.arange(12, dtype=np.float32).reshape(4, 3)
    column = vector_column(vectors)
    out = vectors_of(column)
    assert np.shares_memory(out, vectors)
    np.testing.assert_array_equal(out, vectors)
    np.testing.assert_array_equal(vectors_of(column.slice(1, 2)), vectors[1:3])
    pieces = pa.chunked_array([column.slice(0, 1), column.slice(1)])
    np.testing.assert_array_equal(vectors_of(pieces), vectors)
    with pytest.raises(ValueError, match="differ in length"):
        vectors_of(pa.array([[1.0], [1.0, 2.0]], pa.list_(pa.float32())))


def test_filters_by_code_prefix_and_year() -> None:
    patents = pa.table(
        {
            "codes": pa.array(
                [["B01D53/56", "F23J15/00"], ["B01D 53/02"], [], None, ["C02F1/00"]], pa.list_(pa.string())
            ),
            "year": pa.array([2015, 2016, 2017, 2018, None], pa.int32()),
        }
    )

    def kept(**config) -> list[int]:
        values = {"patents": "p", "techniques": "t", "data": "d", **config}
        return np.flatnonzero(passes(patents, build(SearchConfig, values))).tolist()

    assert kept() == [0, 1, 2, 3, 4]
    assert kept(codes=["B01D53"]) == [0, 1]
    assert kept(codes=["F23J", "C02F"]) == [0, 4]
    assert kept(codes=["B01D53/5 6"]) == [0]
    assert kept(year_from=2016) == [1, 2, 3]
    assert kept(year_from=2016, year_to=2017) == [1, 2]
    assert kept(codes=["B01D"], year_to=2015) == [0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"year_from": 2020, "year_to": 2010}, "after year_to"),
        ({"codes": [""]}, "empty prefix"),
        ({"roles": "split", "evaluate": []}, "evaluate must name"),
        ({"roles": "split", "evaluate": ["test", "test"]}, "each once"),
        ({"top_k": 0}, "top_k"),
        ({"agregate": "max"}, "aggregate"),
    ],
)
def test_a_wrong_configuration_is_refused(change: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(SearchConfig, {"patents": "p", "techniques": "t", "data": "d", **change})


def test_embeddings_of_two_models_are_refused() -> None:
    rng = np.random.default_rng(7)
    with pytest.raises(ConfigError, match=r"8 dimensions .*'p', model 'a'.*16 .*'t', model 'b'"):
        check_same_space(make_items("p", [1], 8, rng), make_items("t", [1], 16, rng), ("p", "t"), ("a", "b"))
