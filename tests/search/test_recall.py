"""Recall@k in both directions against its definition; bounds; what a filter removed counts as missed."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from patentft import schema
from patentft.search.recall import recall_at, summarize


def ranks_of(rows: list[tuple[str, str, float, float]], num_patents: int = 100, num_techniques: int = 30) -> pa.Table:
    """rows: technique, patent, rank among patents, rank among techniques."""
    count = len(rows)
    columns = list(zip(*rows, strict=True)) or [[], [], [], []]
    return pa.table(
        {
            "technique_id": columns[0],
            "patent_id": columns[1],
            "role": ["all"] * count,
            "cosine": np.zeros(count, np.float32),
            "rank_in_technique": pa.array(columns[2], pa.float64()),
            "num_patents": np.full(count, num_patents),
            "rank_in_patent": pa.array(columns[3], pa.float64()),
            "num_techniques": np.full(count, num_techniques),
        }
    ).cast(schema.RANKS)


RANKS = ranks_of([("a", "p", 0, 4), ("a", "q", 9, 0), ("a", "r", 50, 0.5), ("b", "p", 4.5, 20)])


def test_recall_of_a_techniques_patents() -> None:
    found = recall_at(RANKS, "technique")
    assert list(found) == ["1", "5", "10", "20", "50", "100"]  # nothing over the pool of 100
    assert [found[k]["found"] for k in found] == [1, 1, 3, 3, 3, 4]  # 4.5 is rounded up: not among the first 5
    assert found["10"]["pooled"] == pytest.approx(3 / 4)
    assert found["10"]["macro"] == pytest.approx((2 / 3 + 1) / 2)
    assert found["10"]["lower_bound"] == pytest.approx(0.2486, abs=1e-4)  # Clopper-Pearson, 3 of 4, one-sided 95 %
    assert found["100"]["lower_bound"] == pytest.approx(0.05 ** (1 / 4))


def test_recall_of_a_patents_techniques() -> None:
    found = recall_at(RANKS, "patent")
    assert list(found) == ["1", "5", "10", "20"]
    assert [found[k]["found"] for k in found] == [1, 3, 3, 3]
    assert found["5"]["macro"] == pytest.approx((1 / 2 + 1 + 1) / 3)


def test_what_a_filter_removed_is_missed() -> None:
    found = recall_at(RANKS, "technique", lost=["b", "c"])
    assert (found["100"]["found"], found["100"]["relevant"]) == (4, 6)
    assert found["100"]["macro"] == pytest.approx((1 + 1 / 2 + 0) / 3)
    summary = summarize(RANKS, [("c", "z")])
    assert (summary["relevant_pairs"], summary["relevant_pairs_filtered_out"]) == (5, 1)
    assert summary["techniques_of_a_patent"]["20"]["relevant"] == 5


def test_no_known_match_says_so() -> None:
    assert recall_at(ranks_of([]), "technique") == {}
    assert "no known match" in summarize(ranks_of([]), [])["note"]
    assert summarize(ranks_of([]), [("a", "p")])["patents_of_a_technique"] == {}
