"""One pass over all rows: everything that a profile counts, in memory that does not grow with the rows but for the
hashes of texts and ids (8 bytes per value).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from patentft.report.profile.count import Hashes, Lengths, Repeats, Values
from patentft.report.profile.noise import NoiseCounter, suspicions
from patentft.report.profile.sample import CHARACTERS, Sample, Sampled
from patentft.report.profile.source import Batch, Layout

PIECE = 100_000
"""A longer text is tokenized in pieces of so many characters: each cut may add a token or two."""


TokenCounter = Callable[[Sequence[str]], np.ndarray]
"""Texts -> tokens of each (n,), special tokens included."""


@dataclass(frozen=True)
class Limits:
    """What the survey is told: see ProfileConfig."""

    sample_rows: int = 20_000
    seed: int = 0
    examples: int = 3
    suspicious_rows: int = 20
    short_characters: int = 20
    long_characters: int = 20_000


@dataclass(frozen=True)
class Suspect:
    """A row that looks wrong."""

    file: str
    row: int
    id: str | None
    column: str | None
    reason: str
    value: str


class Suspects:
    """All are counted by (column, reason), the first `limit` of each are kept."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.counts: Counter[tuple[str | None, str]] = Counter()
        self.rows: list[Suspect] = []

    def add(self, suspect: Suspect) -> None:
        key = (suspect.column, suspect.reason)
        self.counts[key] += 1
        if self.counts[key] <= self._limit:
            self.rows.append(suspect)


@dataclass
class Column:
    """What is known of one text column."""

    characters: Lengths = field(default_factory=Lengths)
    words: Lengths = field(default_factory=Lengths)
    tokens: Lengths | None = None
    hashes: Hashes = field(default_factory=Hashes)
    noise: NoiseCounter = field(default_factory=lambda: NoiseCounter(3))
    repeats: Repeats | None = None


@dataclass
class Balance:
    """Rows by year, by CPC section and subclass; `green` of them have a Y02 symbol."""

    years: Counter[int] = field(default_factory=Counter)
    green_years: Counter[int] = field(default_factory=Counter)
    sections: Counter[str] = field(default_factory=Counter)
    green_sections: Counter[str] = field(default_factory=Counter)
    subclasses: Counter[str] = field(default_factory=Counter)
    green: int = 0
    without_codes: int = 0
    malformed: int = 0
    malformed_examples: list[str] = field(default_factory=list)
    no_year: int = 0

    def add(self, years: Sequence[int | None] | None, codes: Sequence[Sequence[str]] | None) -> None:
        """years, codes: one entry per row; None when the data have no such column."""
        greens: list[bool] = []
        for symbols in codes or ():
            parsed = [parse_code(symbol) for symbol in symbols]
            self._malformed(symbols, parsed)
            good = [code for code in parsed if code is not None]
            subclasses = {subclass for _, subclass in good if subclass}
            sections = {section for section, _ in good}
            green = any(subclass.startswith("Y02") for subclass in subclasses)
            self.subclasses.update(subclasses)
            self.sections.update(sections)
            if green:
                self.green_sections.update(sections)
            self.green += green
            self.without_codes += not good
            greens.append(green)
        if years is not None:
            self.years.update(year for year in years if year is not None)
            self.no_year += sum(year is None for year in years)
            self.green_years.update(
                year for year, green in zip(years, greens, strict=False) if green and year is not None
            )

    def _malformed(self, symbols: Sequence[str], parsed: Sequence[object]) -> None:
        for symbol, code in zip(symbols, parsed, strict=True):
            if code is None:
                self.malformed += 1
                if len(self.malformed_examples) < 5 and symbol[:40] not in self.malformed_examples:
                    self.malformed_examples.append(symbol[:40])


_CODE = re.compile(r"([A-HY])(?:\d{2}(?:([A-Z])(?:\s*\d{1,4}(?:/\d{2,6})?)?)?)?")


@lru_cache(maxsize=1 << 16)
def parse_code(symbol: str) -> tuple[str, str | None] | None:
    """(section, subclass or None) of a CPC or IPC symbol of any level, None when it is none. Y02 passes as one."""
    text = symbol.strip().upper()
    match = _CODE.fullmatch(text)
    if match is None:
        return None
    subclass = re.sub(r"\s", "", text)[:4] if match[2] else text if text == "Y02" else None
    return match[1], subclass


class Survey:
    """Fed with every batch once; `finish` before anything is read."""

    def __init__(self, layout: Layout, limits: Limits, count_tokens: TokenCounter | None = None) -> None:
        self.layout, self.limits = layout, limits
        self._count_tokens = count_tokens
        self.rows = 0
        self.bad: Counter[str] = Counter()
        self.missing: Counter[str] = Counter()
        self.texts = {
            name: Column(tokens=Lengths() if count_tokens else None, noise=NoiseCounter(limits.examples))
            for name in layout.texts
        }
        self.values = {name: Values() for name in layout.values}
        self.balance = Balance() if layout.date or layout.codes or layout.indicators else None
        self.suspects = Suspects(limits.suspicious_rows)
        self.sample = Sample(limits.sample_rows, limits.seed)
        self._ids = Hashes() if layout.id else None
        self.id_repeats: Repeats | None = None

    def add(self, batch: Batch) -> None:
        for row in batch.bad:
            reason = row.reason.split(":")[0]
            self.bad[reason] += 1
            self.suspects.add(
                Suspect(_name(row.file), row.number, None, row.column, f"unreadable: {reason}", row.value)
            )
        self.missing.update(batch.missing)
        if self._ids is not None and batch.ids is not None:
            self._ids.add([name for name in batch.ids if name is not None])
        for name, counts in batch.values.items():
            self.values[name].add(counts.items())
        if self.balance is not None:
            self.balance.add(batch.years, batch.codes)
        for name, column in self.texts.items():
            self._add_texts(batch, name, column)
        self._add_sample(batch)
        self.rows += len(batch)

    def _add_texts(self, batch: Batch, name: str, column: Column) -> None:
        limits, ids = self.limits, batch.ids
        present = [index for index, text in enumerate(batch.texts[name]) if text is not None]
        texts = [text for text in batch.texts[name] if text is not None]
        column.characters.add(np.fromiter(map(len, texts), np.int64, len(texts)))
        words = [len(text.split()) for text in texts]
        column.words.add(np.array(words, np.int64))
        if column.tokens is not None and self._count_tokens is not None and texts:
            column.tokens.add(self._count_tokens(texts))
        column.hashes.add(texts)
        column.noise.add(texts, lambda index: batch.where(present[index]))

        def suspect(index: int, reason: str) -> None:
            file, number = batch.places[index]
            value = (batch.texts[name][index] or "")[:200]
            self.suspects.add(Suspect(file, number, ids[index] if ids else None, name, reason, value))

        for index, text in enumerate(batch.texts[name]):
            if text is None:
                suspect(index, "empty")
                continue
            for reason in suspicions(text, limits.short_characters, limits.long_characters):
                suspect(index, reason)
        for index in batch.not_unicode.get(name, ()):
            suspect(index, "not_unicode")

    def _add_sample(self, batch: Batch) -> None:
        for index in self.sample.chosen(self.rows, len(batch)).tolist():
            texts = {name: text[:CHARACTERS] for name, column in batch.texts.items() if (text := column[index])}
            self.sample.add(Sampled(self.rows + index, batch.where(index), texts))

    def finish(self) -> None:
        for column in self.texts.values():
            column.repeats = column.hashes.finish()
        if self._ids is not None:
            self.id_repeats = self._ids.finish()


def _name(file: str) -> str:
    return file.rpartition("/")[2]


def token_counter(tokenizer: object) -> TokenCounter:
    """Counts with a transformers fast tokenizer that neither cuts nor pads (`models.load.load_tokenizer`)."""
    backend = tokenizer.backend_tokenizer  # pyright: ignore[reportAttributeAccessIssue]
    specials = len(backend.encode("").ids)

    def count(texts: Sequence[str]) -> np.ndarray:
        pieces: list[str] = []
        owners: list[int] = []
        for index, text in enumerate(texts):
            for start in range(0, len(text), PIECE):
                pieces.append(text[start : start + PIECE])
                owners.append(index)
        lengths = np.fromiter((len(found.ids) for found in _encoded(backend, pieces)), np.int64, len(pieces))
        total = np.bincount(owners, lengths - specials, minlength=len(texts)).astype(np.int64)
        return total + specials

    return count


def _encoded(backend: object, pieces: Sequence[str], characters: int = 1 << 20) -> Iterable:
    """Encodings, a megabyte of text at a time: an encoding takes some hundred bytes per token."""
    start = size = 0
    for index, piece in enumerate(pieces):
        size += len(piece)
        if size >= characters or index == len(pieces) - 1:
            yield from backend.encode_batch_fast(list(pieces[start : index + 1]))  # pyright: ignore
            start, size = index + 1, 0
