"""The yes/no question about many patents and one section, as token ids: what all of them share, and what each adds.

    section, patents -> prefix ids | suffix ids of patent 1      prefix + suffix are the ids of the whole prompt, which
                                   | suffix ids of patent 2 ...  is the one that the objective instruct trains on

The patent stands last, so the prefix is everything before it: the system text, the examples, the question, the section.
Where a tokenizer joins the prefix's end to the patent's beginning, the boundary is moved back to the last token that
all of the group's prompts share; a prompt is never put together from ids that its text would not have.

A section is cut at its end so that the longest patent still fits beside it, whichever patents are asked about: its
prefix is the same in every shard. (Training cuts it to what the pair's own patent leaves.) The question stays whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, model_validator

from patentft.config import Config, ConfigError, build, read_yaml
from patentft.models.template import Message, Template, shortened
from patentft.objectives.prompts import Asked, PairPrompt, Prompter, asked_pair, cut_texts
from patentft.scoring.plan import common_tokens

FOLDER = Path(__file__).with_name("prompts")
MARK = "\ue000patent\ue001"
"""Stands for the patent while a chat template writes the rest (characters that no text has: private use)."""
MOST_MOVED = 8
"""Tokens by which the boundary may be moved back. More means that the template writes another prefix each time."""


class Example(Config):
    """A pair with its answer, shown before the question."""

    section: str
    patent: str
    helps: bool


class ScorePrompt(PairPrompt):
    """How a decoder is asked. The keys of objective instruct mean what they mean there."""

    examples: list[Example] = []
    """Shown as turns of the conversation, in order: few-shot."""
    also_yes: list[str] = []
    """Other spellings whose probability counts as yes, such as "yes". They are put right after the prompt as they are
    written here: where a space belongs before an answer, give it."""
    also_no: list[str] = []
    answer_tokens: Literal["whole", "first"] = "whole"
    """whole: answers of which more than one token differs are refused. first: the first token that differs stands for
    the answer, which is what objective instruct reports the AUC of."""

    @model_validator(mode="after")
    def _examples_fit(self) -> ScorePrompt:
        for number, example in enumerate(self.examples):
            if not example.section.strip() or not example.patent.strip():
                raise ValueError(f"examples.{number} has an empty section or patent: write it, or leave it out")
        return self


def load_prompt(reference: str) -> ScorePrompt:
    """A prompt of this package by name ("bref_expert"), or a YAML file. Raises ConfigError for what is neither."""
    return build(ScorePrompt, _read(reference), str(reference))


def _read(reference: str) -> Mapping[str, Any]:
    named = FOLDER / f"{reference}.yaml"
    if "/" not in reference and named.is_file():
        return read_yaml(named)
    if not reference.endswith((".yaml", ".yml")):
        known = ", ".join(sorted(path.stem for path in FOLDER.glob("*.yaml")))
        raise ConfigError(f"prompt {reference!r} is neither a YAML file nor one of: {known}")
    return read_yaml(reference)


PromptField = Annotated[ScorePrompt, BeforeValidator(lambda given: _read(given) if isinstance(given, str) else given)]
"""In a stage's configuration: a mapping, or what `load_prompt` takes; resolved, it holds the whole text."""


@dataclass(frozen=True)
class Prompts:
    """The token ids of a group's prompts: `prefix` followed by each of `suffixes` (one token at least)."""

    prefix: list[int]
    suffixes: list[list[int]]


@dataclass(frozen=True)
class AnswerTokens:
    """The tokens whose probabilities are yes and no, each once, after a prompt and `lead`."""

    yes: tuple[int, ...]
    no: tuple[int, ...]
    lead: tuple[int, ...] = ()
    """What both answers begin with, such as a space that is a token of its own; mostly nothing."""


@dataclass
class PairPrompter:
    """Writes prompts for one tokenizer; `counts` says of how many something was cut.

    setting: where the user set `config`, for errors. Raises ConfigError when the tokenizer lacks what the template
    needs, and for answers that cannot be told from each other by one token.
    """

    tokenizer: Any
    config: ScorePrompt
    setting: str = "prompt"
    counts: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.counts = {"prompts": 0, "sections_cut": 0, "patents_cut": 0, "boundaries_moved": 0}
        self.template = Template(self.tokenizer, self.config.prompt.template, f"{self.setting}.prompt")
        self.answers = self._answer_tokens()

    def group(self, name: str, section: str, patents: Sequence[str]) -> Prompts:
        """The prompts of one section with each of `patents`. name: for errors.

        Raises ConfigError when the question leaves no room for any section, and when the tokens before the patent
        change with it.
        """
        kept = cut_texts(patents, self.tokenizer, self.config.patent_tokens)
        texts = [kept[patent].rstrip() for patent in patents]
        head, tail, cut = self._fitted(name, section)
        together = self.tokenizer([head + text + tail for text in texts], add_special_tokens=False, verbose=False)
        whole = [[*self.template.front, *ids, *self.answers.lead] for ids in together["input_ids"]]
        wanted = self.template.ids(head.rstrip(" "))  # a word's token begins with the space before it
        shared = common_tokens([wanted, *whole])
        if shared < len(wanted) - MOST_MOVED:
            raise ConfigError(
                f"{name}: the prompt's {len(wanted):,} tokens before the patent are the same before all of its patents "
                f"up to token {shared:,} only: this tokenizer reads a text's beginning by its end; choose another model"
            )
        shared = min(shared, *(len(ids) - 1 for ids in whole))
        self.counts["prompts"] += len(patents)
        self.counts["sections_cut"] += len(patents) * cut
        self.counts["patents_cut"] += sum(kept[patent] != patent for patent in patents)
        self.counts["boundaries_moved"] += len(patents) * (shared < len(wanted))
        return Prompts(wanted[:shared], [ids[shared:] for ids in whole])

    def _fitted(self, name: str, section: str) -> tuple[str, str, bool]:
        """The prompt's text before and after the patent, and whether the section was cut for it."""
        kept = section
        while True:
            head, tail = self._frame(name, kept)
            answer = len(self.answers.lead) + 1
            excess = len(self.template.ids(head + tail)) + self.config.patent_tokens + answer - self.config.max_tokens
            if excess <= 0:
                return head, tail, kept != section
            if not kept:
                raise ConfigError(
                    f"{name}: without any section the prompt has {excess:,} tokens more than {self.setting}.max_tokens "
                    f"= {self.config.max_tokens:,}: raise it, lower patent_tokens, or leave examples out"
                )
            kept = shortened(self.tokenizer, kept, excess)

    def _frame(self, name: str, section: str) -> tuple[str, str]:
        messages = self._conversation(asked_pair(self.config, name, section, MARK))
        parts = self.template.text(messages, ask=True).split(MARK)
        if len(parts) != 2:
            raise ConfigError(
                f"{name}: the model's chat template writes the user's text {len(parts) - 1} times: set "
                f"{self.setting}.prompt.template: plain"
            )
        return parts[0], parts[1]

    def _conversation(self, asked: Asked) -> list[Message]:
        messages = self.config.prompt.opening()
        for example in self.config.examples:
            shown = asked_pair(self.config, asked.name, example.section, example.patent)
            answer = self.config.yes if example.helps else self.config.no
            messages.append({"role": "user", "content": _user_text(shown)})
            messages.append({"role": "assistant", "content": answer})
        return [*messages, {"role": "user", "content": _user_text(asked)}]

    # ---- yes and no

    def _answer_tokens(self) -> AnswerTokens:
        """As training encodes the two answers after a prompt, and the other spellings."""
        asked = asked_pair(self.config, self.setting, "a", "b")
        yes, no = Prompter(self.tokenizer, self.config.prompt, 10**6).encode(asked).answers
        lead = yes[: common_tokens([yes, no])]
        prompt = self.template.text(self._conversation(asked), ask=True)
        found: list[tuple[int, ...]] = []
        for name, trained, others in (("yes", yes, self.config.also_yes), ("no", no, self.config.also_no)):
            # the end token that training puts last tells "it is" from "it is not", but is no part of a spelling
            spelled = [(name, getattr(self.config, name), trained[:-1] if len(trained) > len(lead) + 1 else trained)]
            spelled += [(f"also_{name}", text, self._continuation(prompt, text)) for text in others]
            found.append(tuple(dict.fromkeys(self._token(*each, lead) for each in spelled)))
        both = set(found[0]) & set(found[1])
        if both:
            token = self.tokenizer.convert_ids_to_tokens(min(both))
            raise ConfigError(
                f"{self.setting}: for this tokenizer both a yes and a no begin with the token {token!r}, so it cannot "
                f"tell them apart: choose other answers"
            )
        return AnswerTokens(found[0], found[1], tuple(lead))

    def _continuation(self, prompt: str, text: str) -> list[int]:
        before, whole = self.template.ids(prompt), self.template.ids(prompt + text)
        if whole[: len(before)] == before:
            return whole[len(before) :]
        return self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]

    def _token(self, key: str, text: str, ids: list[int], lead: list[int]) -> int:
        rest = ids[len(lead) :]
        if ids[: len(lead)] != lead or not rest:
            start = self.tokenizer.decode(lead)
            raise ConfigError(
                f"{self.setting}.{key}: {text!r} does not begin with the tokens of {start!r}, as "
                f"{self.config.yes!r} and {self.config.no!r} do: leave it out"
            )
        if len(rest) > 1 and self.config.answer_tokens == "whole":
            tokens = ", ".join(repr(token) for token in self.tokenizer.convert_ids_to_tokens(rest))
            raise ConfigError(
                f"{self.setting}.{key}: {text!r} is {len(rest)} tokens of this tokenizer ({tokens}), and a score is "
                f"read from one: choose a spelling that is one token, or set {self.setting}.answer_tokens: first"
            )
        return rest[0]


def _user_text(asked: Asked) -> str:
    return (asked.before + asked.context + asked.after).strip()
