from __future__ import annotations

import datetime
import json

import pandas
import pyarrow.parquet as pq
import pytest

from patentft.config import ConfigError, build
from patentft.corpus import cpc
from patentft.corpus.texts.records import blocks_of
from patentft.corpus.texts.source import BlockReader, TextsConfig
from patentft.location import Location


def read(path, rows_per_block=300, **config):
    config = build(TextsConfig, {"files": str(path), **config})
    reader = BlockReader(config)
    parts = [reader.read(block) for block in blocks_of(Location(path), rows_per_block, config.delimiter)]
    rows = [row for part in parts for row in part.texts.to_pylist()]
    bad = [row for part in parts for row in part.quarantine.to_pylist()]
    assert sum(part.counts["read"] for part in parts) == len(rows) + len(bad)
    return rows, bad


def test_the_real_claims_have_pandas_y02_counts(data_root):
    path = data_root / "claims_cpc" / "claims_train.csv.gz"
    columns = {"text_id": "id", "patent_id": "id"}
    rows, bad = read(path, columns=columns, indicator_columns="[A-HY][0-9][0-9][A-Z]")
    frame = pandas.read_csv(path)
    assert (len(rows), bad) == (len(frame), [])
    for subclass in cpc.Y02:
        assert sum(subclass in cpc.y02_subclasses(row["codes"]) for row in rows) == frame[subclass].sum()
    names = [name for name in frame.columns if name.startswith("Y02")]
    assert sum(cpc.is_green(row["codes"]) for row in rows) == (frame[names].sum(axis=1) > 0).sum()
    assert [row["date"].isoformat() for row in rows] == frame["date"].tolist()
    assert not any("\u00c2\u00b0" in row["text"] for row in rows)


def test_the_real_uspto_rows_are_all_accounted_for(data_root):
    path = data_root / "uspto10k" / "patents.parquet"
    columns = {"text_id": "patent_id", "text": "abstract", "codes": "cpc"}
    rows, bad = read(path, columns=columns)
    table = pq.read_table(path).to_pandas()
    assert len(rows) + len(bad) == len(table)
    green = table["cpc"].map(lambda codes: any(code.startswith("Y02") for code in codes))
    lost = {row["row"] for row in bad}
    assert sum(cpc.is_green(row["codes"]) for row in rows) == sum(
        bool(is_green) for number, is_green in enumerate(green) if number not in lost
    )


def written(tmp_path, *rows):
    path = tmp_path / "t.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_what_is_wrong_with_a_row_is_said_and_the_others_are_kept(tmp_path):
    good = {"text_id": "g", "text": "1. A pump (12) for water", "date": "2015-03-02", "codes": "Y02E 10/50;B01D"}
    rows, bad = read(
        written(
            tmp_path,
            {**good, "text": ""},
            {**good, "text": "12."},
            good,
            {**good, "codes": ["Q99"]},
            {**good, "date": "March"},
            {**good, "text": "x" * 50},
            {**good, "text": "a\x00b"},
            {**good, "text": 5},
            {"text": "no id"},
        ),
        max_characters=40,
        min_characters=5,
    )
    assert rows == [
        {
            "text_id": "g",
            "patent_id": None,
            "family_id": None,
            "text": "A pump for water",
            "date": datetime.date(2015, 3, 2),
            "codes": ["Y02E10/50", "B01D"],
            "language": "en",
        }
    ]
    assert [(row["row"], row["column"], row["reason"].split(":")[0]) for row in bad] == [
        (0, "text", "empty"),
        (1, "text", "too short"),
        (3, "codes", "malformed code"),
        (4, "date", "wrong value"),
        (5, "text", "too long"),
        (6, "text", "rubbish"),
        (7, "text", "wrong type"),
        (8, "text_id", "empty"),
    ]


def test_malformed_codes_can_be_dropped(tmp_path):
    path = written(tmp_path, {"text_id": "a", "text": "A pump", "codes": ["Q99", "Y02E"]})
    rows, bad = read(path, malformed_codes="drop")
    assert (rows[0]["codes"], bad) == (["Y02E"], [])


def test_languages(tmp_path):
    english = "A method for separating particles from a stream of gas by means of a filter"
    german = "Verfahren zum Abscheiden von Partikeln aus einem Gasstrom mittels eines Filters"
    path = written(tmp_path, {"text_id": "e", "text": english}, {"text_id": "d", "text": german})
    assert [row["language"] for row in read(path)[0]] == ["en", "de"]
    rows, bad = read(path, language="drop")
    assert ([row["text_id"] for row in rows], bad[0]["reason"]) == (["e"], "other language: de")
    assert [row["language"] for row in read(path, language="ignore")[0]] == [None, None]


def test_an_indicator_column_holds_nothing_but_0_and_1(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("text_id,text,A01B,other,Y02E\n1,A pump,0,9,1\n2,A pump,2,0,0\n3,A pump,1.0,0,1\n")
    rows, bad = read(path, indicator_columns="[A-HY][0-9]{2}[A-Z]")
    assert [row["codes"] for row in rows] == [["Y02E"], ["A01B", "Y02E"]]
    assert [(row["row"], row["column"], row["value"]) for row in bad] == [(1, "A01B", "2")]


def test_wrong_columns_name_the_nearest(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("id,claim_text\n1,x\n")
    with pytest.raises(ConfigError, match=r"no column 'claims_text' for text; did you mean 'claim_text'"):
        read(path, columns={"text_id": "id", "text": "claims_text"})
    with pytest.raises(ConfigError, match="no column of texts; did you mean 'text'"):
        read(path, columns={"texts": "id"})
    with pytest.raises(ConfigError, match="no column's name matches indicator_columns"):
        read(path, columns={"text_id": "id", "text": "claim_text"}, indicator_columns="Y..")
