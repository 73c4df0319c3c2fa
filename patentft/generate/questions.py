"""A question as the messages that ask it, with or without examples before it, and the answer taken from what comes
back.

    zero_shot   context, question
    few_shot    k questions of another stage with their answers, as turns of the conversation, then context, question

With `reasoning_steps` the model is asked to think first and to write its answer after MARKER (Wei et al. 2022, Kojima
et al. 2022); the examples show the marker too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from pydantic import Field, model_validator

from patentft.config import Config, ConfigError, runtime
from patentft.generate.interface import Settings
from patentft.models.load import DType
from patentft.models.template import Message, PromptConfig, Template, shortened
from patentft.stage import ModelRef, StageRef

MARKER = "Final answer:"
STEPS = f"Think step by step. Then write the answer, and nothing after it, on a line that begins with: {MARKER}"


class AnswerConfig(Config):
    """Which questions one model answers, and how it is asked. A fine-tuned model is asked zero_shot, as in training."""

    data: StageRef
    """A qa stage with the questions."""
    model: ModelRef
    """A train stage, a decoder's folder (or an adapter's), or a hub id."""
    method: Literal["zero_shot", "few_shot"] = "zero_shot"
    prompt: PromptConfig = PromptConfig()
    """For a model that was tuned with objective instruct: what its objective.prompt was."""
    examples: StageRef | None = None
    """For few_shot: another qa stage, of which the examples are drawn. A row with a question that is asked is left
    out."""
    num_examples: int | None = Field(default=None, ge=1)
    """For few_shot: how many examples stand before each question, the same ones for all."""
    reasoning_steps: bool = False
    """Ask the model to think step by step; its answer is what follows the last "Final answer:"."""
    prompt_tokens: int | None = Field(default=None, ge=1)
    """The question's context is cut at its end until the whole prompt has at most this many tokens. Unset: nothing is
    cut, and a prompt that the model has no room for is an error."""
    settings: Settings = Settings()
    """How answers are written: max_new_tokens, temperature, top_p, seed. The seed also draws the examples."""
    dtype: DType = "float32"
    """Arithmetic of the model; bfloat16 on a GPU."""
    rows_per_part: int = Field(default=256, ge=1)
    """Questions of a part: what is lost when a worker dies."""
    cache: str | None = runtime(None)
    """A folder of answers (a path or an fsspec URL) that is read first and added to, shared by stages and runs. Unset:
    only finished parts are kept."""
    tokens_per_batch: int | None = runtime(None, ge=1)
    """Rows x (longest prompt + max_new_tokens) of one batch; unset: 4,096 on a CPU, 65,536 on a GPU."""
    workers: int = runtime(1, ge=1)
    cpus_per_worker: float = runtime(1.0, gt=0)
    gpus_per_worker: float = runtime(0.0, ge=0)

    @model_validator(mode="after")
    def _possible(self) -> AnswerConfig:
        given = [name for name in ("examples", "num_examples") if getattr(self, name) is not None]
        if self.method == "few_shot" and len(given) < 2:
            raise ValueError("method few_shot needs examples (a qa stage to draw them from) and num_examples")
        if self.method == "zero_shot" and given:
            raise ValueError(f"{' and '.join(given)} belong to method: few_shot; set it, or leave them out")
        return self


@dataclass(frozen=True)
class Question:
    """A row of QA, its answer left out unless it is an example."""

    qa_id: str
    context: str | None
    question: str
    answer: str = ""


def draw_examples(
    pool: Sequence[Question], asked: set[tuple[str | None, str]], number: int, seed: int
) -> tuple[list[Question], int]:
    """(`number` questions of `pool` in drawn order, how many of the pool are asked themselves and were left out).

    asked: (context, question) of every question to be answered. Raises ConfigError when too few are left.
    """
    free = [row for row in pool if (row.context, row.question) not in asked]
    if len(free) < number:
        raise ConfigError(
            f"num_examples is {number}, but the examples' stage has {len(free)} questions that are not asked "
            f"({len(pool) - len(free)} are): lower num_examples, or name another stage in examples"
        )
    drawn = np.random.default_rng(seed).choice(len(free), number, replace=False)
    return [free[index] for index in drawn.tolist()], len(pool) - len(free)


class Asker:
    """Makes the messages of a question, its context cut to what `prompt_tokens` leaves it."""

    def __init__(self, config: AnswerConfig, template: Template, examples: Sequence[Question]) -> None:
        self.config, self.template = config, template
        self.before = config.prompt.opening()
        for example in examples:
            answer = f"{MARKER} {example.answer}" if config.reasoning_steps else example.answer
            self.before.append({"role": "user", "content": self._text(example.context, example.question)})
            self.before.append({"role": "assistant", "content": answer})

    def messages(self, question: Question) -> tuple[list[Message], bool]:
        """(messages, whether the context was cut).

        Raises ConfigError naming the question when its prompt is too long without any context.
        """
        context = question.context or ""
        while True:
            messages = [*self.before, {"role": "user", "content": self._text(context, question.question)}]
            if self.config.prompt_tokens is None:
                return messages, False
            length = len(self.template.ids(self.template.text(messages, ask=True)))
            if length <= self.config.prompt_tokens:
                return messages, context != (question.context or "")
            if not context:
                raise ConfigError(
                    f"question {question.qa_id}: its prompt has {length:,} tokens without any context, but "
                    f"prompt_tokens is {self.config.prompt_tokens:,}: raise it, lower num_examples, or leave the row "
                    f"out"
                )
            context = shortened(self.template.tokenizer, context, length - self.config.prompt_tokens)

    def _text(self, context: str | None, question: str) -> str:
        """As objectives.prompts writes it in training: the context first, then the question."""
        text = f"{context or ''}\n\n{question}".strip()
        return f"{text}\n\n{STEPS}" if self.config.reasoning_steps else text


def final_answer(text: str, reasoning_steps: bool) -> tuple[str, str | None]:
    """(the answer in what was written, why it is not one as asked for: None when it is).

    With reasoning steps: what follows the last marker, in any case; where there is none, the whole text.
    """
    if reasoning_steps:
        place = text.casefold().rfind(MARKER.casefold())
        if place < 0:
            return text.strip(), "no marker"
        text = text[place + len(MARKER) :]
    text = text.strip()
    return text, None if text else "empty"


def as_questions(rows: Sequence[dict[str, Any]]) -> list[Question]:
    return [Question(row["qa_id"], row["context"], row["question"], row.get("answer", "")) for row in rows]
