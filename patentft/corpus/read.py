"""Raw files -> raw rows: Parquet, JSONL, CSV and TSV, gzipped or not, by path, glob or folder, local or remote.

The way of a row: file -> `rows_of` yields `RawRow(file, number, values)` or `BadRow(file, number, reason, value)`. What
is wrong with one row spoils that row only; what is wrong with a file (absent, truncated, of an unknown kind) is a
ConfigError that names it. One batch or one record is held at a time.
"""

from __future__ import annotations

import csv
import glob
import gzip
import io
import json
import posixpath
import re
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from patentft.config import ConfigError
from patentft.location import Location

SUFFIXES = {".parquet": "parquet", ".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".tsv": "tsv"}
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
    """ "parquet", "jsonl", "csv" or "tsv", from the name. Raises ConfigError for any other name."""
    name = file.name.lower().removesuffix(".gz")
    for suffix, kind in SUFFIXES.items():
        if name.endswith(suffix):
            return kind
    raise ConfigError(
        f"{file}: unknown kind of file; expected a name ending in {', '.join(SUFFIXES)} (or those with .gz)"
    )


def list_files(pattern: str) -> list[Location]:
    """The files that `pattern` (a file, a glob or a folder) stands for, sorted by name.

    Of a folder or a glob only data files (`SUFFIXES`) count, and no hidden ones; `*.pdf` stands for PDFs. Raises
    ConfigError when there is none, naming what is there instead.
    """
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
            f"(a data file's name ends in {', '.join(SUFFIXES)}, or those with .gz)"
        )
    return found


def _matches(place: Location) -> list[Location]:
    if place.is_local:
        return [Location(path) for path in sorted(glob.glob(place.url, recursive=True))]
    filesystem = place.filesystem
    return [Location(filesystem.unstrip_protocol(path)) for path in sorted(filesystem.glob(place.url))]


def _is_data(name: str) -> bool:
    return not name.startswith(".") and name.lower().removesuffix(".gz").endswith(tuple(SUFFIXES))


def columns_of(file: Location, delimiter: str | None = None) -> list[str] | None:
    """The column names of a file, None for JSONL (each line has its own)."""
    kind = format_of(file)
    if kind == "parquet":
        with _open_parquet(file) as parquet:
            return list(parquet.schema_arrow.names)
    if kind == "jsonl":
        return None
    with _open_text(file) as stream:
        return _read_header(file, _Lines(stream), kind, delimiter)[0]


def rows_of(
    file: Location, delimiter: str | None = None, columns: Collection[str] | None = None
) -> Iterator[RawRow | BadRow]:
    """Every row of a file, good or bad, in order. Raises ConfigError for a file that cannot be read.

    columns: all that is wanted of a Parquet file; its other columns are not read.
    """
    kind = format_of(file)
    if kind == "parquet":
        yield from _parquet_rows(file, columns)
        return
    with _open_text(file) as stream:
        yield from _jsonl_rows(file, stream) if kind == "jsonl" else _csv_rows(file, stream, kind, delimiter)


def _open_parquet(file: Location) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(file.path if file.is_local else file.filesystem.open(file.url, "rb"))
    except FileNotFoundError:
        raise ConfigError(f"{file} does not exist") from None
    except (pa.ArrowInvalid, OSError) as error:
        raise ConfigError(
            f"{file} is not a readable Parquet file ({file.size()} bytes: {error}); is it cut off? "
            f"Fetch or write it again"
        ) from error


def _parquet_rows(file: Location, columns: Collection[str] | None) -> Iterator[RawRow | BadRow]:
    number = 0
    with _open_parquet(file) as parquet:
        wanted = None if columns is None else [name for name in parquet.schema_arrow.names if name in columns]
        batches = parquet.iter_batches(batch_size=4096, columns=wanted)
        while True:
            try:
                batch = next(batches, None)
            except (pa.ArrowInvalid, OSError) as error:
                raise ConfigError(f"{file} is damaged after row {number}: {error}") from error
            if batch is None:
                return
            for values in _python_rows(batch):
                if isinstance(values, ValueError):
                    reason = "not valid UTF-8" if isinstance(values, UnicodeDecodeError) else f"unreadable: {values}"
                    yield BadRow(str(file), number, reason, "")
                else:
                    yield RawRow(str(file), number, values)
                number += 1


def _python_rows(batch: pa.RecordBatch) -> Iterator[dict[str, Any] | ValueError]:
    """The rows as Python values; in a batch with a value that has none (text that is no UTF-8), its row's error."""
    try:
        yield from batch.to_pylist()
    except ValueError:  # pyarrow converts the whole batch before the first row is yielded
        for index in range(batch.num_rows):
            try:
                yield batch.slice(index, 1).to_pylist()[0]
            except ValueError as error:
                yield error


@contextmanager
def _open_text(file: Location) -> Iterator[IO[str]]:
    """Text, whatever its bytes: undecodable bytes become surrogates, which mark their row as bad later."""
    try:
        raw: Any = open(file.path, "rb") if file.is_local else file.filesystem.open(file.url, "rb")  # noqa: SIM115
    except FileNotFoundError:
        raise ConfigError(f"{file} does not exist") from None
    except OSError as error:
        raise ConfigError(f"{file} cannot be opened: {error.strerror or error}") from error
    with raw:
        stream: Any = gzip.GzipFile(fileobj=raw) if file.name.lower().endswith(".gz") else raw
        try:
            yield io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="")
        except (EOFError, OSError, zlib.error) as error:
            raise ConfigError(
                f"{file} cannot be read to its end ({error}); is it cut off? Fetch or write it again"
            ) from error


_SURROGATE = re.compile("[\ud800-\udfff]")


def undecodable(text: str) -> bool:
    """Whether `text` holds surrogates: bytes that are no UTF-8, or half of a character in a JSON escape."""
    return not text.isascii() and _SURROGATE.search(text) is not None


def _jsonl_rows(file: Location, stream: IO[str]) -> Iterator[RawRow | BadRow]:
    for number, line in enumerate(line for line in stream if line.strip()):
        if undecodable(line):
            yield BadRow(str(file), number, "not valid UTF-8", printable(line))
            continue
        try:
            values = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield BadRow(str(file), number, f"not JSON: {error}", printable(line))
            continue
        if isinstance(values, dict):
            yield RawRow(str(file), number, values)
        else:
            yield BadRow(str(file), number, f"a JSON {type(values).__name__}, not an object", printable(line))


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

    def start_record(self) -> None:
        self._record = []

    def begin_again_with(self, line: str) -> None:
        """Hand out `line` next, as the first of a new record."""
        self._ahead.append(line)
        self._record = []

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        if len(self._record) >= MAX_LINES_PER_RECORD:
            raise csv.Error(f"a quote is still open after {MAX_LINES_PER_RECORD} lines")
        line = self._ahead.pop() if self._ahead else self._stream.readline()
        if not line:
            raise StopIteration
        self._record.append(line)
        return line

    def retry_after_first(self) -> str:
        first, *rest = self._record
        self._ahead += reversed(rest)
        return first


def printable(text: str, limit: int = 200) -> str:
    """At most `limit` characters, with undecodable bytes shown as "?"."""
    return text[:limit].encode("utf-8", "replace").decode("utf-8").rstrip("\r\n")
