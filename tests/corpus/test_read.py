"""Raw files of every kind, clean and dirty: a good row is never lost, a bad one never stops the rest."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from patentft.config import ConfigError
from patentft.corpus import read
from patentft.corpus.read import BadRow, RawRow, columns_of, list_files, rows_of
from patentft.location import Location

ROWS = [
    {"id": "1", "text": "Größe, “x”"},
    {"id": "2", "text": 'a "quoted"\nsecond line; more'},
    {"id": "3", "text": ""},
]


def write(path: Path, rows: Sequence[dict[str, Any]] = ROWS) -> Path:
    """`rows` in the format that the name of `path` says."""
    kind = path.name.removesuffix(".gz").rpartition(".")[2]
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(list(rows)), path)
        return path
    stream = io.StringIO()
    if kind in ("csv", "tsv"):
        writer = csv.DictWriter(stream, list(rows[0]), delimiter="\t" if kind == "tsv" else ",")
        writer.writeheader()
        writer.writerows(rows)
    else:
        stream.writelines(json.dumps(row) + "\n" for row in rows)
    data = stream.getvalue().encode()
    path.write_bytes(gzip.compress(data) if path.name.endswith(".gz") else data)
    return path


def raw(path: Path, data: bytes) -> list[RawRow | BadRow]:
    path.write_bytes(data)
    return list(rows_of(Location(path)))


def good(rows: Iterable[RawRow | BadRow]) -> list[dict[str, Any]]:
    return [row.values for row in rows if isinstance(row, RawRow)]


def bad(rows: Iterable[RawRow | BadRow]) -> list[tuple[int, str]]:
    return [(row.number, row.reason) for row in rows if isinstance(row, BadRow)]


# Formats


@pytest.mark.parametrize(
    "name",
    ["x.parquet", "x.jsonl", "x.ndjson", "x.csv", "x.tsv", "x.jsonl.gz", "x.csv.gz", "x.tsv.gz", "X.CSV", "x.y.JSONL"],
)
def test_every_format_gives_the_same_rows(name: str, tmp_path: Path) -> None:
    written = write(tmp_path / name.lower())
    file = Location(written.rename(tmp_path / name))
    rows = list(rows_of(file))
    assert good(rows) == ROWS
    assert [(row.file, row.number) for row in rows] == [(str(file), 0), (str(file), 1), (str(file), 2)]
    assert columns_of(file) == (None if "jsonl" in name.lower() or "ndjson" in name else ["id", "text"])


def test_remote_files_read_like_local_ones() -> None:
    folder = Location("memory://raw")
    (folder / "a.csv.gz").commit(gzip.compress(b"id;text\n1;x\n"))
    table = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([{"id": "2", "text": "y"}]), table)
    (folder / "b.parquet").commit(table.getvalue())
    files = list_files("memory://raw")
    assert [file.name for file in files] == ["a.csv.gz", "b.parquet"]
    assert [row for file in files for row in good(rows_of(file))] == [
        {"id": "1", "text": "x"},
        {"id": "2", "text": "y"},
    ]
    assert [file.name for file in list_files("memory://raw/*.parquet")] == ["b.parquet"]
    assert [file.name for file in list_files("memory://raw/a.csv.gz")] == ["a.csv.gz"]
    with pytest.raises(
        ConfigError, match=r"no data file matches memory://raw/c\.csv; memory://raw holds a\.csv\.gz, b"
    ):
        list_files("memory://raw/c.csv")


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_is_found_in_the_header(delimiter: str, tmp_path: Path) -> None:
    rows = raw(
        tmp_path / "x.csv",
        f'"id, or number"{delimiter}text\r\n1{delimiter}a,b;c\r\n'.replace("a,b;c", '"a,b;c"').encode(),
    )
    assert good(rows) == [{"id, or number": "1", "text": "a,b;c"}]


def test_a_given_delimiter_wins(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("a,b,c|d\n1,2,3|4\n")
    assert good(rows_of(Location(tmp_path / "x.csv"), "|")) == [{"a,b,c": "1,2,3", "d": "4"}]


def test_byte_order_mark_semicolons_and_fields_of_many_lines(tmp_path: Path) -> None:
    rows = raw(tmp_path / "x.csv", '\ufeff"id";"text"\r\n1;"first;\r\n\r\n""second"""\r\n\r\n2;é\r\n'.encode())
    assert good(rows) == [{"id": "1", "text": 'first;\r\n\r\n"second"'}, {"id": "2", "text": "é"}]
    assert bad(rows) == []


def test_a_header_may_have_quotes_lines_blank_lines_before_it_and_an_unnamed_index(tmp_path: Path) -> None:
    rows = raw(tmp_path / "x.csv", b'\n\n,"long\nname",b,\n0,x,y,\n')
    assert good(rows) == [{"": "", "long\nname": "x", "b": "y"}]


def test_old_line_ends(tmp_path: Path) -> None:
    assert good(raw(tmp_path / "x.csv", b"id,text\r1,a\r2,b\r")) == [{"id": "1", "text": "a"}, {"id": "2", "text": "b"}]


def test_only_the_wanted_parquet_columns_are_read(tmp_path: Path) -> None:
    file = Location(write(tmp_path / "x.parquet"))
    assert good(rows_of(file, columns={"id", "absent"})) == [{"id": "1"}, {"id": "2"}, {"id": "3"}]


# What is wrong with a row


def test_an_unclosed_quote_loses_one_line_only(tmp_path: Path) -> None:
    lines = [f'{number},"text {number}"' for number in range(2000)]
    lines[1000] = '1000,"never closed'
    rows = raw(tmp_path / "x.csv", "\n".join(["id,text", *lines]).encode())
    assert len(rows) == 2000
    assert [(number, reason.split(":")[0]) for number, reason in bad(rows)] == [(1000, "broken CSV quoting")]
    assert [row["id"] for row in good(rows)] == [str(n) for n in range(2000) if n != 1000]


def test_an_unclosed_quote_with_no_quote_behind_it_loses_one_line_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read, "MAX_LINES_PER_RECORD", 50)
    lines = [f"{number},text {number}" for number in range(300)]
    lines[100] = '100,"never closed'
    rows = raw(tmp_path / "x.csv", "\n".join(["id,text", *lines]).encode())
    assert [number for number, _ in bad(rows)] == [100]
    assert "still open after 50 lines" in bad(rows)[0][1]
    assert len(good(rows)) == 299


def test_an_unclosed_quote_in_the_last_line(tmp_path: Path) -> None:
    rows = raw(tmp_path / "x.csv", b'id,text\n1,a\n2,"b')
    assert good(rows) == [{"id": "1", "text": "a"}]
    assert [number for number, _ in bad(rows)] == [1]


def test_a_stray_quote_is_the_rows_own_fault(tmp_path: Path) -> None:
    rows = raw(tmp_path / "x.csv", b'id,text\n1,"a" b\n2,5" pipe\n3,"c"\n')
    assert good(rows) == [{"id": "2", "text": '5" pipe'}, {"id": "3", "text": "c"}]
    assert [number for number, _ in bad(rows)] == [0]


def test_a_wrong_number_of_fields(tmp_path: Path) -> None:
    rows = raw(tmp_path / "x.csv", b"id,text\n1\n2,a,b\n3,c\n")
    assert good(rows) == [{"id": "3", "text": "c"}]
    assert bad(rows) == [
        (0, "wrong number of fields: 1, the header has 2"),
        (1, "wrong number of fields: 3, the header has 2"),
    ]


def test_bytes_that_are_no_utf8_spoil_their_row_only(tmp_path: Path) -> None:
    rows = raw(tmp_path / "x.csv", b"id,text\n1,caf\xe9\n2,caf\xc3\xa9\n")
    assert good(rows) == [{"id": "2", "text": "café"}]
    assert bad(rows) == [(0, "not valid UTF-8")]
    assert isinstance(rows[0], BadRow)
    assert rows[0].value == "1,caf?"
    rows = raw(tmp_path / "x.jsonl", b'{"id": "1\xff"}\n{"id": "2"}\n')
    assert good(rows) == [{"id": "2"}]
    assert bad(rows) == [(0, "not valid UTF-8")]


def test_parquet_text_that_is_no_utf8_spoils_its_row_only(tmp_path: Path) -> None:
    bytes_column = pa.array([b"a", b"\xff\xfe", b"c"])
    text = pa.StringArray.from_buffers(3, bytes_column.buffers()[1], bytes_column.buffers()[2])
    pq.write_table(pa.table({"id": ["1", "2", "3"], "text": text}), tmp_path / "x.parquet")
    rows = list(rows_of(Location(tmp_path / "x.parquet")))
    assert good(rows) == [{"id": "1", "text": "a"}, {"id": "3", "text": "c"}]
    assert bad(rows) == [(1, "not valid UTF-8")]


def test_broken_json_lines(tmp_path: Path) -> None:
    lines = [b'{"id": "1"}', b"", b'{"id": ', b"[1]", b'"text"', b"[" * 100_000, b'{"id": "2"}']
    rows = raw(tmp_path / "x.jsonl", b"\n".join(lines))
    assert good(rows) == [{"id": "1"}, {"id": "2"}]
    assert [(number, reason.split(":")[0]) for number, reason in bad(rows)] == [
        (1, "not JSON"),
        (2, "a JSON list, not an object"),
        (3, "a JSON str, not an object"),
        (4, "not JSON"),
    ]


# What is wrong with a file


def test_an_empty_file_and_a_header_alone(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"x\.csv is empty: expected a header line"):
        raw(tmp_path / "x.csv", b"")
    with pytest.raises(ConfigError, match="is empty"):
        raw(tmp_path / "x.csv", b"\n \n")
    with pytest.raises(ConfigError, match=r"x\.parquet is not a readable Parquet file \(0 bytes"):
        raw(tmp_path / "x.parquet", b"")
    assert raw(tmp_path / "x.csv", b"id,text\n") == []
    assert raw(tmp_path / "x.jsonl", b"") == []


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"id,text,id\n1,2,3\n", "the header names id twice"),
        ("id,text\n1,2\n".encode("utf-16"), "is not UTF-8 text: .* set encoding of its source to utf-16"),
        ("id,text\n1,2\n".encode("utf-16-le"), "the header is not UTF-8 text"),
        (b'id,"text\n1,2\n', "the header line is broken"),
    ],
)
def test_a_broken_header_names_the_file(data: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        raw(tmp_path / "x.csv", data)
    assert str(tmp_path / "x.csv") in str(caught.value)


def test_a_cut_parquet_file_is_named(tmp_path: Path) -> None:
    file = write(tmp_path / "x.parquet")
    with pytest.raises(ConfigError, match=r"x\.parquet is not a readable Parquet file .*is it cut off\?"):
        raw(file, file.read_bytes()[:-20])


def test_a_parquet_file_damaged_within_is_named(tmp_path: Path) -> None:
    file = tmp_path / "x.parquet"
    table = pa.table({"id": [str(number) for number in range(1000)]})
    pq.write_table(table, file, use_dictionary=False, compression="zstd")
    data = bytearray(file.read_bytes())
    data[40:400] = bytes(360)
    with pytest.raises(ConfigError, match=r"x\.parquet is damaged after row 0"):
        raw(file, bytes(data))


@pytest.mark.parametrize("name", ["x.csv.gz", "x.jsonl.gz"])
@pytest.mark.parametrize("keep", [5, 0.5, -4])
def test_a_cut_gzip_file_is_named(name: str, keep: float, tmp_path: Path) -> None:
    """In its header, in its data (the rows before are good, but nothing says how many are lost), in its checksum."""
    file = write(tmp_path / name, [{"id": str(n), "text": f"text {n * 7919 % 1000}"} for n in range(5000)])
    data = file.read_bytes()
    with pytest.raises(ConfigError, match=r"cannot be read to its end .*is it cut off\?") as caught:
        raw(file, data[: int(keep * len(data)) if keep == 0.5 else int(keep)])
    assert str(file) in str(caught.value)
    if name == "x.csv.gz" and keep == 5:
        with pytest.raises(ConfigError, match="cannot be read to its end"):
            columns_of(Location(file))


def test_damaged_gzip_data_are_named(tmp_path: Path) -> None:
    file = write(tmp_path / "x.jsonl.gz", [{"id": str(n), "text": f"text {n * 7919 % 1000}"} for n in range(5000)])
    data = bytearray(file.read_bytes())
    data[1000:1100] = bytes(100)
    with pytest.raises(ConfigError, match="cannot be read to its end"):
        raw(file, bytes(data))
    with pytest.raises(ConfigError, match="cannot be read to its end"):
        raw(file, b"id,text\n1,2\n")  # not gzip at all


# Which files


def test_folder_glob_and_file(tmp_path: Path) -> None:
    for name in ("b.csv", "a.jsonl", "c.parquet", "sub/d.csv", "sub/e.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    for name in ("README.md", "_SUCCESS", ".b.csv.crc", "._b.csv", ".hidden.parquet"):
        (tmp_path / name).touch()

    def found(pattern: str) -> list[str]:
        return [str(Path(file.path).relative_to(tmp_path)) for file in list_files(str(tmp_path / pattern))]

    assert found(".") == ["a.jsonl", "b.csv", "c.parquet"]
    assert found("*.csv") == ["b.csv"]
    assert found("[ab].*") == ["a.jsonl", "b.csv"]
    assert found("*/*.csv") == ["sub/d.csv", "sub/e.csv"]
    assert found("**/*.csv") == ["b.csv", "sub/d.csv", "sub/e.csv"]
    assert found("*") == ["a.jsonl", "b.csv", "c.parquet"]
    assert found("b.csv") == ["b.csv"]


def test_names_that_look_like_globs_are_names_when_they_are_there(tmp_path: Path) -> None:
    (tmp_path / "run[1]").mkdir()
    (tmp_path / "run[1]" / "a[1].csv").touch()
    assert [file.name for file in list_files(str(tmp_path / "run[1]"))] == ["a[1].csv"]
    assert [file.name for file in list_files(str(tmp_path / "run[1]" / "a[1].csv"))] == ["a[1].csv"]


def test_a_wrong_path_names_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "patents.parquet").touch()
    (tmp_path / "empty").mkdir()
    for pattern in ("patent.parquet", "*.csv", "absent*"):
        with pytest.raises(ConfigError, match=rf"no data file matches .*; {tmp_path} holds patents\.parquet"):
            list_files(str(tmp_path / pattern))
    with pytest.raises(ConfigError, match="holds patents"):
        list_files(str(tmp_path / "empty"))
    (tmp_path / "empty" / "notes.txt").touch()
    with pytest.raises(ConfigError, match=rf"{tmp_path}/empty holds none \(a data file's name ends in .parquet"):
        list_files(str(tmp_path / "empty"))
    with pytest.raises(ConfigError, match="unknown kind of file; expected a name ending in"):
        list(rows_of(Location(tmp_path / "empty" / "notes.txt")))
    with pytest.raises(ConfigError, match=r"gone\.csv does not exist"):
        list(rows_of(Location(tmp_path / "gone.csv")))


# Any rows

_FIELD = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=12) | st.text(
    st.sampled_from('",;\t|\r\n a'), max_size=8
)


@settings(max_examples=150, deadline=None)
@given(
    rows=st.lists(st.lists(_FIELD, min_size=3, max_size=3), max_size=6),
    delimiter=st.sampled_from(read.DELIMITERS),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    line_end=st.sampled_from(["\n", "\r\n"]),
)
def test_good_rows_read_back_equal_whatever_they_hold(
    tmp_path_factory: pytest.TempPathFactory, rows: list[list[str]], delimiter: str, quoting: Any, line_end: str
) -> None:
    # Python's writer leaves a lone \r without quotes when lines end in \n: a reader cannot tell it from a line's end
    assume(quoting == csv.QUOTE_ALL or line_end == "\r\n" or not any("\r" in field for row in rows for field in row))
    file = tmp_path_factory.getbasetemp() / "any.csv"
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, delimiter=delimiter, quoting=quoting, lineterminator=line_end)
        writer.writerows([["a", "b", "c"], *rows])
    found = list(rows_of(Location(file)))
    assert bad(found) == []
    assert good(found) == [dict(zip("abc", row, strict=True)) for row in rows]


@settings(max_examples=150, deadline=None)
@given(
    data=st.binary(max_size=80) | st.text('",\n\r\x00é1', max_size=40).map(str.encode),
    suffix=st.sampled_from([".csv", ".jsonl"]),
)
def test_no_bytes_stop_the_reading(tmp_path_factory: pytest.TempPathFactory, data: bytes, suffix: str) -> None:
    """Rows are numbered from 0 without a gap, and nothing but a ConfigError (a broken header) comes out."""
    file = tmp_path_factory.getbasetemp() / f"bytes{suffix}"
    file.write_bytes((b"a,b\n" if suffix == ".csv" else b"") + data)
    assume(not data.startswith(b"\xef\xbb\xbf"))
    found = list(rows_of(Location(file)))
    assert [row.number for row in found] == list(range(len(found)))
    for row in found:
        if isinstance(row, BadRow):
            row.value.encode()  # can be written to the quarantine


# Real files


def test_a_real_csv_with_semicolons_a_mark_and_fields_of_many_lines(data_root: Path) -> None:
    file = Location(data_root / "green" / "gold_100.csv")
    rows = list(rows_of(file))
    assert bad(rows) == []
    assert len(rows) == 100
    columns = columns_of(file)
    assert columns is not None
    assert columns[:3] == ["doc_id", "text", "llm_green_suggested"]
    assert all(row["doc_id"].isdigit() and len(row["text"]) > 50 for row in good(rows))


@pytest.mark.parametrize(("name", "count"), [("patents", 3239), ("techniques", 827), ("matches", 1885)])
def test_real_parquet_files(data_root: Path, name: str, count: int) -> None:
    rows = list(rows_of(Location(data_root / "bref" / f"{name}.parquet")))
    assert bad(rows) == []
    assert len(rows) == count
