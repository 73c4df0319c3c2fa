"""Question sets, triplets and labels: every row kept, merged or quarantined with a reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patentft.config import ConfigError, build
from patentft.corpus.qa import QA
from patentft.store import StageFolder
from tests.corpus.test_corpus_run import run

ROWS = [
    {"context": "A bag filter.", "question": "What is it?", "answer": "A filter.", "negative": "A chair."},
    {"context": None, "question": "Who?", "answer": "Nobody.", "negative": ""},
]


def jsonl(path: Path, rows: list[Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def make(tmp_path: Path, rows: list[Any], name: str = "run", part: int = 50_000, **source: Any) -> StageFolder:
    files = jsonl(tmp_path / f"{name}.jsonl", rows)
    values = {"questions": {"files": files, "negatives": ["negative"], **source}, "rows_per_part": part}
    return run(QA, tmp_path / name, values)


def counts(stage: StageFolder, name: str) -> tuple[int, int, int, int]:
    assert stage.manifest is not None
    tally = stage.manifest.counts[name]
    assert tally["read"] == tally["kept"] + tally["merged"] + tally["quarantined"]
    assert sum(tally["reasons"].values()) == tally["quarantined"]
    return tally["read"], tally["kept"], tally["merged"], tally["quarantined"]


def test_questions_and_preferences(tmp_path: Path) -> None:
    stage = make(tmp_path, ROWS)
    qa = stage.read("qa").to_pylist()
    assert [(row["context"], row["question"], row["answer"]) for row in qa] == [
        ("A bag filter.", "What is it?", "A filter."),
        (None, "Who?", "Nobody."),
    ]
    assert len({row["qa_id"] for row in qa}) == 2
    (preference,) = stage.read("preferences").to_pylist()
    assert preference.pop("preference_id").startswith(qa[0]["qa_id"] + "-")
    assert preference == {
        "context": "A bag filter.",
        "question": "What is it?",
        "chosen": "A filter.",
        "rejected": "A chair.",
    }
    assert stage.manifest is not None
    assert "labelled_pairs" not in stage.manifest.tables


def test_triplets_with_the_columns_of_a_patent_question_set(tmp_path: Path) -> None:
    """anchor, query, positive, negative: the negatives of one question stand in several rows and columns."""
    table = {"anchor": ["c", "c", "c"], "query": ["q", "q", "q"], "positive": ["a", "a", "a"]}
    lists = pa.array([["n1", "n2"], ["n2", ""], None], pa.list_(pa.string()))
    pq.write_table(pa.table({**table, "negative": lists, "hard": ["n3", None, "[0012] n4"]}), tmp_path / "x.parquet")
    source = {
        "files": str(tmp_path / "x.parquet"),
        "columns": {"context": "anchor", "question": "query", "answer": "positive"},
        "negatives": ["negative", "hard"],
    }
    stage = run(QA, tmp_path / "run", {"questions": source})
    assert stage.read("preferences")["rejected"].to_pylist() == ["n1", "n2", "n3", "[0012] n4"]
    assert counts(stage, "questions") == (3, 1, 2, 0)
    assert counts(stage, "negatives") == (5, 4, 1, 0)


def test_negatives_as_json_in_a_csv(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text('question,answer,negative\nq,a,"[""n1"", ""n2; and more""]"\nq2,a,n3; n4\n')
    stage = run(QA, tmp_path / "run", {"questions": {"files": str(tmp_path / "x.csv"), "negatives": ["negative"]}})
    assert stage.read("preferences")["rejected"].to_pylist() == ["n1", "n2; and more", "n3; n4"]


def test_what_is_bad_goes_to_quarantine_alone(tmp_path: Path) -> None:
    rows = [
        *ROWS,
        {"question": "", "answer": "x"},
        {"question": "x", "answer": None, "negative": "y"},
        {"question": "x", "answer": "y", "negative": ["y", 5, {"a": 1}, "z\x00"]},
        {"question": "x" * 200, "answer": "y"},
    ]
    values = {
        "questions": {"files": jsonl(tmp_path / "x.jsonl", rows), "negatives": ["negative"]},
        "max_characters": 100,
    }
    stage = run(QA, tmp_path / "run", values)
    found = [
        (bad["table"], bad["row"], bad["column"], bad["reason"].split(":")[0])
        for bad in stage.read("quarantine").to_pylist()
    ]
    assert found == [
        ("qa", 2, "question", "empty"),
        ("qa", 3, "answer", "empty"),
        ("preferences", 4, "negative", "the same"),
        ("preferences", 4, "negative", "wrong type"),
        ("preferences", 4, "negative", "rubbish"),
        ("qa", 5, "question", "too long"),
    ]
    assert counts(stage, "questions") == (6, 3, 0, 3)
    assert counts(stage, "negatives") == (5, 2, 0, 3)
    assert stage.read("preferences")["rejected"].to_pylist() == ["A chair.", "5"]


def test_ids_of_the_file_are_kept_and_must_be_one_question_each(tmp_path: Path) -> None:
    rows = [
        {"qa_id": "Q1", **ROWS[0]},
        {"qa_id": "Q1", **ROWS[0]},
        {"qa_id": "Q1", **ROWS[1]},
        {"qa_id": "Q2", **ROWS[0]},
    ]
    stage = make(tmp_path, rows)
    assert stage.read("qa")["qa_id"].to_pylist() == ["Q1", "Q2"]
    assert counts(stage, "questions") == (4, 2, 1, 1)
    assert stage.read("quarantine")["reason"].to_pylist() == [
        "duplicate id: an earlier row of this id says something else"
    ]
    assert stage.read("preferences").num_rows == 2


LABELS = [
    {"technique_id": "T1", "patent_id": "P1", "label": "Yes"},
    {"technique_id": "T1", "patent_id": "P2", "label": 0},
    {"technique_id": "T1", "patent_id": "P3", "label": True, "annotator": "ann"},
    {"technique_id": "T1", "patent_id": "P3", "label": False, "annotator": "bob"},
    {"technique_id": "T1", "patent_id": "P3", "label": "match", "annotator": "ann"},
    {"technique_id": "T1", "patent_id": "P3", "label": "no", "annotator": "ann"},
    {"technique_id": "T1", "patent_id": "P4", "label": "perhaps"},
    {"technique_id": "T1", "patent_id": "", "label": "no"},
    {"technique_id": "T1", "patent_id": "P5", "label": None},
    {"technique_id": "T1", "patent_id": "P6", "label": 1.0},
]


def test_labels(tmp_path: Path) -> None:
    stage = run(QA, tmp_path / "run", {"labels": {"files": jsonl(tmp_path / "x.jsonl", LABELS)}})
    found = [tuple(row.values()) for row in stage.read("labelled_pairs").to_pylist()]
    assert found == [
        ("T1", "P1", 1, None),
        ("T1", "P2", 0, None),
        ("T1", "P3", 1, "ann"),
        ("T1", "P3", 0, "bob"),
        ("T1", "P6", 1, None),
    ]
    assert counts(stage, "labels") == (10, 5, 1, 4)
    reasons = [(bad["row"], bad["reason"].split(":")[0]) for bad in stage.read("quarantine").to_pylist()]
    assert reasons == [(5, "contradiction"), (6, "wrong value"), (7, "empty"), (8, "empty")]


def test_questions_and_labels_of_one_file_with_other_words(tmp_path: Path) -> None:
    files = jsonl(
        tmp_path / "x.jsonl",
        [{"section": "T1", "patent": "P1", "expert": "Ja", "question": "q", "answer": "a"}],
    )
    columns = {"technique_id": "section", "patent_id": "patent", "label": "expert"}
    labels = {"files": files, "columns": columns, "positive": ["ja"], "negative": ["nein", False]}
    stage = run(QA, tmp_path / "run", {"questions": {"files": files}, "labels": labels})
    assert stage.read("qa").num_rows == 1
    assert stage.read("preferences").num_rows == 0
    assert stage.read("labelled_pairs")["label"].to_pylist() == [1]


def test_parts_of_equal_size_whatever_was_done_before(tmp_path: Path) -> None:
    rows = [{"question": f"q{n}", "answer": "a", "negative": ["n", "m"]} for n in range(5)]
    whole = make(tmp_path, rows, part=2)
    assert [part.num_rows for part in whole.iter_parts("qa")] == [2, 2, 1]
    assert [part.num_rows for part in whole.iter_parts("preferences")] == [2] * 5
    for path in ("manifest.json", "qa/part-00001.parquet", "preferences/part-00004.parquet"):
        (tmp_path / "run" / path).unlink()
    again = make(tmp_path, rows, part=2)
    assert whole.manifest is not None
    assert again.manifest is not None
    assert again.manifest.id == whole.manifest.id


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "neither questions nor labels is set"),
        ({"questions": {"files": "x", "columns": {"anser": "x"}}}, "'anser' is no column here; did you mean 'answer'"),
        (
            {"labels": {"files": "x", "positive": ["Yes"], "negative": ["no", True]}},
            "'yes' is in both positive and negative",
        ),
    ],
)
def test_what_cannot_be_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(QA.config, values)


def test_a_column_that_is_not_there_and_a_file_without_a_good_row(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("question,answer,negatives\nq,,\n")
    with pytest.raises(
        ConfigError, match=r"x\.csv: no column 'negative'; did you mean 'negatives'\?.*set columns or neg"
    ):
        run(QA, tmp_path / "run", {"questions": {"files": str(tmp_path / "x.csv"), "negatives": ["negative"]}})
    with pytest.raises(ConfigError, match=r"x\.csv: none of its 1 rows is a good row of questions: {'empty': 1}"):
        run(QA, tmp_path / "run", {"questions": {"files": str(tmp_path / "x.csv")}})


_SMALL = st.sampled_from(["a", "b", "", None, " a "])


@settings(max_examples=40, deadline=None)
@given(rows=st.lists(st.fixed_dictionaries({name: _SMALL for name in ("context", "question", "answer", "negative")})))
def test_every_triplet_is_there_once(tmp_path_factory: pytest.TempPathFactory, rows: list[Any]) -> None:
    rows = [{"question": "x", "answer": "y"}, *rows]
    stage = make(tmp_path_factory.mktemp("qa"), rows)

    def text(row: dict[str, Any], name: str) -> str | None:
        return (row.get(name) or "").strip() or None

    good = [row for row in rows if text(row, "question") and text(row, "answer")]
    wanted = {tuple(text(row, name) for name in ("context", "question", "answer")) for row in good}
    qa = [(row["context"], row["question"], row["answer"]) for row in stage.read("qa").to_pylist()]
    assert len(qa) == len(wanted)
    assert set(qa) == wanted
    triplets = {
        tuple(text(row, name) for name in ("context", "question", "answer", "negative"))
        for row in good
        if text(row, "negative") and text(row, "negative") != text(row, "answer")
    }
    found = [tuple(row.values())[1:] for row in stage.read("preferences").to_pylist()]
    assert len(found) == len(triplets)
    assert set(found) == triplets
    assert counts(stage, "questions")[0] == len(rows)


def test_sides_share_no_question(tmp_path: Path) -> None:
    """A question with its context is on one side, whatever its answers; negatives go with it."""
    rows = [
        {"context": None, "question": f"Q{n // 2}", "answer": f"A{n}", "negative": "no"} for n in range(400)
    ]  # two answers to each question
    files = jsonl(tmp_path / "rows.jsonl", rows)
    source = {"questions": {"files": files, "negatives": ["negative"]}}
    stages = {
        side: run(QA, tmp_path / side, {**source, "side": side, "valid_fraction": 0.25}) for side in ("train", "valid")
    }
    asked = {side: set(stage.read("qa")["question"].to_pylist()) for side, stage in stages.items()}
    assert not asked["train"] & asked["valid"]
    assert len(asked["train"] | asked["valid"]) == 200
    assert 30 <= len(asked["valid"]) <= 70
    preferred = set(stages["valid"].read("preferences")["question"].to_pylist())
    assert preferred == asked["valid"]
    assert stages["valid"].manifest is not None
    kept = counts(stages["valid"], "questions")[1]
    assert stages["valid"].manifest.counts["other_side"] == 400 - kept


def test_a_side_needs_questions() -> None:
    with pytest.raises(ConfigError, match="valid_fraction is for a side"):
        build(QA.config, {"questions": {"files": "q.jsonl"}, "valid_fraction": 0.5})
    with pytest.raises(ConfigError, match="side is for questions"):
        build(QA.config, {"labels": {"files": "l.csv"}, "side": "train"})
