"""How many of the known matches a search finds: recall@k in both directions, from the exact ranks of RANKS.

A known match is found at k when its rank (0-based; ties share their mean rank, rounded up) is below k. Matches that the
code or year filter removed have no rank; they are passed as `lost` and count as missed at every k.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from patentft import stats

KS = (1, 5, 10, 20, 50, 100, 200, 500, 1000)
Direction = Literal["technique", "patent"]


def recall_at(
    ranks: pa.Table, query: Direction, ks: Sequence[int] = KS, lost: Sequence[str] = (), confidence: float = 0.95
) -> dict[str, dict[str, float | int]]:
    """Recall at each k that is not over the pool's size, keyed by str(k).

    ranks: a RANKS table of one role. query "technique": its matched patents among num_patents; "patent": its matched
    techniques among num_techniques. lost: the query id of each known match that a filter removed.
    Each value: found, relevant (pairs, lost ones included), pooled (found / relevant), macro (mean over queries of the
    share of theirs found) and lower_bound: exact one-sided Clopper-Pearson bound on pooled, which takes pairs as
    independent. No relevant pair: {}.
    """
    rank = np.ceil(ranks.column(f"rank_in_{query}").to_numpy())
    queries = np.asarray([*ranks.column(f"{query}_id").to_pylist(), *lost], dtype=object)
    if not len(queries):
        return {}
    pool_column = ranks.column("num_patents" if query == "technique" else "num_techniques").to_numpy()
    pool = int(pool_column[0]) if len(pool_column) else 0
    code = np.unique(queries, return_inverse=True)[1]
    relevant_of = np.bincount(code)
    result: dict[str, dict[str, float | int]] = {}
    for k in ks:
        if k > pool:
            continue
        hit = np.concatenate([rank < k, np.zeros(len(lost), dtype=bool)])
        found, relevant = int(hit.sum()), len(hit)
        result[str(k)] = {
            "found": found,
            "relevant": relevant,
            "pooled": found / relevant,
            "macro": float((np.bincount(code, weights=hit) / relevant_of).mean()),
            "lower_bound": stats.recall_lower_bound(found, relevant, confidence),
        }
    return result


def summarize(ranks: pa.Table, lost: Sequence[tuple[str, str]], confidence: float = 0.95) -> dict[str, Any]:
    """Recall in both directions for the manifest; `lost`: (technique_id, patent_id) of matches that a filter
    removed.
    """
    if not ranks.num_rows and not lost:
        return {"relevant_pairs": 0, "note": "no known match among the techniques and patents searched: no recall"}
    return {
        "relevant_pairs": ranks.num_rows + len(lost),
        "relevant_pairs_filtered_out": len(lost),
        "confidence": confidence,
        "patents_of_a_technique": recall_at(ranks, "technique", lost=[t for t, _ in lost], confidence=confidence),
        "techniques_of_a_patent": recall_at(ranks, "patent", lost=[p for _, p in lost], confidence=confidence),
    }
