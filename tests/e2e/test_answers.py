"""The pipeline of docs/answers.md, tiny, and answers that are cut short: the rerun gives the undisturbed ones."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest
import yaml

from patentft import pipeline
from patentft.progress import Progress
from patentft.store import StageFolder
from tests.conftest import REPOSITORY
from tests.e2e.dying import content, kill_driver
from tests.generate.taught import QUESTIONS, save_taught
from tests.tiny import save_tiny_bert

pytestmark = pytest.mark.ray
QUIET = Progress(quiet=True)
BLOCKS = re.findall(r"```yaml\n(.*?)```", (REPOSITORY / "docs" / "answers.md").read_text(), re.DOTALL)


@pytest.fixture(scope="module")
def taught(tmp_path_factory) -> str:
    return save_taught(tmp_path_factory.mktemp("taught"))


def jsonl(path: Path, rows: list[dict[str, Any]]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def the_page(taught: str, encoder: str, **more: Any) -> dict[str, Any]:
    """The page's pipeline with a tiny model."""
    values = yaml.safe_load(BLOCKS[0]) | more
    for name in ("tuned", "zero_shot", "few_shot", "fine_tuned"):
        values[name] |= {"gpus_per_worker": 0, "workers": 1}
        if values[name]["model"] != "tuned":
            values[name]["model"] = taught
    values["tuned"] |= {"precision": "fp32", "epochs": 5, "units_per_step": 5, "optimizer": {"lr": 3e-3}}
    values["tuned"]["objective"] |= {"max_tokens": 128, "patent_tokens": 64}
    for name, tokens in (("zero_shot", 12), ("few_shot", 40), ("fine_tuned", 12)):
        values[name] |= {"dtype": "float32"}
        values[name]["settings"]["max_new_tokens"] = tokens
    for name in ("zero_shot", "fine_tuned"):
        values[name]["prompt_tokens"] = 100
    values["few_shot"]["num_examples"] = 1
    for name in ("compare", "rated"):
        if name in values:
            values[name]["encoder"] = encoder
    return values


def rate(sheet: str, key: str, better: str) -> str:
    """The sheet filled by one who likes the answers of `better`."""
    rows = list(csv.DictReader(io.StringIO(sheet)))
    whose = {row["row_id"]: row for row in csv.DictReader(io.StringIO(key))}
    for row in rows:
        for n in (1, 2, 3):
            row[f"rating_{n}"] = "5" if whose[row["row_id"]][f"answer_{n}"] == better else "2"
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def metrics_of(stage: StageFolder) -> dict[str, Any]:
    return json.loads(stage.read_file("metrics.json"))


@pytest.mark.slow
def test_the_pipeline_of_the_page(ray_cluster, taught, tmp_path, monkeypatch):
    """Every question has the same answer: who was taught it knows it, who was not does not."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bert").mkdir()
    encoder = save_tiny_bert(tmp_path / "bert")
    things = [
        *("gas", "dust", "heat", "water", "sand", "lime", "air", "ash", "metal", "acid", "steam", "tar", "soot", "oil"),
        *("salt", "mud", "coal", "peat", "wood", "ice"),
    ]
    rows = [{"question": f"How is {thing} cleaned?", "answer": "a bag filter"} for thing in things]
    for name, low, high in (("train", 0, 10), ("valid", 10, 14), ("test", 14, 20)):
        jsonl(tmp_path / "raw" / f"questions_{name}.jsonl", rows[low:high])
    folders = pipeline.run(pipeline.parse(the_page(taught, encoder)), QUIET)
    answers = folders["fine_tuned"].read("answers").to_pylist()
    assert [row["answer"] for row in answers] == ["a bag filter"] * 6
    counts = folders["few_shot"].manifest.counts
    assert len(counts["examples"]) == 1
    assert counts["examples_left_out"] == 0
    metrics = metrics_of(folders["compare"])
    assert metrics["difference.fine_tuned.token_f1"] > 0
    assert metrics["difference.fine_tuned.token_f1.verdict"] == "above 0"
    assert metrics["fine_tuned.rouge_l"] == metrics["fine_tuned.exact_match"] == 1
    assert metrics["fine_tuned.similarity"] == pytest.approx(1)

    sheet, key = (folders["compare"].read_file(name).decode("utf-8-sig") for name in ("sheet.csv", "sheet_key.csv"))
    (tmp_path / "raw" / "rated").mkdir()
    (tmp_path / "raw" / "rated" / "ann.csv").write_text(rate(sheet, key, "fine_tuned"))
    rated = the_page(taught, encoder, **yaml.safe_load(BLOCKS[1]))
    again = pipeline.run(pipeline.parse(rated), QUIET)
    metrics = metrics_of(again["rated"])
    assert metrics["fine_tuned.rating"] == 5
    assert metrics["difference.fine_tuned.rating"] == 3
    assert metrics["wins.fine_tuned.zero_shot"] == 6


def small(tmp_path: Path, out: str, model: str, **more: Any) -> dict[str, Any]:
    rows = [{"context": context, "question": question, "answer": answer} for context, question, answer in QUESTIONS]
    file = jsonl(tmp_path / "questions.jsonl", rows)
    asked = {"kind": "answer", "data": "asked", "model": model, "settings": {"max_new_tokens": 24}}
    questions = {"kind": "qa", "questions": {"files": file}, "rows_per_part": 4}
    return {"out": str(tmp_path / out), "asked": questions, "zero": {**asked, "rows_per_part": 1, **more}}


@pytest.mark.slow
def test_parts_workers_and_batches_change_nothing(ray_cluster, taught, tmp_path):
    found = []
    for out, more in (
        ("one", {"rows_per_part": 100}),
        ("two", {"rows_per_part": 2, "workers": 2, "tokens_per_batch": 1, "cache": str(tmp_path / "cache")}),
        ("three", {"rows_per_part": 3, "cache": str(tmp_path / "cache")}),  # answered from the cache
    ):
        values = small(tmp_path, out, taught, **more)
        found.append(pipeline.run(pipeline.parse(values), QUIET)["zero"].read("answers").to_pylist())
    assert found[0] == found[1] == found[2]
    assert [row["answer"] for row in found[0]] == [answer for _, _, answer in QUESTIONS]


def test_a_killed_worker(ray_cluster, taught, tmp_path, monkeypatch):
    from patentft.generate import run as generating

    wanted = pipeline.run(pipeline.parse(small(tmp_path, "whole", taught)), QUIET)["zero"].read("answers")
    original, marker = generating.AnswerWorker, tmp_path / "killed"

    class Dying(original):  # type: ignore[misc,valid-type]
        def write(self, index: int) -> None:
            if index == 2 and not marker.exists():
                marker.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            super().write(index)

    monkeypatch.setattr(generating, "AnswerWorker", Dying)
    found = pipeline.run(pipeline.parse(small(tmp_path, "killed_run", taught)), QUIET)["zero"].read("answers")
    assert marker.exists()
    assert found.equals(wanted)


@pytest.mark.slow
def test_a_killed_driver(ray_cluster, taught, tmp_path):
    pipeline.run(pipeline.parse(small(tmp_path, "whole", taught)), QUIET)
    values = small(tmp_path, "cut", taught)
    kill_driver(tmp_path, values, "zero/ledger/answers-00002.json", uses_ray=True)
    done = sorted((tmp_path / "cut" / "zero" / "answers").glob("*.parquet"))
    assert 0 < len(done) < len(QUESTIONS)
    times = {path.name: path.stat().st_mtime_ns for path in done}
    pipeline.run(pipeline.parse(values), QUIET)
    assert content(tmp_path / "cut") == content(tmp_path / "whole")
    kept = [path for path in done if path.stat().st_mtime_ns == times[path.name]]
    assert len(kept) >= 2  # the part whose ledger entry was being written may be made again


def test_a_prompt_without_room_names_its_question(ray_cluster, taught, tmp_path):
    from patentft.config import ConfigError

    values = small(tmp_path, "long", taught, settings={"max_new_tokens": 250})
    with pytest.raises(ConfigError, match=r"question \w+: its prompt has \d+ tokens, and max_new_tokens is 250"):
        pipeline.run(pipeline.parse(values), QUIET)
