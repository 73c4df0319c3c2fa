"""From a question and its answers to token ids, and exactly where in them the answer begins.

    (before, context, after) -> prompt text -> prompt ids | answer ids, end token
                                              not learned  learned

The boundary is found on the very ids that are used: an example is the ids of the prompt alone, which is what a model is
given when it is asked, followed by the rest of the ids of prompt and answer together. Where the tokenizer joins the
prompt's end and the answer's beginning into other tokens, the ids of the two together do not begin with those of the
prompt; the answer is then tokenized by itself, and counted. (A chat template's `generation` mask is not used: those of
Llama and Qwen mark nothing, and all labels would be masked without a word.)

What does not fit into max_tokens is taken from the context's end; the question, and what else stands around the
context, stay whole. An answer is cut only where the prompt without any context leaves it too little room.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field, field_validator, model_validator
from torch import nn

from patentft.config import Config, ConfigError
from patentft.models.backbone import Loading, load_backbone
from patentft.models.load import position_limit
from patentft.models.template import PromptConfig, Template, shortened
from patentft.objectives.encoded import Encoded, pad
from patentft.objectives.packed import IGNORED
from patentft.objectives.texts import PreferenceTexts


class PairPrompt(Config):
    """How the model is asked whether a patent helps with a technique: in training, and when it scores."""

    prompt: PromptConfig = PromptConfig()
    max_tokens: int = Field(default=1024, ge=2)
    """Of prompt and answer together. The context (for pairs: the section) is cut at its end to what is left."""
    patent_tokens: int = Field(default=320, ge=1)
    """For pairs: the patent is kept whole up to this many tokens."""
    question: str = "Is the patent useful for the pollution abatement technique? Answer only {yes} or {no}."
    """For pairs: what stands before the section and the patent. {yes} and {no} are the answers below."""
    section_label: str = "Technique"
    """For pairs: what stands before the section, and a colon."""
    patent_label: str = "Patent"
    """For pairs: what stands before the patent, and a colon."""
    yes: str = Field(default="Yes", min_length=1)
    """For pairs: the answer where the label is 1."""
    no: str = Field(default="No", min_length=1)
    """For pairs: the answer where the label is 0."""

    @field_validator("yes", "no", mode="before")
    @classmethod
    def _in_quotes(cls, value: Any) -> Any:
        if isinstance(value, bool):
            raise ValueError(f"YAML reads Yes, No, On and Off as true and false, here as {value}: put quotes around it")
        return value

    @model_validator(mode="after")
    def _possible(self) -> PairPrompt:
        if self.yes.strip() == self.no.strip():
            raise ValueError(f"yes and no are both {self.yes!r}: give two different answers")
        if self.patent_tokens >= self.max_tokens:
            raise ValueError(f"patent_tokens {self.patent_tokens} leaves no room in max_tokens {self.max_tokens}")
        return self


@dataclass(frozen=True)
class Asked:
    """One question with its answers. The user's text is before + context + after."""

    name: str
    """For errors: "question Q17"."""
    before: str
    context: str
    after: str
    answers: tuple[str, ...]


@dataclass(frozen=True)
class Example:
    """Token ids of a prompt and of each answer to it, the end token included unless the answer was cut."""

    prompt: list[int]
    answers: list[list[int]]


def question(name: str, context: str | None, text: str, answers: Sequence[str]) -> Asked:
    """A row of QA or PREFERENCES: the context first, then the question."""
    return Asked(name, "", context or "", f"\n\n{text}", tuple(answers))


def asked_pair(config: PairPrompt, name: str, section: str, patent: str) -> Asked:
    """The patent comes last: all patents of a technique share the prompt up to it."""
    asks = config.question.replace("{yes}", config.yes).replace("{no}", config.no)
    before, after = f"{asks}\n\n{config.section_label}: ", f"\n\n{config.patent_label}: {patent}"
    return Asked(name, before, section, after, (config.yes, config.no))


def cut_texts(texts: Sequence[str], tokenizer: Any, limit: int) -> dict[str, str]:
    """Each text up to `limit` tokens of its own."""
    kept: dict[str, str] = {}
    for text in dict.fromkeys(texts):
        tokens = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        spans = tokens["offset_mapping"]
        kept[text] = text if len(spans) <= limit else text[: spans[limit - 1][1]]
    return kept


class Prompter:
    """Encodes what is asked, and counts in `counts` what was cut.

    Raises ConfigError when the tokenizer lacks what the template needs.
    """

    def __init__(self, tokenizer: Any, config: PromptConfig, max_tokens: int) -> None:
        self.tokenizer, self.config, self.max_tokens = tokenizer, config, max_tokens
        self.counts = {"contexts_cut": 0, "contexts_lost": 0, "answers_cut": 0, "boundaries_merged": 0}
        self.template = Template(tokenizer, config.template, "objective.prompt")

    def encode(self, asked: Asked) -> Example:
        """Raises ConfigError, naming the row, when nothing of an answer fits into max_tokens."""
        context = asked.context
        while True:
            prompt, answers, merged = self._tokenize(asked, context)
            excess = len(prompt) + max(len(answer) for answer in answers) - self.max_tokens
            if excess <= 0 or not context:
                break
            context = shortened(self.tokenizer, context, excess)
        room = self.max_tokens - len(prompt)
        if room < 1:
            raise ConfigError(
                f"{asked.name}: its prompt has {len(prompt):,} tokens without any context, so nothing of the answer "
                f"fits into objective.max_tokens = {self.max_tokens:,}: raise it above {len(prompt):,}, or leave the "
                f"row out"
            )
        self.counts["contexts_cut"] += context != asked.context
        self.counts["contexts_lost"] += bool(asked.context) and not context
        self.counts["answers_cut"] += sum(len(answer) > room for answer in answers)
        self.counts["boundaries_merged"] += merged
        return Example(prompt, [answer[:room] for answer in answers])

    def _tokenize(self, asked: Asked, context: str) -> tuple[list[int], list[list[int]], int]:
        """(prompt ids, ids of each answer, answers whose boundary was merged)."""
        text = (asked.before + context + asked.after).strip()
        before, wholes = self._rendered(asked, text)
        prompt = self.template.ids(before)
        answers: list[list[int]] = []
        merged = 0
        for whole in wholes:
            together = self.template.ids(whole)
            if together[: len(prompt)] == prompt:
                answer = together[len(prompt) :]
            else:
                answer = self.template.ids(whole[len(before) :])[len(self.template.front) :]
                merged += 1
            answers.append(self._ended(answer))
        return prompt, answers, merged

    def _rendered(self, asked: Asked, text: str) -> tuple[str, list[str]]:
        """The prompt as text, and it with each answer. Every one of these begins with the prompt."""
        messages = [*self.config.opening(), {"role": "user", "content": text}]
        prompt = self.template.text(messages, ask=True)
        wholes = [
            self.template.text([*messages, {"role": "assistant", "content": answer}], ask=False)
            for answer in asked.answers
        ]
        for whole in wholes:
            if not whole.startswith(prompt):
                raise ConfigError(
                    f"{asked.name}: with the answer, the model's chat template writes another prompt than without "
                    f"({prompt[-60:]!r} does not come before the answer): set objective.prompt.template: plain"
                )
        return prompt, wholes

    def _ended(self, answer: list[int]) -> list[int]:
        """With an end token last: the template's, without the line break that some write after it, or the tokenizer's.

        An answer that is empty is its end token.
        """
        for place in range(len(answer) - 1, -1, -1):
            if answer[place] in self.template.ends:
                return answer[: place + 1]
        return [*answer, self.template.end]


def put_answers(encoded: Encoded, rows: Iterable[tuple[list[int], list[int]]]) -> None:
    """Rows of (prompt, answer) as the ragged `input_ids` and `prompt_tokens` (rows,) int32."""
    ids: list[list[int]] = []
    lengths: list[int] = []
    for prompt, answer in rows:
        assert prompt, "the first token of an answer is predicted from the prompt"
        assert answer
        ids.append(prompt + answer)
        lengths.append(len(prompt))
    encoded.put_ragged("input_ids", ids)
    encoded.arrays["prompt_tokens"] = np.asarray(lengths, dtype=np.int32)


def encode_preferences(
    texts: PreferenceTexts, tokenizer: Any, config: PromptConfig, max_tokens: int
) -> tuple[Encoded, dict[str, int]]:
    """Rows 2i and 2i + 1 are the chosen and the rejected answer of preference i, to one and the same prompt.

    Raises ConfigError for a preference of which nothing is left: two answers that are the same up to max_tokens.
    """
    prompter = Prompter(tokenizer, config, max_tokens)
    rows: list[tuple[list[int], list[int]]] = []
    for name, context, text, chosen, rejected in zip(
        texts.preference_ids, texts.contexts, texts.questions, texts.chosen, texts.rejected, strict=True
    ):
        example = prompter.encode(question(f"preference {name}", context, text, (chosen, rejected)))
        better, worse = example.answers
        if better == worse:
            raise ConfigError(
                f"preference {name}: its two answers are the same in the {len(better):,} tokens that fit beside the "
                f"prompt into objective.max_tokens = {max_tokens:,}: raise it, or leave the row out"
            )
        rows += [(example.prompt, better), (example.prompt, worse)]
    encoded = Encoded()
    put_answers(encoded, rows)
    return encoded, {"preferences": len(texts.preference_ids), **prompter.counts}


def answer_batch(encoded: Encoded, rows: Sequence[int], pad_id: int) -> dict[str, torch.Tensor]:
    """input_ids, attention_mask, labels (B, T) int64, right-padded.

    labels: the token that follows where that is the answer's, IGNORED elsewhere, so a prompt's last token predicts the
    answer's first.
    """
    texts: list[npt.NDArray[np.int32]] = [encoded.row("input_ids", row) for row in rows]
    batch = pad(texts, pad_id)
    labels = torch.full_like(batch["input_ids"], IGNORED)
    for index, (row, ids) in enumerate(zip(rows, texts, strict=True)):
        start = int(encoded["prompt_tokens"][row])
        labels[index, start - 1 : len(ids) - 1] = torch.from_numpy(ids[start:].astype(np.int64))
    return {**batch, "labels": labels}


def load_decoder(folder: str, max_tokens: int, loading: Loading) -> nn.Module:
    """A decoder with its language-model head. Raises ConfigError as `load_backbone` and `require_positions` do."""
    from transformers import AutoModelForCausalLM

    model = load_backbone(folder, AutoModelForCausalLM, loading)
    require_positions(model, max_tokens)
    return model


def require_positions(model: Any, max_tokens: int) -> None:
    """Raises ConfigError when examples may be longer than what the model has learned positions for."""
    limit = position_limit(model.config)
    if limit is not None and max_tokens > limit:
        raise ConfigError(f"objective.max_tokens is {max_tokens:,}, but the model has {limit:,} positions: lower it")
