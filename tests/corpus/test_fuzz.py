"""Good rows among rubbish: whatever else is in a file, every good row that was written comes out, in order.

Each test writes good rows and rubbish in a drawn order, and compares with what was written: no reader is the reference.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patentft.config import ConfigError
from patentft.corpus.read import BadRow, RawRow, rows_of
from patentft.location import Location
from tests.corpus.patent_xml import document
from tests.corpus.test_xml import BROKEN

_TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=12)
_AWKWARD = _TEXT | st.text(st.sampled_from("\",;\t|\r\n <>&'[]{}-!\\\x85\u2028"), max_size=8)
_ENDS = st.sampled_from([b"\n", b"\r\n", b"\r"])
_RUBBISH = st.binary(max_size=30).map(lambda data: data.translate(None, b'\r\n"'))


def read(file: Path, data: bytes) -> list[RawRow | BadRow]:
    """All rows; numbered without a gap, and what is bad can be written to the quarantine."""
    file.write_bytes(data)
    rows = list(rows_of(Location(file)))
    assert [row.number for row in rows] == list(range(len(rows)))
    for row in rows:
        if isinstance(row, BadRow):
            (row.value + row.reason).encode()
    return rows


def is_among(wanted: list[Any], found: list[Any]) -> bool:
    """Whether `wanted` is in `found`, in its order."""
    rest = iter(found)
    return all(any(each == other for other in rest) for each in wanted)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


def csv_line(fields: list[str], end: bytes) -> bytes:
    stream = io.StringIO()
    csv.writer(stream, quoting=csv.QUOTE_ALL, lineterminator="").writerow(fields)
    return stream.getvalue().encode() + end


@settings(max_examples=150, deadline=None)
@given(
    lines=st.lists(st.lists(_AWKWARD, min_size=3, max_size=3) | _RUBBISH, max_size=8),
    ends=st.lists(_ENDS, min_size=9, max_size=9),
    packed=st.booleans(),
)
def test_csv(folder: Path, lines: list[list[str] | bytes], ends: list[bytes], packed: bool) -> None:
    """Cells of any text; lines of any bytes but quotes between them, NUL too; every line with an end of its own."""
    data = b"a,b,c\n"
    for line, end in zip(lines, ends, strict=False):
        data += line + end if isinstance(line, bytes) else csv_line(line, end)
    name = "x.csv.gz" if packed else "x.csv"
    rows = read(folder / name, gzip.compress(data, 1) if packed else data)
    good = [line for line in lines if isinstance(line, list)]
    # a line of bytes may be a row too: two commas in UTF-8
    assert is_among(good, [list(row.values.values()) for row in rows if isinstance(row, RawRow)])
    assert len(rows) <= len(lines)  # blank lines are no rows


@settings(max_examples=150, deadline=None)
@given(
    before=st.lists(st.lists(_TEXT, min_size=2, max_size=2), max_size=4),
    after=st.lists(st.lists(_TEXT, min_size=2, max_size=2), max_size=4),
    broken=st.sampled_from([b'x,"y', b'"', b'x,"y"z', b'"x,y', b'x,"y""', b'",",', b'"x"y,"'])
    | st.tuples(_RUBBISH, _RUBBISH).map(b'"'.join),
)
def test_csv_with_one_broken_quote(folder: Path, before: list[Any], after: list[Any], broken: bytes) -> None:
    """A quote that is never closed costs its own line, not the file. (Two may enclose what is between them: that is
    what a quoted cell is.)"""

    def plain(rows: list[list[str]]) -> list[list[str]]:
        return [["".join(c for c in cell if c not in '",\r\n') or "x" for cell in row] for row in rows]

    before, after = plain(before), plain(after)
    lines = [b"a,b", *(",".join(row).encode() for row in before), broken, *(",".join(row).encode() for row in after)]
    rows = read(folder / "quote.csv", b"\n".join(lines) + b"\n")
    assert is_among(before + after, [list(row.values.values()) for row in rows if isinstance(row, RawRow)])


_JSON = st.recursive(st.none() | st.booleans() | st.integers() | _AWKWARD, lambda inner: st.lists(inner, max_size=2))


@settings(max_examples=150, deadline=None)
@given(
    lines=st.lists(st.dictionaries(_TEXT, _JSON, max_size=3) | st.binary(max_size=30), max_size=8),
    ends=st.lists(_ENDS, min_size=9, max_size=9),
    ascii_only=st.booleans(),
)
def test_jsonl(folder: Path, lines: list[dict[str, Any] | bytes], ends: list[bytes], ascii_only: bool) -> None:
    data = b""
    for line, end in zip(lines, ends, strict=False):
        if isinstance(line, dict):
            data += json.dumps(line, ensure_ascii=ascii_only).encode() + end
        else:
            data += line.translate(None, b"\r\n") + end
    if data[:4].startswith((b"\xff\xfe", b"\xfe\xff")):  # the mark of UTF-16
        with pytest.raises(ConfigError, match="set encoding"):
            read(folder / "x.jsonl", data)
        return
    rows = read(folder / "x.jsonl", data)
    good = [line for line in lines if isinstance(line, dict)]
    assert is_among(good, [row.values for row in rows if isinstance(row, RawRow)])


_XML_TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"], exclude_characters="\ufffe\uffff"))
_BETWEEN = st.sampled_from(
    ["", "\n", "<?xml version='1.0'?>", "<!-- <patent-document> -->", "text", "&x;", "]]>", "</a>"]
)


@settings(max_examples=150, deadline=None)
@given(
    pieces=st.lists(
        st.tuples(_XML_TEXT, st.sampled_from(["patent-document", "exchange-document"]))
        | st.sampled_from(sorted(BROKEN))
        | st.binary(max_size=30),
        min_size=1,
        max_size=8,
    ),
    between=st.lists(_BETWEEN, min_size=8, max_size=8),
)
def test_xml(folder: Path, pieces: list[Any], between: list[str]) -> None:
    good: list[str] = []
    data = b"<all>"
    for piece, gap in zip(pieces, between, strict=False):
        data += gap.encode()
        if isinstance(piece, tuple):
            good.append(piece[0])
            data += document(str(len(good)), "T", piece[0], root=piece[1]).encode()
        elif isinstance(piece, str):
            data += BROKEN[piece].encode("utf-8", "surrogateescape")
        else:
            data += piece
    if b"document" not in data:
        return
    try:
        rows = read(folder / "x.xml", data)
    except ConfigError:  # no document at all
        if good:
            raise
        return
    found = [row.values["number"] for row in rows if isinstance(row, RawRow) and row.values["number"] != "9"]
    assert found == [str(number + 1) for number in range(len(good))]
    texts = [row.values["abstract"] or "" for row in rows if isinstance(row, RawRow) and row.values["number"] != "9"]
    assert texts == [" ".join(text.split()) for text in good]


@settings(max_examples=100, deadline=None)
@given(
    data=st.binary(max_size=200) | st.text("<>/!-[]?&;\"' =\n\x00Dap", max_size=80).map(str.encode),
    suffix=st.sampled_from(
        [".csv", ".tsv", ".jsonl", ".xml", ".parquet", ".csv.gz", ".xml.gz", ".csv.zip", ".jsonl.zst"]
    ),
    start=st.sampled_from(
        [b"", b"\x1f\x8b\x08\x00", b"PK\x03\x04", b"\x28\xb5\x2f\xfd", b"<patent-document >", b"PAR1"]
    ),
)
def test_no_bytes_do_anything_but_rows_or_an_error_that_names_the_file(
    folder: Path, data: bytes, suffix: str, start: bytes
) -> None:
    file = folder / f"any{suffix}"
    problem = str(file)
    try:
        read(file, start + data)
    except ConfigError as error:
        problem = str(error)
    assert str(file) in problem


@settings(max_examples=40, deadline=None)
@given(cut=st.integers(0, 100_000), packing=st.sampled_from(["gz", "zip", "zst"]))
def test_a_packed_file_that_is_cut_anywhere_is_an_error(folder: Path, cut: int, packing: str) -> None:
    """The rows before the cut may come, then the error: never rows without it."""
    data = b"id,text\n" + b"".join(b"%d,text %d\n" % (n, n * 7919 % 1000) for n in range(300))
    if packing == "zip":
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("x.csv", data)
        packed = bytearray(stream.getvalue())
    else:
        packed = bytearray(gzip.compress(data) if packing == "gz" else pa.compress(data, codec="zstd", asbytes=True))
    packed = packed[: cut % (len(packed) - 1) + 1]
    with pytest.raises(ConfigError) as caught:
        read(folder / f"cut.csv.{packing}", bytes(packed))
    assert f"cut.csv.{packing}" in str(caught.value)
