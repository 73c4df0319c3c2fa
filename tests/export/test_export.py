"""The export stage: what the files hold, what is left out and why, resuming, and that `datasets` reads the folder."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from patentft import schema
from patentft.config import ConfigError, build, content
from patentft.export.run import EXPORT
from patentft.export.template import LeftOut, MessageConfig, check_order, parse
from patentft.location import Location
from patentft.progress import Progress
from patentft.stage import Context
from patentft.store import StageFolder, open_stage
from tests.tiny import save_tiny_bert

QUIET = Progress(quiet=True)
TEXTS = ["A pump (12).", "A filter {with} braces", "Ein Ventil für Gas \u2028 \U0001f600", " ", "A kiln", "A lamp"]


def stage(
    folder: Path, kind: str, tables: dict[str, list[list[dict[str, Any]]]], files: dict[str, bytes] | None = None
):
    """A finished stage with these parts."""
    opened = open_stage(Location(folder), kind, {}, {})
    for table, parts in tables.items():
        for index, rows in enumerate(parts):
            opened.write_part(table, index, pa.Table.from_pylist(rows, schema=schema.TABLES[table]))
    for path, data in (files or {}).items():
        opened.write_file(path, data)
    opened.finish()
    return opened


def text_row(number: int, text: str) -> dict[str, Any]:
    date = datetime.date(2015, 1, 1 + number)
    return {"text_id": f"T{number}", "patent_id": "P", "text": text, "date": date, "codes": ["Y02E", "B01D"]}


def label_row(number: int) -> dict[str, Any]:
    zeros = {f"y02{letter}": 0 for letter in "abcdeptw"}
    return {"text_id": f"T{number}", "green": number % 2, **zeros, "labels": [0, 1] if number % 2 else []}


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, StageFolder]:
    """Six texts in two parts; their labels cut elsewhere; roles in another order, T5 without one."""
    rows = [text_row(number, text) for number, text in enumerate(TEXTS)]
    labels = [label_row(number) for number in range(6)]
    sides = {"T4": "unused", "T3": "train", "T2": "valid", "T1": "test", "T0": "train"}
    roles = [{"id": name, "role": role} for name, role in sides.items()]
    names = json.dumps(["B01D", "Y02E"]).encode()
    return {
        "texts": stage(tmp_path / "texts", "texts", {"texts": [rows[:4], rows[4:]]}),
        "labels": stage(tmp_path / "labels", "labels", {"labels": [labels[:1], labels[1:]]}, {"labels.json": names}),
        "sides": stage(tmp_path / "sides", "sides", {"text_roles": [roles]}),
    }


def export(
    folder: Path, inputs: dict[str, StageFolder], values: dict[str, Any], models: dict[str, str] | None = None
) -> StageFolder:
    config = build(EXPORT.config, values)
    ids = {name: found.manifest.id for name, found in inputs.items() if found.manifest}
    opened = open_stage(Location(folder), EXPORT.kind, content(config), ids)
    if not opened.done:
        opened.finish(EXPORT.run(config, Context(opened, inputs, models or {}, progress=QUIET)))
    return opened


GREEN = {
    "data": "texts",
    "labels": "labels",
    "roles": "sides",
    "formats": ["chat", "parquet", "dataset"],
    "messages": [
        {"role": "system", "content": "Answer in {{one}} word."},
        {"role": "user", "content": "Green? {text}\nCodes: {codes}; of {date}; {family_id?}"},
        {"role": "assistant", "content": "{green}"},
    ],
    "values": {"green": {"1": "yes", "0": "no"}},
}


def lines(folder: StageFolder, path: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in folder.read_file(path).decode().splitlines() if line]


def test_chat_has_the_filled_templates_by_role(tmp_path: Path, inputs: dict[str, StageFolder]) -> None:
    found = export(tmp_path / "out", inputs, GREEN)
    (row,) = [json.loads(line) for line in found.read_file("chat/train-00000.jsonl").decode().split("\n") if line]
    assert row == {
        "messages": [
            {"role": "system", "content": "Answer in {one} word."},
            {"role": "user", "content": "Green? A pump (12).\nCodes: Y02E, B01D; of 2015-01-01;"},
            {"role": "assistant", "content": "no"},
        ]
    }
    (test,) = lines(found, "chat/test-00000.jsonl")
    assert test["messages"][1]["content"].startswith("Green? A filter {with} braces")
    assert test["messages"][2]["content"] == "yes"
    assert found.manifest is not None
    shards = {entry.path for entry in found.manifest.files if entry.path.startswith("chat/")}
    assert shards == {"chat/train-00000.jsonl", "chat/valid-00000.jsonl", "chat/test-00000.jsonl"}


def test_every_row_is_accounted_for(tmp_path: Path, inputs: dict[str, StageFolder]) -> None:
    found = export(tmp_path / "out", inputs, GREEN)
    assert found.manifest is not None
    counts = found.manifest.counts
    assert counts["rows"] == {"train": 1, "valid": 1, "test": 1}
    assert counts["other_roles"] == 1  # T4 is unused
    assert counts["reasons"] == {"empty field": 1, "no role": 1}
    assert counts["read"] == 6 == sum(counts["rows"].values()) + counts["other_roles"] + counts["quarantined"]
    rejected = found.read("quarantine").to_pylist()
    assert [(row["value"], row["file"], row["row"], row["column"]) for row in rejected] == [
        ("T3", "texts/part-00000.parquet", 3, "text"),
        ("T5", "texts/part-00001.parquet", 1, "text_id"),
    ]


def test_datasets_loads_the_folder(tmp_path: Path, inputs: dict[str, StageFolder], monkeypatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    found = export(tmp_path / "out", inputs, GREEN | {"license": "cc-by-4.0"})
    loaded = datasets.load_dataset(str(found.location / "dataset"), cache_dir=str(tmp_path / "cache"))
    assert {name: split.num_rows for name, split in loaded.items()} == {"train": 1, "validation": 1, "test": 1}
    row = loaded["test"][0]
    assert row["text"] == TEXTS[1]
    assert row["labels"] == ["B01D", "Y02E"]
    assert row["messages"][2] == {"role": "assistant", "content": "yes"}
    shard = pq.read_table(pa.BufferReader(found.read_file("parquet/valid-00000.parquet")))
    assert shard["text"].to_pylist() == [TEXTS[2]]
    assert "license: cc-by-4.0" in found.read_file("dataset/README.md").decode()


def test_a_killed_export_goes_on_and_gives_the_same_bytes(
    tmp_path: Path, inputs: dict[str, StageFolder], monkeypatch
) -> None:
    values = GREEN | {"roles": None}
    whole = export(tmp_path / "whole", inputs, values)
    original, written = StageFolder.write_file, []

    def stop(self: StageFolder, path: str, data: bytes) -> Any:
        if path == "dataset/data/train-00001.parquet":
            raise KeyboardInterrupt
        return original(self, path, data)

    with monkeypatch.context() as patch:
        patch.setattr(StageFolder, "write_file", stop)
        with pytest.raises(KeyboardInterrupt):
            export(tmp_path / "half", inputs, values)

    def note(self: StageFolder, path: str, data: bytes) -> Any:
        written.append(path)
        return original(self, path, data)

    monkeypatch.setattr(StageFolder, "write_file", note)
    half = export(tmp_path / "half", inputs, values)
    assert "chat/train-00001.jsonl" in written
    assert "chat/train-00000.jsonl" not in written
    assert half.manifest is not None
    assert whole.manifest is not None
    assert half.manifest.files == whole.manifest.files
    assert half.manifest.counts == whole.manifest.counts


def test_a_lost_shard_is_made_again(tmp_path: Path, inputs: dict[str, StageFolder]) -> None:
    whole = export(tmp_path / "out", inputs, GREEN)
    before = whole.read_file("chat/test-00000.jsonl")
    Path((whole.location / "chat/test-00000.jsonl").path).unlink()
    again = export(tmp_path / "out", inputs, GREEN)
    assert again.read_file("chat/test-00000.jsonl") == before


def test_tokens_are_counted_with_the_tokenizer(tmp_path: Path, inputs: dict[str, StageFolder]) -> None:
    model = save_tiny_bert(tmp_path / "model")
    values = {"data": "texts", "formats": ["parquet"], "columns": ["text_id", "text"], "tokenizer": "tiny"}
    found = export(tmp_path / "out", {"texts": inputs["texts"]}, values, {"tiny": model})
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    expected = sum(len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in TEXTS)
    assert found.manifest is not None
    assert found.manifest.counts["tokens"] == {"train": expected}
    shard = pq.read_table(pa.BufferReader(found.read_file("parquet/train-00001.parquet")))
    assert shard.column_names == ["text_id", "text"]


def test_questions_and_preferences_and_views(tmp_path: Path) -> None:
    qa = [{"qa_id": "Q0", "context": None, "question": "Why?", "answer": "So."}]
    qa.append({"qa_id": "Q1", "context": "A kiln.", "question": "Hot?", "answer": " "})
    data = {"qa": stage(tmp_path / "qa", "qa", {"qa": [qa]})}
    messages = [{"role": "user", "content": "{context?}\n{question}"}, {"role": "assistant", "content": "{answer}"}]
    found = export(tmp_path / "a", data, {"data": "qa", "table": "qa", "messages": messages})
    (row,) = lines(found, "chat/train-00000.jsonl")
    assert [message["content"] for message in row["messages"]] == ["Why?", "So."]
    assert found.manifest is not None
    assert found.manifest.counts["reasons"] == {"empty field": 1}
    pairs = [{"preference_id": "1", "context": None, "question": "q", "chosen": "a", "rejected": "b"}]
    data = {"p": stage(tmp_path / "p", "p", {"preferences": [pairs]})}
    found = export(tmp_path / "b", data, {"data": "p", "table": "preferences", "formats": ["dataset"]})
    shard = pq.read_table(pa.BufferReader(found.read_file("dataset/data/train-00000.parquet")))
    assert shard.to_pylist() == pairs
    window = {"text_id": "V", "view": "pair", "document": "CER", "section_ids": ["CER:::1"], "text": "Kilns."}
    window |= {"start_char": 0, "end_char": 6, "num_tokens": 3}
    data = {"v": stage(tmp_path / "v", "views", {"views": [[window]]})}
    found = export(tmp_path / "c", data, {"data": "v", "table": "views", "formats": ["parquet"]})
    assert pq.read_table(pa.BufferReader(found.read_file("parquet/train-00000.parquet")))["view"].to_pylist() == [
        "pair"
    ]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"messages": []}, "messages is empty"),
        ({"messages": [{"role": "user", "content": "x"}]}, "ending with assistant"),
        ({"messages": [{"role": "user", "content": "{txet}"}, GREEN["messages"][2]]}, "did you mean 'text'"),
        ({"messages": [{"role": "user", "content": "{text"}, GREEN["messages"][2]]}, "write {{ or }}"),
        ({"messages": [{"role": "user", "content": "{text!r}"}, GREEN["messages"][2]]}, "name alone"),
        ({"messages": [{"role": "user", "content": "{}"}, GREEN["messages"][2]]}, "is no column"),
        ({"labels": None}, "set labels to have it"),
        ({"columns": ["txt"]}, "'text'"),
        ({"table": "qa"}, "labels belong to texts"),
        ({"formats": []}, "formats"),
    ],
)
def test_mistakes_are_refused_before_anything_runs(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as error:
        build(EXPORT.config, GREEN | changes)
    assert words in str(error.value)


def test_labels_of_other_texts_and_values_without_a_word(tmp_path: Path, inputs: dict[str, StageFolder]) -> None:
    labels = [label_row(number) for number in (1, 0, 2, 3, 4, 5)]
    other = stage(tmp_path / "other", "labels", {"labels": [labels]})
    with pytest.raises(ConfigError, match="in their order"):
        export(tmp_path / "a", inputs | {"labels": other}, GREEN)
    short = stage(tmp_path / "short", "labels", {"labels": [labels[:2]]})
    with pytest.raises(ConfigError, match="labels 2 texts"):
        export(tmp_path / "b", inputs | {"labels": short}, GREEN)
    found = export(tmp_path / "c", inputs, GREEN | {"values": {"green": {"0": "no"}}})
    assert found.manifest is not None
    assert found.manifest.counts["reasons"] == {"no word": 2, "no role": 1}
    with pytest.raises(ConfigError, match="not one of 6 rows"):
        export(tmp_path / "d", inputs, GREEN | {"keep_roles": ["dev"]})


def test_a_template_fills_and_refuses() -> None:
    template = parse(MessageConfig(role="user", content="{{a}} {x} {y?}"), ["x", "y"])
    assert template.fill({"x": ["1", None, "2"], "y": None}) == "{a} 1, , 2"
    with pytest.raises(LeftOut):
        template.fill({"x": "\n", "y": "z"})
    check_order(["system", "user", "assistant", "user", "assistant"])
    for wrong in ([], ["system"], ["user"], ["assistant", "user"], ["user", "assistant", "system"]):
        with pytest.raises(ValueError, match="expected system"):
            check_order(wrong)  # type: ignore[arg-type]
