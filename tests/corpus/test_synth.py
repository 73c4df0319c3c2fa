"""The synthetic corpus: exact, exhaustive, decidable, and hard for anything that only compares words."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import tracemalloc
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from scipy import sparse
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import normalize

from patentft import schema
from patentft.corpus import synth
from patentft.corpus.synth import Facts, SynthSpec
from patentft.corpus.synth_patent import CONTRASTS
from patentft.corpus.synth_section import ASIDES
from patentft.corpus.synth_text import ATTRIBUTES
from patentft.corpus.synth_world import Value

SPEC = SynthSpec(patents=2000, techniques=120, matches=600, seed=1)


def rows(batches: Any) -> list[dict[str, Any]]:
    return [row for batch in batches for row in batch.to_pylist()]


@pytest.fixture(scope="module")
def techniques() -> list[dict[str, Any]]:
    return rows(synth.techniques(SPEC))


@pytest.fixture(scope="module")
def patents() -> list[dict[str, Any]]:
    return rows(synth.patents(SPEC))


@pytest.fixture(scope="module")
def matches() -> set[tuple[str, str]]:
    return {(row["technique_id"], row["patent_id"]) for row in rows(synth.matches(SPEC))}


# --- tables ----------------------------------------------------------------------------------------------------------


def test_schemas_and_counts():
    for batches, table, count in (
        (synth.techniques(SPEC, batch_rows=50), schema.TECHNIQUES, 120),
        (synth.patents(SPEC, batch_rows=300), schema.PATENTS, 2000),
        (synth.matches(SPEC, batch_rows=70), schema.MATCHES, 600),
    ):
        batches = list(batches)
        assert all(batch.schema == table for batch in batches)
        assert sum(batch.num_rows for batch in batches) == count
        assert pa.Table.from_batches(batches).validate(full=True) is None


def test_ids_are_unique_and_matches_refer_to_them(techniques, patents, matches):
    technique_ids = [row["technique_id"] for row in techniques]
    assert all(row["technique_id"] == f"{row['document']}:::{row['section']}" for row in techniques)
    assert len(set(technique_ids)) == 120
    assert len({row["patent_id"] for row in patents}) == 2000
    assert len(matches) == 600
    assert {t for t, _ in matches} <= set(technique_ids)
    assert {p for _, p in matches} <= {row["patent_id"] for row in patents}


def test_texts_are_complete_and_of_patent_like_length(techniques, patents):
    assert all(row["title"] and row["text"] for row in techniques)
    assert all(row["title"] and row["abstract"] and row["claims"] and all(row["claims"]) for row in patents)
    assert all(row["codes"] and 1990 <= row["year"] <= 2024 for row in patents)
    for word in ("{", "}", "  ", " None"):
        assert not [row for row in techniques if word in row["text"] + row["title"]]
        assert not [row for row in patents if word in row["title"] + row["abstract"] + " ".join(row["claims"])]
    sections = [len(row["text"].split()) for row in techniques]
    abstracts = [len(row["abstract"].split()) for row in patents]
    assert 60 <= min(sections) <= 150 < 400 <= max(sections) <= 700
    assert 25 <= min(abstracts) <= 60 < 160 <= max(abstracts) <= 260
    assert 9 <= np.mean([len(row["claims"]) for row in patents]) <= 13


def test_dependent_claims_refer_to_earlier_claims(patents):
    for row in patents:
        for number, claim in enumerate(row["claims"], 1):
            assert all(int(parent) < number for parent in re.findall(r"claim (\d+)", claim))


def test_y02_follows_from_the_facts(patents):
    green = [any(code.startswith("Y02") for code in row["codes"]) for row in patents]
    facts = [synth.patent_truth(SPEC, i).facts for i in range(SPEC.patents)]
    expected = [f.pollutant in ("co2", "n2o") or f.feature in ("heat", "recover", "loop") for f in facts]
    assert green == expected


# --- determinism and streaming ---------------------------------------------------------------------------------------


def test_same_seed_same_bytes_other_seed_other_texts(patents):
    assert rows(synth.patents(SPEC, batch_rows=77)) == patents
    other = replace(SPEC, seed=2)
    assert not [a for a, b in zip(rows(synth.patent_range(other, 0, 50)), patents, strict=False) if a == b]
    assert rows(synth.techniques(other)) != rows(synth.techniques(SPEC))
    assert rows(synth.matches(other)) != rows(synth.matches(SPEC))


def test_the_texts_of_a_seed_do_not_drift(techniques, patents):
    """A changed sentence changes every benchmark figure: change DIGEST only together with the figures."""
    text = json.dumps([techniques, patents[:200]], sort_keys=True)
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == DIGEST


DIGEST = "3d4147ec10cfd634"
"""Of the sections and first 200 patents of SPEC."""


@pytest.mark.parametrize(("start", "stop"), [(0, 1), (13, 20), (1990, 2000), (5, 5)])
def test_any_range_equals_the_stream(patents, start, stop):
    assert rows(synth.patent_range(SPEC, start, stop, batch_rows=3)) == patents[start:stop]


def test_a_billion_patents_start_at_once_anywhere():
    spec = SynthSpec(patents=10**9, techniques=4000, matches=10**8, seed=3)
    last = rows(synth.patent_range(spec, 10**9 - 5, 10**9))
    assert [row["patent_id"] for row in last] == [f"SYN{i}" for i in range(10**9 - 5, 10**9)]
    assert next(synth.patents(spec, batch_rows=8)).num_rows == 8
    assert next(synth.matches(spec, batch_rows=8)).num_rows == 8


def test_memory_is_one_batch():
    spec = SynthSpec(patents=10**6, techniques=100, matches=1000, seed=3)
    stream = synth.patents(spec, batch_rows=100)
    next(stream)
    peaks = []
    for batches in (2, 10):
        tracemalloc.start()
        for _ in itertools.islice(stream, batches):
            pass
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.3 * peaks[0]


# --- the rule --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "spec",
    [
        SPEC,
        SynthSpec(50, 1, 50, 0),
        SynthSpec(1, 1, 0, 9),
        SynthSpec(500, 400, 30, 4),
        SynthSpec(997, 3, 500, 2**63 - 1),
    ],
)
def test_matches_are_exactly_the_pairs_that_satisfy_the_rule(spec):
    ids, facts = synth.technique_ids(spec), synth.technique_facts(spec)
    assert len(set(facts)) == spec.techniques
    truths = [synth.patent_truth(spec, i).facts for i in range(spec.patents)]
    by_rule = {
        (ids[t], synth.patent_id(i))
        for t, i in itertools.product(range(spec.techniques), range(spec.patents))
        if synth.is_match(facts[t], truths[i])
    }
    listed = [(row["technique_id"], row["patent_id"]) for row in rows(synth.matches(spec))]
    assert set(listed) == by_rule
    assert len(listed) == len(by_rule) == spec.matches


def test_kinds_are_what_they_say():
    facts = synth.technique_facts(SPEC)
    kinds = Counter()
    for i in range(SPEC.patents):
        truth = synth.patent_truth(SPEC, i)
        kinds[truth.kind] += 1
        if truth.kind in Facts._fields:
            differing = [
                n for n, a, b in zip(Facts._fields, truth.facts, facts[truth.technique], strict=True) if a != b
            ]
            assert differing == [truth.kind]
        if truth.kind == "purpose":
            assert truth.facts == Facts("", facts[truth.technique].principle, "", "")
        if truth.contrast:
            attribute, value = truth.contrast
            assert getattr(truth.facts, attribute) != value
    assert set(kinds) == {"match", *synth.KINDS}
    assert sum(synth.KINDS.values()) == pytest.approx(1)
    for kind, share in synth.KINDS.items():
        assert kinds[kind] == pytest.approx(1400 * share, rel=0.35)


def test_no_unmatched_patent_is_marked_by_its_facts():
    """Techniques and near misses draw from the same combinations: each value occurs on both sides of the label."""
    truths = [synth.patent_truth(SPEC, i) for i in range(SPEC.patents)]
    for position in range(4):
        matched = {t.facts[position] for t in truths if t.kind == "match"}
        assert matched <= {t.facts[position] for t in truths if t.kind != "match"}


# --- the words -------------------------------------------------------------------------------------------------------

STOP_WORDS = """
a an the of and or to in for by with from on at is are be been that which so as its it into per between than
then while this what through over only not one two each no has have having most more out off before every
followed under take takes less until where when
"""


def _content(phrases: tuple[str, ...]) -> set[str]:
    text = " ".join(phrases).lower().replace("{s}", "").replace("{w}", "")
    return {word for word in re.findall(r"[a-z0-9]+", text) if not word.isdigit()} - {*STOP_WORDS.split()}


@pytest.mark.parametrize("attribute", list(ATTRIBUTES))
def test_the_two_sides_of_a_value_share_no_content_word(attribute):
    for name, value in ATTRIBUTES[attribute].items():
        shared = _content(value.section + value.how) & _content(value.patent + value.steps + value.details)
        assert not shared, (attribute, name, shared)


Needle = tuple[str, str, str]
"""Lower-case text to find, attribute, value."""


def _needles(phrases: Callable[[str, Value], tuple[str, ...]]) -> list[Needle]:
    """All phrases of a side, longest first; of a phrase with a slot only the longest literal piece."""
    found: dict[str, tuple[str, str]] = {}
    for attribute, table in ATTRIBUTES.items():
        for name, value in table.items():
            for phrase in phrases(attribute, value):
                piece = max(re.split(r"\{[sw]\}", phrase), key=len).strip().lower()
                assert found.setdefault(piece, (attribute, name)) == (attribute, name), f"{piece!r} words two values"
    return sorted(((piece, *what) for piece, what in found.items()), key=lambda needle: -len(needle[0]))


SECTION_NEEDLES = _needles(lambda attribute, value: value.how if attribute == "feature" else value.section)
PATENT_NEEDLES = _needles(lambda attribute, value: value.patent + value.steps)


def _decode(text: str, openings: tuple[str, ...], needles: list[Needle]) -> Facts:
    """The facts that `text` names outside sentences with such `openings`; longer phrases consume their text first."""
    text = " ".join(s for s in re.split(r"(?<=\.)\s+", text) if not s.startswith(openings)).lower()
    named: dict[str, set[str]] = {attribute: set() for attribute in ATTRIBUTES}
    for piece, attribute, name in needles:
        if piece in text:
            text, hits = re.subn(rf"(?<!\w){re.escape(piece)}(?!\w)", "#", text)
            if hits:
                named[attribute].add(name)
    assert all(len(names) <= 1 for names in named.values()), (named, text)
    return Facts(**{attribute: "".join(names) for attribute, names in named.items()})


def _read_section(row: dict[str, Any]) -> Facts:
    description = row["text"].split("\n\n")[0].removeprefix("Description\n")
    return _decode(f"{row['title']}. {description}", ASIDES, SECTION_NEEDLES)


def _read_patent(row: dict[str, Any]) -> Facts:
    return _decode(f"{row['title']}. {row['abstract']}", CONTRASTS, PATENT_NEEDLES)


def test_the_best_possible_auc_is_the_stated_one(techniques, patents, matches):
    """A reader who knows the vocabulary recovers every latent fact from the texts, so the best AUC is exactly 1."""
    sections = {row["technique_id"]: _read_section(row) for row in techniques}
    assert sections == dict(zip(synth.technique_ids(SPEC), synth.technique_facts(SPEC), strict=True))
    read = {row["patent_id"]: _read_patent(row) for row in patents}
    assert read == {synth.patent_id(i): synth.patent_truth(SPEC, i).facts for i in range(SPEC.patents)}
    pairs = list(itertools.product(sections, read))
    labels = [pair in matches for pair in pairs]
    scores = [float(synth.is_match(sections[t], read[p])) for t, p in pairs]
    assert roc_auc_score(labels, scores) == synth.BEST_AUC == 1.0


# --- the difficulty --------------------------------------------------------------------------------------------------


class Bench:
    """Labelled pairs as arrays: technique row, patent row, label, kind; and the two sides' texts."""

    def __init__(self, techniques: list[dict[str, Any]], patents: list[dict[str, Any]]) -> None:
        row_of = {row["technique_id"]: k for k, row in enumerate(techniques)}
        pairs = list(synth.labelled_pairs(SPEC))
        self.technique = np.array([row_of[pair.technique_id] for pair in pairs])
        self.patent = np.array([int(pair.patent_id[3:]) for pair in pairs])
        self.label = np.array([pair.label for pair in pairs])
        self.kind = np.array([pair.kind for pair in pairs])
        self.sections = [f"{row['title']}. {row['text']}" for row in techniques]
        self.abstracts = [f"{row['title']}. {row['abstract']}" for row in patents]
        self.full = [f"{a} {' '.join(row['claims'])}" for a, row in zip(self.abstracts, patents, strict=True)]


@pytest.fixture(scope="module")
def bench(techniques, patents) -> Bench:
    return Bench(techniques, patents)


def test_labelled_pairs_agree_with_the_matches(bench, matches):
    pairs = list(synth.labelled_pairs(SPEC))
    assert {(p.technique_id, p.patent_id) for p in pairs if p.label} == matches
    assert not {(p.technique_id, p.patent_id) for p in pairs if not p.label} & matches
    assert pairs[:50] == list(synth.labelled_pairs(SPEC, 0, 1000))[:50]
    assert 0.2 < bench.label.mean() < 0.3


def bm25(queries: list[str], documents: list[str], stop_words: str | None) -> np.ndarray:
    """BM25 (k1 = 1.2, b = .75) of every query against every document, (queries, documents)."""
    vectorizer = CountVectorizer(stop_words=stop_words, token_pattern=r"(?u)\b\w+\b")
    counts = sparse.coo_matrix(vectorizer.fit_transform(documents), dtype=np.float64)
    asked = vectorizer.transform(queries).astype(bool).astype(np.float64)
    df = np.bincount(counts.col, minlength=len(vectorizer.vocabulary_))
    idf = np.log1p((len(documents) - df + 0.5) / (df + 0.5))
    length = np.asarray(counts.sum(axis=1)).ravel()
    norm = 1.2 * (1 - 0.75 + 0.75 * length / length.mean())
    counts.data = idf[counts.col] * counts.data * 2.2 / (counts.data + norm[counts.row])
    return (asked @ counts.tocsr().T).toarray()


@pytest.mark.parametrize("stop_words", [None, "english"])
@pytest.mark.parametrize("side", ["abstracts", "full"])
def test_bm25_does_not_solve_it(bench, stop_words, side):
    scores = bm25(bench.sections, getattr(bench, side), stop_words)
    assert 0.4 < roc_auc_score(bench.label, scores[bench.technique, bench.patent]) <= 0.65
    everything = np.zeros(scores.shape, dtype=bool)
    everything[bench.technique[bench.label == 1], bench.patent[bench.label == 1]] = True
    assert 0.4 < roc_auc_score(everything.ravel(), scores.ravel()) <= 0.65


def _crosses(a: sparse.csr_matrix, b: sparse.csr_matrix, bench: Bench, buckets: int) -> sparse.csr_matrix:
    """Hashed word-by-word crosses of each pair, rows of unit length: what could learn a table of synonyms."""
    columns = []
    for t, p in zip(bench.technique, bench.patent, strict=True):
        left = a.indices[a.indptr[t] : a.indptr[t + 1]].astype(np.int64)
        right = b.indices[b.indptr[p] : b.indptr[p + 1]].astype(np.int64)
        columns.append(((left[:, None] * 1000003 + right[None] * 7919) % buckets).ravel())
    ends = np.cumsum([0, *map(len, columns)])
    flat = np.concatenate(columns)
    ones = np.ones(len(flat), dtype=np.float32)
    return sparse.csr_matrix(normalize(sparse.csr_matrix((ones, flat, ends), shape=(len(columns), buckets))))


def test_a_bag_of_words_does_not_generalise_to_unseen_techniques(bench):
    vectorizer = CountVectorizer(binary=True, min_df=2, max_df=0.3, stop_words="english")
    vectorizer.fit(bench.sections + bench.abstracts)
    a = sparse.csr_matrix(vectorizer.transform(bench.sections), dtype=np.float64)
    b = sparse.csr_matrix(vectorizer.transform(bench.abstracts), dtype=np.float64)
    left, right = a[bench.technique], b[bench.patent]
    product = left.multiply(right)
    concat = sparse.hstack([left, right, product, product.sum(axis=1)])
    features = {"concat and overlap": (concat, 0.1), "word crosses": (_crosses(a, b, bench, 1 << 18), 10.0)}
    unseen = bench.technique % 2 == 1
    seen = ~unseen & ~np.isin(bench.patent, bench.patent[unseen])  # no patent on both sides
    for name, (matrix, c) in features.items():
        matrix = sparse.csr_matrix(matrix)
        model = LogisticRegression(C=c, solver="liblinear").fit(matrix[seen], bench.label[seen])
        auc = roc_auc_score(bench.label[unseen], model.decision_function(matrix[unseen]))
        assert 0.35 < auc <= 0.75, (name, auc)


# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patents": 0}, r"patents=0, allowed are integers from 1"),
        ({"techniques": 0}, r"techniques=0, allowed are integers from 1"),
        ({"techniques": 10**6}, rf"techniques=1000000, allowed are integers from 1 to {synth.capacity() // 2}"),
        ({"matches": 2001}, r"matches=2001, allowed are integers from 0 to 2000"),
        ({"matches": -1}, r"matches=-1"),
        ({"seed": -1}, r"seed=-1"),
        ({"seed": 1.5}, r"seed=1.5"),
        ({"patents": True}, r"patents=True"),
    ],
)
def test_a_bad_spec_is_refused_with_the_remedy(change, message):
    with pytest.raises(ValueError, match=message):
        replace(SPEC, **change)


def test_a_bad_range_is_refused():
    with pytest.raises(ValueError, match=r"rows \[5, 2001\)"):
        next(synth.patent_range(SPEC, 5, 2001))
    with pytest.raises(ValueError, match="batch_rows=0"):
        next(synth.patents(SPEC, batch_rows=0))
