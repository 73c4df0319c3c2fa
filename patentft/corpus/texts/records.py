"""Raw files cut into blocks of whole records, cheap enough for one process to feed many that parse.

    file -> Block(file, first row, payload): raw CSV records, JSON lines, or a Parquet batch -> rows_of_block -> rows

Cutting needs no parsing: a line without a quote leaves the state (inside a quoted field or not) as it is, and the
pieces between quotes tell the rest. It follows `csv.reader(strict=True)`: a quote opens a field only at the field's
beginning, closes it only before a delimiter or the line's end; where that fails, or a quote stays open for
`MAX_LINES_PER_RECORD` lines, the record's first line alone is given up, so a broken quote does not swallow the good
rows behind it.
"""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import pyarrow as pa

from patentft.config import ConfigError
from patentft.corpus import read
from patentft.corpus.read import BadRow, RawRow, printable, undecodable
from patentft.corpus.stream import DEFAULT, Reading, encoding_by_mark, open_bytes
from patentft.location import Location

MAX_BLOCK_BYTES = 64 << 20
"""A block ends when it holds this much, however few its rows are."""


@dataclass(frozen=True)
class Block:
    """Whole records of one file. Small enough to send to a worker."""

    file: str
    kind: str  # csv, tsv, jsonl or parquet
    first_row: int  # 0-based data row of the file
    num_rows: int
    payload: bytes | pa.RecordBatch | list[Any]
    ends: tuple[int, ...] = ()  # of text: where each record ends in the payload
    names: tuple[str, ...] = ()  # CSV: the header's column names
    delimiter: str = ""


class _LineReader:
    """Lines of a binary stream, ended by LF, CR or both, that can be put back."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._ahead: list[bytes] = []  # next first at the end
        self._rest = b""  # the beginning of a line whose end was not read yet

    def next(self) -> bytes:
        """The next line with its end; empty at the end of the file."""
        while not self._ahead:
            chunk = self._stream.read(1 << 20)
            lines = (self._rest + chunk).splitlines(keepends=True)
            self._rest = lines.pop() if chunk and lines and not lines[-1].endswith(b"\n") else b""
            if len(self._rest) > MAX_BLOCK_BYTES:
                raise ConfigError(f"a line is longer than {MAX_BLOCK_BYTES >> 20} MiB: is this a text file?")
            self._ahead = lines[::-1]
            if not chunk and not lines:
                return b""
        return self._ahead.pop()

    def put_back(self, lines: Sequence[bytes]) -> None:
        self._ahead.extend(reversed(lines))


def open_quote(line: bytes, delimiter: bytes, inside: bool) -> bool | None:
    """Whether a quoted field is open at the end of `line`, given whether one was at its beginning. None: the quoting is
    broken, as `csv.reader(strict=True)` would say.
    """
    pieces = line.split(b'"')
    last = len(pieces) - 1
    fresh = not inside  # at a field's beginning
    index = 0
    while index < last:  # a quote follows pieces[index]
        piece = pieces[index]
        if not inside:
            if piece:
                fresh = piece.endswith(delimiter)
            inside = fresh  # otherwise it is a plain character of an unquoted field
            fresh = False
            index += 1
            continue
        following = pieces[index + 1]
        if not following and index + 1 < last:  # two quotes: one character of the field
            index += 2
            continue
        if following.strip(b"\r\n") and not following.startswith(delimiter):
            return None
        inside, fresh = False, False
        index += 1
    return inside


def csv_records(lines: _LineReader, delimiter: bytes) -> Iterator[bytes]:
    """The records of a CSV stream, one or more lines each, line ends included. A broken one is its first line."""
    while line := lines.next():
        if b'"' not in line:
            yield line
            continue
        inside = open_quote(line, delimiter, False)
        if inside is False:
            yield line
            continue
        record = [line]
        while inside:
            following = lines.next()
            if not following or len(record) >= read.MAX_LINES_PER_RECORD:
                lines.put_back([following] if following else [])
                inside = None
                break
            record.append(following)
            inside = open_quote(following, delimiter, True) if b'"' in following else True
        if inside is None:
            lines.put_back(record[1:])
            yield record[0]
        else:
            yield b"".join(record)


def blocks_of(
    file: Location,
    rows_per_block: int,
    delimiter: str | None = None,
    columns: Collection[str] | None = None,
    reading: Reading = DEFAULT,
) -> Iterator[Block]:
    """The file's records in blocks of `rows_per_block`. Raises ConfigError for a file that cannot be read.

    columns: all that is wanted of a Parquet, Arrow or XML file; its other columns are not read.
    """
    kind, member = read.kind_and_member(file)
    if kind in ("csv", "tsv", "jsonl") and reading.encoding == "utf-8":
        with open_bytes(file, reading, member) as stream:
            found = encoding_by_mark(stream.peek(4)[:4])
            if found:
                raise ConfigError(
                    f"{file} is not UTF-8 text: it begins with the mark of {found.upper()}; set encoding of its source "
                    f"to {found}, or save the file as UTF-8"
                )
            yield from _text_blocks(file, kind, stream, rows_per_block, delimiter)
        return
    rows = read.rows_of(
        file, delimiter, columns, reading
    )  # parsed here: bytes of other encodings cannot be cut blindly
    first = 0
    while several := list(itertools.islice(rows, rows_per_block)):
        yield Block(str(file), kind, first, len(several), several)
        first += len(several)


def _text_blocks(
    file: Location, kind: str, stream: BinaryIO, rows_per_block: int, delimiter: str | None
) -> Iterator[Block]:
    lines = _LineReader(stream)
    names: list[str] = []
    chosen = ""
    if kind == "jsonl":
        records = iter(lines.next, b"")
    else:
        names, chosen = _header(file, lines, kind, delimiter)
        records = csv_records(lines, chosen.encode())
    first, buffer, ends = 0, bytearray(), []
    for record in records:
        if not record.strip():
            continue  # a blank line
        buffer += record
        ends.append(len(buffer))
        if len(ends) == rows_per_block or len(buffer) >= MAX_BLOCK_BYTES:
            yield Block(str(file), kind, first, len(ends), bytes(buffer), tuple(ends), tuple(names), chosen)
            first, buffer, ends = first + len(ends), bytearray(), []
    if ends:
        yield Block(str(file), kind, first, len(ends), bytes(buffer), tuple(ends), tuple(names), chosen)


def _header(file: Location, lines: _LineReader, kind: str, delimiter: str | None) -> tuple[list[str], str]:
    """The header of a text file, through the same code that reads small tables."""
    first = b""
    while (line := lines.next()) and not first.strip():
        first = line.removeprefix(b"\xef\xbb\xbf")
    if line:
        lines.put_back([line])
    header = [first.decode("utf-8", "surrogateescape")]
    while True:  # a quoted name may hold line ends
        try:
            return read.read_header(file, io.StringIO("".join(header), newline=""), kind, delimiter)
        except ConfigError:
            line = lines.next()
            if not line or header[0].count('"') % 2 == 0 or len(header) > 100:
                raise
            header.append(line.decode("utf-8", "surrogateescape"))


def rows_of_block(block: Block) -> Iterator[RawRow | BadRow | tuple[int, list[str]]]:
    """Every record of the block, parsed: RawRow or BadRow; of CSV (row number, fields) in place of RawRow: a table of
    hundreds of columns is not worth a dict per row.
    """
    if isinstance(block.payload, list):
        yield from block.payload
        return
    assert isinstance(block.payload, bytes)
    csv.field_size_limit(read.MAX_FIELD_CHARACTERS)
    start = 0
    for index, end in enumerate(block.ends):
        text = block.payload[start:end].decode("utf-8", "surrogateescape")
        start = end
        number = block.first_row + index
        if undecodable(text):
            yield BadRow(block.file, number, "not valid UTF-8", printable(text))
        elif block.kind == "jsonl":
            yield read.json_row(block.file, number, text)
        else:
            yield _csv_row(block, number, text)


def _csv_row(block: Block, number: int, text: str) -> BadRow | tuple[int, list[str]]:
    try:
        rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=block.delimiter, strict=True))
    except csv.Error as error:
        return BadRow(block.file, number, f"broken CSV quoting: {error}", printable(text))
    fields = rows[0] if rows else []
    if len(rows) != 1 or len(fields) != len(block.names):
        reason = f"wrong number of fields: {len(fields)}, the header has {len(block.names)}"
        return BadRow(block.file, number, reason, printable(text))
    return number, fields
