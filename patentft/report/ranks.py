"""Pairs of all folds as arrays, and what follows from ranks: the scorer's ranks, recall@k, MRR and AUC per query."""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported: a type checker sees none of them)

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from patentft import stats

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

TECHNIQUE_KS = (5, 10, 20, 50, 100, 200)
PATENT_KS = (1, 5, 10, 20, 50)


@dataclass(frozen=True)
class Ids:
    """Technique and patent ids of all folds as codes: positions in two sorted vocabularies."""

    techniques: pa.Array
    patents: pa.Array

    @classmethod
    def of(cls, tables: Sequence[pa.Table]) -> Ids:
        def vocabulary(column: str) -> pa.Array:
            chunks = [chunk for table in tables for chunk in table[column].chunks]
            unique = pc.unique(pa.chunked_array(chunks, pa.string()))
            return unique.take(pc.sort_indices(unique))

        return cls(vocabulary("technique_id"), vocabulary("patent_id"))

    def match_keys(self, matches: pa.Table) -> Ints:
        """One integer per known match whose two ids occur in the vocabularies."""
        technique = pc.index_in(matches["technique_id"], value_set=self.techniques)
        patent = pc.index_in(matches["patent_id"], value_set=self.patents)
        known = pc.and_(pc.is_valid(technique), pc.is_valid(patent))
        return self.key(_ints(technique.filter(known)), _ints(patent.filter(known)))

    def key(self, technique: Ints, patent: Ints) -> Ints:
        return technique * max(1, len(self.patents)) + patent


def _ints(column: pa.ChunkedArray | pa.Array) -> Ints:
    return np.asarray(column).astype(np.int64)


@dataclass(frozen=True)
class Rows:
    """Pairs of all folds: fold, technique, patent (n,) int64 codes and named columns (n,) float64, NaN for null."""

    fold: Ints
    technique: Ints
    patent: Ints
    columns: Mapping[str, Floats]
    ids: Ids

    @classmethod
    def of(cls, tables: Sequence[pa.Table], ids: Ids, columns: Sequence[str]) -> Rows:
        """tables: one per fold. Rows come sorted by (fold, technique, patent), so that systems align."""
        whole = pa.concat_tables([table.select(["technique_id", "patent_id", *columns]) for table in tables])
        fold = np.repeat(np.arange(len(tables)), [table.num_rows for table in tables])
        technique = _ints(pc.index_in(whole["technique_id"], value_set=ids.techniques))
        patent = _ints(pc.index_in(whole["patent_id"], value_set=ids.patents))
        order = np.lexsort((patent, technique, fold))
        values = {name: np.asarray(whole[name].to_numpy(), np.float64)[order] for name in columns}
        return cls(fold[order].astype(np.int64), technique[order], patent[order], values, ids)

    def __len__(self) -> int:
        return self.fold.size

    def __getitem__(self, column: str) -> Floats:
        return self.columns[column]

    @property
    def by_technique(self) -> Ints:
        """(n,) one code per (fold, technique)."""
        return self.fold * max(1, len(self.ids.techniques)) + self.technique

    @property
    def by_patent(self) -> Ints:
        """(n,) one code per (fold, patent)."""
        return self.fold * max(1, len(self.ids.patents)) + self.patent

    @property
    def key(self) -> Ints:
        """(n,) one code per (fold, technique, patent): rising, as rows are sorted."""
        return self.by_technique * max(1, len(self.ids.patents)) + self.patent

    def label(self, match_keys: Ints) -> NDArray[np.bool_]:
        """(n,) whether the pair is a known match."""
        return np.isin(self.ids.key(self.technique, self.patent), match_keys)


# ---- ranks


def above(groups: Ints, values: Floats, in_groups: Ints, in_values: Floats) -> tuple[Ints, Ints]:
    """For each query (group, value) (q,): how many of the rows (n,) of its group are greater, and how many equal.

    One sort of q + n integers; exact, because values are compared as they are and never added to.
    """
    level = np.unique(np.concatenate([values, in_values]), return_inverse=True)[1].astype(np.int64)
    num_levels = int(level.max(initial=0)) + 1
    ordered = np.sort(in_groups * num_levels + level[values.size :])
    wanted = groups * num_levels + level[: values.size]
    left, right = np.searchsorted(ordered, wanted, "left"), np.searchsorted(ordered, wanted, "right")
    return np.searchsorted(ordered, (groups + 1) * num_levels, "left") - right, right - left


def mean_ranks(values: Floats, groups: Ints) -> Floats:
    """0-based rank (n,) of each row in its group, greatest value first; equal values share their mean rank."""
    greater, equal = above(groups, values, groups, values)
    return greater + (equal - 1) / 2


def rerank(base: Rows, scored: Rows, side: str) -> Floats:
    """The scorer's 0-based rank (n,) of every known match of `base`, among its technique's (or patent's) whole pool.

    base: RANKS of the search that chose the candidates; scored: SCORES. A scored match stands by its log-odds among the
    scored pairs of the technique (patent); an unscored one after all of these, by its cosine among the unscored: its
    rank in the search, less the scored pairs that stood before it there, ties counting half.
    """
    technique = side == "technique"
    groups = base.by_technique if technique else base.by_patent
    scored_groups = scored.by_technique if technique else scored.by_patent
    base_rank = base["rank_in_technique" if technique else "rank_in_patent"]
    if not len(scored) or not len(base):
        return base_rank
    at = np.minimum(np.searchsorted(scored.key, base.key), len(scored) - 1)
    is_scored = scored.key[at] == base.key
    greater, equal = above(groups, scored["log_odds"][at], scored_groups, scored["log_odds"])
    nearer, tied = above(groups, base["cosine"], scored_groups, scored["cosine"])
    ordered = np.sort(scored_groups)
    num_scored = np.searchsorted(ordered, groups, "right") - np.searchsorted(ordered, groups, "left")
    return np.where(is_scored, greater + (equal - 1) / 2, num_scored + base_rank - nearer - tied / 2)


def auc_from_ranks(ranks: Floats, groups: Ints, pool: Floats) -> tuple[Ints, Floats]:
    """(groups (G,), AUC (G,)) from the 0-based mean ranks (n,) of *all* positives of a group among `pool` (n,) items.

    m positives at ranks r_i lose sum(r_i) - m(m-1)/2 of the m(n-m) comparisons: each pair of positives adds exactly 1
    to the sum, tied or not, and a tie with a negative adds one half. NaN where the pool holds no negative.
    """
    unique, first, codes = np.unique(groups, return_index=True, return_inverse=True)
    m, n = np.bincount(codes), pool[first]
    lost, pairs = np.bincount(codes, ranks) - m * (m - 1) / 2, m * (n - m)
    return unique, 1 - np.divide(lost, pairs, out=np.full(m.size, np.nan), where=pairs > 0)


@dataclass(frozen=True)
class PerQuery:
    """One value per query (technique, or patent) of each metric: all arrays (Q,). `cluster` is the technique's code."""

    fold: Ints
    cluster: Ints
    values: Mapping[str, Floats]


def per_query(rows: Rows, ranks: Floats, side: str) -> PerQuery:
    """Recall@k, MRR and (techniques only) AUC of each query. A mean rank between two places counts as the worse one.

    A patent's cluster is its matched technique, the first by id if it has several.
    """
    groups = rows.by_technique if side == "technique" else rows.by_patent
    unique, first = np.unique(groups, return_index=True)  # rows are sorted by technique: the first row has the first id
    whole, ks = np.ceil(ranks).astype(np.int64), TECHNIQUE_KS if side == "technique" else PATENT_KS
    recall = stats.recall_at_k(whole, groups, ks).per_query
    values = {f"recall_at_{k}": recall[:, i] for i, k in enumerate(ks)}
    values["mrr"] = stats.reciprocal_rank(whole, groups)
    if side == "technique":
        values["auc"] = auc_from_ranks(ranks, groups, rows["num_patents"])[1]
    assert unique.size == recall.shape[0]
    return PerQuery(rows.fold[first], rows.technique[first], values)


# ---- what was trained on


def leaks(techniques: pa.Array, patents: pa.Array, technique_roles: pa.Table, patent_roles: pa.Table) -> dict[str, int]:
    """Distinct evaluated techniques on the train or valid side, and patents on the train side, of a fold's split."""

    def count(ids: pa.Array, roles: pa.Table, seen: Sequence[str]) -> int:
        trained = roles.filter(pc.is_in(roles["role"], value_set=pa.array(list(seen))))["id"].combine_chunks()
        return int(pc.sum(pc.is_in(pc.unique(ids), value_set=trained)).as_py() or 0)

    return {
        "techniques": count(techniques, technique_roles, ("train", "valid")),
        "patents": count(patents, patent_roles, ("train",)),
    }
