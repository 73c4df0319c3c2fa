"""The sheet on which people rate answers without knowing whose they are: out as CSV, and filled in, in again.

    answers --draw--> sheet.csv (questions, answers in drawn order, empty ratings)   sheet_key.csv (whose they are)
    filled sheets + key --> ratings, and the rows that are no good, each with its reason

A row's id is made of its question and answers: a sheet that was filled for other answers is not taken for these.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import posixpath
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from patentft.config import ConfigError
from patentft.corpus.read import BadRow, RawRow, columns_of, list_files, rows_of
from patentft.corpus.tables import Rejected, Tally

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


@dataclass(frozen=True)
class SheetRow:
    """A question and its answers, in the order in which they are shown."""

    row_id: str
    qa_id: str
    stages: tuple[str, ...]
    """Whose the answers are: the key."""
    answers: tuple[str, ...]
    question: Mapping[str, Any]
    """Its row of QA."""


def draw_rows(
    questions: Sequence[Mapping[str, Any]], answers: Mapping[str, list[str]], number: int, seed: int
) -> list[SheetRow]:
    """`number` questions (all, when there are no more) in drawn order, the answers of each in an order of its own.

    answers: stage -> its answers, in the order of `questions`.
    """
    rng = np.random.default_rng(seed)
    stages = list(answers)
    rows: list[SheetRow] = []
    for index in rng.choice(len(questions), min(number, len(questions)), replace=False).tolist():
        order = [stages[place] for place in rng.permutation(len(stages))]
        shown = tuple(answers[stage][index] for stage in order)
        question = questions[index]
        text = json.dumps([seed, question["qa_id"], order, shown])
        row_id = f"row-{hashlib.blake2b(text.encode(), digest_size=8).hexdigest()}"
        rows.append(SheetRow(row_id, question["qa_id"], tuple(order), shown, question))
    return rows


def sheet_csv(rows: Sequence[SheetRow]) -> bytes:
    """The sheet as spreadsheets open it: UTF-8 with a byte order mark, one row per question, no name of a method.

    A text that a spreadsheet would take for a formula begins with an apostrophe.
    """
    numbers = range(1, len(rows[0].stages) + 1)
    head = ["row_id", "annotator", "question", "context", "reference"]
    head += [name for number in numbers for name in (f"answer_{number}", f"rating_{number}")]
    lines: list[list[str]] = [[*head, "comment"]]
    for row in rows:
        texts = [row.question["question"], row.question["context"] or "", row.question["answer"]]
        answers = [cell for answer in row.answers for cell in (_shown(answer), "")]
        lines.append([row.row_id, "", *map(_shown, texts), *answers, ""])
    return b"\xef\xbb\xbf" + _csv(lines)


def key_csv(rows: Sequence[SheetRow]) -> bytes:
    """Whose each answer of the sheet is."""
    names = [f"answer_{number}" for number in range(1, len(rows[0].stages) + 1)]
    return _csv([["row_id", "qa_id", *names], *([row.row_id, row.qa_id, *row.stages] for row in rows)])


def _csv(lines: Sequence[Sequence[str]]) -> bytes:
    stream = io.StringIO()
    csv.writer(stream).writerows(lines)
    return stream.getvalue().encode()


def _shown(text: str) -> str:
    text = _CONTROL.sub(" ", text).strip()
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


@dataclass(frozen=True)
class Rating:
    stage: str
    qa_id: str
    annotator: str
    rating: int


@dataclass
class Ratings:
    """What came back. tally: rows read = kept + merged (no rating in them) + quarantined."""

    rows: list[Rating] = field(default_factory=list)
    tally: Tally = field(default_factory=Tally)
    rejected: Rejected = field(default_factory=Rejected)
    not_rated: int = 0
    """Single answers without a rating, in rows that have others."""


def read_ratings(pattern: str, key: Sequence[SheetRow], scale: int) -> Ratings:
    """Ratings 1..scale from filled sheets (CSV, TSV, Parquet, JSONL; a file, a folder or a glob).

    An empty `annotator` is the file's name. A row is quarantined as a whole: one with an unknown row_id, with a rating
    that is no whole number from 1 to scale, or that its annotator has rated before. Raises ConfigError for a file
    without the sheet's columns, and when no row is good.
    """
    found = Ratings()
    known = {row.row_id: row for row in key}
    columns = [f"rating_{number}" for number in range(1, len(key[0].stages) + 1)]
    seen: set[tuple[str, str]] = set()
    for file in list_files(pattern):
        present = columns_of(file)
        lacking = [name for name in ("row_id", *columns) if present is not None and name not in present]
        if lacking:
            raise ConfigError(
                f"ratings: {file} has no column {lacking[0]!r}; it has: {', '.join((present or [])[:12])}; give the "
                f"sheet.csv of this stage, with its rating columns filled"
            )
        for raw in rows_of(file):
            found.tally.read += 1
            if isinstance(raw, RawRow):
                raw = _take(raw, known, columns, scale, seen, found)
            if raw is not None:
                found.rejected.add("ratings", raw, found.tally)
    if not found.tally.kept:
        raise ConfigError(
            f"ratings: none of the {found.tally.read} rows of {pattern} has a rating of this stage's answers: "
            f"{found.tally.reasons or 'all are empty'}; the sheet must be filled for these answers and this seed"
        )
    return found


def _take(
    raw: RawRow, known: Mapping[str, SheetRow], columns: Sequence[str], scale: int, seen: set, found: Ratings
) -> BadRow | None:
    """Add the row's ratings to `found`, or say what is wrong with it."""
    row_id = _cell(raw, "row_id")
    row = known.get(row_id)
    if row is None:
        reason = "unknown row: no row of this stage's sheet has this row_id"
        return BadRow(raw.file, raw.number, reason, row_id, "row_id")
    given: list[int | None] = []
    for column in columns:
        cell = _cell(raw, column)
        rating = _whole(cell)
        if cell and (rating is None or not 1 <= rating <= scale):
            return BadRow(raw.file, raw.number, f"wrong value: expected 1 to {scale}, or nothing", cell, column)
        given.append(rating)
    if not any(given):
        found.tally.merged += 1
        return None
    annotator = _cell(raw, "annotator") or posixpath.basename(raw.file)
    if (annotator, row_id) in seen:
        reason = "rated twice: the same annotator rated this row before"
        return BadRow(raw.file, raw.number, reason, annotator, "annotator")
    seen.add((annotator, row_id))
    found.tally.kept += 1
    found.not_rated += given.count(None)
    for stage, rating in zip(row.stages, given, strict=True):
        if rating is not None:
            found.rows.append(Rating(stage, row.qa_id, annotator, rating))
    return None


def _cell(raw: RawRow, column: str) -> str:
    value = raw.values.get(column)
    return "" if value is None else str(value).strip()


def _whole(cell: str) -> int | None:
    """4 from "4", "4.0" or "4,0", as spreadsheets write it."""
    match = re.fullmatch(r"(\d{1,9})(?:[.,]0*)?", cell)
    return int(match[1]) if match else None
