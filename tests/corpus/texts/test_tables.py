"""Texts from the tables of other stages, and sides that a split stage gave."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from patentft import pipeline, schema
from patentft.config import ConfigError
from patentft.corpus.texts.divide import by_split
from patentft.corpus.texts.source import as_texts, match_texts
from patentft.progress import Progress


def test_a_row_of_each_table() -> None:
    views = pa.Table.from_pylist(
        [
            {"text_id": "document/CER/0", "view": "document", "document": "CER", "section_ids": ["CER:::1"],
             "text": "Kilns.", "start_char": 0, "end_char": 6, "num_tokens": 3},
        ],
        schema=schema.VIEWS,
    )  # fmt: skip
    empty = {"patent_id": None, "family_id": None, "date": None, "codes": None}
    assert as_texts("views", views) == [{**empty, "text_id": "document/CER/0", "family_id": "CER", "text": "Kilns."}]
    section = {"document": "CER", "parent": None, "level": 1, "page": 1}
    sections = pa.Table.from_pylist(
        [
            {**section, "section_id": "CER:::1", "number": "1", "title": "Kilns", "text": "They burn."},
            {**section, "section_id": "CER:::2", "number": "2", "title": "Nothing", "text": ""},
        ],
        schema=schema.SECTIONS,
    )
    assert [(row["text_id"], row["family_id"], row["text"]) for row in as_texts("sections", sections)] == [
        ("CER:::1", "CER", "Kilns. They burn.")
    ]
    kilns = {"technique_id": "T1", "title": "Kilns", "text": "They burn."}
    techniques = pa.Table.from_pylist([kilns], schema.TECHNIQUES)
    assert as_texts("techniques", techniques)[0] == {**empty, "text_id": "T1", "text": "Kilns. They burn."}
    patents = pa.Table.from_pylist(
        [{"patent_id": "P1", "title": "A kiln", "abstract": "It burns.", "codes": ["F27B1/00"]}], schema.PATENTS
    )
    found = as_texts("patents", patents)[0]
    assert found == {**empty, "text_id": "P1", "patent_id": "P1", "text": "A kiln. It burns.", "codes": ["F27B1/00"]}
    matches = pa.Table.from_pylist([{"technique_id": "T1", "patent_id": "P1"}], schema.MATCHES)
    assert match_texts(matches, {"T1": "Kilns"}, {"P1": "A kiln"}) == [
        {**empty, "text_id": "T1>P1", "patent_id": "P1", "text": "Technique: Kilns\n\nPatent: A kiln"}
    ]


def test_sides_of_a_split() -> None:
    roles = {"T1": "train", "T2": "valid", "P1": "test", "P2": "unused"}
    given: Any = by_split(["T1", "T2", "T1>P1", "P2"], [None, None, "P1", "P2"], roles, "split")
    assert given.tolist() == [0, 1, 2, -1]
    with pytest.raises(ConfigError, match="'split' has no technique or patent 'T3'"):
        by_split(["T3"], [None], roles, "split")


@pytest.mark.ray
def test_no_held_out_technique_is_read(ray_cluster: None, tmp_path: Path) -> None:
    """The texts of the train side are those of train techniques, in words and in matches."""
    embed = {"kind": "embed", "data": "corpus", "table": "techniques", "model": "encoder", "max_tokens": 32}
    values = {
        "out": str(tmp_path),
        "corpus": {"kind": "synth", "patents": 60, "techniques": 12, "matches": 40},
        "encoder": {"kind": "tiny_model", "data": ["corpus"], "family": "bert", "hidden_size": 32},
        "vectors": {**embed, "long_text": "truncate"},
        "split": {"kind": "split", "data": "corpus", "techniques": "vectors", "similar_cosine": 1.0},
        "texts": {"kind": "texts", "each": {"table": ["techniques", "matches"]}, "data": "corpus"},
        "sides": {"kind": "divide", "each": {"table": ["techniques", "matches"]}, "data": "texts", "split": "split"},
    }
    folders = pipeline.run(pipeline.parse(values), Progress(quiet=True))
    roles = {row["id"]: row["role"] for row in folders["split"].read("technique_roles").to_pylist()}
    for table in ("techniques", "matches"):
        rows = folders[f"sides-{table}"].read("text_roles").to_pylist()
        seen = {row["id"].split(">")[0] for row in rows if row["role"] == "train"}
        assert seen
        assert {roles[technique] for technique in seen} == {"train"}
