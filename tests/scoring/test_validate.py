"""The validate stage: a real server that answers, and a tiny local model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from patentft import schema
from patentft.config import ConfigError, build
from patentft.generate.chat import Answer
from patentft.location import Location
from patentft.scoring.validate import VALIDATE, ValidateConfig, read_answer
from patentft.stage import Context
from patentft.store import StageFolder, open_stage
from tests.generate.test_endpoint import KEY, Server, completion, server
from tests.tiny import save_tiny_chat

__all__ = ["server"]  # the fixture

TECHNIQUES, PATENTS = 6, 10


def world(folder: Path) -> dict[str, StageFolder]:
    """Every pair is scored; the log-odds of (T_i, P_j) are j - i - 4, and a probability of .5 or more is a yes."""
    data = open_stage(Location(folder / "corpus"), "corpus", {}, {})
    patents = [{"patent_id": f"P{j}", "title": f"Device {j}", "abstract": "dust " * 9} for j in range(PATENTS)]
    data.write_part("patents", 0, pa.Table.from_pylist(patents, schema=schema.PATENTS))
    techniques = [{"technique_id": f"T{i}", "title": f"Filter {i}", "text": "bags " * 9} for i in range(TECHNIQUES)]
    data.write_part("techniques", 0, pa.Table.from_pylist(techniques, schema=schema.TECHNIQUES))
    data.finish({})
    scores = open_stage(Location(folder / "scores"), "score", {}, {})
    for i in range(TECHNIQUES):
        rows = []
        for j in range(PATENTS):
            odds = float(j - i - 4)
            row = {"technique_id": f"T{i}", "patent_id": f"P{j}", "role": "test" if i else "valid", "chunk": 0}
            row |= {"cosine": 0.5, "cross_logit": odds, "log_odds": odds, "probability": 0.5 if odds >= 0 else 0.1}
            rows.append(row)
        scores.write_part("scores", i, pa.Table.from_pylist(rows, schema=schema.SCORES))
    scores.finish({"threshold": 0.5})
    return {"corpus": data, "scores": scores}


def validate(folder: Path, inputs: dict[str, StageFolder], models: dict[str, str] | None = None, **values: Any):
    config = build(ValidateConfig, {"scores": "scores", "data": "corpus", **values})
    stage = open_stage(Location(folder), "validate", {"n": str(folder)}, {})
    counts = dict(VALIDATE.run(config, Context(stage, inputs, models or {})))
    stage.finish(counts)
    return counts, stage.read("validations").to_pylist()


def truth(body: dict) -> bool:
    """The server's mind: yes where the patent's number is 6 or more and the technique's is not 5."""
    text = body["messages"][-1]["content"]
    return any(f"Device {j}." in text for j in (6, 7, 8, 9)) and "Title: Filter 5\n" not in text


def endpoint(served: Server, **values: Any) -> dict[str, Any]:
    address = f"http://127.0.0.1:{served.server_address[1]}/v1"
    return {"base_url": address, "model": "judge", "key_variable": "EXAMPLE_KEY", "concurrency": 2, **values}


def test_all_pairs_asked_of_an_endpoint(server: Server, tmp_path: Path):
    server.reply = lambda body, number: completion("Yes." if truth(body) else " no", 100, 2)
    inputs = world(tmp_path)
    given = {"endpoint": endpoint(server), "cache": str(tmp_path / "cache"), "per_stratum": 99, "rows_per_part": 16}
    counts, rows = validate(tmp_path / "out", inputs, **given)
    assert (counts["pairs"], counts["drawn"], counts["unanswered"], len(rows)) == (60, 60, 0, 60)
    for row in rows:
        i, j = int(row["technique_id"][1:]), int(row["patent_id"][1:])
        assert row["yes"] == (j - i - 4 >= 0)
        assert row["judged_yes"] == (j >= 6 and i != 5)
    both = sum(j - i - 4 >= 0 and j >= 6 and i != 5 for i in range(6) for j in range(10))
    said = counts["estimates"]
    assert said["precision"]["estimate"] == pytest.approx(both / counts["yes"])
    assert said["recall"]["estimate"] == pytest.approx(both / 20)
    assert counts["prompt_tokens"] == 6000
    assert sum(stratum["pairs"] for stratum in counts["strata"]) == 60
    body = server.requests[0][2]
    assert body["messages"][0] == {"role": "system", "content": "You are an engineer and an expert of environmental "
                                   "regulation."}  # fmt: skip
    text = body["messages"][1]["content"]
    assert "Section Title: Filter" in text
    assert "Patent: Device" in text
    assert not any(KEY in path.read_text(errors="ignore") for path in tmp_path.rglob("*") if path.is_file())
    counts, rows_again = validate(tmp_path / "again", inputs, **given)  # paid for once
    assert rows_again == rows
    assert len(server.requests) == 60


def test_a_sample_with_every_yes_and_answers_that_are_none(server: Server, tmp_path: Path):
    def reply(body: dict, number: int):
        if "Device 3." in body["messages"][-1]["content"]:
            return completion("It depends.")
        return completion("yes" if truth(body) else "no")

    server.reply = reply
    given = {"endpoint": endpoint(server), "cache": str(tmp_path / "cache"), "role": "test", "section_characters": 10}
    counts, rows = validate(
        tmp_path / "out", world(tmp_path), **given, per_stratum=3, quantiles=2, every_yes=True, threshold=1.0
    )
    assert {row["role"] for row in rows} == {"test"}
    every = sum(j - i - 4 >= 1 for i in range(1, 6) for j in range(10))
    assert sum(row["yes"] for row in rows) == counts["yes"] == every
    assert counts["drawn"] == len(rows) == counts["yes"] + 6
    assert counts["unanswered"] == sum(row["judged_yes"] is None for row in rows)
    assert counts["texts_cut"] == len(rows)


def test_a_run_that_reached_its_cap_goes_on(server: Server, tmp_path: Path):
    inputs = world(tmp_path)
    prices = {"prompt_price": 1e6, "answer_price": 0, "concurrency": 1}
    given = {"cache": str(tmp_path / "cache"), "per_stratum": 99, "rows_per_part": 16}
    with pytest.raises(ConfigError, match="raise cost_cap and run again"):
        validate(tmp_path / "out", inputs, endpoint=endpoint(server, **prices, cost_cap=1000), **given)
    asked = len(server.requests)
    assert 16 < asked < 60  # ten tokens each, at one a token; the most a request can be is some 500
    counts, _ = validate(tmp_path / "out", inputs, endpoint=endpoint(server, **prices, cost_cap=9000), **given)
    assert counts["unanswered"] == 0
    assert len(server.requests) == 60


def test_a_local_model(tmp_path: Path):
    model = save_tiny_chat(tmp_path / "model")
    inputs = world(tmp_path)
    short = {"section_characters": 5, "patent_characters": 5, "question": "Useful?", "prompt": {"system": None}}
    given = {"model": "m", "answer": "logprobs", "per_stratum": 1, "quantiles": 1, **short}
    with pytest.raises(ConfigError, match="answered none of the pairs with yes or no"):  # it was taught nothing
        validate(tmp_path / "out", inputs, {"m": model}, **given)
    rows = open_stage(Location(tmp_path / "out"), "validate", {"n": str(tmp_path / "out")}, {})
    assert rows.read_part(rows.entry("validations", 0)).num_rows == 2


def test_what_counts_as_an_answer():
    def said(text: str, **more: Any) -> Answer:
        return Answer(text, 1, 1, True, **more)

    assert [read_answer(said(t), "text")[0] for t in ("Yes", "**No**, it", "yes.", "Yesterday", "")] == [
        True,
        False,
        True,
        None,
        None,
    ]
    yes, odds = read_answer(said("The", first_token={"No": -0.5, "Yes": -1.0}), "logprobs")
    assert (yes, odds) == (False, -0.5)
    assert read_answer(said("x", value={"answer": "yes"}), "json") == (True, None)
    assert read_answer(said("x", problem="it is not JSON"), "json") == (None, None)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "set one of model and endpoint"),
        ({"model": "m", "answer": "json"}, "JSON does not fit into settings.max_new_tokens = 8"),
        ({"endpoint": {"base_url": "http://h/v1", "model": "m"}}, "set cache to a folder"),
        ({"model": "m", "endpoint": {"base_url": "http://h/v1", "model": "m"}}, "set one of model and endpoint"),
    ],
)
def test_what_makes_no_sense_is_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        build(ValidateConfig, {"scores": "s", "data": "d", **values})


def test_scores_without_a_threshold_say_what_to_set(tmp_path: Path):
    inputs = world(tmp_path)
    assert inputs["scores"].manifest is not None
    inputs["scores"].manifest.counts["threshold"] = None
    with pytest.raises(ConfigError, match="has no threshold of its own"):
        validate(tmp_path / "out", inputs, {"m": "x"}, model="m")
