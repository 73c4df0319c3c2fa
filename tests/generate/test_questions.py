"""Prompts of the methods: a tuned model is asked in the words of its training; examples are drawn and never asked."""

from __future__ import annotations

import pytest

from patentft.config import ConfigError, build
from patentft.generate.questions import (
    MARKER,
    STEPS,
    AnswerConfig,
    Asker,
    Question,
    draw_examples,
    final_answer,
)
from patentft.models.template import PromptConfig, Template
from patentft.objectives.prompts import Prompter, question
from tests.tiny import bpe_tokenizer

LONG = " ".join(f"word{n}" for n in range(100))
POOL = [Question(f"E{n}", f"context {n}", f"Which {n}?", f"answer {n}") for n in range(8)]


@pytest.fixture(scope="module")
def tokenizer():
    return bpe_tokenizer()


def config(**values) -> AnswerConfig:
    if values.get("method") == "few_shot":
        values = {"examples": "others", "num_examples": 2, **values}
    return build(AnswerConfig, {"data": "questions", "model": "m", **values})


@pytest.mark.parametrize("template", ["plain", "chat"])
@pytest.mark.parametrize("system", [None, "You are an engineer."])
@pytest.mark.parametrize("limit", [None, 60, 90])
def test_zero_shot_is_the_prompt_of_training(tokenizer, template, system, limit):
    prompt = {"template": template, "system": system}
    written = Template(tokenizer, template, "prompt")
    asker = Asker(config(prompt=prompt, prompt_tokens=limit), written, [])
    for context in (None, "Dust.", LONG, f"  {LONG}\n"):
        row = Question("Q1", context, " Which device? ")
        messages, cut = asker.messages(row)
        asked = question("q", row.context, row.question, [""])
        room = len(Prompter(tokenizer, PromptConfig(**prompt), 10_000).encode(asked).answers[0])
        # in training the answer takes its room from max_tokens too
        prompter = Prompter(tokenizer, PromptConfig(**prompt), 10_000 if limit is None else limit + room)
        ids = written.ids(written.text(messages, ask=True))
        assert ids == prompter.encode(asked).prompt
        assert cut == bool(prompter.counts["contexts_cut"])
        assert limit is None or len(ids) <= limit


def test_few_shot_puts_the_examples_first(tokenizer):
    written = Template(tokenizer, "plain", "prompt")
    examples = POOL[:2]
    asker = Asker(config(method="few_shot", prompt={"template": "plain", "system": "Be brief."}), written, examples)
    messages, cut = asker.messages(Question("Q1", None, "Why?"))
    assert written.text(messages, ask=True) == (
        "Be brief.\n\ncontext 0\n\nWhich 0?\n\nAnswer: answer 0\n\ncontext 1\n\nWhich 1?\n\nAnswer: answer 1\n\n"
        "Why?\n\nAnswer:"
    )
    assert not cut
    steps = Asker(config(method="few_shot", reasoning_steps=True), Template(tokenizer, "chat", "p"), examples)
    said = [message["content"] for message in steps.messages(Question("Q1", None, "Why?"))[0]]
    assert said == [
        f"context 0\n\nWhich 0?\n\n{STEPS}",
        f"{MARKER} answer 0",
        f"context 1\n\nWhich 1?\n\n{STEPS}",
        f"{MARKER} answer 1",
        f"Why?\n\n{STEPS}",
    ]


def test_only_the_asked_context_is_cut_and_a_question_that_never_fits_is_named(tokenizer):
    written = Template(tokenizer, "plain", "prompt")
    few = {"method": "few_shot", "prompt": {"template": "plain"}}
    free = Asker(config(**few), written, POOL[:2])
    bare = len(written.ids(written.text(free.messages(Question("Q1", None, "Which?"))[0], ask=True)))
    asker = Asker(config(**few, prompt_tokens=bare + 10), written, POOL[:2])
    messages, cut = asker.messages(Question("Q1", LONG, "Which?"))
    assert cut
    assert messages[:-1] == free.messages(Question("Q1", None, "Which?"))[0][:-1]
    kept = messages[-1]["content"].removesuffix("\n\nWhich?")
    assert LONG.startswith(kept)
    assert 0 < len(kept) < len(LONG)
    tight = Asker(config(**few, prompt_tokens=bare - 1), written, POOL[:2])
    with pytest.raises(ConfigError, match=rf"question Q1: its prompt has {bare} tokens without any context"):
        tight.messages(Question("Q1", LONG, "Which?"))


def test_examples_are_the_seeds_and_never_a_question_that_is_asked():
    asked = {("context 3", "Which 3?"), ("context 5", "Which 5?"), (None, "Which 1?")}
    draws = [draw_examples(POOL, asked, 4, seed) for seed in range(30)]
    assert draws[0] == draw_examples(POOL, asked, 4, 0)
    for rows, left_out in draws:
        assert left_out == 2
        assert len({row.qa_id for row in rows}) == 4
    assert {row.qa_id for rows, _ in draws for row in rows} == {"E0", "E1", "E2", "E4", "E6", "E7"}
    with pytest.raises(ConfigError, match=r"num_examples is 7, but .* has 6 questions that are not asked \(2 are\)"):
        draw_examples(POOL, asked, 7, 0)


@pytest.mark.parametrize(
    ("text", "steps", "wanted"),
    [
        (" lime \n", False, ("lime", None)),
        ("", False, ("", "empty")),
        ("It is hot. final ANSWER: the filter\n", True, ("the filter", None)),
        ("Final answer: a. No. Final answer: b", True, ("b", None)),
        ("Final answer: ", True, ("", "empty")),
        ("The filter.", True, ("The filter.", "no marker")),
        ("Final answer: x", False, ("Final answer: x", None)),
    ],
)
def test_the_final_answer(text, steps, wanted):
    assert final_answer(text, steps) == wanted


def test_settings_that_do_not_go_together_are_refused():
    with pytest.raises(ConfigError, match="few_shot needs examples"):
        config(method="few_shot", examples=None)
    with pytest.raises(ConfigError, match="num_examples belong to method: few_shot"):
        config(num_examples=2)
    whole = config(method="zero_shot").model_dump()  # what the run folder's config.yaml says
    assert build(AnswerConfig, whole) == config()
