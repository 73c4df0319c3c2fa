"""PAIRS joined to their texts: what an objective encodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class PairTexts:
    """Parallel lists, one entry a pair, in the order of the PAIRS table."""

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
