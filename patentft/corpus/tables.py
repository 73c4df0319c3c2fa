"""Raw rows -> PATENTS, TECHNIQUES, MATCHES: column mapping, checks, quarantine, duplicates. Pure; no Ray.

    rows_of(file) -> map columns -> check types, required text, lengths -> duplicates by id -> known ids (MATCHES)

A row that fails goes to the quarantine with file, row number, column and reason; a good row is never lost.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pyarrow as pa
from pydantic import Field

from patentft import schema
from patentft.config import ConfigError, nearest
from patentft.corpus.read import BadRow, RawRow, columns_of, list_files, printable, rows_of, undecodable
from patentft.corpus.stream import Reading
from patentft.stage import FileRef

KEYS = {"patents": ("patent_id",), "techniques": ("technique_id",), "matches": ("technique_id", "patent_id")}
REQUIRED = {
    "patents": ("patent_id", "title", "abstract"),
    "techniques": ("technique_id", "title", "text"),
    "matches": ("technique_id", "patent_id"),
}


class SourceConfig(Reading):
    """Where a table's rows come from."""

    files: FileRef
    """A file, a folder or a glob: Parquet, Arrow, JSONL, CSV, TSV or patent XML, text packed (.gz, .zip, .zst) or not;
    a local path or an fsspec URL. Or a Hugging Face dataset: hf:FOLDER, hf:FOLDER:SPLIT, hf:OWNER/NAME:SPLIT."""
    columns: dict[str, str] = Field(default={})
    """Our column -> the file's column, for those whose names differ."""
    delimiter: str | None = Field(default=None, min_length=1, max_length=1)
    """CSV delimiter, one character; unset: the most frequent of , ; tab | in the header line."""
    list_separator: str = Field(default=";", min_length=1)
    """Splits a text that stands for a list (claims, codes) into its items."""
    duplicates: Literal["refuse", "first", "merge"] = "refuse"
    """Rows with an id seen before. refuse: an error that names them. first: the first row is kept, the others go to
    quarantine. merge: one row, the first text that is not empty for each column, lists united."""


@dataclass
class Tally:
    """What happened to the rows of one table: read = kept + merged + quarantined."""

    read: int = 0
    kept: int = 0
    merged: int = 0
    quarantined: int = 0
    reasons: dict[str, int] = field(default_factory=dict)


@dataclass
class Rejected:
    """The quarantine of a whole corpus stage, and its count by table."""

    rows: list[dict[str, Any]] = field(default_factory=list)

    def add(self, table: str, bad: BadRow, tally: Tally) -> None:
        tally.quarantined += 1
        kind = bad.reason.split(":")[0]
        tally.reasons[kind] = tally.reasons.get(kind, 0) + 1
        self.rows.append(
            {
                "table": table,
                "file": bad.file,
                "row": bad.number,
                "column": bad.column,
                "reason": printable(bad.reason, 500),
                "value": printable(bad.value),
            }
        )

    def as_table(self) -> pa.Table:
        return pa.Table.from_pylist(self.rows, schema=schema.QUARANTINE)


def read_table(
    table: str,
    source: SourceConfig,
    rejected: Rejected,
    tally: Tally,
    *,
    max_characters: int | None,
    accept: Callable[[dict[str, Any]], tuple[str, str] | None] = lambda row: None,
) -> Iterator[dict[str, Any]]:
    """The good rows of `table`, in file order, ids unique. Bad ones go to `rejected`; both are counted in `tally`.

    accept: a last check; returns (column, reason) to reject a row. Raises ConfigError for a file that cannot be read, a
    column that is not there, or a duplicate id when `source.duplicates` is "refuse".
    """
    repeated = _repeated_keys(table, source, max_characters) if source.duplicates == "merge" else set()
    pending: dict[tuple[str, ...], dict[str, Any]] = {}
    first_seen: dict[tuple[str, ...], tuple[str, int]] = {}  # (file, row number)
    num_refused, refused = 0, []
    for item in checked_rows(table, source, max_characters):
        tally.read += 1
        if isinstance(item, BadRow):
            rejected.add(table, item, tally)
            continue
        raw, row = item
        refusal = accept(row)
        if refusal is not None:
            column, reason = refusal
            rejected.add(table, BadRow(raw.file, raw.number, reason, str(row[column])[:200], column), tally)
            continue
        key = _key(table, row)
        if key in repeated:
            if key in pending:
                tally.merged += 1
                _merge(pending[key], row)
            else:
                pending[key] = row
        elif key not in first_seen:
            first_seen[key] = (raw.file, raw.number)
            tally.kept += 1
            yield row
        elif source.duplicates == "first":
            reason = "duplicate id: first seen at {} row {}".format(*first_seen[key])
            rejected.add(table, BadRow(raw.file, raw.number, reason, " ".join(key), KEYS[table][0]), tally)
        else:
            num_refused += 1
            if num_refused <= 10:
                first = "{} row {}".format(*first_seen[key])
                refused.append(f"  {' '.join(key)!r} at {raw.file} row {raw.number}, first at {first}")
    if num_refused:
        shown = "\n".join(refused)
        raise ConfigError(
            f"{table}: {num_refused} rows have the id of an earlier row\n{shown}\n"
            f"  set {table}.duplicates to merge (unite them) or first (keep the first, quarantine the others)"
        )
    for row in pending.values():
        tally.kept += 1
        yield row


def _key(table: str, row: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(row[column] for column in KEYS[table])


def _repeated_keys(table: str, source: SourceConfig, max_characters: int | None) -> set[tuple[str, ...]]:
    """Ids that occur more than once: a pass of its own, so that only their rows need to be held."""
    once: set[tuple[str, ...]] = set()
    repeated: set[tuple[str, ...]] = set()
    for item in checked_rows(table, source, max_characters):
        if not isinstance(item, BadRow):
            key = _key(table, item[1])
            (repeated if key in once else once).add(key)
    return repeated


def _merge(kept: dict[str, Any], later: Mapping[str, Any]) -> None:
    for column, value in later.items():
        if isinstance(value, list):
            kept[column] = list(dict.fromkeys([*(kept[column] or []), *value]))
        elif kept[column] in (None, ""):
            kept[column] = value


def checked_rows(
    table: str, source: SourceConfig, max_characters: int | None
) -> Iterator[tuple[RawRow, dict[str, Any]] | BadRow]:
    """Rows of all the source's files with the table's columns and types, or what is wrong with them."""
    fields = schema.TABLES[table]
    unknown = sorted(set(source.columns) - set(fields.names))
    if unknown:
        raise ConfigError(f"{table}.columns: {unknown[0]!r} is no column of {table}{nearest(unknown[0], fields.names)}")
    for file in list_files(source.files):
        present = columns_of(file, source.delimiter, source)
        mapping = {column: source.columns.get(column, column) for column in map(str, fields.names)}
        if present is not None:
            for column, theirs in mapping.items():
                if theirs not in present and (column in REQUIRED[table] or column in source.columns):
                    raise ConfigError(
                        f"{file}: no column {theirs!r} for {table}.{column}{nearest(theirs, present)}; "
                        f"the file has: {', '.join(present[:12])}; set {table}.columns.{column} to the right one"
                    )
        for item in rows_of(file, source.delimiter, set(mapping.values()), source):
            if isinstance(item, BadRow):
                yield item
                continue
            try:
                yield item, _checked(table, fields, mapping, item, source.list_separator, max_characters)
            except BadValue as bad:
                yield BadRow(item.file, item.number, bad.reason, bad.value[:200], bad.column)


class BadValue(Exception):
    """Why one value spoils its row."""

    def __init__(self, column: str, reason: str, value: Any) -> None:
        super().__init__(reason)
        self.column, self.reason, self.value = column, reason, "" if value is None else str(value)


def _checked(
    table: str, fields: pa.Schema, mapping: Mapping[str, str], raw: RawRow, separator: str, max_characters: int | None
) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for column in fields:
        value = raw.values.get(mapping[column.name])
        if pa.types.is_list(column.type):
            row[column.name] = as_list(column.name, value, separator)
        elif pa.types.is_integer(column.type):
            row[column.name] = _as_year(column.name, value)
        else:
            row[column.name] = as_text(column.name, value, required=column.name in REQUIRED[table])
        found = row[column.name]
        length = len(found) if isinstance(found, str) else sum(map(len, found)) if isinstance(found, list) else 0
        if max_characters is not None and length > max_characters:
            raise BadValue(column.name, f"too long: {length:,} characters, max_characters is {max_characters:,}", value)
    return row


def as_text(column: str, value: Any, *, required: bool) -> str | None:
    """The text without blank space around it; None for an empty one. Raises BadValue."""
    if value is None or (isinstance(value, float) and value != value):  # NaN: how pandas writes a missing text
        text = ""
    elif isinstance(value, str | int) and not isinstance(value, bool):
        text = str(value).strip()
    else:
        raise BadValue(column, f"wrong type: expected a text, got {type(value).__name__}", value)
    _check_characters(column, text)
    if required and not text:
        raise BadValue(column, "empty: a text is required", value)
    return text if text or required else None


def _check_characters(column: str, text: str) -> None:
    if "\x00" in text:
        raise BadValue(column, "rubbish: the text holds NUL characters", text.replace("\x00", "?"))
    if undecodable(text):  # a JSON escape can write one: no UTF-8 file, so no table, can hold it
        raise BadValue(column, "not valid Unicode: half of a surrogate pair", text)


def as_list(column: str, value: Any, separator: str) -> list[str]:
    """A list of texts from a list, a JSON list in a text, or a text with separators."""
    if value is None or (isinstance(value, float) and value != value):
        return []
    if isinstance(value, str):
        if value.lstrip().startswith("["):
            try:
                value = json.loads(value)
            except ValueError as error:
                raise BadValue(column, f"wrong type: begins like a JSON list but is none ({error})", value) from None
        else:
            value = value.split(separator)
    if not isinstance(value, list) or not all(item is None or isinstance(item, str) for item in value):
        raise BadValue(column, "wrong type: expected a list of texts", value)
    items = [item.strip() for item in value if item and item.strip()]
    for item in items:
        _check_characters(column, item)
    return items


_YEAR = re.compile(r"([0-9]{4})(\.0*|[-/][0-9]{1,2}([-/][0-9].*)?|[0-9]{4})?")


def _as_year(column: str, value: Any) -> int | None:
    """A year from an integer, "2015", "2015-03-02", "20150302" or a date."""
    if value is None or (isinstance(value, float) and value != value):
        return None
    text = str(value).strip()
    if not text:
        return None
    match = _YEAR.fullmatch(text)
    if match is None or not 1700 <= int(match[1]) <= 2200:
        raise BadValue(column, "wrong value: expected a year (2015) or an ISO date (2015-03-02)", value)
    return int(match[1])
