from __future__ import annotations

import csv
import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patentft.config import ConfigError
from patentft.corpus.read import BadRow
from patentft.corpus.texts.records import blocks_of, rows_of_block
from patentft.location import Location

FIELDS = st.text(st.sampled_from('ab ",;\n\r\t\u00e9'), max_size=6)


def read(path, rows_per_block=3):
    blocks = list(blocks_of(Location(path), rows_per_block))
    rows = [row for block in blocks for row in rows_of_block(block)]
    assert sum(block.num_rows for block in blocks) == len(rows)
    return rows


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(FIELDS, FIELDS, FIELDS), max_size=12), st.sampled_from(["\n", "\r\n"]), st.integers(1, 5))
def test_blocks_hold_the_rows_of_the_csv_module(tmp_path_factory, rows, end, size):
    path = tmp_path_factory.mktemp("csv") / "t.csv"
    stream = io.StringIO(newline="")
    # a bare CR ends a line for a reader but is no reason to quote for a writer
    quoting = csv.QUOTE_ALL if any("\r" in field for row in rows for field in row) else csv.QUOTE_MINIMAL
    writer = csv.writer(stream, lineterminator=end, quoting=quoting)
    writer.writerows([("a", "b", "c"), *rows])
    path.write_bytes(stream.getvalue().encode())
    assert [fields for _, fields in read(path, size)] == [list(row) for row in rows]


GOOD = ["1,plain,x", '2,"quoted, with ""quotes""",x', '3,"two\nlines",x', '4,5" pipe,x', "5,\u00e9,x"]
BROKEN = [
    'b,"never closed,x',
    'b,"closed"too early,x',
    "b,too few",
    "b,one,too,many",
    'b,"',
]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from([*GOOD, *BROKEN]), max_size=10), st.integers(1, 4))
def test_a_broken_record_loses_no_good_one(tmp_path_factory, lines, size):
    path = tmp_path_factory.mktemp("csv") / "t.csv"
    path.write_bytes(("id,text,last\n" + "".join(line + "\n" for line in lines)).encode())
    found = read(path, size)
    good = [next(csv.reader(io.StringIO(line, newline=""))) for line in lines if line in GOOD]
    kept = [row[1] for row in found if isinstance(row, tuple)]
    if not {BROKEN[0], BROKEN[4]} & set(lines):  # an open quote may pair with a later one: no reader can tell
        assert kept == good


def test_numbers_count_data_rows_across_blocks(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("id,text\n1,a\n\n2\n3,c\n4,d\n")
    found = read(path, 2)
    numbers = [(row.number, row.reason[:12]) if isinstance(row, BadRow) else row[0] for row in found]
    assert numbers == [0, (1, "wrong number"), 2, 3]


def test_an_open_quote_gives_up_its_first_line_only(tmp_path, monkeypatch):
    from patentft.corpus import read as reading

    monkeypatch.setattr(reading, "MAX_LINES_PER_RECORD", 5)
    path = tmp_path / "t.csv"
    path.write_text('id,text\n1,"open\n' + "".join(f"{i},plain\n" for i in range(2, 30)))
    found = read(path, 4)
    assert isinstance(found[0], BadRow)
    assert [row[1][0] for row in found[1:]] == [str(i) for i in range(2, 30)]


def test_a_bom_a_missing_line_end_and_a_truncated_gzip(tmp_path):
    import gzip

    path = tmp_path / "t.csv"
    path.write_bytes(b"\xef\xbb\xbfid;text\n1;a\r2;b\r\n3;c")
    assert [row[1] for row in read(path)] == [["1", "a"], ["2", "b"], ["3", "c"]]
    packed = tmp_path / "t.csv.gz"
    packed.write_bytes(gzip.compress(b"id,text\n" + b"1,a\n" * 9000)[:-20])
    with pytest.raises(ConfigError, match=r"cannot be read to its end"):
        read(packed)
