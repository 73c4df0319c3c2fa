"""Questions and preferences from their tables: in order, and no question on both sides."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from patentft import schema
from patentft.config import ConfigError, build
from patentft.location import Location
from patentft.store import StageFolder, open_stage
from patentft.train.config import TrainConfig
from patentft.train.data import LOADERS


def stage(folder: Path, table: str, rows: list[dict[str, str | None]]) -> StageFolder:
    written = open_stage(Location(folder), "qa", {}, {})
    written.write_part(table, 0, pa.Table.from_pylist(rows, schema=schema.TABLES[table]))
    written.finish({})
    return open_stage(Location(folder), "qa", {}, {})


def question(number: int, context: str | None = None, **changes: str) -> dict[str, str | None]:
    return {"qa_id": f"Q{number}", "context": context, "question": f"Which {number}?", "answer": "lime", **changes}


def preference(number: int, context: str | None = None) -> dict[str, str | None]:
    row = {"preference_id": f"P{number}", "context": context, "question": f"Which {number}?"}
    return {**row, "chosen": f"lime {number}", "rejected": "sand"}


def settings(kind: str) -> TrainConfig:
    objective = {"kind": "instruct" if kind == "qa" else "dpo"}
    return build(TrainConfig, {kind: "one", f"{kind}_valid": "two", "model": "m", "objective": objective})


def load(tmp_path: Path, kind: str, side: str, train: list, valid: list):
    inputs = {"one": stage(tmp_path / "one", kind, train), "two": stage(tmp_path / "two", kind, valid)}
    return LOADERS[kind](settings(kind), inputs, side)


def test_rows_come_in_the_tables_order(tmp_path):
    train, valid = [question(1, "dust"), question(0)], [question(2), question(1, "gas")]
    texts = load(tmp_path / "qa", "qa", "train", train, valid)
    assert (texts.qa_ids, texts.contexts, texts.answers) == (["Q1", "Q0"], ["dust", None], ["lime", "lime"])
    assert load(tmp_path / "other", "qa", "valid", train, valid).questions == ["Which 2?", "Which 1?"]
    texts = load(tmp_path / "p", "preferences", "train", [preference(3), preference(3)], [preference(4)])
    assert (texts.preference_ids, texts.chosen, texts.rejected) == (["P3", "P3"], ["lime 3"] * 2, ["sand"] * 2)


@pytest.mark.parametrize("side", ["train", "valid"])
def test_a_question_on_both_sides_is_named(tmp_path, side):
    train = [question(0), question(1, "dust")]
    valid = [question(2), question(7, "dust", question="Which 1?", answer="another")]
    row = "Q1" if side == "train" else "Q7"
    message = rf"1 questions are on both sides, in stage 'one' and in stage 'two', such as 'Which 1\?' of row '{row}'"
    with pytest.raises(ConfigError, match=message):
        load(tmp_path / "qa", "qa", side, train, valid)
    with pytest.raises(ConfigError, match=r"'Which 5\?' of row 'P5': .* give preferences_valid questions"):
        load(tmp_path / "p", "preferences", side, [preference(5)], [preference(5)])


def test_an_empty_side_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"stage 'two' has no rows of qa for the valid side"):
        load(tmp_path, "qa", "valid", [question(0)], [])
