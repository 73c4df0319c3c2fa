"""What every source of text gives and takes: `Generator`, which `local.LocalModel` and `endpoint.Endpoint` are.

    Prompt (messages, seed) --Generator.generate--> Completion (text, tokens, whether it ended by itself)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from pydantic import Field

from patentft.config import Config, ConfigError
from patentft.models.template import Message


class Settings(Config):
    """How an answer is written. All of it is part of what an answer is stored under."""

    max_new_tokens: int = Field(default=256, ge=1)
    """An answer that has not ended after so many tokens is cut there."""
    temperature: float = Field(default=0.0, ge=0)
    """0: the likeliest token each time. Above: tokens are drawn, from logits divided by it."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Drawn from the likeliest tokens that hold this share of the probability (Holtzman et al. 2020)."""
    seed: int = Field(default=0, ge=0)
    """Of the draws. Each prompt has draws of its own, so an answer does not depend on what else is asked."""
    first_token_logprobs: int = Field(default=0, ge=0, le=20)
    """How many of the likeliest first tokens are given with their log-probabilities; 0: none."""


@dataclass(frozen=True)
class Prompt:
    """One conversation that wants an answer."""

    name: str
    """For errors: "question Q17"."""
    messages: tuple[Message, ...]
    attempt: int = 0
    """Asked again, the same messages get other draws."""


@dataclass(frozen=True)
class Completion:
    """What was written, without the token that ended it."""

    text: str
    prompt_tokens: int
    answer_tokens: int  # the end token included
    finished: bool  # False: cut at max_new_tokens
    first_token: dict[str, float] | None = None
    """Text of a likely first token -> natural log of its probability (at temperature 1), when it was asked for."""


class Interrupted(ConfigError):
    """Some prompts have no completion; those that have one are not lost: index in the call -> completion."""

    def __init__(self, message: str, completions: Mapping[int, Completion]) -> None:
        super().__init__(message)
        self.completions = dict(completions)


class Generator(Protocol):
    """Writes answers. One prompt's completion must not depend on the others of its call."""

    @property
    def identity(self) -> str:
        """What the text depends on besides the prompt and the settings: model content, template."""
        ...

    def generate(self, prompts: Sequence[Prompt], settings: Settings) -> list[Completion]:
        """A completion for each prompt, in their order. Raises ConfigError that names a prompt it cannot take, and
        Interrupted where others of the call have been answered by then."""
        ...
