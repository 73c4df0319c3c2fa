"""Stage `qa`: question-answering rows, triplets and experts' yes/no labels -> QA, PREFERENCES, LABELLED_PAIRS.

    (context, question, answer, negatives) --> a row of qa, and a row of preferences per negative: answer over negative
    (technique_id, patent_id, label)       --> a row of labelled_pairs

Streaming; held in memory are the quarantine and 16 bytes for each question, negative and label.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import pyarrow as pa
from pydantic import Field, field_validator, model_validator

from patentft import schema
from patentft.config import Config, ConfigError, nearest
from patentft.corpus.read import BadRow, RawRow, columns_of, list_files, rows_of
from patentft.corpus.stream import Reading
from patentft.corpus.tables import BadValue, Rejected, Tally, as_text
from patentft.stage import Context, FileRef, Stage
from patentft.store import StageFolder

QUESTION_COLUMNS = ("qa_id", "context", "question", "answer")
LABEL_COLUMNS = ("technique_id", "patent_id", "label", "annotator")
_OPTIONAL = ("qa_id", "context", "annotator")


class _Source(Reading):
    files: FileRef
    """A file, a folder, a glob or a Hugging Face dataset (hf:FOLDER, hf:OWNER/NAME:SPLIT), as for a corpus."""
    columns: dict[str, str] = Field(default={})
    """Our column -> the file's column, for those whose names differ."""
    delimiter: str | None = Field(default=None, min_length=1, max_length=1)
    """CSV delimiter, one character; unset: the most frequent of , ; tab | in the header line."""


class QuestionSource(_Source):
    """Questions with answers. Our columns: question, answer; optional context, qa_id."""

    negatives: list[str] = Field(default=[])
    """The file's columns that hold wrong answers: a text, a list of texts, or a JSON list in a text. May be empty."""

    @model_validator(mode="after")
    def _known(self) -> QuestionSource:
        _check_columns(self.columns, QUESTION_COLUMNS)
        return self


class LabelSource(_Source):
    """Experts' labels. Our columns: technique_id, patent_id, label; optional annotator."""

    positive: list[str] = Field(default=["yes", "y", "1", "true", "match"], min_length=1)
    """What says that the patent helps with the technique; case does not count."""
    negative: list[str] = Field(default=["no", "n", "0", "false", "no match"], min_length=1)
    """What says that it does not. Anything else goes to quarantine."""

    @field_validator("positive", "negative", mode="before")
    @classmethod
    def _words_that_yaml_reads_as_truth(cls, value: Any) -> Any:
        """`[yes, partly]` without quotes is [True, "partly"] in YAML."""
        if not isinstance(value, list):
            return value
        meant = {True: ["yes", "true"], False: ["no", "false"]}
        return [word for each in value for word in (meant[each] if isinstance(each, bool) else [each])]

    @model_validator(mode="after")
    def _possible(self) -> LabelSource:
        _check_columns(self.columns, LABEL_COLUMNS)
        both = {word.casefold() for word in self.positive} & {word.casefold() for word in self.negative}
        if both:
            raise ValueError(f"{min(both)!r} is in both positive and negative")
        return self


class QaConfig(Config):
    """Question sets, triplets and experts' labels into tables."""

    questions: QuestionSource | None = None
    """Rows of context, question, answer and negatives: tables qa and preferences."""
    labels: LabelSource | None = None
    """Rows of technique, patent and yes or no: table labelled_pairs. May be the same file as the questions."""
    side: Literal["train", "valid"] | None = None
    """Of the questions keep this side only, so that two stages on the same files share none. Unset: keep all."""
    valid_fraction: float = Field(default=0.1, gt=0.0, lt=1.0)
    """With `side`: the share of valid, by a hash of context and question."""
    max_characters: int | None = Field(default=100_000, ge=1)
    """A row with a longer text goes to quarantine; null: no limit."""
    rows_per_part: int = Field(default=50_000, ge=1)

    @model_validator(mode="after")
    def _something(self) -> QaConfig:
        if self.side is None and "valid_fraction" in self.model_fields_set:
            raise ValueError("valid_fraction is for a side: set side to train or valid")
        if self.side is not None and self.questions is None:
            raise ValueError("side is for questions: set questions, or leave it out")
        if self.questions is None and self.labels is None:
            raise ValueError("neither questions nor labels is set")
        return self


def _check_columns(columns: Mapping[str, str], known: tuple[str, ...]) -> None:
    unknown = sorted(set(columns) - set(known))
    if unknown:
        raise ValueError(f"columns: {unknown[0]!r} is no column here{nearest(unknown[0], known)}")


@dataclass
class _Writer:
    """Rows of one table, written in parts of equal size as they come."""

    folder: StageFolder
    table: str
    rows_per_part: int
    rows: list[dict[str, Any]] = field(default_factory=list)
    parts: int = 0

    def add(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        if len(self.rows) == self.rows_per_part:
            self.flush()

    def flush(self) -> None:
        if not self.folder.has_part(self.table, self.parts):
            data = pa.Table.from_pylist(self.rows, schema=schema.TABLES[self.table])
            self.folder.write_part(self.table, self.parts, data)
        self.rows, self.parts = [], self.parts + 1

    def close(self) -> None:
        """Write the rest; a table without any row is one empty part."""
        if self.rows or not self.parts:
            self.flush()


def run_qa(config: QaConfig, context: Context) -> dict[str, Any]:
    """Tables qa, preferences, labelled_pairs (those that are asked for) and quarantine.

    Returns for questions, negatives and labels what was read, kept, merged and quarantined; read is the others' sum.
    """
    rejected = Rejected()
    tallies: dict[str, Tally] = {}
    other_side: dict[str, int] = {}
    if config.questions:
        questions = _Questions(config, config.questions, context.folder, rejected)
        tallies |= {"questions": questions.tally, "negatives": questions.negative_tally}
        questions.run()
        other_side = {"other_side": questions.other_side} if config.side else {}
        _require_some("questions", config.questions, questions.tally)
    if config.labels:
        tallies["labels"] = _labels(config, config.labels, context.folder, rejected)
        _require_some("labels", config.labels, tallies["labels"])
    for tally in tallies.values():
        assert tally.read == tally.kept + tally.merged + tally.quarantined
    context.folder.write_part("quarantine", 0, rejected.as_table())
    if rejected.rows:
        kinds = {name: tally.reasons for name, tally in tallies.items() if tally.quarantined}
        context.progress.warn(f"{len(rejected.rows)} rows are in {context.folder.location / 'quarantine'}: {kinds}")
    return {name: asdict(tally) for name, tally in tallies.items()} | other_side


def _require_some(name: str, source: _Source, tally: Tally) -> None:
    if not tally.kept:
        raise ConfigError(f"{source.files}: none of its {tally.read} rows is a good row of {name}: {tally.reasons}")


class _Questions:
    """Rows with questions into qa and preferences. A question, or a negative of it, that is repeated counts once."""

    def __init__(self, config: QaConfig, source: QuestionSource, folder: StageFolder, rejected: Rejected) -> None:
        self.config, self.source, self.rejected = config, source, rejected
        self.qa = _Writer(folder, "qa", config.rows_per_part)
        self.preferences = _Writer(folder, "preferences", config.rows_per_part)
        self.tally, self.negative_tally = Tally(), Tally()
        self.other_side = 0  # rows that the other side's stage keeps
        self.said: dict[str, bytes] = {}  # id -> digest of context, question and answer
        self.paired: set[bytes] = set()  # digests of (id, negative)

    def run(self) -> None:
        for item in _rows(self.source, QUESTION_COLUMNS, self.source.negatives, self.config.max_characters):
            if not isinstance(item, BadRow) and not self._on_side(item[1]):
                self.other_side += 1
                continue
            self.tally.read += 1
            if isinstance(item, BadRow):
                self.rejected.add("qa", item, self.tally)
            else:
                self._add(*item)
        self.qa.close()
        self.preferences.close()

    def _on_side(self, row: dict[str, Any]) -> bool:
        draw = int.from_bytes(_digest(row["context"], row["question"])[:8], "big") / 2.0**64
        return self.config.side in (None, "valid" if draw < self.config.valid_fraction else "train")

    def _add(self, raw: RawRow, row: dict[str, Any]) -> None:
        said = _digest(row["context"], row["question"], row["answer"])
        qa_id = row["qa_id"] or said.hex()
        if qa_id not in self.said:
            self.said[qa_id] = said
            self.tally.kept += 1
            self.qa.add({**row, "qa_id": qa_id})
        elif self.said[qa_id] == said:
            self.tally.merged += 1
        else:
            reason = "duplicate id: an earlier row of this id says something else"
            self.rejected.add("qa", BadRow(raw.file, raw.number, reason, qa_id, "qa_id"), self.tally)
            return
        for column in self.source.negatives:
            for negative in _negatives(raw, column, self.config.max_characters):
                self._add_negative(raw, column, {**row, "qa_id": qa_id}, negative)

    def _add_negative(self, raw: RawRow, column: str, row: dict[str, Any], negative: str | BadRow) -> None:
        tally = self.negative_tally
        tally.read += 1
        if isinstance(negative, str) and negative == row["answer"]:
            negative = BadRow(raw.file, raw.number, "the same: this negative is the answer", negative, column)
        if isinstance(negative, BadRow):
            self.rejected.add("preferences", negative, tally)
            return
        key = _digest(row["qa_id"], negative)
        if key in self.paired:
            tally.merged += 1
            return
        self.paired.add(key)
        tally.kept += 1
        self.preferences.add(
            {
                "preference_id": f"{row['qa_id']}-{key.hex()}",
                "context": row["context"],
                "question": row["question"],
                "chosen": row["answer"],
                "rejected": negative,
            }
        )


def _negatives(raw: RawRow, column: str, max_characters: int | None) -> Iterator[str | BadRow]:
    """The wrong answers in one column: none, a text, or a list of texts (as such, or in JSON)."""
    value = raw.values.get(column)
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            listed = json.loads(value)
        except ValueError:
            listed = None  # a text that begins with a bracket: "[0012] The filter ..."
        value = listed if isinstance(listed, list) else value
    for each in value if isinstance(value, list) else [value]:
        try:
            text = as_text(column, each, required=False)
            _check_length(column, text, max_characters)
        except BadValue as bad:
            yield BadRow(raw.file, raw.number, bad.reason, bad.value[:200], column)
            continue
        if text:
            yield text


def _labels(config: QaConfig, source: LabelSource, folder: StageFolder, rejected: Rejected) -> Tally:
    """Rows with labels into labelled_pairs. An annotator's second word on a pair is merged when it is the same, else
    quarantined.
    """
    tally = Tally()
    writer = _Writer(folder, "labelled_pairs", config.rows_per_part)
    words = {word.casefold(): 1 for word in source.positive} | {word.casefold(): 0 for word in source.negative}
    known: dict[bytes, int] = {}
    for item in _rows(source, LABEL_COLUMNS, [], config.max_characters):
        tally.read += 1
        if isinstance(item, BadRow):
            rejected.add("labelled_pairs", item, tally)
            continue
        raw, row = item
        label = words.get(row["label"].casefold())
        if label is None:
            reason = f"wrong value: expected one of {', '.join([*source.positive, *source.negative])}"
            rejected.add("labelled_pairs", BadRow(raw.file, raw.number, reason, row["label"], "label"), tally)
            continue
        before = known.setdefault(_digest(row["technique_id"], row["patent_id"], row["annotator"]), label)
        if before != label:
            reason = "contradiction: the same annotator said otherwise of this pair in an earlier row"
            rejected.add("labelled_pairs", BadRow(raw.file, raw.number, reason, row["label"], "label"), tally)
        elif len(known) > tally.kept:
            tally.kept += 1
            writer.add({**row, "label": label})
        else:
            tally.merged += 1
    writer.close()
    return tally


def _rows(
    source: _Source, columns: tuple[str, ...], more: list[str], max_characters: int | None
) -> Iterator[tuple[RawRow, dict[str, Any]] | BadRow]:
    """Every row of the source's files with our columns as texts, or what is wrong with it. more: columns of the file
    that must be there, in no mapping.
    """
    mapping = {column: source.columns.get(column, column) for column in columns}
    for file in list_files(source.files):
        present = columns_of(file, source.delimiter, source)
        needed = [theirs for column, theirs in mapping.items() if column not in _OPTIONAL or column in source.columns]
        for theirs in [*needed, *more]:
            if present is not None and theirs not in present:
                raise ConfigError(
                    f"{file}: no column {theirs!r}{nearest(theirs, present)}; the file has: {', '.join(present[:12])}; "
                    f"set columns{' or negatives' if more else ''} to name what it has"
                )
        for item in rows_of(file, source.delimiter, {*mapping.values(), *more}, source):
            if isinstance(item, BadRow):
                yield item
                continue
            try:
                yield item, _texts(item, mapping, max_characters)
            except BadValue as bad:
                yield BadRow(item.file, item.number, bad.reason, bad.value[:200], bad.column)


def _texts(raw: RawRow, mapping: Mapping[str, str], max_characters: int | None) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for column, theirs in mapping.items():
        value = raw.values.get(theirs)
        if column == "label" and isinstance(value, bool | float) and value == value:  # JSON true, a table's 1.0
            value = int(value) if int(value) == value else str(value)
        row[column] = as_text(column, value, required=column not in _OPTIONAL)
        _check_length(column, row[column], max_characters)
    return row


def _check_length(column: str, text: str | None, max_characters: int | None) -> None:
    if text and max_characters is not None and len(text) > max_characters:
        raise BadValue(column, f"too long: {len(text):,} characters, max_characters is {max_characters:,}", text)


def _digest(*parts: str | None) -> bytes:
    """16 bytes of the texts, with their borders."""
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).digest()


QA = Stage("qa", QaConfig, run_qa, uses_ray=False)
