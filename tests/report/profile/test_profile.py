"""The profile of files and stages: figures, page, suspicious rows, errors; real data where there are any."""

from __future__ import annotations

import csv
import gzip
import html
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytest.importorskip("matplotlib", reason="patentft[report] is not installed")

from patentft import schema
from patentft.config import ConfigError, build
from patentft.location import Location
from patentft.progress import Progress
from patentft.report.profile.keys import KEYS, describe
from patentft.report.profile.run import ProfileConfig, profile_data
from patentft.report.profile.source import code_list, year_of
from patentft.store import open_stage
from tests.tiny import save_tiny_bert

QUIET = Progress(quiet=True)
WORDS = ["A", "method", "for", "drying", "bricks", "in", "a", "kiln", "with", "waste", "heat,", "comprising", "step"]


def profile(data: Path | str, out: Path, **options: Any) -> tuple[dict[str, Any], str]:
    """profile.json and the page."""
    folder = profile_data(str(data), str(out), options, QUIET)
    return json.loads((folder / "profile.json").read_bytes()), (folder / "index.html").read_bytes().decode()


def sentence(number: int) -> str:
    return f"{' '.join(WORDS[: 5 + number % 8])} number {number} of <b>many</b> (12)"


ROWS = [
    {
        "patent_id": f"P{number % 9}",
        "date": f"20{10 + number % 3}-05-01",
        "text": sentence(number),
        "kind": "ab"[number % 2],
    }
    for number in range(40)
] + [
    {"patent_id": "E1", "date": "", "text": "", "kind": "a"},
    {"patent_id": "E2", "date": "soon", "text": "short", "kind": "a"},
    {"patent_id": "E3", "date": "2010", "text": sentence(3), "kind": "a"},
    {"patent_id": "E4", "date": "2010", "text": "7 8 9 10 11 12 13 14 15 16 17 18", "kind": "b"},
    {"patent_id": "E5", "date": "2010", "text": "word " * 40, "kind": "b"},
    {"patent_id": "<script>alert(1)</script>", "date": "2010", "text": "x" * 30_000, "kind": "b"},
]


def write(folder: Path, kind: str, rows: list[dict[str, Any]]) -> Path:
    path = folder / f"rows.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
        path.write_bytes(gzip.compress(buffer.getvalue().encode()))
    return path


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> dict[str, tuple[dict[str, Any], str]]:
    folder = tmp_path_factory.mktemp("plain")
    kinds = ("parquet", "jsonl", "csv.gz")
    return {kind: profile(write(folder, kind, ROWS), folder / kind.split(".")[0]) for kind in kinds}


def test_the_same_rows_give_the_same_figures_from_every_kind_of_file(plain) -> None:
    figures = [{key: value for key, value in found.items() if key != "source"} for found, _ in plain.values()]
    assert figures[0] == figures[1] == figures[2]


def test_figures_are_those_of_a_plain_count(plain) -> None:
    found, _ = plain["parquet"]
    texts = [row["text"] for row in ROWS if row["text"]]
    assert found["rows"] == 46
    assert found["id"] == "patent_id"
    assert found["ids.repeated"] == 46 - len({row["patent_id"] for row in ROWS})
    assert found["column.text.missing"] == 1
    assert found["column.date.missing"] == 1
    assert {found["column.kind.value.a"], found["column.kind.value.b"]} == {23}
    assert found["text.text.rows"] == 45
    assert found["text.text.repeated"] == len(texts) - len(set(texts)) == 1
    for unit, lengths in (
        ("characters", [len(text) for text in texts]),
        ("words", [len(text.split()) for text in texts]),
    ):
        for percent in (1, 25, 50, 95):
            expected = np.percentile(lengths, percent, method="inverted_cdf")
            assert found[f"text.text.{unit}.p{percent}"] == expected
        assert found[f"text.text.{unit}.max"] == max(lengths)
        assert found[f"text.text.{unit}.mean"] == pytest.approx(np.mean(lengths))
    assert found["text.text.noise.html_tags.rows"] == 41
    assert found["text.text.noise.html_tags.occurrences"] == 82
    assert found["text.text.noise.reference_signs.rows"] == 41
    suspicious = {key.rpartition(".")[2]: value for key, value in found.items() if ".suspicious." in key}
    assert suspicious == {"empty": 1, "very_short": 1, "few_letters": 1, "repeated_words": 1, "very_long": 1}
    assert (found["year.2010.rows"], found["year.none"]) == (14 + 4, 2)


def test_every_key_is_documented_and_in_the_page(plain) -> None:
    for found, page in plain.values():
        assert [key for key in found if describe(key) is None] == []
        for text in KEYS.values():
            assert html.escape(text) in page
    assert describe("nonsense") is None


def test_the_page_is_escaped_and_self_contained(plain) -> None:
    _, page = plain["csv.gz"]
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "<mark>&lt;b&gt;</mark>" in page
    assert not re.search(r'(?:src|href)="(?!#)', page)
    assert "@import" not in page
    for title in ("What stands out", "Duplicates", "Noise", "Languages", "Rows that look wrong"):
        assert title in page


def test_suspicious_rows_are_listed_with_place_and_reason(tmp_path: Path) -> None:
    rows = [{"id": f"R{number}", "text": "tiny" if number % 2 else sentence(number)} for number in range(30)]
    path = write(tmp_path, "jsonl", rows)
    with path.open("a") as stream:
        stream.write(
            '{"id": "bad", "text": \n{"id": "half", "text": "an escape \\ud800 that is no character at all"}\n'
        )
    folder = profile_data(str(path), str(tmp_path / "out"), {"text": ["text"]}, QUIET)
    found = [json.loads(line) for line in (folder / "suspicious.jsonl").read_bytes().decode().splitlines()]
    short = [row for row in found if row["reason"] == "very_short"]
    assert [row["id"] for row in short[:3]] == ["R1", "R3", "R5"]
    assert (short[0]["row"], short[0]["file"], short[0]["value"]) == (1, "rows.jsonl", "tiny")
    assert [row["row"] for row in found if row["reason"].startswith("unreadable")] == [30]
    assert [row["id"] for row in found if row["reason"] == "not_unicode"] == ["half"]
    figures = json.loads((folder / "profile.json").read_bytes())
    assert figures["unreadable"] == 1
    assert figures["text.text.suspicious.very_short"] == 15
    limited = profile_data(str(path), str(tmp_path / "few"), {"text": ["text"], "title": "t"}, QUIET)
    assert limited.names() == folder.names()


def test_listed_rows_and_the_sample_are_limited(tmp_path: Path) -> None:
    rows = [{"text": f"tiny {number}"} for number in range(300)]
    path = write(tmp_path, "jsonl", rows)
    folder = profile_data(str(path), str(tmp_path / "out"), {"text": ["text"], "sample_rows": 50}, QUIET)
    found = (folder / "suspicious.jsonl").read_bytes().decode().splitlines()
    figures = json.loads((folder / "profile.json").read_bytes())
    assert len(found) == 20
    assert figures["text.text.suspicious.very_short"] == 300
    assert figures["sample.rows"] == figures["text.text.near_duplicates.sampled"] == 50
    assert "The sample is 50 of 300 rows" in (folder / "index.html").read_bytes().decode()


def test_tokens_and_truncation(tmp_path: Path) -> None:
    model = save_tiny_bert(tmp_path / "model")
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    lengths = [len(tokenizer(row["text"])["input_ids"]) for row in ROWS[:40]]
    path = write(tmp_path, "parquet", ROWS[:40])
    found, _ = profile(path, tmp_path / "a", tokenizer=model)
    assert found["max_tokens"] == 256
    assert found["text.text.tokens.total"] == sum(lengths)
    assert found["text.text.truncated"] == 0
    limit = int(np.median(lengths))
    found, page = profile(path, tmp_path / "b", tokenizer=model, max_tokens=limit)
    assert found["text.text.truncated"] == sum(length > limit for length in lengths)
    assert found["text.text.tokens_lost"] == sum(max(0, length - limit) for length in lengths)
    assert f"longer than {limit} tokens" in page


def test_a_very_long_text_is_tokenized_in_pieces(monkeypatch, tmp_path: Path) -> None:
    from patentft.models.load import load_tokenizer_and_limit, resolve
    from patentft.report.profile import survey

    tokenizer, limit = load_tokenizer_and_limit(resolve(save_tiny_bert(tmp_path / "model")))
    texts = ["a kiln of bricks " * 50, "", "a kiln", "of bricks " * 33]
    whole = survey.token_counter(tokenizer)(texts)
    monkeypatch.setattr(survey, "PIECE", 170)  # a multiple of both repeated texts: nothing is cut inside a word
    assert survey.token_counter(tokenizer)(texts).tolist() == whole.tolist()
    assert limit == 256
    assert whole[1] == 2


def text_stage(folder: Path, tables: dict[str, list[dict[str, Any]]]) -> Location:
    opened = open_stage(Location(folder), "texts", {}, {})
    for table, rows in tables.items():
        half = max(1, len(rows) // 2)
        for index, part in enumerate([rows[:half], rows[half:]]):
            opened.write_part(table, index, pa.Table.from_pylist(part, schema=schema.TABLES[table]))
    opened.finish()
    return opened.location


def test_a_stage_is_profiled_and_an_earlier_profile_replaced(tmp_path: Path) -> None:
    rows = [
        {"text_id": f"T{n}", "text": sentence(n), "codes": ["Y02E", "B01D53/56"] if n % 4 == 0 else ["H01L", "??"]}
        for n in range(20)
    ]
    place = text_stage(tmp_path / "stage", {"texts": rows, "quarantine": []})
    found, page = profile(place.path, tmp_path / "out")
    assert found["source"] == "stage/texts"
    assert (found["green.rows"], found["codes.malformed"], found["codes.none"]) == (5, 15, 0)
    assert (found["section.B.rows"], found["section.B.green"], found["section.H.rows"]) == (5, 5, 15)
    assert found["subclass.Y02E"] == 5
    assert "quarantine" in page
    again, _ = profile(place.path, tmp_path / "out", title="Another")
    assert again == found
    with pytest.raises(ConfigError, match="no table 'textz'; did you mean 'texts'"):
        profile(place.path, tmp_path / "wrong", table="textz")


def test_views_are_shown_with_windows_and_examples(tmp_path: Path) -> None:
    def window(n: int, view: str) -> dict[str, Any]:
        text = f"{sentence(n)} window {n} of {view}"
        made = {"text_id": f"{view}{n}", "view": view, "document": "CER", "section_ids": [f"CER:::{n}"], "text": text}
        return made | {"start_char": 0, "end_char": len(text), "num_tokens": 10 + n}

    sections = [
        {"section_id": f"CER:::{n}", "document": "CER", "level": 1 + n % 2, "title": "t", "text": "x" * (n % 3)}
        for n in range(6)
    ]
    cited = [
        {"section_id": "CER:::1", "cited_id": name, "words": "see Section 2", "start_char": 0}
        for name in ("CER:::2", None)
    ]
    windows = [window(n, view) for view in ("document", "pair") for n in range(8)]
    place = text_stage(tmp_path / "stage", {"views": windows, "sections": sections, "citations": cited})
    found, page = profile(place.path, tmp_path / "out")
    assert (found["view.pair.windows"], found["view.pair.tokens.p50"], found["view.pair.tokens.max"]) == (8, 13, 17)
    assert (found["sections.rows"], found["sections.documents"], found["sections.without_text"]) == (6, 1, 2)
    assert (found["citations.rows"], found["citations.resolved"]) == (2, 1)
    assert found["sections.level.1"] == 3
    assert [key for key in found if describe(key) is None] == []
    assert "window 7 of pair" in page


@pytest.mark.parametrize(
    ("name", "content", "options", "words"),
    [
        ("absent.csv", None, {}, "does not exist"),
        ("empty.csv", "", {}, "is empty"),
        ("header.csv", "id,text\n", {}, "not one row"),
        ("empty.jsonl", "", {}, "not one row"),
        ("a.csv", "id,text\n1,a b\n", {"text": ["txt"]}, "did you mean 'text'"),
        ("a.csv", "id,text\n1,a b\n", {"text": ["text"], "id": "text"}, "as id and as text"),
        ("a.csv", "id,text\n1,a b\n", {"max_tokens": 5}, "no tokenizer"),
        ("a.csv", "id,text\n1,a b\n", {"table": "texts"}, "data is not set"),
        ("a.pdf", "x", {}, "unknown kind of file"),
        ("cut.parquet", "PAR1", {}, "not a readable Parquet file"),
    ],
)
def test_mistakes_are_explained(tmp_path: Path, name: str, content: str | None, options: dict, words: str) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(ConfigError) as error:
        profile(tmp_path / name, tmp_path / "out", **options)
    assert words in str(error.value)


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    with pytest.raises(ConfigError, match="holds other files"):
        profile(write(tmp_path, "jsonl", ROWS), tmp_path / "out")
    with pytest.raises(ConfigError, match="either data"):
        build(ProfileConfig, {})


def test_nothing_reads_like_text(tmp_path: Path, capsys) -> None:
    found, page = profile(write(tmp_path, "jsonl", [{"a": 1, "b": [0.5]}, {"a": None}]), tmp_path / "out")
    assert (found["rows"], found["column.a.missing"], found["column.b.missing"]) == (2, 1, 1)
    assert "no column reads like text" in capsys.readouterr().err
    assert "Columns" in page


def test_years_and_code_lists() -> None:
    assert [year_of(value) for value in (2015, "2015", "2015-03-02", "20150302", "2015.0", 12, "x", None, "201")] == [
        *[2015] * 5,
        *[None] * 4,
    ]
    assert code_list("B01D 53/56; Y02E") == code_list('["B01D 53/56", "Y02E"]') == ["B01D 53/56", "Y02E"]
    assert code_list(None) == code_list("") == code_list([]) == []


# ---- real data


def test_the_real_claims(data_root: Path, tmp_path: Path) -> None:
    path = data_root / "claims_cpc" / "claims_train.csv.gz"
    found, _ = profile(path, tmp_path / "out")
    with gzip.open(path, "rt", encoding="utf-8-sig", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert found["rows"] == len(rows) == 1000
    green = sum(any(row[name] not in ("0", "0.0") for name in row if name.startswith("Y02")) for row in rows)
    assert found["green.rows"] == green
    assert found["section.A.rows"] == sum(
        any(re.fullmatch(r"A\d\d[A-Z]", name) and row[name] not in ("0", "0.0") for name in row) for row in rows
    )
    # the quantiles that are published for the whole set of 1.37 million claims
    assert [found[f"text.text.words.p{percent}"] for percent in (5, 50, 95, 99)] == [37, 142, 338, 463]


def test_the_real_patents(data_root: Path, tmp_path: Path) -> None:
    found, _ = profile(data_root / "uspto10k" / "patents.parquet", tmp_path / "out", sample_rows=500)
    assert (found["rows"], found["green.rows"], found["ids.repeated"]) == (6960, 137, 0)
    assert sum(found[f"year.{year}.rows"] for year in range(2005, 2019)) == 6960
    assert found["text.abstract.language.en"] >= 495
