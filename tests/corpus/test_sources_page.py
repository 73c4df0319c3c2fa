"""Every pipeline of docs/corpus-sources.md runs as it is written, on small files with the names it gives."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from patentft import pipeline
from patentft.progress import Progress
from patentft.store import StageFolder
from tests.conftest import REPOSITORY
from tests.corpus.join.test_join import CLAIMS, CPC, PATENTS, SMALL, tsv
from tests.corpus.patent_xml import EP, ST36
from tests.corpus.test_stream import zipped

PAGE = REPOSITORY / "docs" / "corpus-sources.md"
BLOCKS = {yaml.safe_load(text)["out"]: text for text in re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)}


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
    return folder


def run(out: str) -> dict[str, StageFolder]:
    return pipeline.run(pipeline.parse(yaml.safe_load(BLOCKS[out])), Progress(quiet=True))


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
def test_patentsview(raw: Path, ray_cluster: None) -> None:
    claims = run("runs/patentsview")["claims"]
    assert sorted(column(claims, "texts", "text_id")) == ["10-0", "10-10", "10-2", "7-0"]
    patents = run("runs/patentsview-patents")["patents"]
    assert sorted(column(patents, "texts", "text")) == ["Chair", "Fan", "Filter. A filter."]


def test_every_pipeline_of_the_page_is_tested() -> None:
    tested = {"runs/csv", "runs/xml", "runs/questions", "runs/hugging-face", "runs/patentsview"}
    assert BLOCKS.keys() == tested | {"runs/patentsview-patents"}
