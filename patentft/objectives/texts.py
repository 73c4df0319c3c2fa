"""What an objective encodes: texts with what is known of them, as parallel sequences, one entry a row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class PairTexts:
    """PAIRS joined to their texts, in the order of the table."""

    sections: Sequence[str]  # title and the chunk of the technique's text that matches the patent best
    patents: Sequence[str]
    technique_ids: Sequence[str]
    patent_ids: Sequence[str]
    label: Sequence[int]
    group: Sequence[int]
    weight: Sequence[float]
    cosine: Sequence[float]
    similar: frozenset[tuple[str, str]]
    """(technique, other): too alike for the one to be a negative of the other's patents. Both directions are listed."""


@dataclass(frozen=True)
class DistilledTexts:
    """Candidates with a teacher's SCORES, in the order of that table."""

    sections: Sequence[str]  # title and the chunk that the teacher read
    patents: Sequence[str]
    technique_ids: Sequence[str]
    patent_ids: Sequence[str]
    log_odds: Sequence[float]
    """The teacher's, natural log."""
    label: Sequence[int | None]
    """1 a known match, 0 taken as a negative, None: nobody knows."""


@dataclass(frozen=True)
class PlainTexts:
    """TEXTS alone."""

    text_ids: Sequence[str]
    texts: Sequence[str]


@dataclass(frozen=True)
class LabelledTexts:
    """TEXTS with their LABELS."""

    text_ids: Sequence[str]
    texts: Sequence[str]
    labels: Sequence[Sequence[int]]  # indices into names, rising; empty: none of them
    weights: Sequence[float]
    names: Sequence[str]


@dataclass(frozen=True)
class CodedTexts:
    """TEXTS with their CPC symbols."""

    text_ids: Sequence[str]
    texts: Sequence[str]
    codes: Sequence[Sequence[str]]


@dataclass(frozen=True)
class QaTexts:
    """QA."""

    qa_ids: Sequence[str]
    contexts: Sequence[str | None]
    questions: Sequence[str]
    answers: Sequence[str]


@dataclass(frozen=True)
class PreferenceTexts:
    """PREFERENCES."""

    preference_ids: Sequence[str]
    contexts: Sequence[str | None]
    questions: Sequence[str]
    chosen: Sequence[str]
    rejected: Sequence[str]
