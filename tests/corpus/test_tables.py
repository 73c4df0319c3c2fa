"""Raw rows to typed tables: every row is kept, merged or in the quarantine with a reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patentft import schema
from patentft.config import ConfigError, build
from patentft.corpus.tables import Rejected, SourceConfig, Tally, read_table

Rows = list[dict[str, Any]]
GOOD = {"patent_id": "P1", "title": "Filter", "abstract": "A bag filter."}


def jsonl(path: Path, rows: Rows) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def table(
    files: str, name: str = "patents", max_characters: int | None = 100_000, **settings: Any
) -> tuple[Rows, Rows, Tally]:
    """(good rows, quarantine, tally)."""
    rejected, tally = Rejected(), Tally()
    source = build(SourceConfig, {"files": files, **settings})
    rows = list(read_table(name, source, rejected, tally, max_characters=max_characters))
    pa.Table.from_pylist(rows, schema=schema.TABLES[name])  # whatever is kept, the table can hold
    quarantine = rejected.as_table().to_pylist()
    assert tally.kept == len(rows)
    assert tally.quarantined == len(quarantine) == sum(tally.reasons.values())
    assert tally.read == tally.kept + tally.merged + tally.quarantined
    return rows, quarantine, tally


def only(quarantine: Rows) -> tuple[str | None, str]:
    assert len(quarantine) == 1
    return quarantine[0]["column"], quarantine[0]["reason"]


# Columns and types


def test_columns_are_mapped_and_values_typed(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text(
        'id;name;summary;filed;cpc;unused\n 12 ;" Filter ";A bag filter.;2015-03-02;B01D46/02; B01D50/00;x\n'.replace(
            "B01D46/02; B01D50/00", '"B01D46/02; B01D50/00;"'
        )
    )
    columns = {"patent_id": "id", "title": "name", "abstract": "summary", "year": "filed", "codes": "cpc"}
    rows, quarantine, _ = table(str(tmp_path / "x.csv"), columns=columns)
    assert quarantine == []
    assert rows == [
        {
            "patent_id": "12",
            "title": "Filter",
            "abstract": "A bag filter.",
            "claims": [],
            "year": 2015,
            "codes": ["B01D46/02", "B01D50/00"],
        }
    ]


def test_parquet_types(tmp_path: Path) -> None:
    import datetime

    days = pa.array([datetime.date(2015, 3, 2), None], pa.date32())
    columns = {
        "patent_id": pa.array([1, 2], pa.int64()),
        "title": pa.array(["a", "b"], pa.large_string()),
        "abstract": pa.array(["a", "b"]).dictionary_encode(),
        "year": days,
        "claims": pa.array([["one", None, " "], None], pa.list_(pa.string())),
    }
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    rows, quarantine, _ = table(str(tmp_path / "x.parquet"))
    assert quarantine == []
    assert [row["patent_id"] for row in rows] == ["1", "2"]
    assert [row["year"] for row in rows] == [2015, None]
    assert [row["claims"] for row in rows] == [["one"], []]


@pytest.mark.parametrize(
    ("value", "year"),
    [
        (2015, 2015),
        ("2015", 2015),
        (" 2015 ", 2015),
        (2015.0, 2015),
        ("2015.0", 2015),
        ("2015-03-02", 2015),
        ("2015/03/02", 2015),
        ("2015-03", 2015),
        ("20150302", 2015),
        ("2015-03-02T10:00:00Z", 2015),
        (None, None),
        ("", None),
        ("  ", None),
        (float("nan"), None),
    ],
)
def test_years(value: Any, year: int | None, tmp_path: Path) -> None:
    rows, _, _ = table(jsonl(tmp_path / "x.jsonl", [{**GOOD, "year": value}]))
    assert [row["year"] for row in rows] == [year]


@pytest.mark.parametrize("value", ["15", "2015.5", 2015.5, "02.03.2015", "abcd", 3000, -2015, True, [2015], "２０１５"])
def test_what_is_no_year(value: Any, tmp_path: Path) -> None:
    _, quarantine, _ = table(jsonl(tmp_path / "x.jsonl", [{**GOOD, "year": value}]))
    assert only(quarantine) == ("year", "wrong value: expected a year (2015) or an ISO date (2015-03-02)")


@pytest.mark.parametrize(
    ("value", "items"),
    [
        (["a", " b ", ""], ["a", "b"]),
        ("a; b;", ["a", "b"]),
        ('["a", "b;c"]', ["a", "b;c"]),
        (None, []),
        ("", []),
        (float("nan"), []),
    ],
)
def test_lists(value: Any, items: list[str], tmp_path: Path) -> None:
    rows, _, _ = table(jsonl(tmp_path / "x.jsonl", [{**GOOD, "codes": value}]))
    assert [row["codes"] for row in rows] == [items]


def test_another_list_separator(tmp_path: Path) -> None:
    rows, _, _ = table(jsonl(tmp_path / "x.jsonl", [{**GOOD, "codes": "a;b|c"}]), list_separator="|")
    assert rows[0]["codes"] == ["a;b", "c"]


@pytest.mark.parametrize(
    "setting", [{"delimiter": ";;"}, {"delimiter": ""}, {"list_separator": ""}, {"duplicates": "x"}]
)
def test_settings_that_cannot_work_are_refused(setting: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=next(iter(setting))):
        build(SourceConfig, {"files": "x", **setting})


# The quarantine


@pytest.mark.parametrize(
    ("change", "column", "reason"),
    [
        ({"title": ""}, "title", "empty: a text is required"),
        ({"title": " \n "}, "title", "empty: a text is required"),
        ({"title": None}, "title", "empty: a text is required"),
        ({"patent_id": float("nan")}, "patent_id", "empty: a text is required"),
        ({"abstract": ["a"]}, "abstract", "wrong type: expected a text, got list"),
        ({"patent_id": True}, "patent_id", "wrong type: expected a text, got bool"),
        ({"patent_id": 12.0}, "patent_id", "wrong type: expected a text, got float"),
        ({"abstract": "a\x00b"}, "abstract", "rubbish: the text holds NUL characters"),
        ({"abstract": "a\ud800b"}, "abstract", "not valid Unicode: half of a surrogate pair"),
        ({"codes": ["ok", "a\udfffb"]}, "codes", "not valid Unicode: half of a surrogate pair"),
        ({"codes": ["\x00"]}, "codes", "rubbish: the text holds NUL characters"),
        ({"codes": [1]}, "codes", "wrong type: expected a list of texts"),
        ({"codes": {"a": 1}}, "codes", "wrong type: expected a list of texts"),
        ({"claims": "[1, 2"}, "claims", "wrong type: begins like a JSON list but is none"),
        ({"claims": "[1, 2]"}, "claims", "wrong type: expected a list of texts"),
    ],
)
def test_a_bad_value_spoils_its_row_only(change: Any, column: str, reason: str, tmp_path: Path) -> None:
    file = jsonl(tmp_path / "x.jsonl", [GOOD, {**GOOD, "patent_id": "P2", **change}, {**GOOD, "patent_id": "P3"}])
    rows, quarantine, tally = table(file)
    assert [row["patent_id"] for row in rows] == ["P1", "P3"]
    found_column, found_reason = only(quarantine)
    assert found_column == column
    assert found_reason.startswith(reason)
    assert (quarantine[0]["table"], quarantine[0]["file"], quarantine[0]["row"]) == ("patents", file, 1)
    assert tally.reasons == {reason.split(":")[0]: 1}


def test_a_text_over_the_limit_names_the_setting_and_null_lifts_it(tmp_path: Path) -> None:
    file = jsonl(tmp_path / "x.jsonl", [{**GOOD, "abstract": "x" * 200_000}, {**GOOD, "patent_id": "P2"}])
    rows, quarantine, _ = table(file)
    assert [row["patent_id"] for row in rows] == ["P2"]
    assert only(quarantine) == ("abstract", "too long: 200,000 characters, max_characters is 100,000")
    assert len(quarantine[0]["value"]) == 200
    rows, quarantine, _ = table(file, max_characters=None)
    assert [len(row["abstract"]) for row in rows] == [200_000, len(GOOD["abstract"])]
    assert quarantine == []
    long_csv = tmp_path / "x.csv"  # over the csv module's own limit of 131,072
    long_csv.write_text(f"patent_id,title,abstract\nP1,t,{'x' * 200_000}\n")
    rows, quarantine, _ = table(str(long_csv), max_characters=None)
    assert len(rows) == 1
    claims = jsonl(tmp_path / "y.jsonl", [{**GOOD, "claims": ["x" * 60_000, "y" * 60_000]}])
    assert only(table(claims)[1])[0] == "claims"


def test_bad_lines_of_the_file_are_in_the_quarantine_too(tmp_path: Path) -> None:
    file = tmp_path / "x.csv"
    file.write_bytes(b'patent_id,title,abstract\nP1,a,b\nP2,caf\xe9,b\nP3,a\nP4,"a,b\nP5,\x00,b\nP6,a,b\n')
    rows, quarantine, tally = table(str(file))
    assert [row["patent_id"] for row in rows] == ["P1", "P6"]
    assert [(row["row"], row["reason"].split(":")[0]) for row in quarantine] == [
        (1, "not valid UTF-8"),
        (2, "wrong number of fields"),
        (3, "broken CSV quoting"),
        (4, "rubbish"),
    ]
    assert tally.read == 6


# Errors that stop the stage


def test_a_missing_column_names_file_column_and_the_nearest(tmp_path: Path) -> None:
    file = tmp_path / "x.csv"
    file.write_text("patent_id,titel,abstract\n1,a,b\n")
    with pytest.raises(ConfigError) as caught:
        table(str(file))
    message = str(caught.value)
    assert str(file) in message
    assert "no column 'title' for patents.title; did you mean 'titel'?" in message
    assert "the file has: patent_id, titel, abstract" in message
    assert "set patents.columns.title" in message
    assert len(table(str(file), columns={"title": "titel"})[0]) == 1
    with pytest.raises(ConfigError, match=r"no column 'jahr' for patents\.year"):  # optional, but asked for
        table(str(file), columns={"title": "titel", "year": "jahr"})
    with pytest.raises(ConfigError, match=r"patents\.columns: 'titl' is no column of patents; did you mean 'title'\?"):
        table(str(file), columns={"titl": "titel"})


def test_every_file_of_a_folder_must_have_the_columns(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("patent_id,title,abstract\n1,a,b\n")
    (tmp_path / "b.csv").write_text("id;title;abstract\n2;a;b\n")
    with pytest.raises(ConfigError, match=r"b\.csv: no column 'patent_id'"):
        table(str(tmp_path))


def test_jsonl_rows_have_columns_of_their_own(tmp_path: Path) -> None:
    rows, quarantine, _ = table(jsonl(tmp_path / "x.jsonl", [GOOD, {"patent_id": "P2", "title": "no abstract"}]))
    assert len(rows) == 1
    assert only(quarantine) == ("abstract", "empty: a text is required")


# Duplicates

DOUBLED = [
    {**GOOD, "codes": ["A", "B"], "year": None},
    {**GOOD, "patent_id": "P2"},
    {**GOOD, "title": "Other title", "codes": ["B", "C"], "year": 2015},
    {**GOOD, "patent_id": " P2 "},
    {**GOOD, "patent_id": "P1", "title": ""},  # bad: no duplicate of anything
]


def test_duplicates_are_refused_by_name(tmp_path: Path) -> None:
    file = jsonl(tmp_path / "x.jsonl", DOUBLED)
    with pytest.raises(ConfigError) as caught:
        table(file)
    message = str(caught.value)
    assert "patents: 2 rows have the id of an earlier row" in message
    assert f"'P1' at {file} row 2, first at {file} row 0" in message
    assert f"'P2' at {file} row 3, first at {file} row 1" in message
    assert "patents.duplicates" in message
    many = jsonl(tmp_path / "y.jsonl", [GOOD] * 1000)
    with pytest.raises(ConfigError, match="999 rows have") as caught:
        table(many)
    assert len(str(caught.value).splitlines()) == 12


def test_the_first_of_duplicates_is_kept(tmp_path: Path) -> None:
    rows, quarantine, tally = table(jsonl(tmp_path / "x.jsonl", DOUBLED), duplicates="first")
    assert [(row["patent_id"], row["title"]) for row in rows] == [("P1", "Filter"), ("P2", "Filter")]
    assert [(row["row"], row["reason"].split(":")[0]) for row in quarantine] == [
        (2, "duplicate id"),
        (3, "duplicate id"),
        (4, "empty"),
    ]
    assert "row 0" in quarantine[0]["reason"]
    assert tally.merged == 0


def test_duplicates_are_merged(tmp_path: Path) -> None:
    rows, quarantine, tally = table(jsonl(tmp_path / "x.jsonl", DOUBLED), duplicates="merge")
    by_id = {row["patent_id"]: row for row in rows}
    assert by_id.keys() == {"P1", "P2"}
    assert by_id["P1"]["title"] == "Filter"
    assert by_id["P1"]["codes"] == ["A", "B", "C"]
    assert by_id["P1"]["year"] == 2015
    assert (tally.kept, tally.merged, len(quarantine)) == (2, 2, 1)


def test_a_match_is_a_duplicate_only_as_a_pair(tmp_path: Path) -> None:
    pairs = [("T1", "P1"), ("T1", "P2"), ("T2", "P1"), ("T1", "P1")]
    file = jsonl(tmp_path / "x.jsonl", [{"technique_id": t, "patent_id": p} for t, p in pairs])
    with pytest.raises(ConfigError, match="matches: 1 rows have the id of an earlier row\n  'T1 P1'"):
        table(file, "matches")
    assert len(table(file, "matches", duplicates="first")[0]) == 3


def test_the_last_check_can_refuse_a_row(tmp_path: Path) -> None:
    source = SourceConfig(files=jsonl(tmp_path / "x.jsonl", [GOOD, {**GOOD, "patent_id": "P2"}]))
    rejected, tally = Rejected(), Tally()
    kept = read_table(
        "patents",
        source,
        rejected,
        tally,
        max_characters=None,
        accept=lambda row: ("patent_id", "unknown id: x") if row["patent_id"] == "P1" else None,
    )
    assert [row["patent_id"] for row in kept] == ["P2"]
    assert only(rejected.as_table().to_pylist()) == ("patent_id", "unknown id: x")


# Any rows

_JSON = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=6)
    | st.lists(st.text(max_size=3), max_size=2)
)
_ROW = st.fixed_dictionaries(
    {},
    optional={
        "patent_id": st.sampled_from(["P1", "P2", "P3"]) | _JSON,
        "title": st.just("t") | _JSON,
        "abstract": st.just("a") | _JSON,
        "year": st.integers(1600, 2300) | _JSON,
        "codes": _JSON,
    },
)


@settings(max_examples=150, deadline=None)
@given(rows=st.lists(_ROW, max_size=8), duplicates=st.sampled_from(["refuse", "first", "merge"]))
def test_every_row_is_accounted_for(
    tmp_path_factory: pytest.TempPathFactory, rows: Rows, duplicates: Literal["refuse", "first", "merge"]
) -> None:
    """`table` checks read = kept + merged + quarantined, and that Arrow can hold what is kept and what is not."""
    file = jsonl(tmp_path_factory.getbasetemp() / "any.jsonl", rows)
    try:
        kept, quarantine, tally = table(file, max_characters=5, duplicates=duplicates)
    except ConfigError as error:
        if duplicates != "refuse" or "rows have the id of an earlier row" not in str(error):
            raise
        return
    assert tally.read == len(rows)
    assert len({row["patent_id"] for row in kept}) == len(kept)
    assert all(row["patent_id"] and row["title"] and row["abstract"] for row in kept)
    assert len({(row["file"], row["row"]) for row in quarantine}) == len(quarantine)
