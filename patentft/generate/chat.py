"""Ask, and get an answer: from the cache if it was given before, checked against a JSON schema if there is one.

    messages (+ schema) --> cache? --no--> Generator, all that are missing in one call --> schema? --no--> asked again
                              └──yes──────────────────────────────────────────────────────────────► Answer
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from patentft.generate.cache import AnswerCache
from patentft.generate.interface import Completion, Generator, Interrupted, Prompt, Settings
from patentft.generate.structured import SchemaCheck
from patentft.models.template import Message

QUOTED = 300
"""Characters of a wrong answer, and of what is wrong with it, that the model is shown: it must still fit."""


class InvalidAnswer(ValueError):
    """No attempt gave an answer that fits the schema."""


@dataclass(frozen=True)
class Answer:
    """What was written, and what it cost."""

    text: str
    prompt_tokens: int  # of the last attempt
    answer_tokens: int  # of the last attempt, the end token included
    finished: bool  # False: cut at max_new_tokens
    value: Any = None  # what the text says in JSON, when a schema was given
    problem: str | None = None  # what the schema says of the last attempt; None: nothing
    attempts: int = 1
    cached: bool = False  # it was stored before: no model was run
    first_token: dict[str, float] | None = None  # as in Completion, of the last attempt


class Chat:
    """Answers from one generator with one set of settings.

    retries: how often an answer that does not fit the schema is asked for again, the wrong one and what is wrong with
    it in the conversation. at_once: how many prompts the generator is given in a call, None: all. A call's answers are
    stored after it, so that is what a killed process loses.
    """

    def __init__(
        self,
        generator: Generator,
        settings: Settings,
        cache: AnswerCache | None = None,
        retries: int = 2,
        at_once: int | None = None,
    ) -> None:
        if retries < 0 or (at_once is not None and at_once < 1):
            raise ValueError(f"retries is {retries}, expected 0 or more; at_once is {at_once}, expected 1 or more")
        self.generator, self.settings, self.cache, self.retries = generator, settings, cache, retries
        self.at_once = at_once

    def chat(self, messages: Sequence[Message], schema: Mapping[str, Any] | None = None) -> Answer:
        """Raises InvalidAnswer when no attempt fits the schema, ConfigError for what the generator cannot take."""
        (answer,) = self.chat_many([messages], schema)
        if answer.problem is not None:
            raise InvalidAnswer(
                f"after {answer.attempts} attempts the answer does not fit the schema: {answer.problem}; the last was "
                f"{answer.text[:200]!r}"
            )
        return answer

    def chat_many(
        self,
        conversations: Sequence[Sequence[Message]],
        schema: Mapping[str, Any] | None = None,
        names: Sequence[str] | None = None,
    ) -> list[Answer]:
        """An answer for each conversation, in their order. One that never fits the schema has its `problem` set, so
        that a bad row does not end a batch. names: for errors, such as "question Q17".
        """
        check = SchemaCheck(schema) if schema is not None else None
        called = names or [f"conversation {index}" for index in range(len(conversations))]
        asked = [self._asked(messages, schema) for messages in conversations]
        found: dict[int, Answer] = {}
        for index, key in enumerate(asked):
            stored = self.cache.read(key) if self.cache is not None else None
            if stored is not None:
                found[index] = Answer(**{**stored, "cached": True})
        waiting = {
            index: Prompt(name, tuple(_instructed(messages, check)))
            for index, (name, messages) in enumerate(zip(called, conversations, strict=True))
            if index not in found
        }
        for attempt in range(1, self.retries + 2):
            several = list(waiting)
            step = self.at_once or max(len(several), 1)
            for low in range(0, len(several), step):
                indices = several[low : low + step]
                stopped: Interrupted | None = None
                try:
                    prompts = [waiting[index] for index in indices]
                    completions = dict(enumerate(self.generator.generate(prompts, self.settings)))
                except Interrupted as error:  # what was answered before is stored, then the error goes on
                    completions, stopped = error.completions, error
                for place, completion in completions.items():
                    index = indices[place]
                    answer = _answer(completion, check, attempt)
                    if answer.problem is not None and attempt <= self.retries:
                        waiting[index] = _again(waiting[index], completion.text, answer.problem)
                        continue
                    del waiting[index]
                    found[index] = answer
                    if self.cache is not None:
                        self.cache.write(asked[index], asdict(answer))
                if stopped is not None:
                    raise stopped
        return [found[index] for index in range(len(conversations))]

    def _asked(self, messages: Sequence[Message], schema: Mapping[str, Any] | None) -> dict[str, Any]:
        """All that an answer depends on."""
        return {
            "generator": self.generator.identity,
            "settings": self.settings.model_dump(mode="json"),
            "messages": [dict(message) for message in messages],
            "schema": schema,
            "retries": self.retries if schema is not None else 0,
        }


def _answer(completion: Completion, check: SchemaCheck | None, attempt: int) -> Answer:
    value, problem = check.read(completion.text) if check else (None, None)
    return Answer(**asdict(completion), value=value, problem=problem, attempts=attempt)


def _instructed(messages: Sequence[Message], check: SchemaCheck | None) -> list[Message]:
    """With what the schema asks for in the last message."""
    if check is None:
        return list(messages)
    last = messages[-1]
    return [*messages[:-1], {**last, "content": f"{last['content']}\n\n{check.instruction()}"}]


def _again(prompt: Prompt, text: str, problem: str) -> Prompt:
    correction = f"That answer does not fit the schema ({problem[:QUOTED]}). Answer again, with JSON only."
    said = ({"role": "assistant", "content": text[:QUOTED]}, {"role": "user", "content": correction})
    return replace(prompt, messages=(*prompt.messages, *said), attempt=prompt.attempt + 1)
