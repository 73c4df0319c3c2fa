"""The nouns: one pyarrow schema per table that crosses a stage boundary.

A stage reads tables and writes tables, and nothing else. `version` is part of every config hash, so a change here
makes old parts unusable instead of subtly different.
"""

from __future__ import annotations

import pyarrow as pa

VERSION = 1
"""Raise when the meaning of a column changes: it is part of every stage's config hash."""

PATENTS = pa.schema(
    [
        pa.field("patent_id", pa.string(), nullable=False),
        pa.field("title", pa.string(), nullable=False),
        pa.field("abstract", pa.string(), nullable=False),
        pa.field("claims", pa.list_(pa.string())),
        pa.field("year", pa.int32()),
        pa.field("codes", pa.list_(pa.string())),  # CPC or IPC symbols, "B01D53/56"
    ]
)

TECHNIQUES = pa.schema(
    [
        pa.field("technique_id", pa.string(), nullable=False),
        pa.field("document", pa.string()),  # BREF code, "CER"
        pa.field("section", pa.string()),  # section number, "4.3.1.2"
        pa.field("title", pa.string(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
    ]
)

MATCHES = pa.schema(
    [
        pa.field("technique_id", pa.string(), nullable=False),
        pa.field("patent_id", pa.string(), nullable=False),
    ]
)
"""Known positives. Not exhaustive: a pair that is absent is unknown, not negative."""

ROLES = pa.schema([pa.field("id", pa.string(), nullable=False), pa.field("role", pa.string(), nullable=False)])
"""Which side of a split a patent or technique is on: train, valid, test or unused."""

VECTOR = pa.list_(pa.field("element", pa.float32(), nullable=False))
"""Without nulls inside: a vector column reads 1.6 times as fast."""

EMBEDDINGS = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("chunk", pa.int32(), nullable=False),  # 0-based; several per id when the text is long
        pa.field("num_tokens", pa.int32(), nullable=False),  # in this chunk, special tokens included
        pa.field("start_char", pa.int32(), nullable=False),  # half-open span of the source text that the chunk covers
        pa.field("end_char", pa.int32(), nullable=False),
        pa.field("vector", VECTOR, nullable=False),  # (dim,), unit length when the encoder normalizes
    ]
)

CANDIDATES = pa.schema(
    [
        pa.field("technique_id", pa.string(), nullable=False),
        pa.field("patent_id", pa.string(), nullable=False),
        pa.field("role", pa.string(), nullable=False),  # the side of the split that was searched: valid, test, or all
        pa.field("rank", pa.int32(), nullable=False),  # 0 is the best of its technique
        pa.field("cosine", pa.float32(), nullable=False),  # aggregated over the technique's chunks
        pa.field("chunk", pa.int32(), nullable=False),  # the technique's best-matching chunk
    ]
)

RANKS = pa.schema(
    [
        pa.field("technique_id", pa.string(), nullable=False),
        pa.field("patent_id", pa.string(), nullable=False),
        pa.field("role", pa.string(), nullable=False),  # the side of the split that was ranked: valid, test, or all
        pa.field("cosine", pa.float32(), nullable=False),
        # 0-based; pairs of equal cosine share their mean rank
        pa.field("rank_in_technique", pa.float64(), nullable=False),  # among num_patents, by this technique's cosine
        pa.field("num_patents", pa.int64(), nullable=False),
        pa.field("rank_in_patent", pa.float64(), nullable=False),  # among num_techniques, by this patent's cosine
        pa.field("num_techniques", pa.int64(), nullable=False),
    ]
)
"""Where every known match stands in the exact ranking, prefilter or not: recall, MRR, within-technique AUC follow."""

LOGITS = pa.schema(
    [
        pa.field("technique_id", pa.string(), nullable=False),
        pa.field("patent_id", pa.string(), nullable=False),
        pa.field("role", pa.string(), nullable=False),  # as in CANDIDATES
        pa.field("cosine", pa.float32(), nullable=False),
        pa.field("cross_logit", pa.float32(), nullable=False),
    ]
)
"""What the scoring actors commit, shard by shard; SCORES adds what needs all of them: weights and calibration."""

SCORES = pa.schema(
    [
        pa.field("technique_id", pa.string(), nullable=False),
        pa.field("patent_id", pa.string(), nullable=False),
        pa.field("role", pa.string(), nullable=False),  # as in CANDIDATES
        pa.field("cosine", pa.float32(), nullable=False),
        pa.field("lexical", pa.float32()),  # TF-IDF cosine of the whole texts; null when the scorer does not use it
        pa.field("cross_logit", pa.float32(), nullable=False),  # the cross-encoder's part of the log-odds
        pa.field("log_odds", pa.float32(), nullable=False),  # the scorer's, natural log, fp32
        pa.field("probability", pa.float32()),  # calibrated; null when no calibration was asked for
    ]
)

SWAPS = pa.schema(
    [
        pa.field("technique_id", pa.string(), nullable=False),
        pa.field("patent_id", pa.string(), nullable=False),
        pa.field("other_id", pa.string(), nullable=False),  # the technique whose section text was put in instead
        pa.field("cross_logit", pa.float32(), nullable=False),  # with the technique's own text
        pa.field("swapped_logit", pa.float32(), nullable=False),  # with the other's: a scorer that reads must move
    ]
)

SIMILAR = pa.schema(
    [
        pa.field("technique_id", pa.string(), nullable=False),
        pa.field("other_id", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),  # "title" or "cosine"
    ]
)
"""Pairs of techniques (both directions are listed) too alike for one to serve as a negative of the other's patents."""

PAIRS = pa.schema(
    [
        pa.field("group", pa.int64(), nullable=False),  # rows of a group are learned from, and ranked, together
        pa.field("technique_id", pa.string(), nullable=False),
        pa.field("patent_id", pa.string(), nullable=False),
        pa.field("label", pa.int8(), nullable=False),  # 1 a known match, 0 taken as a negative
        pa.field("weight", pa.float32(), nullable=False),
        pa.field("cosine", pa.float32(), nullable=False),
        pa.field("chunk", pa.int32(), nullable=False),  # the technique's chunk that matches the patent best
        pa.field("role", pa.string(), nullable=False),  # train or valid
    ]
)

QUARANTINE = pa.schema(
    [
        pa.field("table", pa.string(), nullable=False),
        pa.field("file", pa.string(), nullable=False),
        pa.field("row", pa.int64(), nullable=False),  # 0-based data row in the file (a header is not counted)
        pa.field("column", pa.string()),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("value", pa.string()),  # first 200 characters of what was found
    ]
)

TABLES: dict[str, pa.Schema] = {
    "patents": PATENTS,
    "techniques": TECHNIQUES,
    "matches": MATCHES,
    "patent_roles": ROLES,
    "technique_roles": ROLES,
    "similar": SIMILAR,
    "pairs": PAIRS,
    "embeddings": EMBEDDINGS,
    "candidates": CANDIDATES,
    "ranks": RANKS,
    "logits": LOGITS,
    "scores": SCORES,
    "swaps": SWAPS,
    "quarantine": QUARANTINE,
}
