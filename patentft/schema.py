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

TOKEN_IDS = pa.list_(pa.field("element", pa.int32(), nullable=False))

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
        pa.field("chunk", pa.int32(), nullable=False),
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
        pa.field("chunk", pa.int32(), nullable=False),  # as in CANDIDATES
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

VALIDATIONS = pa.schema(
    [
        pa.field("technique_id", pa.string(), nullable=False),
        pa.field("patent_id", pa.string(), nullable=False),
        pa.field("role", pa.string(), nullable=False),  # this and the next two as in SCORES
        pa.field("log_odds", pa.float32(), nullable=False),
        pa.field("probability", pa.float32()),
        pa.field("stratum", pa.int32(), nullable=False),  # twice the quantile of the log-odds, one more for a yes
        pa.field("yes", pa.bool_(), nullable=False),  # the scorer's
        pa.field("judged_yes", pa.bool_()),  # the second model's; null when it said neither yes nor no
        pa.field("judged_log_odds", pa.float32()),  # null when they were not asked for
        pa.field("text", pa.string(), nullable=False),  # what it wrote
        pa.field("text_cut", pa.bool_(), nullable=False),  # section or patent, to the lengths given
        pa.field("prompt_tokens", pa.int32(), nullable=False),
        pa.field("answer_tokens", pa.int32(), nullable=False),
    ]
)
"""What a second model says of some of SCORES, by technique and patent."""

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

TEXTS = pa.schema(
    [
        pa.field("text_id", pa.string(), nullable=False),
        pa.field("patent_id", pa.string()),  # what the text belongs to; a split keeps its texts together
        pa.field("family_id", pa.string()),  # patents of one invention
        pa.field("text", pa.string(), nullable=False),  # cleaned
        pa.field("date", pa.date32()),
        pa.field("codes", pa.list_(pa.string())),  # CPC symbols of any level, normalized: "Y02E", "B01D53/56"
        pa.field("language", pa.string()),  # ISO 639-1; null when it was not asked for or is not certain
    ]
)
"""One text to learn from: a claim, an abstract, a window of a document."""

LABELS = pa.schema(
    [
        pa.field("text_id", pa.string(), nullable=False),
        pa.field("green", pa.int8(), nullable=False),  # 1: any Y02 symbol
        *(pa.field(f"y02{letter}", pa.int8(), nullable=False) for letter in "abcdeptw"),
        pa.field("labels", pa.list_(pa.int32()), nullable=False),  # rising indices into the stage's labels.json
    ]
)
"""What TEXTS' codes say, in the order of TEXTS."""

NEAR_DUPLICATES = pa.schema(
    [
        pa.field("text_id", pa.string(), nullable=False),
        pa.field("group_id", pa.string(), nullable=False),  # text_id of the group's first text in table order
        pa.field("jaccard", pa.float32(), nullable=False),  # of word shingles, to the nearest text seen in the group
    ]
)
"""Texts in groups of two or more near-duplicates; a text that is not listed has none."""

TOKENS = pa.schema(
    [
        pa.field("text_id", pa.string(), nullable=False),
        pa.field("input_ids", TOKEN_IDS, nullable=False),  # (length,), special tokens included
    ]
)

PACKED = pa.schema(
    [
        pa.field("input_ids", TOKEN_IDS, nullable=False),  # (tokens_per_row,), padding at the end
        pa.field("position_ids", TOKEN_IDS, nullable=False),  # begin at 0 with every segment
        pa.field("segment_ids", TOKEN_IDS, nullable=False),  # 1, 2, ...: attention stays inside one; 0 is padding
    ]
)
"""Rows of a fixed number of tokens, several texts in each. Every part has the same number of rows."""

SECTIONS = pa.schema(
    [
        pa.field("section_id", pa.string(), nullable=False),  # "CER:::4.1.2"
        pa.field("document", pa.string(), nullable=False),  # BREF code, "CER"
        pa.field("parent", pa.string()),  # section_id; null for a chapter
        pa.field("number", pa.string()),  # "4.1.2"; null where a heading has none (PREFACE, GLOSSARY)
        pa.field("level", pa.int32(), nullable=False),  # 1 is a chapter
        pa.field("title", pa.string(), nullable=False),
        pa.field("text", pa.string(), nullable=False),  # its own, without the sections below it
        pa.field("page", pa.int32()),  # 1-based page of the file where it begins
    ]
)

CITATIONS = pa.schema(
    [
        pa.field("section_id", pa.string(), nullable=False),
        pa.field("cited_id", pa.string()),  # null: the document has no such section
        pa.field("words", pa.string(), nullable=False),  # "see Section 4.1.2"
        pa.field("start_char", pa.int32(), nullable=False),  # in the citing section's text
    ]
)

VIEWS = pa.schema(
    [
        pa.field("text_id", pa.string(), nullable=False),
        pa.field("view", pa.string(), nullable=False),  # document, chapter, enriched or pair
        pa.field("document", pa.string(), nullable=False),
        pa.field("section_ids", pa.list_(pa.string()), nullable=False),  # where the text is from, in its order
        pa.field("text", pa.string(), nullable=False),
        pa.field("start_char", pa.int64(), nullable=False),  # half-open span in the text that was cut into windows
        pa.field("end_char", pa.int64(), nullable=False),
        pa.field("num_tokens", pa.int32(), nullable=False),
    ]
)
"""Texts for domain adaptation, made of SECTIONS and CITATIONS."""

QA = pa.schema(
    [
        pa.field("qa_id", pa.string(), nullable=False),
        pa.field("context", pa.string()),
        pa.field("question", pa.string(), nullable=False),
        pa.field("answer", pa.string(), nullable=False),
    ]
)

PREFERENCES = pa.schema(
    [
        pa.field("preference_id", pa.string(), nullable=False),
        pa.field("context", pa.string()),
        pa.field("question", pa.string(), nullable=False),
        pa.field("chosen", pa.string(), nullable=False),
        pa.field("rejected", pa.string(), nullable=False),
    ]
)

ANSWERS = pa.schema(
    [
        pa.field("qa_id", pa.string(), nullable=False),
        pa.field("method", pa.string(), nullable=False),  # zero_shot or few_shot
        pa.field("answer", pa.string(), nullable=False),  # may be empty
        pa.field("text", pa.string(), nullable=False),  # all that the model wrote: the answer, and reasoning before it
        pa.field("prompt_tokens", pa.int32(), nullable=False),
        pa.field("answer_tokens", pa.int32(), nullable=False),  # of the text, its end token included
        pa.field("finished", pa.bool_(), nullable=False),  # false: cut at max_new_tokens
        pa.field("context_cut", pa.bool_(), nullable=False),  # to make the prompt fit
        pa.field("problem", pa.string()),  # "empty", or "no marker": then the answer is the whole text
    ]
)
"""What one model answered to QA, in its order."""

ANSWER_SCORES = pa.schema(
    [
        pa.field("stage", pa.string(), nullable=False),  # the answer stage
        pa.field("qa_id", pa.string(), nullable=False),
        pa.field("rouge_l", pa.float64(), nullable=False),
        pa.field("token_f1", pa.float64(), nullable=False),
        pa.field("exact_match", pa.float64(), nullable=False),
        pa.field("similarity", pa.float64()),  # null when no encoder was asked for
    ]
)

RATINGS = pa.schema(
    [
        pa.field("stage", pa.string(), nullable=False),  # the answer stage
        pa.field("qa_id", pa.string(), nullable=False),
        pa.field("annotator", pa.string(), nullable=False),
        pa.field("rating", pa.int32(), nullable=False),  # 1 is the worst
    ]
)
"""What people said of ANSWERS whose methods they did not know."""

LABELLED_PAIRS = pa.schema(
    [
        pa.field("technique_id", pa.string(), nullable=False),
        pa.field("patent_id", pa.string(), nullable=False),
        pa.field("label", pa.int8(), nullable=False),  # 1 the patent helps with the technique, 0 it does not
        pa.field("annotator", pa.string()),  # who says so; null when it is not known
    ]
)
"""Experts' answers. Unlike MATCHES it holds negatives too; two annotators may differ about a pair."""

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
    "validations": VALIDATIONS,
    "texts": TEXTS,
    "labels": LABELS,
    "near_duplicates": NEAR_DUPLICATES,
    "text_roles": ROLES,
    "tokens": TOKENS,
    "packed": PACKED,
    "sections": SECTIONS,
    "citations": CITATIONS,
    "views": VIEWS,
    "qa": QA,
    "preferences": PREFERENCES,
    "labelled_pairs": LABELLED_PAIRS,
    "answers": ANSWERS,
    "answer_scores": ANSWER_SCORES,
    "ratings": RATINGS,
    "quarantine": QUARANTINE,
}
