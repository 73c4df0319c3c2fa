"""Every pipeline of docs/corpus.md runs as it is written, on small files with the names it gives."""

from __future__ import annotations

import gzip
import json
import random
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from patentft import pipeline
from patentft.progress import Progress
from patentft.store import StageFolder
from tests.conftest import REPOSITORY
from tests.corpus.bref.report import document
from tests.corpus.join.test_join import CLAIMS, CPC, PATENTS, SMALL, tsv
from tests.corpus.patent_xml import EP, ST36
from tests.corpus.test_stream import zipped

PAGE = REPOSITORY / "docs" / "corpus.md"
FOUND = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)
BLOCKS = {yaml.safe_load(text)["out"]: text for text in FOUND if text.startswith("out:")}
PARTS = [yaml.safe_load(text) for text in FOUND if not text.startswith("out:")]


@pytest.fixture
def raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder raw/ that the page speaks of."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "raw"
    (folder / "ep").mkdir(parents=True)
    (folder / "techniques.jsonl").write_text('{"technique_id": "T1", "title": "Filter", "text": "Bag filters."}\n')
    rows = "publication,title,summary,filed,cpc\nEP1,Filter,A filter.,2015-03-02,B01D53/56; Y02C20/10\n"
    (folder / "patents.csv.gz").write_bytes(gzip.compress(rows.encode()))
    (folder / "ep" / "a.xml.gz").write_bytes(gzip.compress(f"<all>{EP}{ST36}</all>".encode()))
    claims = list(SMALL[1])
    for name, header, table in (
        ("g_patent", PATENTS, SMALL[0]),
        ("g_claims_2001", CLAIMS, claims[:2]),
        ("g_claims_2002", CLAIMS, claims[2:]),
        ("g_cpc_current", CPC, SMALL[2]),
        ("g_patent_abstract", ["patent_id", "patent_abstract"], [["10", "A filter."]]),
    ):
        data = Path(tsv(tmp_path / f"{name}.tsv", header, table)).read_bytes()
        zipped(folder / f"{name}.tsv.zip", {f"{name}.tsv": data})
    question = {"anchor": "A filter.", "query": "What is it?", "positive": "A filter.", "negative": ["A chair."]}
    (folder / "bigpatent_questions.jsonl").write_text(json.dumps(question) + "\n")
    (folder / "expert_labels.csv").write_text("section,publication,helps,expert\nT1,EP1,Partly,ann\nT1,EP2,no,ann\n")
    (folder / "my_dataset").mkdir()
    (folder / "my_dataset" / "train.jsonl").write_text('{"id": "P1", "title": "t", "abstract": "a"}\n')
    (folder / "brefs").mkdir()
    (folder / "brefs" / "cer_bref_0807.pdf").write_bytes(document())
    words = ["filter", "pump", "valve", "gas", "flue", "dust", "the", "a", "of", "with", "heat", "wherein", "and"]
    draw = random.Random(0)
    lines = ["id,text,A01B,Y02E,date"]
    for row in range(60):
        text = " ".join(draw.choice(words) for _ in range(30))
        lines.append(f'{row},"{row}. A method of {text} (12).",1,{row % 2},2019-01-02')
    lines.append('60,"1. A method (12).",1,yes,2019-01-02')
    (folder / "claims_train.csv.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    return folder


def run(out: str, **more: Any) -> dict[str, StageFolder]:
    return pipeline.run(pipeline.parse(yaml.safe_load(BLOCKS[out]) | more), Progress(quiet=True))


def column(stage: StageFolder, table: str, name: str) -> list[Any]:
    return stage.read(table)[name].to_pylist()


def test_csv(raw: Path) -> None:
    corpus = run("runs/csv")["corpus"]
    assert column(corpus, "patents", "codes") == [["B01D53/56", "Y02C20/10"]]
    assert column(corpus, "patents", "year") == [2015]


def test_xml(raw: Path) -> None:
    assert column(run("runs/xml")["corpus"], "patents", "patent_id") == ["EP1959526B1", "WO2010123456A1"]


def test_questions(raw: Path) -> None:
    stage = run("runs/questions")["questions"]
    assert column(stage, "qa", "question") == ["What is it?"]
    assert column(stage, "preferences", "rejected") == ["A chair."]
    assert column(stage, "labelled_pairs", "label") == [1, 0]


def test_hugging_face(raw: Path) -> None:
    assert column(run("runs/hugging-face")["corpus"], "patents", "patent_id") == ["P1"]


@pytest.mark.ray
def test_claims(raw: Path, ray_cluster: None) -> None:
    folders = run("runs/claims")
    assert len(column(folders["texts"], "texts", "text_id")) == 60
    assert column(folders["texts"], "quarantine", "column") == ["Y02E"]
    assert sum(column(folders["labels"], "labels", "green")) == 30
    assert column(folders["packed"], "packed", "position_ids")[0][:2] == [0, 1]
    assert (folders["look"].location / "index.html").is_file()


def test_bref_documents(raw: Path) -> None:
    folders = run("runs/bref_pdf")
    assert set(column(folders["bref"], "sections", "document")) == {"CER"}
    assert set(column(folders["views"], "views", "view")) == {"document", "chapter", "enriched", "pair"}
    page = (folders["look"].location / "index.html").read_bytes().decode()
    assert all(view in page for view in ("document", "chapter", "enriched", "pair"))


@pytest.mark.ray
def test_patentsview(raw: Path, ray_cluster: None) -> None:
    cleaned = next(part for part in PARTS if "texts" in part)
    folders = run("runs/patentsview", **cleaned)
    assert sorted(column(folders["claims"], "texts", "text_id")) == ["10-0", "10-10", "10-2", "7-0"]
    rows = folders["texts"].read("texts").to_pylist()
    texts = {row["text_id"]: row["text"] for row in rows}
    assert texts["10-0"] == "A filter. It"  # in the file: a tab and a line end between
    assert texts.keys() == {"10-0", "10-10", "10-2", "7-0"}
    patents = run("runs/patentsview-patents")["patents"]
    assert sorted(column(patents, "texts", "text")) == ["Chair", "Fan", "Filter. A filter."]


def test_every_pipeline_of_the_page_is_tested() -> None:
    tested = {"runs/csv", "runs/xml", "runs/questions", "runs/hugging-face", "runs/patentsview"}
    assert BLOCKS.keys() == tested | {"runs/patentsview-patents", "runs/claims", "runs/bref_pdf"}


def test_the_parts_of_the_page_are_good() -> None:
    claims = yaml.safe_load(BLOCKS["runs/claims"])
    balance = next(part for part in PARTS if "balance" in part)
    changed = claims | {"sides": claims["sides"] | balance}
    assert pipeline.parse(changed | {"out": "runs/x"})
    assert [list(part) for part in PARTS] == [["balance"], ["texts"]]
