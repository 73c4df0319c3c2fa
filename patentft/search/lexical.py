"""TF-IDF: the baseline that needs no model, and a feature of the scorer.

Known matches are often found by their words (a reviewer searches by keyword), so an encoder that beats another encoder
may still lose to word overlap. This stage ranks the same rows as a `search` stage by the cosine of TF-IDF vectors
(words and word pairs, sublinear counts), writes the same tables, and keeps its vocabulary so that the scorer can use
the cosine of any pair. The inverse document frequencies come from the texts alone: no label is used.

Cost: one sparse product per block of techniques; memory is the sparse vectors of the patents and one block of scores.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer

from patentft import schema
from patentft.config import Config, ConfigError
from patentft.corpus.lookup import match_list, roles_of
from patentft.corpus.text import patent_text, technique_text
from patentft.stage import Context, Stage, StageRef
from patentft.store import StageFolder

BLOCK_TECHNIQUES = 64


class LexicalConfig(Config):
    """TF-IDF ranking of the patents for each technique."""

    data: StageRef
    """The stage with the tables patents, techniques and matches."""
    roles: StageRef | None = None
    """The split stage; unset: every technique against every patent."""
    evaluate: list[Literal["valid", "test"]] = ["valid", "test"]
    """As in a search stage."""
    text: list[Literal["title", "abstract", "claims", "first_claim"]] = ["title", "abstract"]
    top_k: int = Field(default=50, ge=1)
    ngrams: int = Field(default=2, ge=1, le=3)
    """Longest run of words that is a term."""
    min_documents: int = 2
    """A term must occur in this many texts."""
    max_share: float = 0.5
    """A term that occurs in more than this share of the texts says nothing."""


class TfIdf:
    """Sparse unit vectors of texts. `save` and `load` keep vocabulary and frequencies as JSON: no pickle."""

    def __init__(self, vectorizer: TfidfVectorizer) -> None:
        self._vectorizer = vectorizer

    @classmethod
    def fit(cls, texts: Sequence[str], config: LexicalConfig) -> TfIdf:
        """Vocabulary and inverse document frequencies of `texts`. Raises ConfigError when no term is left."""
        vectorizer = TfidfVectorizer(
            sublinear_tf=True,
            stop_words="english",
            ngram_range=(1, config.ngrams),
            min_df=config.min_documents,
            max_df=config.max_share,
            dtype=np.float32,  # pyright: ignore[reportArgumentType] - sklearn's stub knows only its default
        )
        try:
            vectorizer.fit(texts)
        except ValueError as error:
            raise ConfigError(f"no term is left of {len(texts)} texts ({error}); lower min_documents") from error
        return cls(vectorizer)

    def vectors(self, texts: Sequence[str]) -> sparse.csr_matrix:
        """(texts, terms) float32, rows of unit length (zero for a text without known terms)."""
        return sparse.csr_matrix(self._vectorizer.transform(texts))

    def save(self) -> bytes:
        terms = sorted(self._vectorizer.vocabulary_, key=self._vectorizer.vocabulary_.__getitem__)
        idf = [round(float(value), 7) for value in self._vectorizer.idf_]
        return json.dumps({"terms": terms, "idf": idf, "ngrams": self._vectorizer.ngram_range[1]}).encode()

    @classmethod
    def load(cls, data: bytes) -> TfIdf:
        held = json.loads(data)
        vectorizer = TfidfVectorizer(
            sublinear_tf=True,
            stop_words="english",
            ngram_range=(1, held["ngrams"]),
            vocabulary={term: index for index, term in enumerate(held["terms"])},
            dtype=np.float32,  # pyright: ignore[reportArgumentType] - sklearn's stub knows only its default
        )
        vectorizer.idf_ = np.array(held["idf"], dtype=np.float32)
        return cls(vectorizer)

    def pair_cosines(self, left: Sequence[str], right: Sequence[str]) -> npt.NDArray[np.float32]:
        """(pairs,) float32: cosine of left[i] and right[i]. Each distinct text is turned into a vector once."""
        rows = []
        for texts in (left, right):
            unique = {text: index for index, text in enumerate(dict.fromkeys(texts))}
            rows.append(self.vectors(list(unique))[[unique[text] for text in texts]])
        return np.asarray(rows[0].multiply(rows[1]).sum(axis=1), dtype=np.float32).ravel()


def rank_side(
    technique_vectors: sparse.csr_matrix,
    patent_vectors: sparse.csr_matrix,
    matches: Sequence[tuple[int, int]],
    top_k: int,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32], list[dict[str, float]]]:
    """Top-k patents of each technique, and the exact ranks of the known matches in both directions.

    matches: (technique row, patent row). Returns (T, k) patent rows and (T, k) cosines, best first, ties by row; and
    per match: cosine, rank_in_technique, rank_in_patent (0-based, ties share their mean rank).
    """
    num_techniques, num_patents = len(technique_vectors.indptr) - 1, len(patent_vectors.indptr) - 1
    kept = min(top_k, num_patents)
    best = np.empty((num_techniques, kept), dtype=np.int64)
    cosines = np.empty((num_techniques, kept), dtype=np.float32)
    of_technique: dict[int, list[int]] = {}
    for index, (technique, _) in enumerate(matches):
        of_technique.setdefault(technique, []).append(index)
    columns = np.array(sorted({patent for _, patent in matches}), dtype=np.int64)
    whole = (technique_vectors @ patent_vectors[columns].T).toarray() if len(columns) else np.zeros((num_techniques, 0))
    place = {int(patent): position for position, patent in enumerate(columns)}
    found: list[dict[str, float]] = [{} for _ in matches]
    transposed = sparse.csc_matrix(patent_vectors.T)
    for start in range(0, num_techniques, BLOCK_TECHNIQUES):
        scores = (technique_vectors[start : start + BLOCK_TECHNIQUES] @ transposed).toarray()  # (block, patents)
        for offset, row in enumerate(scores):
            technique = start + offset
            order = np.argsort(-row, kind="stable")[:kept]
            best[technique], cosines[technique] = order, row[order]
            for index in of_technique.get(technique, ()):
                patent = matches[index][1]
                own = row[patent]
                found[index] = {
                    "cosine": float(own),
                    "rank_in_technique": _mean_rank(row, own),
                    "rank_in_patent": _mean_rank(np.asarray(whole[:, place[patent]]), own),
                }
    return best, cosines, found


def _mean_rank(scores: npt.NDArray, own: float) -> float:
    return float((scores > own).sum()) + (float((scores == own).sum()) - 1) / 2


def run(config: LexicalConfig, context: Context) -> dict[str, Any]:
    """Tables candidates and ranks, as a search stage writes them, and tfidf.json."""
    data = context.input(config.data)
    patents: dict[str, str] = {}
    for part in data.iter_parts("patents"):
        patents |= dict(zip(part["patent_id"].to_pylist(), patent_text(part, config.text), strict=True))
    table = data.read("techniques")
    techniques = dict(zip(table["technique_id"].to_pylist(), technique_text(table), strict=True))
    model = TfIdf.fit([*patents.values(), *techniques.values()], config)
    context.folder.write_file("tfidf.json", model.save())
    counts: dict[str, Any] = {}
    candidates: list[pa.Table] = []
    ranks: list[pa.Table] = []
    known = match_list(data)
    for role, technique_ids, patent_ids in _sides(config, context, list(techniques), list(patents)):
        rows_of = (
            {identity: row for row, identity in enumerate(technique_ids)},
            {p: r for r, p in enumerate(patent_ids)},
        )
        matches = [(rows_of[0][t], rows_of[1][p]) for t, p in known if t in rows_of[0] and p in rows_of[1]]
        best, cosines, found = rank_side(
            model.vectors([techniques[identity] for identity in technique_ids]),
            model.vectors([patents[identity] for identity in patent_ids]),
            matches,
            config.top_k,
        )
        candidates.append(_candidates(technique_ids, patent_ids, role, best, cosines))
        ranks.append(_ranks(technique_ids, patent_ids, role, matches, found))
        counts[role] = {"techniques": len(technique_ids), "patents": len(patent_ids), "relevant": len(matches)}
    context.folder.write_part("candidates", 0, pa.concat_tables(candidates))
    context.folder.write_part("ranks", 0, pa.concat_tables(ranks))
    return counts


def _sides(
    config: LexicalConfig, context: Context, techniques: list[str], patents: list[str]
) -> list[tuple[str, list[str], list[str]]]:
    if config.roles is None:
        return [("all", techniques, patents)]
    split = context.input(config.roles)
    technique_roles, patent_roles = roles_of(split, "technique_roles"), roles_of(split, "patent_roles")
    return [
        (
            role,
            [identity for identity in techniques if technique_roles[identity] == role],
            [identity for identity in patents if patent_roles[identity] in (role, "unused")],
        )
        for role in config.evaluate
    ]


def _candidates(
    technique_ids: Sequence[str], patent_ids: Sequence[str], role: str, best: npt.NDArray, cosines: npt.NDArray
) -> pa.Table:
    kept = best.shape[1]
    columns: Mapping[str, Any] = {
        "technique_id": np.repeat(np.array(technique_ids, dtype=object), kept),
        "patent_id": np.array(patent_ids, dtype=object)[best.ravel()],
        "role": np.full(best.size, role, dtype=object),
        "rank": np.tile(np.arange(kept), len(technique_ids)),
        "cosine": cosines.ravel(),
        "chunk": np.zeros(best.size, dtype=np.int32),
    }
    return pa.Table.from_pydict(dict(columns), schema=schema.CANDIDATES)


def _ranks(
    technique_ids: Sequence[str],
    patent_ids: Sequence[str],
    role: str,
    matches: Sequence[tuple[int, int]],
    found: Sequence[Mapping[str, float]],
) -> pa.Table:
    rows = [
        {
            "technique_id": technique_ids[technique],
            "patent_id": patent_ids[patent],
            "role": role,
            "num_patents": len(patent_ids),
            "num_techniques": len(technique_ids),
            **where,
        }
        for (technique, patent), where in zip(matches, found, strict=True)
    ]
    return pa.Table.from_pylist(rows, schema=schema.RANKS)


def load(folder: StageFolder) -> TfIdf:
    """The vocabulary of a finished lexical stage."""
    return TfIdf.load(folder.read_file("tfidf.json"))


LEXICAL = Stage("lexical", LexicalConfig, run, uses_ray=False)
