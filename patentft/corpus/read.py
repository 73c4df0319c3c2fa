"""Raw files -> raw rows: Parquet, Arrow, JSONL, CSV, TSV and XML, packed or not, by path, glob or folder, local or
remote, or as a Hugging Face dataset.

The way of a row: file -> `rows_of` yields `RawRow(file, number, values)` or `BadRow(file, number, reason, value)`. What
is wrong with one row spoils that row only; what is wrong with a file (absent, truncated, of an unknown kind) is a
ConfigError that names it. One batch or one record is held at a time. How packed files are opened, and how much may come
out of them: `stream`.
"""

from __future__ import annotations

import csv
import glob
import json
import posixpath
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import IO, Any

from patentft.config import ConfigError
from patentft.corpus import hub
from patentft.corpus.columnar import columnar_names, columnar_values
from patentft.corpus.stream import (
    DEFAULT,
    MAX_LINE_CHARACTERS,
    PACKINGS,
    CutLine,
    Reading,
    names_in_zip,
    next_line,
    open_bytes,
    open_text,
    packing_of,
    unpacked_name,
)
from patentft.corpus.xml import ROOTS, Broken, documents
from patentft.corpus.xml_fields import COLUMNS, fields_of
from patentft.location import Location

SUFFIXES = {
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".xml": "xml",
}
PACKABLE = tuple(suffix for suffix, kind in SUFFIXES.items() if kind not in ("parquet", "arrow"))
DOCUMENTS = (".pdf",)
"""No rows of a table: only a glob that names them ("brefs/*.pdf") stands for them."""
DELIMITERS = ",;\t|"
MAX_FIELD_CHARACTERS = 32 << 20
MAX_LINES_PER_RECORD = 10_000
"""A quoted CSV field that runs on for more lines than this is taken for an unclosed quote."""


@dataclass(frozen=True)
class RawRow:
    file: str
    number: int  # 0-based data row
    values: dict[str, Any]


@dataclass(frozen=True)
class BadRow:
    file: str
    number: int
    reason: str
    value: str
    column: str | None = None


def format_of(file: Location) -> str:
    """ "parquet", "arrow", "jsonl", "csv", "tsv" or "xml", from the name; of a zip, from that of its one data file.

    Raises ConfigError for any other name.
    """
    kind, _ = kind_and_member(file)
    return kind


def kind_and_member(file: Location) -> tuple[str, str | None]:
    """The format, and the name of the data file inside a zip."""
    packing = packing_of(file.name)
    if packing == ".zip":
        names = names_in_zip(file)
        data = [name for name in names if name.lower().endswith(PACKABLE)]
        if len(data) != 1:
            raise ConfigError(
                f"{file}: expected one data file inside (a name ending in {', '.join(PACKABLE)}), found {len(data)} "
                f"of {len(names)} files: {', '.join(names[:8]) or 'none'}; unpack it and give the folder"
            )
        return _kind(data[0]) or "", data[0]
    kind = _kind(unpacked_name(file.name))
    if kind is None or (packing and kind in ("parquet", "arrow")):
        raise ConfigError(
            f"{file}: unknown kind of file; expected a name ending in {', '.join(SUFFIXES)} "
            f"(text also with {', '.join(PACKINGS)})"
        )
    return kind, None


def _kind(name: str) -> str | None:
    return next((kind for suffix, kind in SUFFIXES.items() if name.lower().endswith(suffix)), None)


def list_files(pattern: str) -> list[Location]:
    """The files that `pattern` (a file, a glob, a folder or an `hf:` dataset) stands for, sorted by name.

    Of a folder or a glob only data files (`SUFFIXES`) count, and no hidden ones; `*.pdf` stands for PDFs. Raises
    ConfigError when there is none, naming what is there instead.
    """
    if pattern.startswith(hub.PREFIX):
        return hub.files_of(pattern, _is_data)
    place = Location(pattern)
    if place.is_file():
        return [place]
    inside = place.names()
    folder = place if inside else Location(posixpath.dirname(place.url) or "/")
    if inside or not glob.has_magic(place.url):
        found = [place / entry for entry in inside if _is_data(entry)]
    else:
        documents = place.url.lower().endswith(DOCUMENTS)
        found = [
            match
            for match in _matches(place)
            if _is_data(match.name)
            or (documents and match.name.lower().endswith(DOCUMENTS) and not match.name.startswith("."))
        ]
    if not found:
        there = [entry for entry in folder.names() if _is_data(entry)][:8]
        raise ConfigError(
            f"no data file matches {pattern}; {folder} holds {', '.join(there) or 'none'} "
            f"(a data file's name ends in {', '.join(SUFFIXES)}; text also with {', '.join(PACKINGS)})"
        )
    return found


def _matches(place: Location) -> list[Location]:
    if place.is_local:
        return [Location(path) for path in sorted(glob.glob(place.url, recursive=True))]
    filesystem = place.filesystem
    return [Location(filesystem.unstrip_protocol(path)) for path in sorted(filesystem.glob(place.url))]


def _is_data(name: str) -> bool:
    if name.startswith("."):
        return False
    if packing_of(name) == ".zip":  # what it holds is seen when it is opened
        return True
    return unpacked_name(name).endswith(PACKABLE if packing_of(name) else tuple(SUFFIXES))


def columns_of(file: Location, delimiter: str | None = None, reading: Reading = DEFAULT) -> list[str] | None:
    """The column names of a file, None for JSONL (each line has its own)."""
    kind, member = kind_and_member(file)
    if kind in ("parquet", "arrow"):
        return columnar_names(file, kind, reading)
    if kind == "jsonl":
        return None
    if kind == "xml":
        return list(COLUMNS)
    with open_text(file, reading, member) as stream:
        return _read_header(file, _Lines(stream), kind, delimiter)[0]


def rows_of(
    file: Location,
    delimiter: str | None = None,
    columns: Collection[str] | None = None,
    reading: Reading = DEFAULT,
) -> Iterator[RawRow | BadRow]:
    """Every row of a file, good or bad, in order. Raises ConfigError for a file that cannot be read.

    columns: all that is wanted of a Parquet, Arrow or XML file; its other columns are not read.
    """
    kind, member = kind_and_member(file)
    if kind in ("parquet", "arrow"):
        yield from _columnar_rows(file, columnar_values(file, kind, columns, reading))
        return
    if kind == "xml":
        yield from _xml_rows(file, columns, reading, member)
        return
    with open_text(file, reading, member) as stream:
        yield from _jsonl_rows(file, stream) if kind == "jsonl" else _csv_rows(file, stream, kind, delimiter)


def _columnar_rows(file: Location, rows: Iterator[dict[str, Any] | ValueError]) -> Iterator[RawRow | BadRow]:
    for number, values in enumerate(rows):
        if isinstance(values, ValueError):
            reason = "not valid UTF-8" if isinstance(values, UnicodeDecodeError) else f"unreadable: {values}"
            yield BadRow(str(file), number, reason, "")
        else:
            yield RawRow(str(file), number, values)


_SURROGATE = re.compile("[\ud800-\udfff]")


def undecodable(text: str) -> bool:
    """Whether `text` holds surrogates: bytes that are no UTF-8, or half of a character in a JSON escape."""
    return not text.isascii() and _SURROGATE.search(text) is not None


_TOO_LONG = f"too long: a line of more than {MAX_LINE_CHARACTERS:,} characters"


def _jsonl_rows(file: Location, stream: IO[str]) -> Iterator[RawRow | BadRow]:
    lines = iter(lambda: next_line(stream), "")
    for number, line in enumerate(line for line in lines if line.strip()):
        if isinstance(line, CutLine):
            yield BadRow(str(file), number, _TOO_LONG, printable(line))
            continue
        if undecodable(line):
            yield BadRow(str(file), number, "not valid UTF-8", printable(line))
        else:
            yield json_row(str(file), number, line)


def json_row(file: str, number: int, line: str) -> RawRow | BadRow:
    """A line of JSONL."""
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:
        return BadRow(file, number, f"not JSON: {error}", printable(line))
    if isinstance(values, dict):
        return RawRow(file, number, values)
    return BadRow(file, number, f"a JSON {type(values).__name__}, not an object", printable(line))


def read_header(file: Location, stream: IO[str], kind: str, delimiter: str | None) -> tuple[list[str], str]:
    """(column names, delimiter) from the first line that is not blank. Raises ConfigError."""
    return _read_header(file, _Lines(stream), kind, delimiter)


def _xml_rows(
    file: Location, columns: Collection[str] | None, reading: Reading, member: str | None
) -> Iterator[RawRow | BadRow]:
    number = -1
    with open_bytes(file, reading, member) as stream:
        try:
            for number, document in enumerate(documents(stream, reading.max_document_bytes)):
                if isinstance(document, Broken):
                    yield BadRow(str(file), number, document.reason, printable(document.text))
                else:
                    yield RawRow(str(file), number, fields_of(document, reading.languages, columns))
        except ConfigError as error:
            raise ConfigError(str(error) if str(file) in str(error) else f"{file}: {error}") from None
    if number < 0:
        raise ConfigError(f"{file} holds no patent document: expected an element {', '.join(ROOTS)}")


def _read_header(file: Location, lines: _Lines, kind: str, delimiter: str | None) -> tuple[list[str], str]:
    first = next((line for line in lines if line.strip()), None)
    if first is None:
        raise ConfigError(f"{file} is empty: expected a header line with the column names")
    if undecodable(first) or "\x00" in first:
        raise ConfigError(f"{file}: the header is not UTF-8 text: {printable(first)!r}; save the file as UTF-8")
    outside_quotes = re.sub(r'"[^"]*"', "", first)
    chosen = delimiter or ("\t" if kind == "tsv" else max(DELIMITERS, key=outside_quotes.count))
    lines.begin_again_with(first)
    try:
        names = [name.strip() for name in next(csv.reader(lines, delimiter=chosen, strict=True))]
    except csv.Error as error:
        raise ConfigError(f"{file}: the header line is broken ({error}): {printable(first)!r}") from None
    doubled = sorted({name for name in names if name and names.count(name) > 1})
    if doubled:
        raise ConfigError(f"{file}: the header names {', '.join(doubled)} twice")
    return names, chosen


def _csv_rows(file: Location, stream: IO[str], kind: str, delimiter: str | None) -> Iterator[RawRow | BadRow]:
    csv.field_size_limit(MAX_FIELD_CHARACTERS)
    lines = _Lines(stream)
    names, chosen = _read_header(file, lines, kind, delimiter)
    number = 0
    while True:
        lines.start_record()
        try:
            fields = next(csv.reader(lines, delimiter=chosen, strict=True), None)
        except csv.Error as error:
            # One broken quote must not swallow the good rows behind it: give up the record's first line only
            line = lines.retry_after_first()
            yield BadRow(str(file), number, f"broken CSV quoting: {error}", printable(line))
            number += 1
            continue
        if fields is None:
            return
        if not fields:
            continue  # a blank line
        if len(fields) != len(names):
            reason = f"wrong number of fields: {len(fields)}, the header has {len(names)}"
            yield BadRow(str(file), number, reason, printable(chosen.join(fields)))
        elif any(undecodable(value) for value in fields):
            yield BadRow(str(file), number, "not valid UTF-8", printable(chosen.join(fields)))
        else:
            yield RawRow(str(file), number, dict(zip(names, fields, strict=True)))
        number += 1


class _Lines:
    """The lines of a stream, with those of the current record kept so that parsing can start again after its first."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._ahead: list[str] = []  # lines to hand out before the stream's next, last first
        self._record: list[str] = []
        self._characters = 0

    def start_record(self) -> None:
        self._record = []
        self._characters = 0

    def begin_again_with(self, line: str) -> None:
        """Hand out `line` next, as the first of a new record."""
        self._ahead.append(line)
        self.start_record()

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        if len(self._record) >= MAX_LINES_PER_RECORD:
            raise csv.Error(f"a quote is still open after {MAX_LINES_PER_RECORD} lines")
        line = self._ahead.pop() if self._ahead else next_line(self._stream)
        if not line:
            raise StopIteration
        self._record.append(line)
        self._characters += len(line)
        if isinstance(line, CutLine) or self._characters > MAX_LINE_CHARACTERS:
            raise csv.Error(_TOO_LONG if isinstance(line, CutLine) else "a quote is still open after 64 Mi characters")
        return line

    def retry_after_first(self) -> str:
        first, *rest = self._record
        self._ahead += reversed(rest)
        return first


def printable(text: str, limit: int = 200) -> str:
    """At most `limit` characters, with undecodable bytes shown as "?"."""
    return text[:limit].encode("utf-8", "replace").decode("utf-8").rstrip("\r\n")
