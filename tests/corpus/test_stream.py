"""Packed files under a limit, encodings, lines without an end."""

from __future__ import annotations

import gzip
import json
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from patentft.config import ConfigError, build, content
from patentft.corpus import stream
from patentft.corpus.read import BadRow, RawRow, columns_of, format_of, list_files, rows_of
from patentft.corpus.stream import Reading, open_bytes
from patentft.corpus.tables import SourceConfig
from patentft.location import Location

CSV = b"id,text\n1,a\n2,b\n"
ROWS = [{"id": "1", "text": "a"}, {"id": "2", "text": "b"}]


def read(path: Path, **settings: Any) -> list[Any]:
    rows = rows_of(Location(path), reading=build(Reading, settings))
    return [row.values if isinstance(row, RawRow) else row.reason for row in rows]


def zstd(data: bytes) -> bytes:
    packed = pa.compress(data, codec="zstd", asbytes=True)
    assert isinstance(packed, bytes)
    return packed


def zipped(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def pack(path: Path, data: bytes) -> Path:
    if path.name.endswith(".zip"):
        return zipped(path, {path.name.removesuffix(".zip"): data})
    path.write_bytes({"gz": gzip.compress, "zst": zstd}[path.suffix[1:]](data))
    return path


# Packings


@pytest.mark.parametrize("name", ["x.csv.gz", "x.csv.zst", "x.csv.zip", "X.CSV.ZST"])
def test_every_packing_gives_the_same_rows(name: str, tmp_path: Path) -> None:
    path = pack(tmp_path / name.lower(), CSV).rename(tmp_path / name)
    assert read(path) == ROWS
    assert columns_of(Location(path)) == ["id", "text"]
    with open_bytes(Location(path)) as opened:
        assert opened.read() == CSV


def test_two_gzip_files_in_one(tmp_path: Path) -> None:
    (tmp_path / "x.csv.gz").write_bytes(gzip.compress(CSV[:9]) + gzip.compress(CSV[9:]))
    assert read(tmp_path / "x.csv.gz") == ROWS


def test_a_zip_is_what_the_one_data_file_inside_is(tmp_path: Path) -> None:
    """As PatentsView ships them: a read-me beside the table, what macOS adds, a folder."""
    extras = {"README.txt": b"read me", "__MACOSX/._x.tsv": b"x", "data/": b""}
    path = zipped(tmp_path / "download.zip", {**extras, "data/x.tsv": CSV.replace(b",", b"\t")})
    assert format_of(Location(path)) == "tsv"
    assert read(path) == ROWS
    assert [file.name for file in list_files(str(tmp_path))] == ["download.zip"]
    for files, found in (({"a.csv": CSV, "b.csv": CSV}, "found 2"), ({"x.parquet": b""}, "found 0"), ({}, "found 0")):
        with pytest.raises(ConfigError, match=f"two.zip: expected one data file inside .* {found}"):
            read(zipped(tmp_path / "two.zip", files))


def test_packed_parquet_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.parquet.gz").touch()
    with pytest.raises(ConfigError, match="unknown kind of file"):
        read(tmp_path / "x.parquet.gz")
    with pytest.raises(ConfigError, match="no data file matches"):
        list_files(str(tmp_path))


@pytest.mark.parametrize("packing", ["gz", "zst", "zip"])
@pytest.mark.parametrize("keep", [6, 0.5, -3])
def test_a_cut_file_is_named(packing: str, keep: float, tmp_path: Path) -> None:
    lines = b"".join(b"%d,text %d\n" % (number, number * 7919 % 1000) for number in range(20_000))
    path = pack(tmp_path / f"x.csv.{packing}", b"id,text\n" + lines)
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data)) if keep == 0.5 else int(keep)])
    with pytest.raises(ConfigError, match=r"cannot be read to its end .*is it cut off") as caught:
        read(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("packing", ["gz", "zst", "zip"])
def test_damaged_data_are_named(packing: str, tmp_path: Path) -> None:
    lines = b"".join(b"%d,text %d\n" % (number, number * 7919 % 1000) for number in range(20_000))
    path = pack(tmp_path / f"x.csv.{packing}", b"id,text\n" + lines)
    data = bytearray(path.read_bytes())
    data[2000:2200] = bytes(200)
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=r"x\.csv\.\w+ cannot be read to its end"):
        read(path)


# Bombs


@pytest.mark.parametrize("packing", ["gz", "zst", "zip"])
@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_bomb_is_refused_by_its_ratio(packing: str, kind: str, tmp_path: Path) -> None:
    """40 MiB of one letter without a line's end: refused after the first 16 MiB."""
    path = pack(tmp_path / f"x.{kind}.{packing}", b"id,text\n" + b"a" * (40 << 20))
    assert path.stat().st_size < 1 << 20
    with pytest.raises(ConfigError, match=r"x\.\w+\.\w+ unpacks to more than 200 times its size.*raise max_ratio"):
        read(path)


@pytest.mark.parametrize("packing", ["gz", "zst", "zip"])
def test_the_limit_of_bytes_is_a_setting(packing: str, tmp_path: Path) -> None:
    path = pack(tmp_path / f"x.csv.{packing}", CSV * 1000)
    with pytest.raises(ConfigError, match=r"unpacks to more than 1,000 bytes.*raise max_file_bytes"):
        read(path, max_file_bytes=1000)
    assert len(read(path, max_file_bytes=len(CSV) * 1000)) == 2999


def test_a_parquet_file_over_the_limit_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": ["a" * 1000] * 10_000}), tmp_path / "x.parquet", use_dictionary=False)
    assert (tmp_path / "x.parquet").stat().st_size < 1_000_000
    with pytest.raises(ConfigError, match=r"x.parquet unpacks to 10,.* raise max_file_bytes"):
        read(tmp_path / "x.parquet", max_file_bytes=1_000_000)


def test_an_encrypted_zip_is_refused(tmp_path: Path) -> None:
    path = zipped(tmp_path / "x.csv.zip", {"x.csv": CSV})
    data = bytearray(path.read_bytes())
    for header, flag in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(header) + flag] |= 1
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=r"x\.csv inside is encrypted; unpack it"):
        read(path)


def test_a_plain_file_has_no_limit(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes(CSV)
    assert read(tmp_path / "x.csv", max_file_bytes=1) == ROWS


def test_limits_are_not_part_of_the_hash() -> None:
    kept = content(build(SourceConfig, {"files": "x", "max_file_bytes": 5, "max_ratio": 2}))
    assert not {"max_file_bytes", "max_ratio"} & kept.keys()
    assert {"encoding", "languages"} <= kept.keys()


# Encodings


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16", "UTF-8", "cp1252", "utf-32"])
def test_another_encoding_is_read_when_it_is_said(encoding: str, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes("id,text\n1,Größe\r\n2,é\n".encode(encoding))
    assert read(tmp_path / "x.csv", encoding=encoding) == [{"id": "1", "text": "Größe"}, {"id": "2", "text": "é"}]


@pytest.mark.parametrize("name", ["x.csv", "x.jsonl", "x.tsv.gz"])
@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
def test_a_mark_of_another_encoding_is_an_error_that_says_what_to_set(name: str, encoding: str, tmp_path: Path) -> None:
    data = 'id\n{"id": 1}\n'.encode(encoding)
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    with pytest.raises(ConfigError, match=f"{name} is not UTF-8 text: .* set encoding of its source to {encoding}"):
        read(tmp_path / name)


def test_a_cut_utf16_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes("id,text\n1,aé".encode("utf-16")[:-1])
    with pytest.raises(ConfigError, match=r"x\.csv cannot be read as utf-16"):
        read(tmp_path / "x.csv", encoding="utf-16")


@pytest.mark.parametrize("name", ["utf-9", "base64", "rot13"])
def test_what_is_no_encoding_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"encoding: '{name}' is no text encoding"):
        build(Reading, {"encoding": name})


def test_latin_1_lines_in_a_utf8_file_are_bad_and_the_others_good(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes(b"id,text\n1,a\n3,caf\xe9\n2,b\n")
    assert read(tmp_path / "x.csv") == [ROWS[0], "not valid UTF-8", ROWS[1]]


# Lines without an end


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_line_that_is_too_long_is_one_bad_row(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "MAX_LINE_CHARACTERS", 100)
    good = CSV.splitlines() if kind == "csv" else [b"", *(json.dumps(row).encode() for row in ROWS)]
    for length in (100, 101, 199, 200, 201, 1000):
        lines = [*good[:2], b"x" * length, good[2], b"y" * length]
        (tmp_path / f"x.{kind}").write_bytes(b"\n".join(lines))
        rows = list(rows_of(Location(tmp_path / f"x.{kind}")))
        assert [row.values for row in rows if isinstance(row, RawRow)] == ROWS
        assert [row.number for row in rows if isinstance(row, BadRow)] == [1, 3]
    assert all("too long" in row.reason for row in rows if isinstance(row, BadRow))


def test_a_quote_that_stays_open_over_a_huge_line_costs_its_own_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "MAX_LINE_CHARACTERS", 100)
    (tmp_path / "x.csv").write_bytes(b'id,text\n9,"open\n1,a\n' + b"x" * 500 + b"\n2,b\n")
    found = read(tmp_path / "x.csv")
    assert [row for row in found if isinstance(row, dict)] == ROWS
    assert [row.split(":")[0] for row in found if isinstance(row, str)] == ["broken CSV quoting"] * 2


@pytest.mark.parametrize("kind", ["csv", "jsonl", "csv.gz"])
def test_a_cell_of_10_mb(kind: str, tmp_path: Path) -> None:
    cell = "long text " * 1_000_000
    csv_text = f"id,text\n1,a\n3,{cell}\n2,b\n"
    json_text = "".join(json.dumps(row) + "\n" for row in (ROWS[0], {"id": "3", "text": cell}, ROWS[1]))
    data = (json_text if kind == "jsonl" else csv_text).encode()
    path = tmp_path / f"x.{kind}"
    path.write_bytes(gzip.compress(data, 9) if kind.endswith("gz") else data)
    assert read(path) == [ROWS[0], {"id": "3", "text": cell}, ROWS[1]]
