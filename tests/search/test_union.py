"""Several searches as one: against the fusion written out pair by pair, and the cosines against a plain product."""

from __future__ import annotations

from collections import defaultdict
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patentft import schema
from patentft.config import ConfigError, build
from patentft.location import Location
from patentft.search.union import UNION, UnionConfig, fuse
from patentft.stage import Context
from patentft.store import StageFolder, open_stage

Lists = dict[str, list[str]]
"""Technique -> patents, best first."""


def candidates(lists: Lists, role: str = "all") -> pa.Table:
    rows = [
        {"technique_id": t, "patent_id": p, "role": role, "rank": rank, "cosine": 0.5, "chunk": 0}
        for t, patents in lists.items()
        for rank, p in enumerate(patents)
    ]
    return pa.Table.from_pylist(rows, schema=schema.CANDIDATES)


def slow_fusion(routes: list[Lists], top_k: int, constant: int) -> dict[str, list[str]]:
    """In exact arithmetic."""
    score: dict[tuple[str, str], Fraction] = defaultdict(Fraction)
    best: dict[tuple[str, str], int] = defaultdict(lambda: 10**9)
    for lists in routes:
        for t, patents in lists.items():
            for rank, p in enumerate(patents):
                score[t, p] += Fraction(1, constant + rank + 1)
                best[t, p] = min(best[t, p], rank)
    return {
        t: [p for _, _, p in sorted((-score[u, p], best[u, p], p) for u, p in score if u == t)][:top_k]
        for t in sorted({t for t, _ in score})
    }


LISTS = st.dictionaries(
    st.sampled_from(["T1", "T2", "T3"]), st.lists(st.sampled_from([f"P{i}" for i in range(9)]), unique=True), min_size=1
)


@settings(deadline=None)
@given(st.lists(LISTS, min_size=2, max_size=4), st.integers(1, 6), st.sampled_from([1, 60]), st.randoms())
def test_fusion_is_that_of_exact_arithmetic_whatever_the_order_of_the_routes(routes, top_k, constant, shuffle):
    if not any(patents for lists in routes for patents in lists.values()):
        return
    shuffled = shuffle.sample(routes, len(routes))
    for given_ in (routes, shuffled):
        found = fuse({str(i): candidates(lists) for i, lists in enumerate(given_)}, top_k, constant)
        lists: Lists = defaultdict(list)
        for t, p, rank in zip(found.technique, found.patent, found.rank, strict=True):
            assert rank == len(lists[found.techniques[int(t)].as_py()])
            lists[found.techniques[int(t)].as_py()].append(found.patents[int(p)].as_py())
        assert lists == slow_fusion(routes, top_k, constant)
        for row, (t, p) in enumerate(zip(found.technique, found.patent, strict=True)):
            pair = found.techniques[int(t)].as_py(), found.patents[int(p)].as_py()
            assert found.by_route[row].tolist() == [pair[1] in lists_.get(pair[0], []) for lists_ in given_]


def test_routes_of_two_splits_are_refused():
    with pytest.raises(ConfigError, match="'T1' has two roles"):
        fuse({"a": candidates({"T1": ["P1"]}, "valid"), "b": candidates({"T1": ["P1"]}, "test")}, 5, 60)


def embedded(folder: Path, name: str, prefix: str, chunks: list[int], rng: Any, parts: int) -> tuple[StageFolder, dict]:
    """Unit vectors of `chunks[i]` chunks for the i-th id."""
    stage = open_stage(Location(folder / name), "embed", {"name": name}, {})
    vectors: dict[str, np.ndarray] = {}
    for part in range(parts):
        rows = []
        for i in range(len(chunks) * part // parts, len(chunks) * (part + 1) // parts):
            own = rng.normal(size=(chunks[i], 8)).astype(np.float32)
            own /= np.linalg.norm(own, axis=1, keepdims=True)
            vectors[f"{prefix}{i}"] = own
            spans = {"num_tokens": 1, "start_char": 0, "end_char": 1}
            rows += [{"id": f"{prefix}{i}", "chunk": c, **spans, "vector": v} for c, v in enumerate(own)]
        stage.write_part("embeddings", part, pa.Table.from_pylist(rows, schema=schema.EMBEDDINGS))
    stage.finish({})
    return stage, vectors


@pytest.mark.parametrize("aggregate", ["max", "mean"])
def test_the_stage(tmp_path, aggregate, monkeypatch):
    monkeypatch.setattr("patentft.search.union.TECHNIQUES_PER_PART", 3)
    rng = np.random.default_rng(0)
    patents, of_patent = embedded(tmp_path, "patents", "P", rng.integers(1, 4, 30).tolist(), rng, 4)
    techniques, of_technique = embedded(tmp_path, "techniques", "T", rng.integers(1, 4, 7).tolist(), rng, 1)
    routes: list[Lists] = [
        {t: [f"P{i}" for i in rng.choice(30, 6, replace=False)] for t in of_technique} for _ in range(3)
    ]
    inputs = {"patents": patents, "techniques": techniques}
    for i, lists in enumerate(routes):
        inputs[f"route{i}"] = open_stage(Location(tmp_path / f"route{i}"), "search", {"i": i}, {})
        inputs[f"route{i}"].write_part("candidates", 0, candidates(lists))
        inputs[f"route{i}"].finish({})
    known = [{"technique_id": t, "patent_id": lists[t][1]} for lists in routes for t in ("T1", "T4")]
    inputs["corpus"] = open_stage(Location(tmp_path / "corpus"), "corpus", {}, {})
    inputs["corpus"].write_part("matches", 0, pa.Table.from_pylist(known, schema=schema.MATCHES))
    inputs["corpus"].finish({})
    values = {"routes": ["route0", "route1", "route2"], "data": "corpus", "top_k": 9, "aggregate": aggregate}
    config = build(UnionConfig, {**values, "patents": "patents", "techniques": "techniques"})
    folder = open_stage(Location(tmp_path / "union"), "union", {}, {})
    counts = dict(UNION.run(config, Context(folder, inputs)))
    folder.finish(counts)
    rows = folder.read("candidates").to_pylist()
    expected = slow_fusion(routes, 9, 60)
    assert {t: [r["patent_id"] for r in rows if r["technique_id"] == t] for t in expected} == expected
    assert len(folder.parts("candidates")) == 3
    for row in rows:
        products = of_technique[row["technique_id"]] @ of_patent[row["patent_id"]].T
        best = products.mean(axis=1) if aggregate == "mean" else products.max(axis=1)
        assert row["cosine"] == pytest.approx(products.mean() if aggregate == "mean" else products.max(), abs=1e-6)
        assert row["chunk"] == best.argmax()
    kept = {(row["technique_id"], row["patent_id"]) for row in rows}
    matched = {(row["technique_id"], row["patent_id"]) for row in known}
    for i, lists in enumerate(routes):
        own = {(t, p) for t, patents_ in lists.items() for p in patents_}
        others = {(t, p) for j, other in enumerate(routes) if j != i for t, ps in other.items() for p in ps}
        assert counts["routes"][f"route{i}"] == {
            "pairs": 42,
            "kept": len(own & kept),
            "kept_alone": len(own & kept - others),
            "matches": len(own & matched),
            "matches_kept": len(own & kept & matched),
            "matches_kept_alone": len((own & kept & matched) - others),
        }
    assert counts["pairs_kept"] == len(rows)
    assert counts["pairs_kept"] + counts["pairs_beyond_k"] == sum(
        len({p for lists in routes for p in lists[t]}) for t in of_technique
    )


def test_a_patent_without_a_vector_is_named(tmp_path):
    rng = np.random.default_rng(0)
    inputs = {
        "patents": embedded(tmp_path, "patents", "P", [1, 1], rng, 1)[0],
        "techniques": embedded(tmp_path, "techniques", "T", [1], rng, 1)[0],
    }
    for name, patent in (("a", "P1"), ("b", "elsewhere")):
        inputs[name] = open_stage(Location(tmp_path / name), "search", {"name": name}, {})
        inputs[name].write_part("candidates", 0, candidates({"T0": [patent]}))
        inputs[name].finish({})
    config = UnionConfig(routes=["a", "b"], patents="patents", techniques="techniques", data="corpus")
    with pytest.raises(ConfigError, match="patent 'elsewhere' has no embedding"):
        UNION.run(config, Context(open_stage(Location(tmp_path / "u"), "union", {}, {}), inputs))
    with pytest.raises(ConfigError, match="routes names a stage twice"):
        build(UnionConfig, {**config.model_dump(), "routes": ["a", "a"]})
