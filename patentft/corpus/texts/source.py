"""A block of raw records -> TEXTS: columns mapped, checked, cleaned; codes parsed; language detected. Pure; no Ray.

Every record of the block becomes a row of TEXTS or a row of QUARANTINE, never both and never none.
"""

from __future__ import annotations

import datetime
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import pyarrow as pa
from pydantic import Field, field_validator, model_validator

from patentft import schema
from patentft.config import ConfigError, nearest, runtime
from patentft.corpus import cpc
from patentft.corpus.clean import CleanConfig, cleaner
from patentft.corpus.language import detector
from patentft.corpus.read import BadRow, RawRow, printable, undecodable
from patentft.corpus.stream import Reading
from patentft.corpus.text import patent_text, technique_text
from patentft.corpus.texts.records import Block, rows_of_block
from patentft.stage import FileRef, StageRef

COLUMNS = ("text_id", "patent_id", "family_id", "text", "date", "codes")
REQUIRED = ("text_id", "text")
LANGUAGE_CHARACTERS = 400
"""A text's language is told from this much of it."""


class TextsConfig(Reading):
    """Texts with dates and codes from raw files of any size, or from a stage that joined them."""

    files: FileRef | None = None
    """A file, a folder or a glob: Parquet, JSONL, CSV, TSV or XML, packed or not; a local path or an fsspec URL."""
    data: StageRef | None = None
    """Instead of `files`: a stage with a table of texts (join, views, bref, corpus, synth), which are checked and
    cleaned as raw ones are."""
    table: Literal["texts", "views", "sections", "techniques", "patents", "matches"] = "texts"
    """With `data`: which of its tables. views, sections: the document stands for the family, so that a divide stage
    keeps it on one side. techniques: title and text. patents: title and abstract, with their codes. matches: the titles
    of a technique and of a patent that is known to help with it, as one text."""
    columns: dict[str, str] = Field(default={})
    """Our column (text_id, patent_id, family_id, text, date, codes) -> the file's, for those whose names differ."""
    indicator_columns: str | None = None
    """A regular expression. A column whose whole name matches it holds 0 or 1 and is named after a code ("Y02E"): the
    codes of a row are the names of its columns with 1."""
    delimiter: str | None = Field(default=None, min_length=1, max_length=1)
    """CSV delimiter, one character; unset: the most frequent of , ; tab | in the header line."""
    list_separator: str = Field(default=";", min_length=1)
    """Splits codes that stand in one text."""
    clean: CleanConfig = CleanConfig()
    malformed_codes: Literal["quarantine", "drop"] = "quarantine"
    """A row with a code that is no CPC or IPC symbol: "quarantine" the row, or "drop" the code and count it."""
    max_characters: int | None = Field(default=100_000, ge=1)
    """A longer raw text goes to quarantine; null: no limit."""
    min_characters: int = Field(default=1, ge=1)
    """A shorter clean text goes to quarantine."""
    language: Literal["ignore", "flag", "drop"] = "flag"
    """ "flag" writes the detected language beside the text; "drop" also sends texts in another language than
    `languages` to quarantine; "ignore" does not look."""
    keep_languages: list[str] = Field(default=["en"], min_length=1)
    """With language: drop: the ISO 639-1 codes to keep."""
    duplicate_ids: Literal["refuse", "first"] = "refuse"
    """A text_id seen before. refuse: an error that names it. first: the later rows go to quarantine."""
    rows_per_part: int = Field(default=20_000, ge=1)
    """Records of a part file: the unit that workers share and that is done again after a kill."""
    workers: int = runtime(2, ge=1)
    """Tasks that parse and clean at the same time, beside the one process that reads."""

    @model_validator(mode="after")
    def _one_source(self) -> TextsConfig:
        if (self.files is None) == (self.data is None):
            raise ValueError("set files (raw files) or data (a stage with texts): one of the two")
        if self.data and (self.columns or self.indicator_columns):
            raise ValueError("columns and indicator_columns are for files: a stage's columns have our names")
        if self.files and self.table != "texts":
            raise ValueError(f"table: {self.table} is for data (a stage); leave it out for files")
        return self

    @field_validator("columns")
    @classmethod
    def _known(cls, columns: dict[str, str]) -> dict[str, str]:
        unknown = [name for name in columns if name not in COLUMNS]
        if unknown:
            raise ValueError(f"{unknown[0]!r} is no column of texts{nearest(unknown[0], COLUMNS)}")
        return columns

    @field_validator("indicator_columns")
    @classmethod
    def _compiles(cls, pattern: str | None) -> str | None:
        try:
            re.compile(pattern or "")
        except re.error as error:
            raise ValueError(f"{pattern!r} is no regular expression: {error}") from None
        return pattern


def as_texts(table: str, rows: pa.Table) -> list[dict[str, Any]]:
    """Rows of a stage's table as rows of TEXTS, before cleaning. What is not there is null; a section without words of
    its own is left out."""
    if table == "texts":
        return rows.select(COLUMNS).to_pylist()
    count = rows.num_rows
    id_column = {"views": "text_id", "sections": "section_id", "techniques": "technique_id", "patents": "patent_id"}
    found: dict[str, list[Any]] = {name: [None] * count for name in COLUMNS}
    found["text_id"] = rows[id_column[table]].to_pylist()
    if table == "patents":
        found |= {"patent_id": found["text_id"], "codes": rows["codes"].to_pylist()}
        found["text"] = patent_text(rows, ["title", "abstract"])
    elif table == "techniques":
        found["text"] = technique_text(rows)
    else:
        found["family_id"] = rows["document"].to_pylist()
        found["text"] = rows["text"].to_pylist() if table == "views" else technique_text(rows)
    columns = zip(*found.values(), strict=True)
    listed = [dict(zip(found, values, strict=True)) for values in columns]
    if table != "sections":
        return listed
    return [row for row, own in zip(listed, rows["text"].to_pylist(), strict=True) if own]


def match_texts(matches: pa.Table, techniques: Mapping[str, str], patents: Mapping[str, str]) -> list[dict[str, Any]]:
    """Rows of MATCHES as `as_texts`. techniques, patents: id -> title."""
    return [
        dict.fromkeys(COLUMNS)
        | {
            "text_id": f"{row['technique_id']}>{row['patent_id']}",
            "patent_id": row["patent_id"],
            "text": f"Technique: {techniques[row['technique_id']]}\n\nPatent: {patents[row['patent_id']]}",
        }
        for row in matches.to_pylist()
    ]


class _Bad(Exception):
    def __init__(self, column: str | None, reason: str, value: Any) -> None:
        super().__init__(reason)
        self.column, self.reason, self.value = column, reason, "" if value is None else str(value)


@dataclass
class Part:
    """What a block becomes."""

    texts: pa.Table
    quarantine: pa.Table
    counts: dict[str, Any]
    """read, kept, quarantined, reasons {reason: rows}, changed (texts that cleaning changed), dropped_codes,
    languages."""


@dataclass
class _Layout:
    """Where our columns stand in the rows of one file."""

    at: dict[str, int]
    indicators: list[int]
    names: list[str]
    first: int = field(init=False)
    last: int = field(init=False)

    def __post_init__(self) -> None:
        self.first = min(self.indicators, default=0)
        self.last = max(self.indicators, default=-1) + 1

    @property
    def contiguous(self) -> bool:
        return len(self.indicators) == self.last - self.first


def check_columns(config: TextsConfig, file: str, names: Sequence[str]) -> None:
    """Raises ConfigError when a column that is wanted, or named in `columns`, is not in the file."""
    for column in COLUMNS:
        theirs = config.columns.get(column, column)
        if theirs not in names and (column in REQUIRED or column in config.columns):
            raise ConfigError(
                f"{file}: no column {theirs!r} for {column}{nearest(theirs, list(names))}; "
                f"the file has: {', '.join(map(str, names[:12]))}; set columns.{column} to the right one"
            )
    if config.indicator_columns and not _indicators(config, names):
        raise ConfigError(
            f"{file}: no column's name matches indicator_columns {config.indicator_columns!r}; "
            f"the file has: {', '.join(map(str, names[:12]))}"
        )


def _indicators(config: TextsConfig, names: Sequence[str]) -> list[int]:
    if not config.indicator_columns:
        return []
    pattern = re.compile(config.indicator_columns)
    return [index for index, name in enumerate(names) if pattern.fullmatch(name)]


class BlockReader:
    """Turns blocks into parts. Made once per process: patterns and the language detector are prepared here."""

    def __init__(self, config: TextsConfig) -> None:
        self.config = config
        self._clean = cleaner(config.clean)
        self._detect = detector() if config.language != "ignore" else None
        self._mapping = {column: config.columns.get(column, column) for column in COLUMNS}
        self._codes: dict[str, str] = {}  # raw symbol -> normal form: the same few thousand come again and again

    def read(self, block: Block) -> Part:
        columns: dict[str, list[Any]] = {name: [] for name in schema.TEXTS.names}
        rejected: list[dict[str, Any]] = []
        counts: Counter[str] = Counter()
        layout = self._layout(block)
        for item in rows_of_block(block):
            counts["read"] += 1
            if isinstance(item, BadRow):
                rejected.append(_quarantined(item))
                continue
            number = item[0] if isinstance(item, tuple) else item.number
            try:
                row = self._row(item, layout, counts)
            except _Bad as bad:
                rejected.append(_quarantined(BadRow(block.file, number, bad.reason, bad.value, bad.column)))
                continue
            for name, value in row.items():
                columns[name].append(value)
        kept = len(columns["text_id"])
        reasons = Counter(row["reason"].split(":")[0] for row in rejected)
        languages = Counter(language or "unknown" for language in columns["language"]) if self._detect else Counter()
        assert kept + len(rejected) == counts["read"] == block.num_rows
        return Part(
            pa.Table.from_pydict(columns, schema=schema.TEXTS),
            pa.Table.from_pylist(rejected, schema=schema.QUARANTINE),
            {
                "read": counts["read"],
                "kept": kept,
                "quarantined": len(rejected),
                "reasons": dict(reasons),
                "changed_by_cleaning": counts["changed"],
                "dropped_codes": counts["dropped_codes"],
                "languages": dict(languages),
            },
        )

    def _layout(self, block: Block) -> _Layout | None:
        if not block.names:
            return None
        check_columns(self.config, block.file, block.names)
        places = {name: index for index, name in enumerate(block.names)}
        at = {column: places[theirs] for column, theirs in self._mapping.items() if theirs in places}
        return _Layout(at, _indicators(self.config, block.names), list(block.names))

    def _row(
        self, item: RawRow | tuple[int, list[str]], layout: _Layout | None, counts: Counter[str]
    ) -> dict[str, Any]:
        if isinstance(item, tuple):
            assert layout is not None
            fields = item[1]
            values: dict[str, Any] = {column: fields[place] for column, place in layout.at.items()}
            codes = _indicated(fields, layout)
        else:
            values = {column: item.values.get(theirs) for column, theirs in self._mapping.items()}
            codes = _indicated_in(item.values, self.config.indicator_columns)
        value = values.get
        row: dict[str, Any] = {
            "text_id": _id("text_id", value("text_id"), required=True),
            "patent_id": _id("patent_id", value("patent_id")),
            "family_id": _id("family_id", value("family_id")),
            "date": _date(value("date")),
            "codes": self._parsed(_listed(value("codes"), self.config.list_separator) + codes, counts),
        }
        raw = _text(value("text"), self.config.max_characters)
        row["text"] = self._clean(raw)
        counts["changed"] += row["text"] != raw
        if len(row["text"]) < self.config.min_characters:
            raise _Bad("text", "empty: nothing is left after cleaning" if not row["text"] else "too short", raw)
        row["language"] = self._detect(row["text"][:LANGUAGE_CHARACTERS]) if self._detect else None
        if self.config.language == "drop" and row["language"] not in self.config.keep_languages:
            raise _Bad("text", f"other language: {row['language'] or 'not certain'}", row["text"])
        return row

    def _parsed(self, codes: list[str], counts: Counter[str]) -> list[str]:
        parsed: dict[str, None] = {}
        for code in codes:
            if (normal := self._codes.get(code)) is None:
                try:
                    normal = self._codes[code] = str(cpc.parse(code))
                except ValueError as error:
                    if self.config.malformed_codes == "quarantine":
                        raise _Bad("codes", f"malformed code: {error}", code) from None
                    counts["dropped_codes"] += 1
                    continue
            parsed[normal] = None
        return list(parsed)


def _quarantined(bad: BadRow) -> dict[str, Any]:
    return {
        "table": "texts",
        "file": bad.file,
        "row": bad.number,
        "column": bad.column,
        "reason": printable(bad.reason, 500),
        "value": printable(bad.value),
    }


def _missing(value: Any) -> bool:
    return value is None or value == "" or (isinstance(value, float) and value != value)


def _id(column: str, value: Any, *, required: bool = False) -> str | None:
    if _missing(value):
        text = ""
    elif isinstance(value, str | int) and not isinstance(value, bool):
        text = str(value).strip()
    else:
        raise _Bad(column, f"wrong type: expected a text, got {type(value).__name__}", value)
    _check_characters(column, text)
    if required and not text:
        raise _Bad(column, "empty: an id is required", value)
    return text or None


def _text(value: Any, max_characters: int | None) -> str:
    if _missing(value):
        raise _Bad("text", "empty: a text is required", value)
    if not isinstance(value, str):
        raise _Bad("text", f"wrong type: expected a text, got {type(value).__name__}", value)
    if max_characters is not None and len(value) > max_characters:
        raise _Bad("text", f"too long: {len(value):,} characters, max_characters is {max_characters:,}", value[:300])
    _check_characters("text", value)
    return value


def _check_characters(column: str, text: str) -> None:
    if "\x00" in text:
        raise _Bad(column, "rubbish: the text holds NUL characters", text.replace("\x00", "?")[:300])
    if undecodable(text):  # a JSON escape can write one: no UTF-8 file, so no table, can hold it
        raise _Bad(column, "not valid Unicode: half of a surrogate pair", text[:300])


def _date(value: Any) -> datetime.date | None:
    """A date from "2015-03-02", "20150302" or a date; a year alone ("2015") is its first day."""
    if _missing(value):
        return None
    if isinstance(value, datetime.datetime):
        return value.date()
    if isinstance(value, datetime.date):
        return value
    text = str(value).strip()
    try:
        if re.fullmatch(r"\d{4}(\.0)?", text):
            return datetime.date(int(text[:4]), 1, 1)
        return datetime.date.fromisoformat(text[:10].replace("/", "-"))
    except ValueError:
        raise _Bad("date", "wrong value: expected an ISO date (2015-03-02) or a year", value) from None


def _listed(value: Any, separator: str) -> list[str]:
    if _missing(value):
        return []
    if isinstance(value, str):
        if value.lstrip().startswith("["):
            try:
                value = json.loads(value)
            except ValueError as error:
                raise _Bad("codes", f"wrong type: begins like a JSON list but is none ({error})", value) from None
        else:
            value = value.split(separator)
    if not isinstance(value, list) or not all(item is None or isinstance(item, str) for item in value):
        raise _Bad("codes", "wrong type: expected a list of texts", value)
    return [item.strip() for item in value if item and item.strip()]


_ZERO_ONE = frozenset(("0", "1", "0.0", "1.0", ""))


def _indicated(fields: list[str], layout: _Layout) -> list[str]:
    """Names of the indicator columns that hold 1. `list.index` searches at C speed: 600 columns cost 3 microseconds."""
    flags = fields[layout.first : layout.last] if layout.contiguous else [fields[i] for i in layout.indicators]
    if not set(flags) <= _ZERO_ONE:
        place = next(i for i, flag in enumerate(flags) if flag not in _ZERO_ONE)
        column = layout.names[layout.indicators[place]]
        raise _Bad(column, "wrong value: an indicator column holds 0 or 1", flags[place])
    if "1.0" in flags:
        flags = ["1" if flag == "1.0" else flag for flag in flags]
    found, start = [], 0
    while True:
        try:
            start = flags.index("1", start) + 1
        except ValueError:
            return found
        found.append(layout.names[layout.indicators[start - 1]])


def _indicated_in(values: dict[str, Any], pattern: str | None) -> list[str]:
    if not pattern:
        return []
    found = []
    for name, value in values.items():
        if re.fullmatch(pattern, name):
            if _missing(value) or value in (0, "0"):
                continue
            if value not in (1, "1"):
                raise _Bad(name, "wrong value: an indicator column holds 0 or 1", value)
            found.append(name)
    return found


def quarantine_of_duplicates(texts: pa.Table, rows: Sequence[int], raw_rows: Sequence[int], file: str) -> pa.Table:
    """QUARANTINE for texts whose id was seen before. rows: their indices in `texts`; raw_rows: of every text, its row
    in the file.
    """
    ids = texts.column("text_id")
    reason = "duplicate id: an earlier row has it"
    found = [
        {
            "table": "texts",
            "file": file,
            "row": raw_rows[row],
            "column": "text_id",
            "reason": reason,
            "value": printable(ids[row].as_py()),
        }
        for row in rows
    ]
    return pa.Table.from_pylist(found, schema=schema.QUARANTINE)
