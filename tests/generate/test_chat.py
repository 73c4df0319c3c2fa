"""Asked once, answered from the cache ever after; JSON that does not fit its schema is asked for again, so often."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from patentft.config import ConfigError
from patentft.generate.cache import AnswerCache
from patentft.generate.chat import Chat, InvalidAnswer
from patentft.generate.interface import Completion, Generator, Interrupted, Prompt, Settings
from patentft.generate.local import load_local
from patentft.generate.structured import SchemaCheck, find_json
from patentft.location import Location
from tests.generate.taught import QUESTIONS, user_text

SCHEMA = {
    "type": "object",
    "properties": {"answer": {"enum": ["yes", "no"]}, "score": {"type": "integer"}},
    "required": ["answer"],
    "additionalProperties": False,
}


class Scripted:
    """A Generator that says what is written in its script, by the first word of the question, one attempt a line."""

    identity = "scripted"

    def __init__(self, script: dict[str, list[str]]) -> None:
        self.script, self.calls = script, []  # type: ignore[var-annotated]

    def generate(self, prompts: Sequence[Prompt], settings: Settings) -> list[Completion]:
        self.calls.append(list(prompts))
        found = []
        for prompt in prompts:
            text = self.script[prompt.messages[0]["content"].split()[0]][prompt.attempt]
            found.append(Completion(text, 5, len(text), True))
        return found


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def chat(script: dict[str, list[str]], cache: Path | None = None, retries: int = 2) -> Chat:
    generator: Generator = Scripted(script)
    return Chat(generator, Settings(), AnswerCache(Location(cache)) if cache else None, retries)


def test_only_what_does_not_fit_is_asked_again_with_what_is_wrong():
    bad_script = ["well", '{"answer": "maybe"}', '```json\n{"answer": "no"}\n```']
    asked = chat({"good": ['{"answer": "yes"}'], "bad": bad_script})
    good, bad = asked.chat_many([user("good one"), user("bad one")], SCHEMA)
    assert (good.value, good.attempts, good.problem) == ({"answer": "yes"}, 1, None)
    assert (bad.value, bad.attempts, bad.problem) == ({"answer": "no"}, 3, None)
    calls = asked.generator.calls
    assert [[prompt.name for prompt in call] for call in calls] == [
        ["conversation 0", "conversation 1"],
        ["conversation 1"],
        ["conversation 1"],
    ]
    roles = [message["role"] for message in calls[2][0].messages]
    assert roles == ["user", "assistant", "user", "assistant", "user"]
    said = [message["content"] for message in calls[2][0].messages]
    assert json.dumps(SCHEMA) in said[0]
    assert said[1] == "well"
    assert "it is not JSON" in said[2]
    assert "'maybe' is not one of ['yes', 'no']" in said[4]


def test_attempts_are_bounded_and_one_bad_row_does_not_end_the_batch():
    script = {"good": ['{"answer": "yes"}'], "bad": ["1", "2", "3", "never"]}
    asked = chat(script)
    good, bad = asked.chat_many([user("good"), user("bad")], SCHEMA)
    assert good.problem is None
    assert (bad.value, bad.attempts, bad.text) == (None, 3, "3")
    assert bad.problem is not None
    assert "3 is not of type 'object'" in bad.problem
    with pytest.raises(InvalidAnswer, match=r"after 1 attempts .* 1 is not of type 'object'; the last was '1'"):
        chat(script, retries=0).chat(user("bad"), SCHEMA)


def test_what_was_answered_before_a_stop_is_stored(tmp_path):
    """Two prompts a call; in the third call one is answered before the stop."""

    class Stopping(Scripted):
        def generate(self, prompts: Sequence[Prompt], settings: Settings) -> list[Completion]:
            found = super().generate(prompts, settings)
            if len(self.calls) == 3:
                raise Interrupted("no more", {1: found[1]})
            return found

    script = {f"q{n}": [f"text {n}"] for n in range(7)}
    conversations = [user(f"q{n}") for n in range(7)]
    cache = AnswerCache(Location(tmp_path))
    with pytest.raises(Interrupted, match="no more"):
        Chat(Stopping(script), Settings(), cache, at_once=2).chat_many(conversations)
    answers = Chat(Scripted(script), Settings(), cache).chat_many(conversations)
    assert [answer.cached for answer in answers] == [True] * 4 + [False, True, False]
    assert [answer.text for answer in answers] == [f"text {n}" for n in range(7)]


def test_a_stored_answer_is_what_was_given_and_no_model_is_run(tmp_path):
    script = {"good": ['{"answer": "yes"}'], "bad": ["1", "2", "3"]}
    first = chat(script, tmp_path).chat_many([user("good"), user("bad")], SCHEMA)
    asked = chat(script, tmp_path)
    second = asked.chat_many([user("bad"), user("good")], SCHEMA)
    assert asked.generator.calls == []
    assert all(answer.cached for answer in second)
    for before, after in zip(first, second[::-1], strict=True):
        assert vars(after) == {**vars(before), "cached": True}


def test_whatever_changes_an_answer_changes_its_key(tmp_path):
    script = {"good": ['{"answer": "yes"}']}
    chat(script, tmp_path).chat(user("good"))
    other = Scripted(script)
    other.identity = "another model"
    cache = AnswerCache(Location(tmp_path))
    for chat_, messages, schema in (
        (Chat(other, Settings(), cache), user("good"), None),
        (Chat(Scripted(script), Settings(seed=1), cache), user("good"), None),
        (Chat(Scripted(script), Settings(max_new_tokens=9), cache), user("good"), None),
        (Chat(Scripted(script), Settings(), cache), user("good day"), None),
        (Chat(Scripted(script), Settings(), cache), user("good"), SCHEMA),
        (Chat(Scripted(script), Settings(), cache, retries=5), user("good"), SCHEMA),
    ):
        assert not chat_.chat(messages, schema).cached
    assert chat(script, tmp_path).chat(user("good")).cached
    assert chat(script, tmp_path, retries=9).chat(user("good")).cached  # without a schema nothing is asked again


def test_a_cache_hit_runs_no_forward_of_a_real_model(taught, tmp_path):
    conversations = [user(user_text(context, question)) for context, question, _ in QUESTIONS]
    forwards = []

    def ask(wanted: list[list[dict[str, str]]]):
        model = load_local(taught, template="chat", identity="taught", device=torch.device("cpu"))
        model.model.register_forward_hook(lambda *_: forwards.append(1))
        return Chat(model, Settings(max_new_tokens=24), AnswerCache(Location(tmp_path))).chat_many(wanted)

    first = ask(conversations[:4])
    assert forwards
    forwards.clear()
    assert [answer.text for answer in ask(conversations[:4])] == [answer.text for answer in first]
    assert forwards == []
    whole = ask(conversations)  # only the two that are new
    assert len(forwards) == max(answer.answer_tokens for answer in whole[4:])
    assert [answer.cached for answer in whole] == [True] * 4 + [False] * 2


def test_many_writers_of_one_cache(tmp_path):
    """Threads that ask the same at once: every reader sees a whole answer."""
    script = {f"q{n}": ["text " * 2000] for n in range(20)}
    problems = []

    def ask() -> None:
        try:
            for n in range(20):
                assert chat(script, tmp_path).chat(user(f"q{n}")).text == "text " * 2000
        except Exception as error:
            problems.append(error)

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems
    assert len(list(tmp_path.rglob("*.json"))) == 20
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_spoiled_file_is_named(tmp_path):
    chat({"good": ["x"]}, tmp_path).chat(user("good"))
    (file,) = tmp_path.rglob("*.json")
    file.write_text('{"asked": {}, "answer": {}}')
    with pytest.raises(ConfigError, match=rf"{file.name} is no stored answer: .* delete it"):
        chat({"good": ["x"]}, tmp_path).chat(user("good"))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(VALUES, st.sampled_from(["{}", "```json\n{}\n```", "```\n{}\n```", " \n{}\n"]))
def test_json_is_found_where_models_write_it(value, frame):
    text = json.dumps(value)
    assert find_json(frame.replace("{}", text)) == value
    if isinstance(value, dict | list):
        assert find_json(f"Sure, here it is: {text} I hope that helps.") == value


@pytest.mark.parametrize("text", ["", "no", "NaN", '{"a": Infinity}', '{"a": 1', "```json\n```"])
def test_what_is_no_json(text):
    value, problem = SchemaCheck({}).read(text)
    assert value is None
    assert problem is not None
    assert problem.startswith("it is not JSON")


def test_a_bad_schema_is_the_users_error_and_nothing_is_fetched():
    with pytest.raises(ConfigError, match=r"the JSON schema is not valid at \$\.type: 'text' is not valid"):
        SchemaCheck({"type": "text"})
    with pytest.raises(ConfigError, match=r"refers to 'http://127\.0\.0\.1/x\.json', which is not in it"):
        SchemaCheck({"$ref": "http://127.0.0.1/x.json"}).read("{}")
