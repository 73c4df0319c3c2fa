"""Answers side by side: measures against slow references, the sheet out and in, the page's figures and its escaping."""

from __future__ import annotations

import csv
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from patentft import schema, stats
from patentft.config import ConfigError, build, content
from patentft.corpus.read import columns_of, rows_of
from patentft.location import Location
from patentft.progress import Progress
from patentft.report.answers import sheet
from patentft.report.answers.evaluate import KEYS
from patentft.report.answers.measures import exact_match, lcs_length, normalized, rouge_l, token_f1, words
from patentft.report.answers.run import EVALUATE_ANSWERS
from patentft.stage import Context
from patentft.store import StageFolder, open_stage
from tests.tiny import save_tiny_bert

# ---- measures

SHORT = st.lists(st.sampled_from("abcde"), max_size=12)


def slow_lcs(a: list[str], b: list[str]) -> int:
    """The table of the textbook."""
    lengths = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            lengths[i + 1][j + 1] = lengths[i][j] + 1 if x == y else max(lengths[i][j + 1], lengths[i + 1][j])
    return lengths[-1][-1]


@given(SHORT, SHORT)
def test_the_longest_common_subsequence(a, b):
    assert lcs_length(a, b) == slow_lcs(a, b)


def test_the_longest_common_subsequence_of_long_texts():
    rng = np.random.default_rng(0)
    for size in (63, 64, 65, 200):
        a, b = (rng.integers(0, 9, size + extra).astype(str).tolist() for extra in (0, 7))
        assert lcs_length(a, b) == slow_lcs(a, b)


def test_rouge_l_is_that_of_the_paper():
    """Lin 2004, section 3.1: "police killed the gunman" against "police kill the gunman" and "the gunman kill
    police": 3/4 and 2/4."""
    reference = "police killed the gunman"
    assert rouge_l("police kill the gunman", reference) == 0.75
    assert rouge_l("the gunman kill police", reference) == 0.5
    assert rouge_l("Police, killed... the GUNMAN!", reference) == 1
    assert rouge_l("the gunman", reference) == pytest.approx(2 * 1 * 0.5 / 1.5)
    assert rouge_l("", reference) == rouge_l("...", "") == 0
    assert words("NOx-Abscheidung über 42 %") == ["nox", "abscheidung", "über", "42"]


def test_squads_measures():
    assert normalized("The filter's bed, an A-frame") == ["filters", "bed", "aframe"]
    assert token_f1("a heated filter bed", "the filter bed") == pytest.approx(2 * 2 / 5)
    assert token_f1("bed bed", "bed") == pytest.approx(2 / 3)
    assert (token_f1("", "the"), token_f1("", "bed"), token_f1("pump", "bed")) == (1, 0, 0)
    assert exact_match("The Bed.", "bed") == 1
    assert exact_match("beds", "bed") == 0


@given(st.text(max_size=30), st.text(max_size=30))
def test_measures_are_symmetric_and_of_0_to_1(a, b):
    for measure in (rouge_l, token_f1, exact_match):
        assert measure(a, b) == measure(b, a)
        assert 0 <= measure(a, b) <= 1
    assert token_f1(a, a) == exact_match(a, a) == 1


# ---- the stage

REFERENCES = ["the heated filter", "ammonia", "a bag filter", "in a tank", "less dust", "lime and <b>air</b>"]
ANSWERS = {
    "zero": ["the filter", "ammonia", "a pump", "", "dust", "=1+1"],
    "few": ["the heated filter", "urea", "bag filter", "in the tank", "less dust", "lime & <script>air</script>"],
    "tuned": REFERENCES,
}
QA = [
    {"qa_id": f"Q{n}", "context": f"Context {n}\nof two lines, <i>" if n % 2 else None, "question": f"Which {n}?",
     "answer": answer}
    for n, answer in enumerate(REFERENCES)
]  # fmt: skip


def finished(folder: Path, kind: str, config: dict[str, Any], tables: dict[str, list[dict[str, Any]]]) -> StageFolder:
    stage = open_stage(Location(folder), kind, config, {})
    for table, rows in tables.items():
        stage.write_part(table, 0, pa.Table.from_pylist(rows, schema=schema.TABLES[table]))
    stage.finish({})
    return stage


def answer_rows(answers: list[str]) -> list[dict[str, Any]]:
    common = {"method": "zero_shot", "prompt_tokens": 9, "answer_tokens": 4, "finished": True, "context_cut": False}
    return [
        {"qa_id": f"Q{n}", "answer": text, "text": text, "problem": None if text else "empty", **common}
        for n, text in enumerate(answers)
    ][::-1]  # another order than that of the questions


def evaluated(tmp_path: Path, name: str = "compare", answers: dict[str, list[str]] = ANSWERS, **values: Any):
    """(the finished stage, its metrics)"""
    questions = open_stage(Location(tmp_path / "qa"), "qa", {}, {})
    inputs = {"qa": questions if questions.done else finished(tmp_path / "qa", "qa", {}, {"qa": QA})}
    for stage, texts in answers.items():
        config = {"model": f"model of {stage} <x>", "method": "zero_shot"}
        path = tmp_path / "answers" / stage
        found = open_stage(Location(path), "answer", config, {})
        inputs[stage] = found if found.done else finished(path, "answer", config, {"answers": answer_rows(texts)})
    config = build(EVALUATE_ANSWERS.config, {"data": "qa", "answers": list(answers), **values})
    folder = open_stage(Location(tmp_path / name), "evaluate_answers", content(config), {})
    models = {config.encoder: config.encoder} if config.encoder else {}
    context = Context(folder, inputs, models, Progress(quiet=True))
    folder.finish(EVALUATE_ANSWERS.run(config, context))
    return folder, json.loads(folder.read_file("metrics.json"))


class Texts(HTMLParser):
    """The page's tags and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)

    def handle_data(self, data):
        self.text += data


def test_figures_intervals_and_paired_differences(tmp_path):
    bert = save_tiny_bert(tmp_path)
    folder, metrics = evaluated(tmp_path, encoder=bert)
    scores = folder.read("answer_scores").to_pylist()
    assert len(scores) == 18
    for measure, fn in (("rouge_l", rouge_l), ("token_f1", token_f1), ("exact_match", exact_match)):
        values = {
            stage: np.array([fn(text, wanted) for text, wanted in zip(texts, REFERENCES, strict=True)])
            for stage, texts in ANSWERS.items()
        }
        for stage, found in values.items():
            interval = stats.bootstrap_mean(found)
            assert metrics[f"{stage}.{measure}"] == pytest.approx(interval.estimate)
            assert metrics[f"{stage}.{measure}.low"] == interval.low
            assert [row[measure] for row in scores if row["stage"] == stage] == found.tolist()
        wanted = stats.paired_difference(values["tuned"], values["zero"])
        assert metrics[f"difference.tuned.{measure}"] == pytest.approx(wanted.difference)
        assert metrics[f"difference.tuned.{measure}.p_value"] == wanted.p_value
    assert metrics["difference.tuned.rouge_l.verdict"] == "above 0"
    similarity = {(row["stage"], row["qa_id"]): row["similarity"] for row in scores}
    assert all(similarity["tuned", f"Q{n}"] == pytest.approx(1, abs=1e-5) for n in range(6))
    assert similarity["zero", "Q3"] == 0  # an empty answer
    assert -1 <= similarity["few", "Q1"] < 0.9999
    assert metrics["zero.problems"] == 1
    assert not any(key.startswith("difference.zero") for key in metrics)


def test_without_an_encoder_there_is_no_similarity(tmp_path):
    folder, metrics = evaluated(tmp_path, answers={"zero": ANSWERS["zero"]})
    assert not any("similarity" in key or "difference" in key for key in metrics)
    assert folder.read("answer_scores")["similarity"].null_count == 6


def test_every_key_is_documented_and_the_page_shows_texts_as_texts(tmp_path):
    folder, metrics = evaluated(tmp_path, ratings=filled(tmp_path), num_examples=6)
    known = "|".join(re.sub(r"\\\{\w+\\\}", "[^.]+", re.escape(key)) for key in KEYS)
    suffix = r"(\.low|\.high|\.p_value|\.verdict|\.not_defined)?"
    assert [key for key in metrics if not re.fullmatch(f"({known}){suffix}", key)] == []
    page = folder.read_file("index.html").decode()
    found = Texts(page)
    assert not found.tags & {"script", "b", "i", "x", "img", "link"}
    for text in ("lime & <script>air</script>", "lime and <b>air</b>", "model of few <x>", "of two lines, <i>"):
        assert text in found.text
    for stage in ANSWERS:
        assert f"{metrics[f'{stage}.rouge_l']:.3f}" in found.text
    assert "http://" not in page
    assert "https://" not in page


def test_answers_to_other_questions_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"stage 'short' does not answer the questions of 'qa': question 'Q5' has no"):
        evaluated(tmp_path, answers={"short": ANSWERS["few"][:5]})
    with pytest.raises(ConfigError, match=r"stage 'long' .* it answers other questions too"):
        evaluated(tmp_path, answers={"long": [*ANSWERS["few"], "x"]})
    with pytest.raises(ConfigError, match="names 'a' twice"):
        build(EVALUATE_ANSWERS.config, {"data": "qa", "answers": ["a", "a"]})


# ---- the sheet


def sheet_of(folder: StageFolder) -> tuple[list[dict[str, str]], dict[str, dict[str, str]]]:
    """(rows of sheet.csv, row_id -> row of sheet_key.csv)"""
    texts = [folder.read_file(name).decode("utf-8-sig") for name in ("sheet.csv", "sheet_key.csv")]
    rows, key = (list(csv.DictReader(io.StringIO(text, newline=""))) for text in texts)
    return rows, {row["row_id"]: row for row in key}


def written(path: Path, rows: list[dict[str, str]], delimiter: str = ",") -> str:
    with path.open("w", encoding="utf-8-sig", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


WORTH = {"zero": 2, "few": 4, "tuned": 5}


def filled(tmp_path: Path, name: str = "filled.csv", annotator: str = "ann", delimiter: str = ",") -> str:
    """A sheet rated by someone who, in spite of all, knows: zero 2, few 4, tuned 5."""
    folder = open_or_make(tmp_path)
    rows, key = sheet_of(folder)
    for row in rows:
        row["annotator"] = annotator
        for number in (1, 2, 3):
            row[f"rating_{number}"] = str(WORTH[key[row["row_id"]][f"answer_{number}"]])
    return written(tmp_path / name, rows, delimiter)


def open_or_make(tmp_path: Path) -> StageFolder:
    return evaluated(tmp_path, name="first")[0] if not (tmp_path / "first").exists() else store_of(tmp_path)


def store_of(tmp_path: Path) -> StageFolder:
    from patentft.store import finished_stage

    return finished_stage(Location(tmp_path / "first"))


def test_the_sheet_hides_names_and_shows_every_answer_once(tmp_path):
    folder, _ = evaluated(tmp_path, sheet_questions=4)
    rows, key = sheet_of(folder)
    assert len(rows) == 4
    text = folder.read_file("sheet.csv").decode()
    assert not any(stage in text for stage in ANSWERS)
    for row in rows:
        assert {row[f"rating_{n}"] for n in (1, 2, 3)} == {""}
        number = int(key[row["row_id"]]["qa_id"][1:])
        for n in (1, 2, 3):
            stage = key[row["row_id"]][f"answer_{n}"]
            wanted = ANSWERS[stage][number]
            assert row[f"answer_{n}"] == (f"'{wanted}" if wanted.startswith("=") else wanted)
        assert row["reference"] == REFERENCES[number]
        assert row["context"].replace("\r\n", "\n") == (QA[number]["context"] or "")


def test_orders_are_drawn_by_the_seed_and_differ_between_rows():
    draws = [sheet.draw_rows(QA, ANSWERS, 6, seed) for seed in (0, 0, 1)]
    assert draws[0] == draws[1]
    assert draws[0] != draws[2]
    orders = [row.stages for seed in range(200) for row in sheet.draw_rows(QA, ANSWERS, 6, seed)]
    shares = np.array([orders.count(order) for order in set(orders)]) / len(orders)
    assert len(shares) == 6
    assert np.abs(shares - 1 / 6).max() < 0.04


def test_ratings_come_back_to_their_methods(tmp_path):
    filled(tmp_path, "rated_a.csv")
    filled(tmp_path, "rated_b.csv", annotator="", delimiter=";")  # a spreadsheet of another country; no name given
    folder, metrics = evaluated(tmp_path, ratings=str(tmp_path / "rated_*.csv"))
    for stage, worth in WORTH.items():
        assert (metrics[f"{stage}.rating"], metrics[f"{stage}.rating.low"]) == (worth, worth)
        assert metrics[f"{stage}.num_rated"] == 6
    assert metrics["difference.tuned.rating"] == 3
    assert metrics["wins.zero.few"] == metrics["wins.zero.tuned"] == metrics["ties.zero.few"] == 0
    assert metrics["wins.few.zero"] == metrics["wins.tuned.few"] == 12
    assert (metrics["agreement.kappa"], metrics["agreement.num_pairs"], metrics["agreement.num_ratings"]) == (1, 1, 18)
    assert {row["annotator"] for row in folder.read("ratings").to_pylist()} == {"ann", "rated_b.csv"}
    assert folder.read("ratings").num_rows == 36


def test_kappa_is_that_of_the_common_ratings(tmp_path):
    rng = np.random.default_rng(0)
    said: dict[str, dict[tuple[str, str], int]] = {}
    for annotator in ("ann", "bob", "cy"):
        rows, key = sheet_of(open_or_make(tmp_path))
        for row in rows if annotator != "cy" else rows[:3]:
            row["annotator"] = annotator
            for n in (1, 2, 3):
                rating = int(rng.integers(1, 4))
                row[f"rating_{n}"] = f"{rating}.0" if annotator == "bob" else str(rating)
                said.setdefault(annotator, {})[row["row_id"], key[row["row_id"]][f"answer_{n}"]] = rating
        written(tmp_path / f"by_{annotator}.csv", rows)
    _, metrics = evaluated(tmp_path, ratings=str(tmp_path / "by_*.csv"))
    kappas, sizes = [], []
    for a, b in (("ann", "bob"), ("ann", "cy"), ("bob", "cy")):
        common = sorted(said[a].keys() & said[b].keys())
        kappas.append(stats.cohen_kappa([said[a][x] for x in common], [said[b][x] for x in common]))
        sizes.append(len(common))
    assert sizes == [18, 9, 9]
    assert metrics["agreement.kappa"] == pytest.approx(np.average(kappas, weights=sizes))
    assert metrics["ratings.empty"] == 3
    assert metrics["ratings.read"] == metrics["ratings.kept"] + metrics["ratings.empty"] == 18


def test_bad_rows_are_quarantined_each_with_its_reason(tmp_path):
    path = filled(tmp_path)
    rows = list(csv.DictReader(io.StringIO(Path(path).read_bytes().decode("utf-8-sig"), newline="")))
    rows[0]["rating_1"] = "six"
    rows[1]["rating_3"] = "6"
    rows[2]["row_id"] = "row-0"
    rows[3]["rating_2"] = ""
    rows[4] |= {f"rating_{n}": " " for n in (1, 2, 3)}
    written(Path(path), [*rows, rows[5]])
    folder, metrics = evaluated(tmp_path, ratings=path)
    bad = [(row["row"], row["column"], row["reason"].split(":")[0]) for row in folder.read("quarantine").to_pylist()]
    assert bad == [
        (0, "rating_1", "wrong value"),
        (1, "rating_3", "wrong value"),
        (2, "row_id", "unknown row"),
        (6, "annotator", "rated twice"),
    ]
    counts = {name: metrics[f"ratings.{name}"] for name in ("read", "kept", "empty", "quarantined", "not_rated")}
    assert counts == {"read": 7, "kept": 2, "empty": 1, "quarantined": 4, "not_rated": 1}
    assert folder.read("ratings").num_rows == 5
    assert metrics["agreement.kappa"] is None
    assert metrics["agreement.kappa.not_defined"] == "no two annotators rated the same two answers"
    assert "no two annotators" in folder.read_file("index.html").decode()


def test_a_sheet_of_other_answers_is_not_taken_for_these(tmp_path):
    path = filled(tmp_path)
    with pytest.raises(ConfigError, match=r"none of the 6 rows .*'unknown row': 6.* must be filled for these answers"):
        evaluated(tmp_path, name="other", ratings=path, seed=1)
    (tmp_path / "x.csv").write_text("row_id,rating_1\nrow-1,3\n")
    with pytest.raises(ConfigError, match="has no column 'rating_2'"):
        evaluated(tmp_path, name="columns", ratings=str(tmp_path / "x.csv"))
    with pytest.raises(ConfigError, match="sheet_questions is 0"):
        build(EVALUATE_ANSWERS.config, {"data": "qa", "answers": ["a"], "sheet_questions": 0, "ratings": "x.csv"})


@given(st.lists(st.text(max_size=40), min_size=2, max_size=2))
def test_any_text_survives_a_spreadsheet(tmp_path_factory, texts):
    """The sheet is one good row per question, whatever a model wrote."""
    answers = {"a": [texts[0]], "b": [texts[1]]}
    rows = sheet.draw_rows(QA[:1], answers, 1, 0)
    path = tmp_path_factory.getbasetemp() / "any.csv"
    path.write_bytes(sheet.sheet_csv(rows))
    (found,) = list(rows_of(Location(path)))
    assert columns_of(Location(path)) == list(found.values)
    assert found.values["row_id"] == rows[0].row_id
    assert not any(str(value).startswith(("=", "+", "-", "@")) for value in found.values.values() if value)
