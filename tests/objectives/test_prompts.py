"""The answer must begin exactly where the prompt's own ids end, whatever the tokenizer makes of the border."""

from __future__ import annotations

import numpy as np
import pytest

from patentft.config import ConfigError
from patentft.objectives.encoded import Encoded
from patentft.objectives.packed import IGNORED
from patentft.objectives.prompts import (
    Asked,
    PromptConfig,
    Prompter,
    answer_batch,
    encode_preferences,
    put_answers,
    question,
)
from patentft.objectives.texts import PreferenceTexts
from tests.tiny import bpe_tokenizer, tiny_tokenizer

PLAIN = PromptConfig(template="plain", system="You are an engineer.")
CHAT = PromptConfig(system="You are an engineer.")


@pytest.fixture(scope="module")
def tokenizer():
    return bpe_tokenizer()


def asked(number: int) -> Asked:
    """Rows of many lengths; some answers begin or end with white space, digits or nothing at all."""
    rng = np.random.default_rng(number)
    words = ["catalyst", "dust", "NOx", "42", "(a)", "filter", "é", "\n", "flue gas"]
    text = " ".join(rng.choice(words, rng.integers(0, 30)))
    answers = ["Yes", " the catalyst bed", "42 %", "", "no\n", "Ångström (b)"]
    return question(
        f"question {number}", text or None, "Which device? ", [answers[number % 6], answers[rng.integers(6)]]
    )


@pytest.mark.parametrize("config", [PLAIN, CHAT], ids=["plain", "chat"])
def test_the_prompt_is_a_prefix_of_the_ids_that_are_used(tokenizer, config):
    prompter = Prompter(tokenizer, config, 10_000)
    for number in range(60):
        row = asked(number)
        example = prompter.encode(row)
        user = (row.before + row.context + row.after).strip()
        messages = [{"role": "system", "content": config.system}, {"role": "user", "content": user}]
        for text, answer in zip(row.answers, example.answers, strict=True):
            if config.template == "chat":
                prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
                whole = tokenizer.apply_chat_template(
                    [*messages, {"role": "assistant", "content": text}], tokenize=False
                ).removesuffix("\n")  # what follows the end of a turn is not learned
            else:
                prompt = f"You are an engineer.\n\n{user}\n\nAnswer:"
                whole = f"{prompt} {text.strip()}<|im_end|>"
            assert tokenizer.decode(example.prompt) == prompt
            assert example.prompt == tokenizer(prompt)["input_ids"]
            assert example.prompt + answer == tokenizer(whole)["input_ids"]
            assert answer[-1] == tokenizer.eos_token_id
    assert prompter.counts == {"contexts_cut": 0, "contexts_lost": 0, "answers_cut": 0, "boundaries_merged": 0}


def test_an_answer_that_merges_with_the_prompt_is_tokenized_alone():
    tokenizer = bpe_tokenizer()
    word = max((token for token in tokenizer.get_vocab() if token.startswith("Ġ")), key=len)[1:]
    begins, ends = word[:4], word[4:]
    tokenizer.chat_template = (
        "{{ messages[0].content }} " + begins + "{% if messages | length > 1 %}{{ messages[1].content }}{% endif %}"
    )
    (merged,) = tokenizer(" " + word)["input_ids"]
    prompter = Prompter(tokenizer, PromptConfig(), 100)
    example = prompter.encode(question("q", None, "a", [f"{ends} bed", " bed"]))
    assert merged not in example.prompt + example.answers[0]
    assert example.prompt == tokenizer(f"a {begins}")["input_ids"]
    assert [tokenizer.decode(answer) for answer in example.answers] == [f"{ends} bed<|im_end|>", " bed<|im_end|>"]
    assert prompter.counts["boundaries_merged"] == 1


def test_a_tokenizer_that_puts_tokens_around_a_text(tmp_path):
    from transformers import AutoTokenizer

    tiny_tokenizer(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    example = Prompter(tokenizer, PromptConfig(template="plain"), 100).encode(question("q", "dust", "gas", ["water"]))
    words = tokenizer.convert_ids_to_tokens(example.prompt + example.answers[0])
    assert words[:3] == ["[CLS]", "dust", "gas"]
    assert words[-2:] == ["water", "[SEP]"]
    assert words.count("[SEP]") == 1


@pytest.mark.parametrize("config", [PLAIN, CHAT], ids=["plain", "chat"])
def test_what_does_not_fit_is_taken_from_the_contexts_end(tokenizer, config):
    context = " ".join(f"word{n}" for n in range(200))
    row = question("q", context, "Which device?", ["The filter.", "The filter and the catalyst bed."])
    whole = Prompter(tokenizer, config, 10_000).encode(row)
    bare = Prompter(tokenizer, config, 10_000).encode(question("q", None, "Which device?", row.answers))
    longest = max(len(answer) for answer in whole.answers)
    for limit in (len(whole.prompt) + longest, len(whole.prompt) + longest - 1, 150, len(bare.prompt) + longest + 20):
        prompter = Prompter(tokenizer, config, limit)
        example = prompter.encode(row)
        text = tokenizer.decode(example.prompt)
        assert len(example.prompt) + longest <= limit
        assert len(example.prompt) + longest > limit - 8  # no more is cut than must be
        assert "Which device?" in text
        assert example.answers == whole.answers
        kept = text.split("engineer.")[1].split("word0")[1].split("Which")[0]
        assert context.startswith("word0" + kept.rstrip())
        assert prompter.counts["contexts_cut"] == (limit < len(whole.prompt) + longest)
    prompter = Prompter(tokenizer, config, len(bare.prompt) + 2)
    example = prompter.encode(row)
    assert example.prompt == bare.prompt
    assert example.answers == [answer[:2] for answer in whole.answers]
    assert prompter.counts == {"contexts_cut": 1, "contexts_lost": 1, "answers_cut": 2, "boundaries_merged": 0}
    with pytest.raises(ConfigError, match=rf"question Q1: its prompt has {len(bare.prompt)} tokens .* raise it above"):
        Prompter(tokenizer, config, len(bare.prompt)).encode(Asked("question Q1", "", context, row.after, row.answers))


def test_labels_begin_at_the_answer_and_leave_padding_out(tokenizer):
    encoded = Encoded()
    put_answers(encoded, [([5, 6, 7], [8, 9]), ([5], [8, 9, 10, 11, 12])])
    batch = answer_batch(encoded, [0, 1], 0)
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8, 9, 0], [5, 8, 9, 10, 11, 12]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1, 1, 0], [1] * 6]
    no = IGNORED
    assert batch["labels"].tolist() == [[no, no, 8, 9, no, no], [8, 9, 10, 11, 12, no]]


def test_what_a_template_cannot_do_is_named():
    with pytest.raises(ConfigError, match=r"objective\.prompt\.template is chat, but .* no chat template"):
        Prompter(bpe_tokenizer(None), PromptConfig(), 100)
    refuses = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    with pytest.raises(ConfigError, match=r"System role not supported; unset objective\.prompt\.system"):
        Prompter(bpe_tokenizer(refuses), CHAT, 100).encode(asked(0))
    rewrites = "{{ messages | length }}{{ messages[-1].content }}"
    with pytest.raises(ConfigError, match=r"writes another prompt .* set objective\.prompt\.template: plain"):
        Prompter(bpe_tokenizer(rewrites), PromptConfig(), 100).encode(asked(0))


def test_a_template_that_prints_the_date_prints_the_same_one_every_day():
    template = "{{ date_string if date_string is defined else strftime_now('%d %b %Y') }} {{ messages[0].content }}:"
    template += "{% if messages | length > 1 %}{{ messages[1].content }}{% endif %}"
    tokenizer = bpe_tokenizer(template)
    example = Prompter(tokenizer, PromptConfig(), 100).encode(question("q", None, "gas", ["Yes"]))
    assert tokenizer.decode(example.prompt) == "26 Jul 2024 gas:"


def test_two_answers_to_one_prompt(tokenizer):
    texts = PreferenceTexts(["p1", "p2"], ["dust " * 40, None], ["Why?", "How?"], ["a filter", "lime"], ["a", "water"])
    encoded, counts = encode_preferences(texts, tokenizer, PLAIN, 60)
    assert counts["preferences"] == 2
    assert counts["contexts_cut"] == 1
    starts = encoded["prompt_tokens"].tolist()
    rows = [encoded.row("input_ids", row).tolist() for row in range(4)]
    assert rows[0][: starts[0]] == rows[1][: starts[1]]
    assert tokenizer.decode(rows[3][starts[3] :]) == " water<|im_end|>"
    alike = PreferenceTexts(["p1"], [None], ["Why?"], ["a filter of lime"], ["a filter of sand"])
    room = encode_preferences(alike, tokenizer, PLAIN, 99)[0]["prompt_tokens"][0] + 2
    with pytest.raises(ConfigError, match=r"preference p1: its two answers are the same in the 2 tokens"):
        encode_preferences(alike, tokenizer, PLAIN, int(room))
