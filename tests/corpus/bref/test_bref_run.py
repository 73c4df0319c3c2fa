"""The stages bref and views, as the pipeline runs them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer

from patentft.config import ConfigError
from patentft.corpus.bref.windows import covers
from patentft.location import Location
from patentft.models.tokenizer import resolve_tokenizer, tokenizer_fingerprint
from patentft.pipeline import parse, run
from patentft.progress import Progress
from patentft.store import StageFolder
from tests.corpus.bref.pdf_writer import column, write_pdf
from tests.corpus.bref.report import FILLER, document, pages

ALL = ("document", "chapter", "enriched", "pair")


def go(out: Path, stages: dict[str, Any]) -> dict[str, StageFolder]:
    return run(parse({"out": str(out), **stages}), Progress(quiet=True))


def counts(folder: StageFolder) -> dict[str, Any]:
    assert folder.manifest is not None
    return folder.manifest.counts


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer without any model beside it; like many, it says that it cuts at 16 tokens."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[UNK]", "[CLS]", "[SEP]"]
    tokenizer.train_from_iterator(FILLER, trainers.WordPieceTrainer(vocab_size=120, special_tokens=special))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    tokenizer.enable_truncation(16)
    tokenizer.enable_padding(length=16)
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    return folder


@pytest.fixture(scope="module")
def pdfs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pdfs")
    (folder / "GLS.pdf").write_bytes(document())
    (folder / "bad.pdf").write_bytes(document()[:900])
    (folder / "letter.pdf").write_bytes(write_pdf([column(FILLER)] * 3))
    (folder / "notes.txt").write_text("not a document")
    return folder


def test_documents_views_and_quarantine(pdfs: Path, tokenizer_folder: Path, tmp_path: Path) -> None:
    bref = {"kind": "bref", "files": f"{pdfs}/*.pdf"}
    views = {
        "kind": "views",
        "data": "bref",
        "tokenizer": str(tokenizer_folder),
        "max_tokens": 60,
        "overlap_tokens": 12,
    }
    found = go(tmp_path / "run", {"bref": bref, "views": views})
    about = counts(found["bref"])
    assert (about["documents"], about["listed"], about["listed_and_found"]) == (1, 7, 7)
    assert (about["citations_resolved"], about["citations_unresolved"]) == (5, 1)
    assert about["by_document"]["GLS"]["unresolved"] == ["GLS:::1.2: Section 9.9"]
    bad = found["bref"].read("quarantine").to_pylist()
    assert [(row["file"], row["reason"].split(":")[0]) for row in bad] == [
        (str(pdfs / "bad.pdf"), "cut off"),
        (str(pdfs / "letter.pdf"), "no heading found"),
    ]
    assert [entry.rows for entry in found["bref"].parts("sections")] == [9, 0, 0]  # GLS, bad, letter

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    rows = found["views"].read("views").to_pylist()
    sections = {row["section_id"]: row for row in found["bref"].read("sections").to_pylist()}
    assert len({row["text_id"] for row in rows}) == len(rows)
    for view in ALL:
        own = [row for row in rows if row["view"] == view]
        told = counts(found["views"])[view]
        assert (told["windows"], told["tokens"]) == (len(own), sum(row["num_tokens"] for row in own))
        assert told["texts"] == len({row["text_id"].rpartition("/")[0] for row in own})
    for row in rows:
        encoded = tokenizer(row["text"], truncation=False, padding=False)["input_ids"]
        assert len(encoded) == row["num_tokens"] <= 60
        assert row["end_char"] - row["start_char"] == len(row["text"])
        assert set(row["section_ids"]) <= sections.keys()
    pair = [row["section_ids"] for row in rows if row["text_id"].startswith("pair/GLS:::1.1>GLS:::2.1.1/")]
    assert {name for ids in pair for name in ids} == {"GLS:::1.1", "GLS:::2.1.1"}
    chapter = [row for row in rows if row["text_id"].startswith("chapter/GLS:::2/")]
    spans = [type("W", (), {"start": row["start_char"], "end": row["end_char"]}) for row in chapter]
    assert len(spans) > 2
    assert covers(spans, chapter[-1]["end_char"])  # pyright: ignore[reportArgumentType]


def test_a_stage_that_was_cut_short_goes_on_where_it_was(
    pdfs: Path, tokenizer_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "brefs"
    folder.mkdir()
    for code in ("A", "B"):
        (folder / f"{code}.pdf").write_bytes(document())
    stages = {
        "bref": {"kind": "bref", "files": f"{folder}/*.pdf"},
        "views": {"kind": "views", "data": "bref", "tokenizer": str(tokenizer_folder), "max_tokens": 64},
    }
    whole = go(tmp_path / "whole", stages)

    class Stop(Exception):
        pass

    original = StageFolder._commit
    for stop_at in ("citations/part-00001.parquet", "documents/00001.json", "views/part-00001.parquet"):

        def commit(self: StageFolder, path: str, *rest: Any, stop_at: str = stop_at) -> Any:
            if path == stop_at:
                raise Stop
            return original(self, path, *rest)

        with monkeypatch.context() as patch:
            patch.setattr(StageFolder, "_commit", commit)
            with pytest.raises(Stop):
                go(tmp_path / "cut", stages)
    resumed = go(tmp_path / "cut", stages)
    for name in stages:
        assert resumed[name].manifest is not None
        assert whole[name].manifest is not None
        assert resumed[name].manifest.id == whole[name].manifest.id
        assert counts(resumed[name]) == counts(whole[name])


def test_a_document_that_lost_its_headings_is_warned_about(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As of a file whose pages are damaged: the contents list more than is there."""
    (tmp_path / "a.pdf").write_bytes(write_pdf(pages()[:6]))
    (tmp_path / "b.pdf").write_bytes(write_pdf(pages()[2:]))
    go(tmp_path / "run", {"bref": {"kind": "bref", "files": f"{tmp_path}/*.pdf"}})
    told = capsys.readouterr().err
    assert "document a: only 6 of the 7 numbered headings that its contents pages list were found; missing: 2.2" in told
    assert "document b has neither a table of contents nor bookmarks" in told


def test_codes_name_documents_and_must_differ(tmp_path: Path) -> None:
    (tmp_path / "gls_bref_0307.pdf").write_bytes(document())
    (tmp_path / "other.pdf").write_bytes(document())
    bref: dict[str, Any] = {"kind": "bref", "files": f"{tmp_path}/*.pdf", "codes": {"gls_bref_0307.pdf": "GLS"}}
    found = go(tmp_path / "a", {"bref": bref})["bref"].read("sections")["document"].to_pylist()
    assert set(found) == {"GLS", "other"}
    with pytest.raises(ConfigError, match="two files have the document code 'other'"):
        go(tmp_path / "b", {"bref": {**bref, "codes": {"gls_bref_0307.pdf": "other"}}})
    with pytest.raises(ConfigError, match=r"no file is called 'other2.pdf'; did you mean 'other.pdf'"):
        go(tmp_path / "c", {"bref": {**bref, "codes": {"other2.pdf": "X"}}})


def test_no_readable_document_is_an_error_that_names_each(pdfs: Path, tmp_path: Path) -> None:
    stages = {"bref": {"kind": "bref", "files": f"{pdfs}/bad.pdf"}}
    with pytest.raises(ConfigError, match=r"no PDF could be read\n.*bad\.pdf: cut off"):
        go(tmp_path / "run", stages)
    # nothing was committed: the same folder serves once the file is mended
    go(tmp_path / "run", {"bref": {"kind": "bref", "files": f"{pdfs}/GLS.pdf"}})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "set either files"),
        ({"files": "x.pdf", "tables": {"texts": {"files": "t.parquet"}}}, "set either files"),
        ({"files": "x.pdf", "codes": {"x.pdf": "a:::b"}}, "expected a short name such as CER"),
    ],
)
def test_impossible_settings_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse({"out": "x", "bref": {"kind": "bref", **values}})


def test_size_limit(pdfs: Path, tmp_path: Path) -> None:
    bref = {"kind": "bref", "files": str(pdfs / "GLS.pdf"), "max_megabytes": 0.001}
    with pytest.raises(ConfigError, match=r"0 MB, max_megabytes is 0\.001"):
        go(tmp_path / "run", {"bref": bref})


# ---- from tables


def test_sections_from_tables(tmp_path: Path) -> None:
    tree = [
        ("CER:::4", "CER", None, "TECHNIQUES"),
        ("CER:::4.10", "CER", "CER:::4", "Tenth"),
        ("CER:::4.2", "CER", None, "Second"),
        ("CER:::4.2", "CER", None, "Second again"),
        ("nonsense", "CER", None, "No id"),
        ("CER:::5", "GLS", None, "Other document"),
        ("GLS:::1", None, "", "Glass"),
    ]
    names = ["section_id", "document", "parent", "title"]
    columns = [list(column) for column in zip(*tree, strict=True)]
    pq.write_table(pa.table(dict(zip(names, columns, strict=True))), tmp_path / "tree.parquet")
    texts = [
        {"id": "CER:::4.2", "title": "Second", "text": "Second \n\nsee Section 4.10 and Section 7."},
        {"id": "CER:::4.10.1", "title": "Deeper", "text": "See Chapter 4."},
        {"id": "noid", "title": "x", "text": "y"},
    ]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in texts))
    tables: dict[str, dict[str, Any]] = {
        "sections": {"files": str(tmp_path / "tree.parquet")},
        "texts": {"files": str(tmp_path / "texts.jsonl"), "columns": {"technique_id": "id"}},
    }
    found = go(tmp_path / "run", {"bref": {"kind": "bref", "tables": tables}})["bref"]
    rows = found.read("sections").to_pylist()
    assert [(row["section_id"], row["parent"], row["level"], row["text"]) for row in rows] == [
        ("CER:::4", None, 1, ""),
        ("CER:::4.2", "CER:::4", 2, "see Section 4.10 and Section 7."),
        ("CER:::4.10", "CER:::4", 2, ""),
        ("CER:::4.10.1", "CER:::4.10", 3, "See Chapter 4."),
        ("GLS:::1", None, 1, ""),
    ]
    links = [(row["section_id"], row["cited_id"]) for row in found.read("citations").to_pylist()]
    assert links == [("CER:::4.2", "CER:::4.10"), ("CER:::4.2", None), ("CER:::4.10.1", "CER:::4")]
    bad = [(row["table"], row["row"], row["column"]) for row in found.read("quarantine").to_pylist()]
    assert bad == [
        ("sections", 3, "section_id"),
        ("sections", 4, "section_id"),
        ("sections", 5, "document"),
        ("techniques", 2, "technique_id"),
    ]
    tables["sections"] |= {"columns": {"section_id": "section"}}
    with pytest.raises(ConfigError, match=r"no column 'section' for sections.section_id"):
        go(tmp_path / "other", {"bref": {"kind": "bref", "tables": tables}})


# ---- tokenizers


def test_a_tokenizer_is_its_own_files_only(tokenizer_folder: Path, tmp_path: Path) -> None:
    assert resolve_tokenizer(str(tokenizer_folder)) == str(tokenizer_folder.resolve())
    before = tokenizer_fingerprint(str(tokenizer_folder))
    weights = tokenizer_folder / "model.safetensors"
    weights.write_bytes(b"x")
    assert tokenizer_fingerprint(str(tokenizer_folder)) == before
    weights.unlink()
    (tmp_path / "README.md").write_text("no tokenizer")
    with pytest.raises(ConfigError, match="not a tokenizer folder"):
        resolve_tokenizer(str(tmp_path))
    with pytest.raises(ConfigError, match="no such folder"):
        resolve_tokenizer(str(tmp_path / "absent"))


def test_another_tokenizer_is_another_run(pdfs: Path, tokenizer_folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "tokenizer"
    copy.mkdir()
    for file in tokenizer_folder.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    stages = {
        "bref": {"kind": "bref", "files": str(pdfs / "GLS.pdf")},
        "views": {"kind": "views", "data": "bref", "tokenizer": str(copy), "views": ["document"]},
    }
    first = go(tmp_path / "run", stages)["views"]
    assert first.manifest is not None
    assert f"tokenizer:{copy}" in first.manifest.inputs
    (copy / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[UNK]"}')
    with pytest.raises(ConfigError, match="made under another configuration"):
        go(tmp_path / "run", stages)


def test_globs_of_pdfs_and_only_those(pdfs: Path) -> None:
    from patentft.corpus.read import list_files

    assert [file.name for file in list_files(f"{pdfs}/*.pdf")] == ["GLS.pdf", "bad.pdf", "letter.pdf"]
    with pytest.raises(ConfigError, match="no data file"):
        list_files(str(pdfs))  # a folder stands for its tables
    assert Location(pdfs / "GLS.pdf").is_file()
